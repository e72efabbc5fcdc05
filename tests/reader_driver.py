"""Runs in the environment of `readers.py`: counts what Daft and litdata find in datasets, as JSON."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import daft
import litdata
from litdata.raw.indexer import FileIndexer
from litdata.streaming.item_loader import ParquetLoader


def counts(folder: str) -> dict[str, int]:
    """Return what each way of reading a dataset counts."""
    # litdata leaves an index in the folder, which is JSON.
    jsons = daft.from_glob_path(f"{folder}/**/*.json").count_rows()
    with tempfile.TemporaryDirectory() as index, tempfile.TemporaryDirectory() as cache:
        litdata.index_parquet_dataset(folder, cache_dir=index)
        indexed = litdata.StreamingDataset(folder, item_loader=ParquetLoader(), index_path=index)
        images = sum(1 for path in Path(folder).rglob("*.jpg"))
        raw = (
            len(
                litdata.StreamingRawDataset(folder, cache_dir=cache, indexer=FileIndexer(extensions=[".jpg"]))
            )
            if images
            else 0
        )
        return {
            "daft *.parquet": daft.read_parquet(f"{folder}/*.parquet").count_rows(),
            "daft **/*.parquet": daft.read_parquet(f"{folder}/**/*.parquet").count_rows(),
            "daft **/*.json": jsons,
            "litdata parquet": len(indexed),
            "litdata raw .jpg": raw,
        }


if __name__ == "__main__":
    answers = {folder: counts(folder) for folder in sys.argv[2:]}
    Path(sys.argv[1]).write_text(json.dumps(answers), encoding="utf-8")
