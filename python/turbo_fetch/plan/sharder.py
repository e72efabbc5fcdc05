"""The sharder: a list cut into shards, lazily, the same for the same list, spec and seed.

Shards never span files. Shard k of a file has its rows k·n to (k+1)·n, either as they stand in the file
(`position`), or after the rows of each window have been put into the native `spread` order, in which no
host comes in bursts. A window is as many whole shards as fit into `WINDOW_ROWS` rows, at least one; the very first one
is shorter, since the first request waits for it.
"""

from __future__ import annotations

from collections.abc import Container, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol, Self

import pyarrow as pa

from turbo_fetch import _native
from turbo_fetch.plan.columns import Columns
from turbo_fetch.plan.condition import Condition
from turbo_fetch.plan.expansion import HeldRows
from turbo_fetch.plan.list_notes import ListNotes
from turbo_fetch.plan.parquet_ranges import read_parquet_range
from turbo_fetch.plan.reader import ListFile, ListReader, find_lists
from turbo_fetch.plan.row_count import RowCount
from turbo_fetch.plan.selection import Selection, selects, visible
from turbo_fetch.plan.survey import survey
from turbo_fetch.redaction import redact
from turbo_fetch.spec import InputSpec

WINDOW_ROWS: Final = 262_144
FIRST_WINDOW_ROWS: Final = 32_768
MAX_SHARDS_PER_ROW_GROUP: Final = 128
"""Workers read their rows of a Parquet file themselves, each of them all of a row group up to these once, unless it
has so many that the first of them would be waited for; then the parent reads it."""


class Rows(Protocol):
    """Where the rows of a shard are; can be pickled."""

    @property
    def local_path(self) -> Path | None:
        """The file of this machine in which they are, which maybe no other one sees; None if there is none."""

    def load(self, notes: ListNotes) -> pa.Table:
        """Return the rows; what was odd about them is added to the notes."""


@dataclass(frozen=True, slots=True)
class InlineRows:
    """The rows of a shard themselves, as an Arrow IPC stream, and what was odd about them."""

    ipc: bytes
    counts: Mapping[str, tuple[int, str]] = field(default_factory=dict)

    @property
    def local_path(self) -> Path | None:
        """See Rows."""
        return None

    def load(self, notes: ListNotes) -> pa.Table:
        """See Rows."""
        notes.merge(self.counts)
        return pa.ipc.open_stream(pa.py_buffer(self.ipc)).read_all()


@dataclass(frozen=True, slots=True)
class ParquetRange:
    """The rows of a shard by reference: `count` rows of a Parquet file from row `start`."""

    source: ListFile
    start: int
    count: int
    columns: Columns
    schema: pa.Schema

    @property
    def local_path(self) -> Path | None:
        """See Rows."""
        return self.source.local_path

    def load(self, notes: ListNotes) -> pa.Table:
        """See Rows; InputError if the file is gone, damaged or shorter than it was."""
        rows = range(self.start, self.start + self.count)
        found = ListNotes(self.source.url)
        table = read_parquet_range(self.source, rows, self.columns, self.schema, found)
        if self.columns.is_strict:
            found.refuse()
        notes.merge(found.counts)
        return table


@dataclass(frozen=True, slots=True)
class SpreadRange:
    """The rows of a shard by reference: those from `first` on, in the order `spread`, of a window of a Parquet file."""

    window: ParquetRange
    seed: int
    first: int
    count: int

    @property
    def local_path(self) -> Path | None:
        """See Rows."""
        return self.window.local_path

    def load(self, notes: ListNotes) -> pa.Table:
        """See Rows; InputError as for a range. What was odd in a window is told with the first shard of it."""
        window = _Window.of(self.window, self.seed)
        if self.first == 0:
            notes.merge(window.counts)
        return window.rows.take(window.order.slice(self.first, self.count))


@dataclass(frozen=True, slots=True)
class _Window:
    """A window of a list, and the order of its rows."""

    rows: pa.Table
    order: pa.Array
    counts: Mapping[str, tuple[int, str]]

    @classmethod
    def of(cls, window: ParquetRange, seed: int) -> _Window:
        """Read a window, unless it is the one that this process read last: its shards come one after the other."""
        global _last
        last = _last
        if last is None or last[0] != (window, seed):
            # Gone before the next one is read, so that memory holds one, not two.
            last = _last = None
            notes = ListNotes()
            rows = window.load(notes).combine_chunks()
            order = spread_order(rows.column("url"), seed)
            last = _last = (window, seed), cls(rows, order, notes.counts)
        return last[1]


_last: tuple[tuple[ParquetRange, int], _Window] | None = None


