"""The formats of shards. Each is a module of `turbo_fetch.dataset.formats`; light, for the command line lists them."""

from __future__ import annotations

from typing import Literal

OutputFormat = Literal["files", "webdataset", "parquet", "parquet_bytes", "lmdb", "tfrecord", "dummy"]
