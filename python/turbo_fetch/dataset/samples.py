"""Joins what the list says and what happened into img2dataset's columns: pure functions.

The columns, in order: kept columns, `caption`, `url`, then
:data:`~turbo_fetch.arrow.schemas.IMG2DATASET_RESULT_COLUMNS`, then `exif`, the hash, named after its kind, and `phash`
if the spec asks for them. Before `url` stands the hash that the list demands, if it does; where it is of the kind that
is recorded, that is the only column of that name, as in img2dataset. Width and height of images of further sizes come
last. Source columns have the types of
:mod:`~turbo_fetch.arrow.kept_types`. As in img2dataset, everything about the image is null unless the status is
`success`, and `error_message` is null only then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import chain
from types import MappingProxyType
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from turbo_fetch.arrow.kept_types import kept_type, kept_values, unkept
from turbo_fetch.arrow.rows import rows_at
from turbo_fetch.arrow.schemas import (
    EXPECTED_HASH,
    IMAGES,
    IMG2DATASET_RESULT_COLUMNS,
    UNSTORED,
    named,
    side_columns,
)
from turbo_fetch.dataset.img2dataset_messages import img2dataset_messages
from turbo_fetch.dataset.keys import ShardKeys
from turbo_fetch.errors import InputError
from turbo_fetch.outcomes import Outcome
from turbo_fetch.plan.columns import refuse_clashes
from turbo_fetch.spec import ImageSpec

SIDES: Final = ("width", "height", "original_width", "original_height")
_LAST_SOURCE_COLUMNS: Final = ("caption", *EXPECTED_HASH, "url")


Images: TypeAlias = pa.BinaryArray | pa.BinaryViewArray


class Samples(NamedTuple):
    """Rows of a shard, ready to be written: metadata, and the image, null where there is none."""

    metadata: pa.RecordBatch
    image: Images
    original_format: pa.StringArray
    more: Mapping[str, Images] = MappingProxyType({})
    """The images of further sizes, by what these are called in names."""

    @property
    def images(self) -> dict[str, Images]:
        """The images of all sizes; the name of the main one is empty."""
        return {"": self.image, **self.more}

    def with_images(self, change: Callable[[Images], Images]) -> Samples:
        """Return the samples with changed images of all sizes."""
        more = {size: change(images) for size, images in self.more.items()}
        return self._replace(image=change(self.image), more=more)

    def slice(self, start: int, count: int) -> Samples:
        """Return some of the rows."""
        cut = self.with_images(lambda images: images.slice(start, count))
        return cut._replace(
            metadata=self.metadata.slice(start, count),
            original_format=self.original_format.slice(start, count),
        )


def by_outcome(values: dict[Outcome, object], kind: pa.DataType) -> pa.Array:
    """Return an array in which the value of each outcome stands at its number, to `take` from."""
    table: list[object] = [None] * 256
    for outcome, value in values.items():
        table[outcome.number] = value
    return pa.array(table, kind)


LABELS: Final = by_outcome({outcome: outcome.label for outcome in Outcome}, pa.string())
_STATUSES: Final = by_outcome({outcome: outcome.img2dataset_status for outcome in Outcome}, pa.string())


# Every batch of a shard asks; whether Parquet can hold a type is found by trying.
@lru_cache(maxsize=8)
def metadata_schema(source: pa.Schema, image: ImageSpec) -> pa.Schema:
    """Return the schema of the metadata of samples whose source rows have the schema `source`.

    Raises InputError if a source column has the name of a result column, or a type that no dataset can have.
    """
    results = [*IMG2DATASET_RESULT_COLUMNS]
    if image.exif:
        results.append(pa.field("exif", pa.string()))
    if image.digest != "none" and f"expected {image.digest}" not in source.names:
        results.append(pa.field(image.digest, pa.string()))
    if image.phash:
        results.append(pa.field("phash", pa.string()))
    results += chain.from_iterable(map(side_columns, image.more_boxes))
    names = [name for name in _source_columns(source) if name not in UNSTORED]
    kept = {name: name for name in names if name not in _LAST_SOURCE_COLUMNS}
    refuse_clashes(kept, {field.name for field in results})
    for name in names:
        _check_type(source.field(name))
    return pa.schema(
        [
            *(pa.field(EXPECTED_HASH.get(name, name), kept_type(source.field(name).type)) for name in names),
            *results,
        ]
    )


def metadata_batch(
    source: pa.RecordBatch, results: pa.RecordBatch, keys: ShardKeys, image: ImageSpec
) -> pa.RecordBatch:
    """Return the metadata of the rows in `results`, in the order of `results`.

    `source` holds all rows of the shard, row i at index i; `results` any of them (`RESULTS`).
    """
    rows = results.column("row")
    picked = rows_at(source, rows.to_numpy())
    success = pc.equal(results.column("outcome"), Outcome.SUCCESS.number)
    outcome = results.column("outcome").cast(pa.int32())
    message = pc.coalesce(results.column("detail"), LABELS.take(outcome))
    if keys.output.messages == "img2dataset":
        message = img2dataset_messages(outcome, message)
    columns: dict[str, pa.Array] = {
        **{EXPECTED_HASH.get(name, name): kept_values(picked.column(name)) for name in source.schema.names},
        "key": keys.take(rows.to_numpy()),
        "status": _statuses(results),
        "error_message": _only_where(pc.invert(success), message),
        "exif": _only_where(success, results.column("exif")),
        image.digest: _only_where(success, results.column("digest")),
        **{side: _only_where(success, results.column(side)) for side in _sides(image)},
        "phash": _only_where(success, results.column("phash")),
    }
    schema = metadata_schema(source.schema, image)
    return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)


def samples_of(results: pa.RecordBatch, metadata: pa.RecordBatch, image: ImageSpec) -> Samples:
    """Return the samples of results whose metadata are given."""
    more = {size: results.column(named(IMAGES, size)) for size in image.more_boxes}
    return Samples(metadata, results.column(IMAGES), results.column("original_format"), more)


def _sides(image: ImageSpec) -> list[str]:
    return [*SIDES, *(field.name for size in image.more_boxes for field in side_columns(size))]


def _statuses(results: pa.RecordBatch) -> pa.StringArray:
    """Return img2dataset's statuses. An image that ends early in a body that is whole did not fail to download."""
    outcome = results.column("outcome")
    cut = pc.equal(outcome, Outcome.TRUNCATED.number)
    cut = pc.and_(cut, pc.is_valid(results.column("original_format")))
    return pc.if_else(cut, Outcome.CORRUPT.img2dataset_status, _STATUSES.take(outcome.cast(pa.int32())))


def rows_where(batch: pa.RecordBatch, condition: pa.BooleanArray) -> pa.RecordBatch:
    """Return the rows of a batch for which the condition, which has no nulls, holds."""
    kept = np.flatnonzero(condition.to_numpy(zero_copy_only=False))
    return rows_at(batch, kept.astype(np.uint32))


def _source_columns(source: pa.Schema) -> list[str]:
    repeated = sorted({name for name in source.names if source.names.count(name) > 1})
    if repeated:
        raise InputError(f"the list has several columns of the name {repeated}; expected distinct names")
    last = [name for name in _LAST_SOURCE_COLUMNS if name in source.names]
    return [name for name in source.names if name not in last] + last


def _check_type(field: pa.Field) -> None:
    why = unkept(field.type)
    if why is not None:
        raise InputError(
            f"the list's column {field.name!r} has the type {field.type}, and {why}; expected another type: cast it "
            "in the list, or leave it out of fetch.input.keep_columns"
        )


def _only_where(condition: pa.Array, values: pa.Array) -> pa.Array:
    return pc.if_else(condition, values, pa.scalar(None, values.type))
