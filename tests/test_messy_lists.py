"""Rows in, rows out: messy lists against independent readings of them, row by row and value by value."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv
import pytest
import zstandard
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from messy_lists import LINE_ENDS, captions, url
from turbo_fetch.plan.reader import read_rows
from turbo_fetch.spec import InputSpec, Quoting

COMPRESS: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("", bytes),
    (".gz", gzip.compress),
    (".bz2", bz2.compress),
    (".xz", lzma.compress),
    (".zst", zstandard.ZstdCompressor().compress),
]
DELIMITERS = {"csv": ",", "tsv": "\t"}

same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def read(path: Path, quoting: Quoting = "auto", **other: Any) -> list[dict[str, Any]]:
    spec = InputSpec(urls=str(path), caption_column="caption", quoting=quoting, **other)
    return [row for batch in read_rows(spec) for row in batch.to_pylist()]


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


@given(
    found=st.lists(captions(), min_size=1, max_size=30),
    suffix=st.sampled_from(["csv", "tsv"]),
    is_url_first=st.booleans(),
    line_end=st.sampled_from(LINE_ENDS),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    compression=st.sampled_from(COMPRESS),
    has_last_end=st.booleans(),
)
@example(['"', '"'], "tsv", True, "\n", "utf-8", COMPRESS[0], True)
@example(['"Mind the gap', *["a cat"] * 49, 'a 12"'], "csv", False, "\n", "utf-8", COMPRESS[0], True)
@example(['"Mind the gap', *["a cat"] * 49, 'a 12" record'], "tsv", False, "\n", "utf-8", COMPRESS[0], True)
@same_folder
def test_quotes_of_a_raw_list_are_the_matter_of_their_row(
    tmp_path: Path,
    found: list[str],
    suffix: str,
    is_url_first: bool,
    line_end: str,
    encoding: str,
    compression: tuple[str, Callable[[bytes], bytes]],
    has_last_end: bool,
) -> None:
    delimiter, (name, compress) = DELIMITERS[suffix], compression
    pairs = [(url(number), caption) for number, caption in enumerate(found)]
    lines = [delimiter.join(pair if is_url_first else pair[::-1]) for pair in [("url", "caption"), *pairs]]
    text = line_end.join(lines) + line_end * has_last_end
    path = tmp_path / f"list.{suffix}{name}"
    path.write_bytes(compress(text.encode(encoding)))

    assert [(row["url"], row["caption"]) for row in read(path, "none")] == pairs

    rows = read(path)
    assert [row["url"] for row in rows] == [address for address, _ in pairs]
    for row, line in zip(rows, lines[1:], strict=True):
        [fields] = csv.reader([line], delimiter=delimiter)
        plain = line.split(delimiter)
        assert row["caption"] in (fields[is_url_first], plain[is_url_first])


def by_csv(rows: list[dict[str, str]], path: Path) -> None:
    quoting = csv.QUOTE_ALL if len(rows) % 2 else csv.QUOTE_MINIMAL
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=DELIMITERS[path.suffix[1:]], quoting=quoting)  # type: ignore[arg-type]
        writer.writeheader()
        writer.writerows(rows)


def by_pandas(rows: list[dict[str, str]], path: Path) -> None:
    pd.DataFrame(rows).to_csv(path, index=False, sep=DELIMITERS[path.suffix[1:]])


def by_polars(rows: list[dict[str, str]], path: Path) -> None:
    pl.DataFrame(rows).write_csv(path, separator=DELIMITERS[path.suffix[1:]])


def by_pyarrow(rows: list[dict[str, str]], path: Path) -> None:
    options = pa_csv.WriteOptions(delimiter=DELIMITERS[path.suffix[1:]])
    pa_csv.write_csv(pa.Table.from_pylist(rows), path, options)


def by_duckdb(rows: list[dict[str, str]], path: Path) -> None:
    table = pa.Table.from_pylist(rows)
    with duckdb.connect() as connection:
        connection.register("rows", table)
        connection.execute(f"COPY rows TO '{path}' (HEADER, DELIMITER '{DELIMITERS[path.suffix[1:]]}')")


def by_excel(rows: list[dict[str, str]], path: Path) -> None:
    text = io.StringIO(newline="")
    text.write("sep=;\r\n")
    writer = csv.DictWriter(text, list(rows[0]), dialect="excel", delimiter=";")
    writer.writeheader()
    writer.writerows(rows)
    path.write_bytes(text.getvalue().encode("utf-8-sig"))


@pytest.mark.parametrize("by", [by_csv, by_pandas, by_polars, by_pyarrow, by_duckdb, by_excel])
@given(
    found=st.lists(
        captions(",;\t\n\r") | st.text(st.characters(exclude_categories=["Cs"]), max_size=9), min_size=1
    ),
    suffix=st.sampled_from(["csv", "tsv"]),
    order=st.permutations(["url", "caption", "note"]),
)
@same_folder
def test_what_programs_write_comes_back_as_it_was(
    tmp_path: Path,
    by: Callable[[list[dict[str, str]], Path], None],
    found: list[str],
    suffix: str,
    order: list[str],
) -> None:
    if by is by_pandas:
        # It leaves a lone CR unquoted, which no reader, nor pandas itself, can tell from a line end.
        found = [text.replace("\r", "") for text in found]
    values = [{"url": url(number), "caption": text, "note": "n" + text} for number, text in enumerate(found)]
    path = tmp_path / f"list.{suffix}"
    by([{name: row[name] for name in order} for row in values], path)
    rows = read(path, keep_columns=("note",), column_types={"note": "string"})
    assert [{**row, "caption": row["caption"] or ""} for row in rows] == values


@given(
    st.lists(st.lists(st.sampled_from(["a", '"', ",", "\n", " ", "//b/c", '""']), max_size=9).map("".join))
)
@same_folder
def test_no_line_of_a_broken_list_is_lost(tmp_path: Path, parts: list[str]) -> None:
    text = "url,caption\n//first/row,x\n" + "\n".join(parts)
    rows = read(write(tmp_path / "list.csv", text))
    shown = json.dumps(rows)
    # Every path of the list is in some row, and rows with their text make up the whole list.
    assert shown.count("//b/c") == text.count("//b/c")
    lines = [line for line in text.split("\n")[1:] if line]
    assert len(rows) <= len(lines)
    by_line = read(write(tmp_path / "list.csv", text), "none")
    assert len(by_line) == len(lines)


@given(
    st.binary(max_size=300),
    st.sampled_from(["txt", "csv", "tsv", "jsonl"]),
    st.sampled_from(["auto", "none"]),
)
@same_folder
def test_any_bytes_are_rows(tmp_path: Path, content: bytes, suffix: str, quoting: Quoting) -> None:
    head = {
        "txt": b"//a/\n",
        "csv": b"url,b\n//a/,b\n",
        "tsv": b"url\tb\n//a/\tb\n",
        "jsonl": b'{"url":"//a/"}\n',
    }
    path = tmp_path / f"list.{suffix}"
    path.write_bytes(head[suffix] + content)
    rows = [
        row for batch in read_rows(InputSpec(urls=str(path), quoting=quoting)) for row in batch.to_pylist()
    ]
    lines = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    if suffix in {"csv", "tsv"} and quoting == "none":
        assert len(rows) == 1 + sum(line != b"" for line in lines)
    assert rows[0]["url"] == "//a/"


def test_a_list_in_several_files_is_that_of_its_parts(tmp_path: Path) -> None:
    texts = ['"Mind the gap', "a cat", 'a 12"', 'say "hi"']
    for file in range(3):
        lines = [f"{caption}\t{url(4 * file + number)}" for number, caption in enumerate(texts)]
        write(tmp_path / f"{file}.tsv", "\n".join(["caption\turl", *lines]))
    rows = read(tmp_path)
    assert [row["url"] for row in rows] == [url(number) for number in range(12)]
    assert [row["caption"] for row in rows] == texts * 3


def test_fields_may_be_as_large_as_images(tmp_path: Path) -> None:
    large = 'a "line"\n' * 300_000
    with (tmp_path / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("url", "caption"), (url(0), large), (url(1), "x")])
    assert [row["caption"] for row in read(tmp_path / "list.csv")] == [large, "x"]


LINES = ('"', '",', '","', '"""', 'a,"', '"a,//b/', 'x",y"z,"', '""a', '",a"b,"""', 'zz",', '//a/,"""')


