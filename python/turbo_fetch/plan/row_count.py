"""How many rows a list has, while its files are still being read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from turbo_fetch.plan.reader import ListReader


class RowCount:
    """Counts the rows of files that are read one after the other; `sizes` are theirs, in bytes.

    Parquet files say how many rows they have when they are opened. Of a file half read, the share of bytes
    is taken for that of rows, and files not yet opened are taken to have as many rows per byte as those
    before.
    """

    def __init__(self, sizes: Sequence[int | None]) -> None:
        self._sizes = sizes
        self._rows = 0
        self._files = 0
        self._reader: ListReader | None = None

    @contextmanager
    def reading(self, reader: ListReader) -> Iterator[None]:
        """Count the next file, which is read within this context."""
        self._reader = reader
        yield
        self._reader = None
        self._rows += reader.rows_known
        self._files += 1

    def total(self) -> tuple[int | None, bool]:
        """Return the number of rows, None if nothing tells yet, and whether it is an estimate."""
        reader, rows, files = self._reader, float(self._rows), self._files
        is_estimate = files < len(self._sizes)
        if reader is not None:
            if reader.total_rows is not None:
                rows += reader.total_rows
                is_estimate = files + 1 < len(self._sizes)
            elif reader.fraction_read > 0:
                rows += reader.rows_read / reader.fraction_read
            else:
                return None, True
            files += 1
        seen, unseen = self._sizes[:files], self._sizes[files:]
        if not unseen:
            return round(rows), is_estimate
        seen_bytes = sum(size or 0 for size in seen)
        if not seen_bytes or None in self._sizes:
            return None, True
        return round(rows * (1 + sum(size or 0 for size in unseen) / seen_bytes)), True
