"""What scores decide: images without them are not kept, nor those for which `fetch.score.where` does not hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from turbo_fetch.arrow.binaries import blobs, view_array
from turbo_fetch.arrow.schemas import image_columns
from turbo_fetch.arrow.score_types import DETAIL, score_schema, spooled_schema
from turbo_fetch.errors import SpecError
from turbo_fetch.outcomes import Outcome
from turbo_fetch.plan.condition import Condition
from turbo_fetch.spec import ScoreSpec

WHERE: Final = "fetch.score.where"
_PLACE: Final = "place in the batch"

Rows = TypeVar("Rows", pa.RecordBatch, pa.Table)


class Judgement:
    """The scores of a shard, as a table of rows, and what they decide."""

    def __init__(self, spec: ScoreSpec, scores: pa.Table | None) -> None:
        self._columns = score_schema(spec.columns)
        self._condition = None if spec.where is None else Condition(spec.where, WHERE)
        none = spooled_schema(spec.columns).empty_table()
        self._scores = (none if scores is None else scores).combine_chunks()
        self._rows = self._scores.column("row").to_numpy()

    def of(
        self, results: pa.RecordBatch, metadata_of: Callable[[pa.RecordBatch], pa.RecordBatch]
    ) -> tuple[pa.RecordBatch, pa.RecordBatch]:
        """Return the results of rows as they are now, and their metadata, which `metadata_of` gives without scores."""
        found = self._taken(results.column("row").to_numpy())
        is_image = pc.equal(results.column("outcome"), Outcome.SUCCESS.number)
        failed = pc.and_(is_image, found.column(DETAIL).is_valid())
        results = _ended(results, failed, Outcome.UNSCORED, found.column(DETAIL))
        metadata = self._with_scores(metadata_of(results), found)
        if self._condition is None:
            return results, metadata
        dropped = pc.and_not(pc.and_not(is_image, failed), pa.array(_holds(self._condition, metadata)))
        results = _ended(results, dropped, Outcome.FILTERED, f"not {self._condition.text}")
        if pc.any(dropped).as_py():
            metadata = self._with_scores(metadata_of(results), found)
        return results, metadata

    def _taken(self, rows: npt.NDArray[np.uint32]) -> pa.RecordBatch:
        """Return the scores of rows, null where there are none."""
        places = np.searchsorted(self._rows, rows)
        is_there = np.zeros(rows.size, np.bool_)
        within = places < self._rows.size
        is_there[within] = self._rows[places[within]] == rows[within]
        taken = self._scores.take(pa.array(places, mask=~is_there))
        return taken.combine_chunks().to_batches()[0]

    def _with_scores(self, metadata: pa.RecordBatch, found: pa.RecordBatch) -> pa.RecordBatch:
        for field in self._columns:
            metadata = metadata.append_column(field, found.column(field.name))
        return metadata


def check_condition(spec: ScoreSpec, metadata: pa.Schema) -> None:
    """Raise SpecError if `where` is no condition on the columns of the dataset."""
    if spec.where is None:
        return
    condition = Condition(spec.where, WHERE)
    known = _comparable(metadata.empty_table()).schema
    if strange := [name for name in condition.columns if name not in known.names]:
        raise SpecError(
            f"{WHERE} = {spec.where!r} names {strange[0]!r}, which is no column of the dataset; expected one of "
            f"{', '.join(known.names)}"
        )
    condition.check(known, {name: name for name in known.names})


def _holds(condition: Condition, metadata: pa.RecordBatch) -> npt.NDArray[np.bool_]:
    """Return for each row whether the condition holds."""
    rows = metadata.num_rows
    asked = _comparable(metadata.append_column(_PLACE, pa.array(np.arange(rows))))
    kept = condition.filtered(asked, {name: name for name in metadata.schema.names}).column(_PLACE)
    holds = np.zeros(rows, np.bool_)
    holds[kept.to_numpy()] = True
    return holds


def _comparable(rows: Rows) -> Rows:
    """Return rows with floats of 16 bits, which Arrow does not compare, in 32."""
    for place, field in enumerate(rows.schema):
        if pa.types.is_float16(field.type):
            rows = rows.set_column(place, field.name, rows.column(place).cast(pa.float32()))
    return rows


def _ended(
    results: pa.RecordBatch, which: pa.BooleanArray, outcome: Outcome, detail: pa.StringArray | str
) -> pa.RecordBatch:
    """Return results in which some rows have ended so, without an image."""
    if not pc.any(which).as_py():
        return results
    gone = which.to_pylist()
    changed = {
        "outcome": pc.if_else(which, pa.scalar(outcome.number, pa.uint8()), results.column("outcome")),
        "detail": pc.if_else(which, detail, results.column("detail")),
    }
    for name in image_columns(results.schema):
        images = zip(blobs(results.column(name)), gone, strict=True)
        changed[name] = view_array([None if is_gone else image for image, is_gone in images])
    return pa.RecordBatch.from_arrays(
        [changed.get(name, results.column(name)) for name in results.schema.names], schema=results.schema
    )
