"""Which rows of a list are taken: those that a condition lets through, and a share of them drawn at random."""

from __future__ import annotations

from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from turbo_fetch.plan.columns import HIDDEN, Columns
from turbo_fetch.plan.condition import Condition
from turbo_fetch.spec import InputSpec


class Selection:
    """Chooses among the rows of one file: `number` is that of the file in its list.

    What it takes depends on the files, the condition and the seed alone, however the rows come in batches.
    """

    def __init__(self, spec: InputSpec, columns: Columns, number: int) -> None:
        import numpy as np

        self.left_out = 0
        """Rows that were not taken."""
        self._columns = columns
        self._condition = None if spec.where is None else Condition(spec.where)
        self._share = spec.sample
        self._random = np.random.default_rng([spec.seed, number])

    @classmethod
    def of(cls, spec: InputSpec, columns: Columns, number: int) -> Self | None:
        """Return what the spec asks for, None if every row is to be taken."""
        return cls(spec, columns, number) if selects(spec) else None

    def taken(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return the rows of the next batch that are taken, without the columns that only the condition needs."""
        rows = batch.num_rows
        if self._share < 1.0:
            batch = batch.filter(pa.array(self._random.random(rows) < self._share))
        if self._condition is not None:
            batch = self._condition.filtered(batch, self._columns.named)
        self.left_out += rows - batch.num_rows
        return batch.select(visible(batch.schema).names)

    def passed_over(self, rows: int) -> None:
        """Leave out rows that were not read."""
        if self._share < 1.0:
            self._random.random(rows)
        self.left_out += rows

    def possible_row_groups(self, parquet: pq.ParquetFile, schema: pa.Schema) -> frozenset[int] | None:
        """Return the row groups of a Parquet file that may have rows to take, by its statistics; None for all.

        `schema` has the types in which the rows will be.
        """
        if self._condition is None:
            return None
        from turbo_fetch.plan.row_groups import possible_row_groups

        return possible_row_groups(parquet, self._condition, self._columns.named, schema)


def selects(spec: InputSpec) -> bool:
    """Return whether a spec takes some rows for what they are, or by chance."""
    return spec.where is not None or spec.sample < 1.0


def visible(schema: pa.Schema) -> pa.Schema:
    """Return the columns of the rows that are not there for the condition alone."""
    return pa.schema([field for field in schema if not field.name.startswith(HIDDEN)])
