"""LMDB: one environment in one file, ASCII keys, plain values, bytes that depend on the samples alone."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import lmdb
import pyarrow as pa
import pytest

from shard_data import fails, picture, samples
from turbo_fetch.dataset.formats import format_of, write_shard
from turbo_fetch.dataset.names import sample_key
from turbo_fetch.dataset.place import open_place
from turbo_fetch.errors import DatasetError
from turbo_fetch.spec import ImageSpec

IMAGE = ImageSpec(encode="png", quality=6)
COUNT = 300


def _records(path: Path) -> dict[bytes, bytes]:
    with (
        lmdb.open(str(path), subdir=False, readonly=True, lock=False) as environment,
        environment.begin() as transaction,
    ):
        return dict(transaction.cursor())


def test_the_records_are_the_members_of_the_tar_with_their_keys_and_a_meta_record(tmp_path: Path) -> None:
    file, table = write_shard("lmdb", samples(COUNT, IMAGE), tmp_path, "00000", IMAGE)
    assert (file.name, table.name) == ("00000.lmdb", "00000.parquet")
    assert file.sha256 == hashlib.sha256(file.path.read_bytes()).hexdigest()
    records = _records(file.path)
    rows = [row for row in range(COUNT) if not fails(row)]
    keys = [sample_key(0, row, 1000) for row in rows]
    assert records.pop(b"__keys__00000") == "".join(f"{key}\n" for key in keys).encode()
    meta = json.loads(records.pop(b"__meta__"))
    assert (meta["extension"], meta["samples"], meta["shards"]) == ("png", len(rows), 1)
    for row, key in zip(rows, keys, strict=True):
        assert records.pop(f"{key}.png".encode()) == picture(row)
        assert json.loads(records.pop(f"{key}.json".encode()))["key"] == key
        assert records.pop(f"{key}.txt".encode()).decode() == ("" if row % 5 == 4 else f"a ünï {row}")
    assert not records


@pytest.mark.parametrize("transaction_bytes", [5_000, 1 << 24])
def test_how_the_samples_are_cut_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transaction_bytes: int
) -> None:
    monkeypatch.setattr("turbo_fetch.dataset.formats.lmdb.TRANSACTION_BYTES", transaction_bytes)
    written = set()
    for rows_per_batch in (1, 7, COUNT):
        batches = samples(COUNT, IMAGE, rows_per_batch=rows_per_batch)
        written.add(write_shard("lmdb", batches, tmp_path, "00000", IMAGE)[0].path.read_bytes())
    assert len(written) == 1


def test_the_map_grows_with_what_it_holds(tmp_path: Path) -> None:
    batches = [
        batch._replace(image=pa.array([bytes(8 << 20)])) for batch in samples(9, IMAGE, rows_per_batch=1)
    ]
    file, _ = write_shard("lmdb", batches, tmp_path, "00000", IMAGE)
    assert file.bytes > 9 * 8 << 20
    assert len(_records(file.path)) == 3 * 9 + 2


def test_a_run_that_needs_the_missing_package_ends_before_any_request(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("http://127.0.0.1:1/a.jpg\n")
    (tmp_path / "spec.toml").write_text(
        '[fetch.input]\nurls = "list.txt"\n[fetch.output]\npath = "out"\nformat = "lmdb"\n'
    )
    hidden = "import sys; sys.modules['lmdb'] = None\nfrom turbo_fetch.cli import main\nmain()"
    ended = subprocess.run(
        [sys.executable, "-c", hidden, "run", "spec.toml"], cwd=tmp_path, capture_output=True, text=True
    )
    assert ended.returncode == 2
    assert "pip install 'turbo-fetch[lmdb]'" in ended.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("eighths", range(8))
def test_a_file_that_was_cut_off_is_damaged_and_ends_no_process(tmp_path: Path, eighths: int) -> None:
    file, _ = write_shard("lmdb", samples(COUNT, IMAGE), tmp_path, "00000", IMAGE)
    path = file.path.rename(tmp_path / "00000.lmdb")
    os.truncate(path, path.stat().st_size * eighths // 8)
    read_images = format_of("lmdb").read_images
    assert read_images is not None
    with pytest.raises(DatasetError, match=r"00000.lmdb: damaged"):
        list(read_images(open_place(str(tmp_path)), "00000", ()))
