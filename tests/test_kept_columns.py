"""Columns of every type and value load from every format in what people load it with, or are refused by name."""

from __future__ import annotations

import json
import tarfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kept_columns import PER_SHARD, REFUSED, as_json, column, dataset, every_column, plain
from shard_data import fails
from turbo_fetch.errors import InputError
from turbo_fetch.spec import OutputFormat

ROWS = 2 * PER_SHARD
GOOD = [row for row in range(ROWS) if not fails(row % PER_SHARD)]
FORMATS: list[OutputFormat] = ["webdataset", "files", "parquet", "parquet_bytes", "lmdb", "tfrecord", "dummy"]


@pytest.fixture(autouse=True)
def _others_may_warn() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def load(folder: Path, **options: Any) -> Any:
    import datasets

    return datasets.load_dataset(str(folder), split="train", cache_dir=str(folder / ".cache"), **options)


def strict(text: bytes | str) -> Any:
    """Parse JSON as the standard says, without NaN."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("output_format", FORMATS)
@pytest.mark.parametrize("values", [True, False], ids=["values", "nulls"])
def test_hugging_face_loads_the_folder(tmp_path: Path, output_format: OutputFormat, values: bool) -> None:
    columns = every_column(ROWS, values=values)
    out = dataset(tmp_path, output_format, columns)
    rows, streamed = list(load(out)), list(load(out, streaming=True))
    if output_format == "files":
        # Of several folders imagefolder takes the metadata in no certain order.
        rows, streamed = (sorted(found, key=lambda row: str(row["key"])) for found in (rows, streamed))
    kept = GOOD if output_format in {"webdataset", "files"} else range(ROWS)
    assert len(rows) == len(streamed) == len(kept)
    for name, array in columns.items():
        expected = array.to_pylist()
        for found in (rows, streamed):
            if output_format == "webdataset":
                wanted = [as_json(array.type, expected[row]) for row in kept]
                seen = [row["json"][name] for row in found]
            else:
                wanted = [plain(expected[row]) for row in kept]
                seen = [plain(row[name]) for row in found]
            if array.type == pa.uint64() and output_format in {"webdataset", "files"}:
                wanted = [None if value is None else str(value) for value in wanted]
            assert seen == wanted, name