@dataclass(frozen=True, slots=True)
class Shard:
    """A unit of work: `count` rows, at least one, of one file of the list. It can be pickled."""

    id: int
    count: int
    rows: Rows
    duplicates: Mapping[int, str] = field(default_factory=dict)
    """Rows that need not be requested, and which earlier row has the same URL."""
    captions: Mapping[int, Sequence[str]] | None = None
    """By row, the captions of later rows with its URL; None if they are not asked for."""

    def load(self, notes: ListNotes | None = None) -> pa.Table:
        """Return the rows: `url`, `caption` if there is one, kept columns; the types are the same in all
        shards of a plan. What was odd is added to the notes. Raises InputError if a file of the list cannot be read any
        more."""
        return self.rows.load(ListNotes() if notes is None else notes)


@dataclass(frozen=True, slots=True)
class AllBut:
    """What to skip where only some shards are wanted: all numbers but theirs."""

    wanted: Container[int]

    def __contains__(self, shard: object) -> bool:
        return shard not in self.wanted


class _Windows:
    """The windows of a file: whole shards, whose rows are spread together."""

    def __init__(self, samples_per_shard: int, first_rows: int) -> None:
        self.first_rows, self.rows = (
            max(1, rows // samples_per_shard) * samples_per_shard for rows in (first_rows, WINDOW_ROWS)
        )

    def around(self, row: int) -> tuple[int, int]:
        """Return the first row of the window that holds a row, and the one after its last."""
        if row < self.first_rows:
            return 0, self.first_rows
        begin = row - (row - self.first_rows) % self.rows
        return begin, begin + self.rows


class Plan:
    """How a list becomes shards. Its files are found when it is made, and read while shards are asked for."""

    def __init__(self, files: Iterable[ListFile], spec: InputSpec, samples_per_shard: int) -> None:
        self.files = tuple(files)
        self.samples_per_shard = samples_per_shard
        self.columns = Columns.of(spec)
        self._spec = spec
        self.left_out = 0
        """Rows, of those that were read for the shards, that `where` and `sample` did not take."""
        self._schema: pa.Schema | None = None
        self._count = RowCount([file.size for file in self.files])

    @classmethod
    def of(cls, spec: InputSpec, samples_per_shard: int) -> Self:
        """Find the files of a list; raises InputError or MissingExtra as `find_lists` does."""
        return cls(find_lists(spec), spec, samples_per_shard)

    @property
    def is_selective(self) -> bool:
        """Whether only reading tells how many rows of a file are taken."""
        return selects(self._spec)

    @property
    def fingerprint(self) -> list[dict[str, str | int | None]]:
        """What the list is made of: `url`, `size`, `fingerprint` and `state` of each file, in order."""
        return [
            {
                "url": redact(file.url),
                "size": file.size,
                "fingerprint": file.fingerprint,
                "state": file.state,
            }
            for file in self.files
        ]

    @property
    def is_as_found(self) -> bool:
        """Whether all files are in the state in which they were found, as far as is known."""
        return all(file.current_state() == file.state for file in self.files)

    def again(self) -> Plan:
        """Return a plan of the same files, whose shards can be asked for independently."""
        plan = Plan(self.files, self._spec, self.samples_per_shard)
        plan._schema = self._schema
        return plan

    def schema(self) -> pa.Schema:
        """Return the columns of the rows, after a look at all files: see `survey`, which raises InputError.

        Raises SpecError if the condition on rows does not fit them.
        """
        return visible(self._read_schema())

    def _read_schema(self) -> pa.Schema:
        if self._schema is None:
            schema = survey(self.files, self.columns)
            if self._spec.where is not None:
                Condition(self._spec.where).check(schema, self.columns.named)
            self._schema = schema
        return self._schema

    def reading(self, number: int, most: int | None = None) -> ListReader:
        """Open a file of the list, by its number, for the rows that are taken of it, at most so many."""
        selection = Selection.of(self._spec, self.columns, number)
        return ListReader(self.files[number], self.columns, self._read_schema(), selection, most)

    def total_rows(self) -> tuple[int | None, bool]:
        """Return how many rows are taken, None if nothing tells yet, and whether that is an estimate."""
        rows, is_estimate = self._count.total()
        most = self._spec.rows
        return (rows, is_estimate) if most is None or rows is None or rows < most else (most, False)

    def shards(self, first_shard: int = 0, skip: Container[int] = ()) -> Generator[Shard, None, None]:
        """Yield the shards in order, numbered from `first_shard`; those in `skip` are left out.

        To be iterated once. Raises InputError when it comes to a file that cannot be read.
        """
        shard, left = first_shard, self._spec.rows
        first_window_rows = FIRST_WINDOW_ROWS
        for number in range(len(self.files)):
            if left == 0:
                return
            with self.reading(number, left) as reader, self._count.reading(reader):
                shard = yield from self._file_shards(reader, shard, skip, first_window_rows)
                first_window_rows = WINDOW_ROWS
                self.left_out += reader.left_out
                if left is not None:
                    left -= reader.rows_known

    def _file_shards(
        self, reader: ListReader, first: int, skip: Container[int], first_window_rows: int
    ) -> Generator[Shard, None, int]:
        """Yield the shards of a file, and return the id after its last one."""
        is_spread = self._spec.order == "spread"
        windows = _Windows(self.samples_per_shard, first_window_rows)
        if reader.largest_row_group is not None and not self.is_selective:
            most = MAX_SHARDS_PER_ROW_GROUP * self.samples_per_shard
            if reader.largest_row_group <= most:
                return (yield from self._ranges(reader, first, skip, windows if is_spread else None))
        if is_spread:
            return (yield from self._spread_shards(reader, first, skip, windows))
        shard = first
        for table in cut(reader, reader.source.url, self.samples_per_shard):
            counts = reader.notes.take()
            if shard not in skip:
                yield Shard(shard, table.num_rows, inline(table, counts))
            shard += 1
        return shard

    def _ranges(
        self, reader: ListReader, first: int, skip: Container[int], windows: _Windows | None
    ) -> Generator[Shard, None, int]:
        """Yield the shards of a Parquet file by reference: as its rows stand, or spread over `windows`."""
        total, schema, size = reader.total_rows, reader.schema, self.samples_per_shard
        assert total is not None

        def of_file(begin: int, end: int) -> ParquetRange:
            return ParquetRange(reader.source, begin, min(end, total) - begin, self.columns, schema)

        shard = first
        for start in range(0, total, size):
            if shard not in skip:
                rows: ParquetRange | SpreadRange = of_file(start, start + size)
                if windows is not None:
                    begin, end = windows.around(start)
                    rows = SpreadRange(of_file(begin, end), self._spec.seed, start - begin, rows.count)
                yield Shard(shard, rows.count, rows)
            shard += 1
        return shard

    def _spread_shards(
        self, reader: ListReader, first: int, skip: Container[int], windows: _Windows
    ) -> Generator[Shard, None, int]:
        size = self.samples_per_shard
        shard = first
        for window in cut(reader, reader.source.url, windows.rows, windows.first_rows):
            starts = range(0, window.num_rows, size)
            # Notes are those of the window: its first shard has them all.
            counts, first_of_window = reader.notes.take(), shard
            missing = [(shard + k, start) for k, start in enumerate(starts) if shard + k not in skip]
            shard += len(starts)
            if missing:
                order = spread_order(window.column("url"), self._spec.seed)
                # Arrow's take would join the chunks anew for every shard.
                window = window.combine_chunks()
            for number, start in missing:
                table = window.take(order.slice(start, size))
                rows = inline(table, counts if number == first_of_window else {})
                yield Shard(number, table.num_rows, rows)
            # Gone before the next window is read, so that memory holds one, not two.
            del window
            pa.default_memory_pool().release_unused()
        return shard


def plan_shards(
    spec: InputSpec, samples_per_shard: int, first_shard: int = 0, skip: Container[int] = ()
) -> Iterator[Shard]:
    """Find the files of a list and yield its shards; see `Plan`."""
    return Plan.of(spec, samples_per_shard).shards(first_shard, skip)


def spread_order(urls: pa.ChunkedArray, seed: int) -> pa.Array:
    """Return the order in which the rows of a window are taken: a permutation of their indices.

    The rows of each registrable domain are evenly spaced; no domain comes twice in a row unless it has more
    than half of the rows. Rows without a usable URL count as one domain.
    """
    domains = [_native.parse_urls(chunk).column("domain") for chunk in urls.chunks]
    return _native.spread(pa.concat_arrays(domains), seed)


def cut(
    batches: Iterable[pa.RecordBatch], file: str, size: int, first_size: int | None = None
) -> Iterator[pa.Table]:
    """Yield the rows of the batches of a file as tables of `size` rows, the last one maybe fewer, none empty.

    The first one has `first_size` rows, if that is given. Raises InputError if they take too much memory.
    """
    held, wanted = HeldRows(file), first_size or size
    for batch in batches:
        start = 0
        while start < batch.num_rows:
            part = batch.slice(start, wanted - held.count)
            held.add(part)
            start += part.num_rows
            if held.count == wanted:
                wanted = size
                yield held.take()
    if held.count:
        yield held.take()


def inline(table: pa.Table, counts: Mapping[str, tuple[int, str]]) -> InlineRows:
    """Return the rows of a shard, and what was odd about them, as what can be sent anywhere."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return InlineRows(sink.getvalue().to_pybytes(), counts)
