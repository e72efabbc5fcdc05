"""`turbo-fetch ledger`: what happened to the URLs of a dataset, filtered, as a table or for other programs."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, BinaryIO, Final, Optional

import typer

from turbo_fetch.cli.completion import outcomes

if TYPE_CHECKING:
    import pyarrow as pa

    from turbo_fetch.dataset.ledger import LedgerQuery
    from turbo_fetch.dataset.reader import StoredDataset

SHOWN_ROWS: Final = 100
"""How many rows a table has unless it is told."""
WIDEST: Final = 100
MOST_ROWS: Final = 1 << 62
_HOST_NAME: Final = re.compile(r"\.?[\w-]+(\.[\w-]+)*\.?")


class Format(StrEnum):
    """How rows are printed."""

    TABLE = "table"
    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"


def ledger(
    dataset: Annotated[str, typer.Argument(help="The dataset: a folder or fsspec URL.", metavar="DATASET")],
    outcome: Annotated[
        Optional[list[str]],  # noqa: UP045 - typer reads it at run time
        typer.Option(
            help="Only rows of this outcome, or `failed` for all but success; may be repeated.",
            autocompletion=outcomes,
        ),
    ] = None,
    host: Annotated[
        Optional[str],  # noqa: UP045 - as above
        typer.Option(help="Only URLs of this host, or of hosts below it."),
    ] = None,
    retryable: Annotated[
        Optional[bool],  # noqa: UP045 - as above
        typer.Option("--retryable/--final", help="Only rows whose failure may pass, or may not."),
    ] = None,
    shard: Annotated[
        Optional[list[int]],  # noqa: UP045 - as above
        typer.Option(help="Only rows of this shard; may be repeated."),
    ] = None,
    columns: Annotated[
        Optional[str],  # noqa: UP045 - as above
        typer.Option(help="Columns to print, as key,outcome,url."),
    ] = None,
    limit: Annotated[
        Optional[int],  # noqa: UP045 - as above
        typer.Option(
            min=0, max=MOST_ROWS, help="At most so many rows; 0: all. A table has 100 unless told otherwise."
        ),
    ] = None,
    output_format: Annotated[Format, typer.Option("--format", "-f", help="How to print.")] = Format.TABLE,
) -> None:
    """Print what happened to each URL of DATASET: outcome, HTTP status, attempts, redirects, validators, timings.

    `turbo-fetch ledger out --outcome failed --format csv > failed.csv`
    """
    from turbo_fetch.dataset.ledger import SHOWN
    from turbo_fetch.dataset.reader import open_dataset
    from turbo_fetch.startup import without_pandas

    without_pandas()
    opened = open_dataset(dataset)
    query = _query(outcome or [], host, retryable)
    shown = list(SHOWN) if output_format is Format.TABLE else None
    wanted = shown if columns is None else _checked_columns(columns)
    most = SHOWN_ROWS if limit is None and output_format is Format.TABLE else limit or None
    tables = _rows(opened, query, frozenset(shard or ()), most)
    picked = (table if wanted is None else table.select(wanted) for table in tables)
    match output_format:
        case Format.TABLE:
            is_cut = _print_table(picked, most)
            if is_cut and limit is None:
                typer.echo(f"the first {most:,} rows; --limit 0 prints all", err=True)
        case Format.JSONL:
            _print_lines(picked)
        case Format.CSV:
            _print_csv(picked)
        case Format.PARQUET:
            _print_parquet(picked)


def _query(outcomes: list[str], host: str | None, retryable: bool | None) -> LedgerQuery:
    from turbo_fetch.cli.usage import checked_choice
    from turbo_fetch.dataset.ledger import FAILED, LedgerQuery, is_address
    from turbo_fetch.errors import SpecError
    from turbo_fetch.outcomes import BY_LABEL

    if host is not None and not (_HOST_NAME.fullmatch(host) or is_address(host)):
        raise SpecError(
            f"--host {host!r}: expected the name of a host, such as example.org, without scheme or port"
        )
    known = [FAILED, *BY_LABEL]
    return LedgerQuery(
        frozenset(checked_choice("--outcome", label, known) for label in outcomes), host or "", retryable
    )


def _checked_columns(columns: str) -> list[str]:
    from turbo_fetch.arrow.schemas import LEDGER
    from turbo_fetch.cli.usage import checked_choice
    from turbo_fetch.errors import SpecError

    given = [checked_choice("--columns", name.strip(), LEDGER.names) for name in columns.split(",")]
    if len(set(given)) < len(given):
        raise SpecError(f"--columns {columns!r}: expected each column once")
    return given


def _rows(
    dataset: StoredDataset, query: LedgerQuery, shards: frozenset[int], limit: int | None
) -> Iterator[pa.Table]:
    """Yield the wanted rows shard by shard, at first an empty table, while somebody reads what is printed."""
    from turbo_fetch.arrow.schemas import LEDGER
    from turbo_fetch.cli.streams import has_reader
    from turbo_fetch.errors import InputError

    if lacking := shards - {shard.number for shard in dataset.shards}:
        raise InputError(
            f"{dataset.storage.url}: there is no finished shard {min(lacking)}; expected one that is"
        )
    yield LEDGER.empty_table()
    for shard in dataset.shards:
        if (shards and shard.number not in shards) or limit == 0 or not has_reader():
            continue
        table = query.rows(dataset.ledger(shard)).slice(0, limit)
        limit = None if limit is None else limit - table.num_rows
        yield table


def _print_table(tables: Iterator[pa.Table], most: int | None) -> bool:
    """Print aligned columns, cut where they are wide; return whether there may be more rows than were printed."""
    from rich.console import Console
    from rich.table import Table

    table, rows = Table(box=None, pad_edge=False), 0
    for part in tables:
        if not table.columns:
            for name in part.column_names:
                table.add_column(name, no_wrap=True, max_width=WIDEST)
        for row in part.to_pylist():
            table.add_row(*("" if value is None else str(value) for value in row.values()))
            rows += 1
    is_terminal = sys.stdout.isatty()
    width = None if is_terminal else (WIDEST + 1) * len(table.columns)
    Console(file=sys.stdout, width=width, highlight=False, markup=False, no_color=not is_terminal).print(
        table
    )
    return rows == most


def _print_lines(tables: Iterator[pa.Table]) -> None:
    import orjson

    for table in tables:
        for row in table.to_pylist():
            sys.stdout.write(orjson.dumps(row, option=orjson.OPT_UTC_Z).decode() + "\n")


def _print_csv(tables: Iterator[pa.Table]) -> None:
    import csv

    writer = csv.writer(sys.stdout, lineterminator="\n")
    for number, table in enumerate(tables):
        if number == 0:
            writer.writerow(table.column_names)
        for row in table.to_pylist():
            # Redirects: addresses have no spaces.
            writer.writerow(" ".join(value) if isinstance(value, list) else value for value in row.values())


def _print_parquet(tables: Iterator[pa.Table]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from turbo_fetch.errors import SpecError

    if sys.stdout.isatty():
        raise SpecError("--format parquet is for a file or another program; expected one: > ledger.parquet")
    first = next(tables)
    with (
        pa.PythonFile(_Counted(sys.stdout.buffer), "w") as sink,
        pq.ParquetWriter(sink, first.schema) as writer,
    ):
        for table in tables:
            writer.write_table(table.cast(first.schema))


class _Counted:
    """A stream that knows how much was written to it, which a pipe does not."""

    closed = False

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._bytes = 0

    def write(self, content: bytes) -> int:
        self._bytes += len(content)
        self._stream.write(content)
        return len(content)

    def tell(self) -> int:
        return self._bytes

    def flush(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        self.flush()
