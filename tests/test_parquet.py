"""Parquet: images as a Hugging Face image feature, bytes that depend on the rows alone."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shard_data import fails, picture, samples, source
from turbo_fetch.dataset.formats import write_shard
from turbo_fetch.dataset.formats.table_file import TableFile
from turbo_fetch.dataset.names import sample_key
from turbo_fetch.errors import InputError
from turbo_fetch.spec import ImageSpec

IMAGE = ImageSpec(encode="png", quality=6)
COUNT = 300


def test_every_row_is_there_with_its_image_or_null(tmp_path: Path) -> None:
    (file,) = write_shard("parquet", samples(COUNT, IMAGE), tmp_path, "00000", IMAGE)
    table = pq.read_table(file.path)
    assert file.sha256 == hashlib.sha256(file.path.read_bytes()).hexdigest()
    for row, sample in enumerate(table.to_pylist()):
        key = sample_key(0, row, 1000)
        expected = None if fails(row) else {"bytes": picture(row), "path": f"{key}.png"}
        assert (sample["key"], sample["image"]) == (key, expected)
    announced = orjson.loads(table.schema.metadata[b"huggingface"])
    assert announced == {"info": {"features": {"image": {"_type": "Image"}}}}


def test_images_are_stored_as_they_are_and_the_rest_compressed(tmp_path: Path) -> None:
    (file,) = write_shard("parquet", samples(COUNT, IMAGE), tmp_path, "00000", IMAGE)
    group = pq.ParquetFile(file.path).metadata.row_group(0)
    columns = {column.path_in_schema: column for column in map(group.column, range(group.num_columns))}
    assert columns["image.bytes"].compression == "UNCOMPRESSED"
    assert columns["url"].compression == "ZSTD"
    assert "RLE_DICTIONARY" not in columns["image.bytes"].encodings


def test_how_the_samples_are_cut_leaves_no_trace(tmp_path: Path) -> None:
    written = set()
    for rows_per_batch in (1, 7, 256, COUNT):
        batches = samples(COUNT, IMAGE, rows_per_batch=rows_per_batch)
        (file,) = write_shard("parquet", batches, tmp_path, "00000", IMAGE)
        written.add(file.path.read_bytes())
    assert len(written) == 1


def test_a_list_column_named_image_is_refused(tmp_path: Path) -> None:
    listed = source(3, image=pa.array(["a", "b", "c"]))
    with pytest.raises(InputError, match="'image'"):
        write_shard("parquet", samples(3, IMAGE, listed=listed), tmp_path, "00000", IMAGE)


@settings(max_examples=40)
@given(
    sizes=st.lists(st.none() | st.integers(0, 40), min_size=1, max_size=60),
    cuts=st.sets(st.integers(1, 59)),
)
def test_row_groups_end_by_rows_or_weight_however_the_rows_come(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int | None], cuts: set[int]
) -> None:
    path = tmp_path_factory.mktemp("t") / "t.parquet"
    kind = pa.struct([pa.field("bytes", pa.binary())])
    values = [None if size is None else {"bytes": b"x" * size} for size in sizes]
    batch = pa.RecordBatch.from_arrays([pa.array(values, kind)], ["image"])
    edges = [0, *sorted(cut for cut in cuts if cut < len(sizes)), len(sizes)]
    whole = TableFile(path, batch.schema, rows_per_group=8, weighed=["image"], bytes_per_group=100)
    whole.add(batch)
    expected = (whole.finish("t"), path.read_bytes())
    pieces = TableFile(path, batch.schema, rows_per_group=8, weighed=["image"], bytes_per_group=100)
    for start, stop in pairwise(edges):
        pieces.add(batch.slice(start, stop - start))
    assert (pieces.finish("t"), path.read_bytes()) == expected
    read = pq.ParquetFile(path)
    assert read.read().column("image").to_pylist() == values
    row = 0
    for group in range(read.num_row_groups):
        rows = read.metadata.row_group(group).num_rows
        weight = sum(size or 0 for size in sizes[row : row + rows])
        assert rows <= 8
        assert weight <= 100
        if row + rows < len(sizes):
            assert rows == 8 or weight + (sizes[row + rows] or 0) > 100
        row += rows
