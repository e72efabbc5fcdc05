"""Records of what happened to rows: from the fetcher's and the transform's words to :data:`RESULTS`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Final

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from turbo_fetch.arrow.schemas import FETCHED, TRANSFORMED, results_schema, transformed_schema
from turbo_fetch.fetch.request import Draft, Fetched
from turbo_fetch.outcomes import Outcome
from turbo_fetch.spec import ImageSpec


def not_fetched(outcome: Outcome, detail: str | None) -> Fetched:
    """Return the end of a row for which no request was made."""
    return replace(Draft().end(outcome, detail), attempts=0, total_ms=0.0)


def results_batch(
    ended: Sequence[tuple[int, Fetched]], transformed: pa.RecordBatch | None, image: ImageSpec
) -> pa.RecordBatch:
    """Return the results of rows; `transformed` has those with a body, in their order.

    Rows with a body come first, then the others.
    """
    with_body = [item for item in ended if item[1].body is not None]
    without = [item for item in ended if item[1].body is None]
    parts = [
        part for part in (transformed, _untransformed(without, image)) if part is not None and part.num_rows
    ]
    images = pa.concat_batches(parts) if len(parts) > 1 else parts[0]
    return pa.RecordBatch.from_arrays(
        [*_fetched_columns([*with_body, *without]), *images.columns], schema=results_schema(image.more_boxes)
    )


def with_notes(transformed: pa.RecordBatch, notes: Sequence[str | None]) -> pa.RecordBatch:
    """Return the records with the note of each row as its detail, unless it has one already."""
    detail = pc.coalesce(transformed.column("detail"), pa.array(notes, pa.string()))
    return transformed.set_column(TRANSFORMED.get_field_index("detail"), TRANSFORMED.field("detail"), detail)


def one_batch(rows: pa.Table) -> pa.RecordBatch:
    """Return a shard's rows as one contiguous batch."""
    batches = rows.combine_chunks().to_batches()
    if len(batches) == 1:
        return batches[0]
    return pa.concat_batches(batches) if batches else pa.RecordBatch.from_pylist([], schema=rows.schema)


def rows_digest(source: pa.RecordBatch, image: ImageSpec) -> str:
    """Return a digest of a shard's rows and of what is to be made of them.

    It tells a spool apart from one that was begun with another list or other image options.
    """
    # As `model_dump_json` has it, for which pydantic would take 20 ms to make ready before the first request.
    options = {**dict(image), "max_aspect": float(image.max_aspect)}
    if not image.more_sizes:
        del options["more_sizes"]
    digest = hashlib.sha256(orjson.dumps(options))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, source.schema) as stream:
        stream.write_batch(source)
    digest.update(memoryview(sink.getvalue()))
    return digest.hexdigest()


_FACTS: Final = [field.name if field.name != "started" else "started_us" for field in FETCHED][1:]
"""Of a Fetched, in the order of the columns, but for the row."""
_facts: Final = attrgetter(*_FACTS)


def _fetched_columns(ended: Sequence[tuple[int, Fetched]]) -> list[pa.Array]:
    facts = dict(zip(_FACTS, zip(*(_facts(fetched) for _, fetched in ended), strict=True), strict=True))
    facts["attempts"] = [min(attempts, 255) for attempts in facts["attempts"]]
    facts["redirects"] = [redirects or None for redirects in facts["redirects"]]
    columns = [[row for row, _ in ended], *facts.values()]
    return [pa.array(values, field.type) for values, field in zip(columns, FETCHED, strict=True)]


def _untransformed(ended: Sequence[tuple[int, Fetched]], image: ImageSpec) -> pa.RecordBatch:
    schema = transformed_schema(image.more_boxes)
    columns: list[pa.Array] = [
        pa.array([item.outcome.number for _, item in ended], pa.uint8()),
        pa.array([item.detail for _, item in ended], pa.string()),
    ]
    columns += [pa.nulls(len(ended), field.type) for field in list(schema)[len(columns) :]]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
