"""The tar: read by the standard library, GNU tar and webdataset; the same bytes for the same samples."""

from __future__ import annotations

import hashlib
import io
import json
import resource
import subprocess
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shard_data import fails, picture, samples, source
from turbo_fetch.dataset.formats import WrittenFile, write_shard
from turbo_fetch.dataset.names import sample_key
from turbo_fetch.errors import OutputError
from turbo_fetch.spec import ImageSpec

COUNT = 60
IMAGE = ImageSpec(encode="png", quality=6)


def _write(folder: Path, rows_per_batch: int = 16, **columns: pa.Array) -> list[WrittenFile]:
    folder.mkdir(exist_ok=True)
    listed = source(COUNT, **columns)
    batches = samples(COUNT, IMAGE, 2, rows_per_batch, listed)
    return write_shard("webdataset", batches, folder, "00002", IMAGE)


def test_members_stand_together_and_hold_image_metadata_and_caption(tmp_path: Path) -> None:
    tar, _ = _write(tmp_path)
    with tarfile.open(tar.path) as archive:
        names = archive.getnames()
        rows = [row for row in range(COUNT) if not fails(row)]
        keys = [sample_key(2, row, 1000) for row in rows]
        assert names == [f"{key}.{kind}" for key in keys for kind in ("png", "json", "txt")]
        for row, key in zip(rows, keys, strict=True):
            content = {kind: _read(archive, f"{key}.{kind}") for kind in ("png", "json", "txt")}
            assert content["png"] == picture(row)
            assert content["txt"].decode() == ("" if row % 5 == 4 else f"a ünï {row}")
            assert json.loads(content["json"])["sha256"] == f"{row:064x}"


def _read(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None
    return file.read()


def test_headers_are_plain_ustar_without_time_or_owner(tmp_path: Path) -> None:
    tar, _ = _write(tmp_path)
    content = tar.path.read_bytes()
    with tarfile.open(tar.path) as archive:
        member = archive.getmembers()[0]
    expected = tarfile.TarInfo(member.name)
    expected.size, expected.mode = member.size, 0o644
    assert content[: tarfile.BLOCKSIZE] == expected.tobuf(tarfile.USTAR_FORMAT)
    assert len(content) % tarfile.RECORDSIZE == 0


def test_gnu_tar_reads_it_without_complaint(tmp_path: Path) -> None:
    tar, _ = _write(tmp_path)
    done = subprocess.run(["tar", "-tf", tar.path], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 3 * sum(not fails(row) for row in range(COUNT))


def test_every_json_has_the_same_keys_as_the_metadata_columns(tmp_path: Path) -> None:
    when = pa.array([None if row % 2 else row for row in range(COUNT)], pa.timestamp("ns"))
    tar, table = _write(tmp_path, when=when)
    columns = pq.read_schema(table.path).names
    with tarfile.open(tar.path) as archive:
        texts = [_read(archive, name) for name in archive.getnames() if name.endswith(".json")]
    assert texts
    assert all(list(json.loads(text)) == columns for text in texts)


def test_how_the_samples_are_cut_leaves_no_trace(tmp_path: Path) -> None:
    numbers = pa.array(range(COUNT))
    columns = {
        "text_view": numbers.cast(pa.string()).cast(pa.string_view()),
        "coded": numbers.cast(pa.string()).dictionary_encode(),
        "boxes": pa.array([[[row, row + 1]] * (row % 3) for row in range(COUNT)]),
        "views": pa.array([[row] * (row % 3) for row in range(COUNT)], pa.list_view(pa.int32())),
        "named": pa.array(
            [{"a": row, "b": None} for row in range(COUNT)], pa.struct({"a": "int8", "b": "binary"})
        ),
    }
    first = [file.path.read_bytes() for file in _write(tmp_path / "a", 1, **columns)]
    for rows_per_batch in (7, 16, COUNT):
        assert [file.path.read_bytes() for file in _write(tmp_path / "b", rows_per_batch, **columns)] == first


def test_size_and_hash_are_those_of_the_file(tmp_path: Path) -> None:
    for file in _write(tmp_path):
        content = file.path.read_bytes()
        assert (file.bytes, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert [file.name for file in _write(tmp_path)] == ["00002.tar", "00002.parquet"]


def test_metadata_has_every_row(tmp_path: Path) -> None:
    _, table = _write(tmp_path)
    rows = pq.read_table(table.path).to_pylist()
    assert [row["key"] for row in rows] == [sample_key(2, row, 1000) for row in range(COUNT)]
    assert [row["status"] != "success" for row in rows] == [fails(row) for row in range(COUNT)]


def test_original_bytes_are_all_called_jpg(tmp_path: Path) -> None:
    image = ImageSpec(encode="original")
    tar, _ = write_shard("webdataset", samples(5, image), tmp_path, "00000", image)
    with tarfile.open(tar.path) as archive:
        assert {Path(name).suffix for name in archive.getnames()} == {".jpg", ".json", ".txt"}


def test_a_shard_of_failures_is_an_empty_tar(tmp_path: Path) -> None:
    only_failed = (batch for batch in samples(4, IMAGE, rows_per_batch=1) if batch.image.null_count)
    tar, _ = write_shard("webdataset", only_failed, tmp_path, "00000", IMAGE)
    with tarfile.open(fileobj=io.BytesIO(tar.path.read_bytes())) as archive:
        assert archive.getnames() == []


def test_a_place_that_is_full_is_named(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, hard))
    try:
        with pytest.raises(OutputError, match=r"00002[.\w]+: the file size limit is used up"):
            _write(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
