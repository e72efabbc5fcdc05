"""The rows of one stored shard, from its Parquet file, with or without images in it."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Final, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from turbo_fetch.errors import DatasetError
from turbo_fetch.storage import Storage

ROWS_PER_BATCH: Final = 256
_HELP: Final = "; `turbo-fetch verify --repair` takes such shards out, and the next run makes them again"

_Rows = TypeVar("_Rows", pa.RecordBatch, pa.Table)


@contextmanager
def opened(storage: Storage, name: str) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file of the place for reading; DatasetError if it is missing or damaged, also while in use.

    Threads of Arrow read a local file without Python: one that lets go of a Python file while the interpreter ends
    would end the process with SIGABRT.
    """
    try:
        with (
            storage.open_file(name) as file,
            closing(file if storage.path is None else pa.OSFile(str(storage.path / name))) as source,
            pq.ParquetFile(source, page_checksum_verification=True) as table,
        ):
            yield table
    except FileNotFoundError as error:
        raise DatasetError(f"{storage.url}/{name}: missing, though its shard is committed{_HELP}") from error
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise DatasetError(f"{storage.url}/{name}: damaged: {reason}{_HELP}") from error


def metadata_batches(
    table: pq.ParquetFile, image_columns: Sequence[str], most_rows: int = ROWS_PER_BATCH
) -> Iterator[tuple[pa.RecordBatch, list[pa.Array]]]:
    """Yield the metadata of the rows in order, and the values of each column of images."""
    lacking = {"key", "status"} - set(table.schema_arrow.names)
    if lacking:
        raise DatasetError(f"the metadata lack the columns {sorted(lacking)}; expected a finished dataset")
    for batch in table.iter_batches(batch_size=most_rows):
        # What it announces is of the file, not of its rows.
        batch = with_seconds(batch.replace_schema_metadata(None), table)
        yield batch.drop_columns(list(image_columns)), [_bytes(batch.column(name)) for name in image_columns]


def _bytes(images: pa.Array) -> pa.Array:
    return pc.struct_field(images, "bytes") if pa.types.is_struct(images.type) else images


def with_seconds(rows: _Rows, table: pq.ParquetFile) -> _Rows:
    """Return rows of a file with the seconds that Parquet has as milliseconds, as they were when it was written.

    A shard that is written anew from them then has the same JSON as before.
    """
    described = (table.metadata.metadata or {}).get(b"ARROW:schema")
    if described is None:
        return rows
    written = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(described)))
    for place, name in enumerate(rows.schema.names):
        kind = written.field(name).type
        if (pa.types.is_timestamp(kind) or pa.types.is_time32(kind)) and kind.unit == "s":
            rows = rows.set_column(place, pa.field(name, kind), rows.column(place).cast(kind))
    return rows
