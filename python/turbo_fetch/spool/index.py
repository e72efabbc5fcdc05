"""Where each row of a spool is and its scores are, and which rows are or were in the transform."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from turbo_fetch.arrow.binaries import lengths
from turbo_fetch.arrow.schemas import image_columns
from turbo_fetch.arrow.score_types import DETAIL
from turbo_fetch.spool import frames


class Index:
    """What the frames say so far: where each row is, and which rows are or were in the transform."""

    def __init__(self, rows: int) -> None:
        self.done: npt.NDArray[np.bool_] = np.zeros(rows, np.bool_)
        self.frame = np.zeros(rows, np.uint32)
        self.place = np.zeros(rows, np.uint32)
        self.image_bytes = np.zeros(rows, np.uint64)
        self.frames: list[frames.Frame] = []
        self.scores: list[frames.Frame] = []
        self.scored: npt.NDArray[np.bool_] = np.zeros(rows, np.bool_)
        self.in_transform: set[int] = set()
        self.tried_alone: set[int] = set()
        self.suspects: dict[int, int] = {}

    def problem_with(self, rows: npt.NDArray[np.uint32]) -> str | None:
        """Return why `rows` cannot be added, or None."""
        if rows.size and int(rows.max()) >= self.done.size:
            return f"row {int(rows.max())} is outside of the shard's {self.done.size} rows"
        values, counts = np.unique(rows, return_counts=True)
        again = values[(counts > 1) | self.done[values]]
        return f"rows {again[:5].tolist()} are in the spool already" if again.size else None

    def add(self, frame: frames.Frame, results: pa.RecordBatch) -> None:
        """Enter a batch, whose rows are known to be new, as the content of `frame`."""
        rows = results.column("row").to_numpy()
        self.done[rows] = True
        self.frame[rows] = len(self.frames)
        self.place[rows] = np.arange(rows.size, dtype=np.uint32)
        for name in image_columns(results.schema):
            self.image_bytes[rows] += lengths(results.column(name))
        self.frames.append(frame)
        for row in rows.tolist():
            self.in_transform.discard(row)
            self.tried_alone.discard(row)
            self.suspects.pop(row, None)

    def add_scores(self, frame: frames.Frame, scores: pa.RecordBatch) -> None:
        """Enter the scores of rows as the content of `frame`."""
        has_scores = np.asarray(scores.column(DETAIL).is_null())
        self.scored[scores.column("row").to_numpy()[has_scores]] = True
        self.scores.append(frame)

    def enter(self, rows: list[int]) -> None:
        """Note that a batch of `rows` entered the transform."""
        self.in_transform.update(rows)
        if len(rows) == 1 and rows[0] in self.suspects:
            self.tried_alone.add(rows[0])

    def died(self) -> None:
        """Account for a process that ended without closing.

        The blame is borne by the one row in the transform, or by the one suspect that was being tried; else
        by none, and all become suspects.
        """
        candidates = self.tried_alone or self.in_transform
        for row in self.in_transform:
            blame = int(len(candidates) == 1 and row in candidates)
            self.suspects[row] = self.suspects.get(row, 0) + blame
        self.leave()

    def leave(self) -> None:
        """Note that the transform is empty."""
        self.in_transform.clear()
        self.tried_alone.clear()