@pytest.mark.usefixtures("no_collections")
@pytest.mark.parametrize("line", LINES)
def test_time_grows_with_the_length_of_a_list_whatever_its_quotes(tmp_path: Path, line: str) -> None:
    def seconds(megabytes: float) -> float:
        text = "url,caption\n//a/,x\n" + f"{line}\n" * int(megabytes * 1e6 / (len(line) + 1))
        path = write(tmp_path / "list.csv", text)
        start = time.process_time()
        for _ in read_rows(InputSpec(urls=str(path))):
            pass
        return time.process_time() - start

    assert seconds(4) < 12 * seconds(0.5) + 0.5


@pytest.mark.parametrize("quoting", ["auto", "standard"])
def test_memory_stays_flat_behind_a_quote_that_nothing_closes(tmp_path: Path, quoting: Quoting) -> None:
    write(tmp_path / "list.csv", "url,caption\n" + '//a/,"x\n' + "//b/,a word or two\n" * 3_000_000)
    program = (
        "import resource, sys; from turbo_fetch.plan.reader import read_rows; from turbo_fetch.spec import InputSpec; "
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; "
        "rows = sum(b.num_rows for b in read_rows(InputSpec(urls=sys.argv[1], quoting=sys.argv[2]))); "
        "print(rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "list.csv"), quoting]
    rows, grown_kb = map(int, subprocess.check_output(command, text=True).split())
    assert rows == 3_000_001
    assert grown_kb < 60_000
