"""Folders: the files of img2dataset, under the extension that is true."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from shard_data import fails, picture, samples, source
from turbo_fetch.dataset.formats import write_shard
from turbo_fetch.dataset.names import sample_key
from turbo_fetch.spec import ImageSpec

IMAGE = ImageSpec(encode="png", quality=6)


def test_a_folder_has_three_files_for_each_image_and_none_for_a_failure(tmp_path: Path) -> None:
    folder, table = write_shard("files", samples(20, IMAGE), tmp_path, "00000", IMAGE)
    rows = [row for row in range(20) if not fails(row)]
    keys = [sample_key(0, row, 1000) for row in rows]
    assert (folder.name, table.name, folder.is_folder) == ("00000", "00000.parquet", True)
    members = [f"{key}.{kind}" for key in keys for kind in ("png", "json", "txt")]
    assert sorted(path.name for path in folder.path.iterdir()) == sorted([*members, "metadata.parquet"])
    for row, key in zip(rows, keys, strict=True):
        assert (folder.path / f"{key}.png").read_bytes() == picture(row)
        assert json.loads((folder.path / f"{key}.json").read_bytes())["key"] == key
        caption = (folder.path / f"{key}.txt").read_text("utf-8")
        assert caption == ("" if row % 5 == 4 else f"a ünï {row}")


def test_the_metadata_of_a_folder_names_the_file_of_each_image(tmp_path: Path) -> None:
    listed = source(10, file_name=pa.array([f"theirs {row}" for row in range(10)]))
    folder, table = write_shard("files", samples(10, IMAGE, listed=listed), tmp_path, "00000", IMAGE)
    found = pq.read_table(folder.path / "metadata.parquet").to_pylist()
    rows = [row for row in range(10) if not fails(row)]
    assert [row["file_name"] for row in found] == [f"{sample_key(0, row, 1000)}.png" for row in rows]
    kept = [row for row in pq.read_table(table.path).to_pylist() if row["status"] == "success"]
    assert [{**row, "file_name": None} for row in found] == [{**row, "file_name": None} for row in kept]


def test_the_hash_of_a_folder_is_that_of_its_listing(tmp_path: Path) -> None:
    folder, _ = write_shard("files", samples(20, IMAGE, rows_per_batch=3), tmp_path, "00000", IMAGE)
    lines = [
        f"{path.name} {path.stat().st_size} {hashlib.sha256(path.read_bytes()).hexdigest()}\n"
        for path in sorted(folder.path.iterdir())
    ]
    assert folder.sha256 == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert folder.bytes == sum(path.stat().st_size for path in folder.path.iterdir())


def test_what_an_earlier_attempt_left_is_gone(tmp_path: Path) -> None:
    (tmp_path / "00000").mkdir()
    (tmp_path / "00000" / "stray.jpg").write_bytes(b"old")
    folder, _ = write_shard("files", samples(2, IMAGE), tmp_path, "00000", IMAGE)
    assert not (folder.path / "stray.jpg").exists()


def test_original_bytes_have_the_extension_of_their_format(tmp_path: Path) -> None:
    image = ImageSpec(encode="original")
    batch = next(samples(3, image))
    formats = pa.array(["jpeg", "webp", "tiff"])
    folder, _ = write_shard("files", [batch._replace(original_format=formats)], tmp_path, "00000", image)
    found = {path.suffix for path in folder.path.iterdir()} - {".json", ".txt", ".parquet"}
    assert found == {".jpg", ".webp", ".tif"}


def test_dummy_writes_metadata_only(tmp_path: Path) -> None:
    written = write_shard("dummy", samples(5, IMAGE), tmp_path, "00000", IMAGE)
    assert [file.name for file in written] == ["00000.parquet"]
    assert [path.name for path in tmp_path.iterdir()] == ["00000.parquet.part"]
