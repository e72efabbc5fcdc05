"""Which rows of a list are taken: by a condition as DuckDB understands it, by a share, a number, of several files."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any, Literal

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import csv

from turbo_fetch.errors import InputError, SpecError, TurboFetchError
from turbo_fetch.plan.condition import Condition
from turbo_fetch.plan.list_notes import ListNotes
from turbo_fetch.plan.row_groups import possible_row_groups
from turbo_fetch.plan.sharder import Plan
from turbo_fetch.spec import InputSpec

ROWS = 700
TABLE = pa.table(
    {
        "url": [f"http://example.org/{row}" for row in range(ROWS)],
        "width": pa.array([None if row % 11 == 0 else row * 7 % 1000 for row in range(ROWS)], pa.int64()),
        "score": pa.array([None if row % 7 == 0 else row / ROWS for row in range(ROWS)], pa.float64()),
        "text": pa.array(
            [
                None if row % 5 == 0 else f"{'A photo' if row % 3 else 'a DRAWING'} of {row}"
                for row in range(ROWS)
            ]
        ),
        "odd name": pa.array([row % 2 == 0 for row in range(ROWS)]),
    }
)

_numbers = st.one_of(
    st.integers(-5, 1005).map(str), st.floats(-1, 2, allow_nan=False).map(lambda value: f"{value:.3f}")
)
_sides = st.one_of(
    st.sampled_from(["width", "score"]),
    st.tuples(st.sampled_from(["width", "score"]), st.sampled_from(["+", "-", "*"]), _numbers).map(" ".join),
    _numbers.map(lambda number: f"width / {abs(float(number)) + 1:.3f}"),
)
_conditions: st.SearchStrategy[tuple[str, str]] = st.recursive(
    st.one_of(
        st.tuples(_sides, st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), _numbers).map(
            lambda parts: (" ".join(parts), " ".join(parts).replace("==", "=").replace("!=", "<>"))
        ),
        st.sampled_from(
            [
                ("score is None", "score IS NULL"),
                ("text is not None", "text IS NOT NULL"),
                ("width in [7, 14, 21]", "width IN (7, 14, 21)"),
                ("width not in (7, 14)", "width NOT IN (7, 14)"),
                ("text == 'A photo of 4'", "text = 'A photo of 4'"),
                ("startswith(text, 'A p')", "starts_with(text, 'A p')"),
                ("contains(lower(text), 'draw')", "contains(lower(text), 'draw')"),
                ("matches(text, 'of [0-9]{2}$')", "regexp_matches(text, 'of [0-9]{2}$')"),
                ("length(text) > 12", "length(text) > 12"),
                ("abs(width - 500) < 100", "abs(width - 500) < 100"),
                ("0.2 < score <= 0.6", "0.2 < score AND score <= 0.6"),
                ("column('odd name')", '"odd name"'),
            ]
        ),
    ),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(
            lambda parts: (
                f"({parts[0][0]}) {parts[1]} ({parts[2][0]})",
                f"({parts[0][1]}) {parts[1]} ({parts[2][1]})",
            )
        ),
        inner.map(lambda parts: (f"not ({parts[0]})", f"NOT ({parts[1]})")),
    ),
    max_leaves=4,
)


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("lists")
    found = {kind: folder / f"list.{kind}" for kind in ("parquet", "csv", "arrow", "jsonl")}
    # Sorted by nothing, and in groups, so that statistics rule some of them out.
    pq.write_table(TABLE, found["parquet"], row_group_size=64)
    csv.write_csv(TABLE, found["csv"], csv.WriteOptions(quoting_style="needed"))
    with pa.ipc.new_file(found["arrow"], TABLE.schema) as writer:
        writer.write_table(TABLE, max_chunksize=50)
    duckdb.from_arrow(TABLE).query("list", f"COPY list TO '{found['jsonl']}' (FORMAT json)")
    return found


def _taken(path: Path | tuple[str, ...], size: int = 100, **options: Any) -> list[str]:
    urls = path if isinstance(path, tuple) else str(path)
    plan = Plan.of(InputSpec(urls=urls, **options), size)
    tables = [shard.load() for shard in plan.shards()]
    assert all(table.column_names == plan.schema().names for table in tables)
    assert all(table.num_rows == size for table in tables[:-1] if isinstance(path, Path))
    return [url for table in tables for url in table.column("url").to_pylist()]


@given(condition=_conditions)
@settings(max_examples=60, deadline=None)
def test_a_condition_takes_the_rows_that_a_database_would(
    lists: dict[str, Path], condition: tuple[str, str]
) -> None:
    where, sql = condition
    expected = duckdb.from_arrow(TABLE).filter(sql).project("url").fetchall()
    for kind in ("parquet", "jsonl"):
        assert _taken(lists[kind], where=where) == [url for (url,) in expected], kind


_POOLS: dict[str, tuple[pa.DataType, list[Any]]] = {
    "real": (
        pa.float64(),
        [None, math.nan, math.inf, -math.inf, 0.0, -0.0, 0.1, 1.0, 5.0, 2.0**63, 5e-324, 1e308],
    ),
    "whole": (pa.int64(), [None, 0, 1, 5, -1, 2**53 + 1, 2**63 - 1, -(2**63)]),
    "text": (pa.string(), [None, "", "a", "b", "é", "z" * 90, "z" * 89 + "y", "\U0001f600"]),
    "single": (pa.float32(), [None, math.nan, 0.0, -0.0, 0.1, 1.0, 16777217.0, 3e38]),
    "natural": (pa.uint64(), [None, 0, 1, 5, 2**63, 2**64 - 1]),
}
_IN_JSON = ["real", "whole", "text"]
_CONSTANTS = [
    "0",
    "-0.0",
    "0.1",
    "1",
    "1.0",
    "5",
    "16777217",
    "9007199254740992.0",
    str(2**63),
    "-1",
    "1e400",
]


def _random_conditions(columns: list[str]) -> st.SearchStrategy[str]:
    numbers = st.sampled_from([name for name in columns if name != "text"])
    operators = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
    constants = st.sampled_from(_CONSTANTS)
    atoms = st.one_of(
        st.tuples(numbers, operators, constants).map(" ".join),
        st.tuples(constants, operators, numbers).map(" ".join),
        numbers.map(lambda name: f"{name} != {name}"),
        st.tuples(numbers, st.sampled_from(["not in", "in"]), constants).map(
            lambda parts: f"{parts[0]} {parts[1]} [{parts[2]}, 1]"
        ),
        st.tuples(constants, numbers, constants).map(" <= ".join),
        numbers.map(lambda name: f"1 / {name} is None"),
        st.tuples(numbers, constants).map(lambda parts: f"{parts[0]} * 0 < {parts[1]}"),
        st.tuples(st.sampled_from(columns), st.sampled_from(["is None", "is not None"])).map(" ".join),
        st.tuples(operators, st.sampled_from(["a", "b", "zz", "é", "z" * 90, "\ufffe"])).map(
            lambda parts: f"text {parts[0]} {parts[1]!r}"
        ),
        st.just("lower(text) == 'a'"),
    )
    return st.recursive(
        atoms,
        lambda inner: st.one_of(
            inner.map(lambda part: f"not ({part})"),
            st.tuples(inner, st.sampled_from([" and ", " or "]), inner).map(
                lambda parts: f"({parts[0]}){parts[1]}({parts[2]})"
            ),
        ),
        max_leaves=4,
    )


def _as_json(row: dict[str, Any]) -> str:
    return json.dumps({name: row[name] for name in ["url", *_IN_JSON]})


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_statistics_of_a_file_change_no_row_that_a_condition_takes(data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 8))
    # Few values to a row group, so that least and greatest are often the same.
    columns = {
        name: pa.array(data.draw(st.lists(st.sampled_from(values), min_size=rows, max_size=rows)), kind)
        for name, (kind, values) in _POOLS.items()
    }
    table = pa.table({"url": [f"http://example.org/{row}" for row in range(rows)], **columns})
    in_json = data.draw(st.booleans())
    where = data.draw(_random_conditions(_IN_JSON if in_json else list(_POOLS)))
    with tempfile.TemporaryDirectory() as folder:
        told, untold, text = (Path(folder) / name for name in ("a.parquet", "b.parquet", "c.jsonl"))
        pq.write_table(table, told, row_group_size=2)
        pq.write_table(table, untold, row_group_size=2, write_statistics=False)
        text.write_text("\n".join(map(_as_json, table.to_pylist())))
        expected = _taken(untold, where=where)
        assert _taken(told, where=where) == expected
        if in_json:
            types = {"real": "double", "whole": "int64", "text": "string"}
            assert _taken(text, where=where, keep_columns=_IN_JSON, column_types=types) == expected


@pytest.mark.parametrize(
    "where", ["x != 1", "not x < 5", "x != x", "not (x == 1)", "x not in [1]", "not 0 < x <= 1"]
)
def test_a_row_group_with_what_is_no_number_is_read(tmp_path: Path, where: str) -> None:
    path = tmp_path / "list.parquet"
    pq.write_table(
        pa.table({"url": ["http://example.org/0", "http://example.org/1"], "x": [1.0, math.nan]}), path
    )
    assert "http://example.org/1" in _taken(path, where=where)


def test_bytes_that_are_no_utf_8_are_not_ruled_out_by_what_they_were(tmp_path: Path) -> None:
    path = tmp_path / "list.parquet"
    garbled = pa.array([b"\x80", b"\x81"]).view(pa.string())
    pq.write_table(pa.table({"url": ["http://example.org/0", "http://example.org/1"], "x": garbled}), path)
    assert len(_taken(path, where="x > 'é'")) == 2


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("x > 5", [2**63, 2**64 - 1]),
        ("x > -1", [0, 2**63, 2**64 - 1]),
        (f"x == {2**64 - 1}", [2**64 - 1]),
        (f"x < {10**60}", [0, 2**63, 2**64 - 1]),
        ("x in [0, 7]", [0]),
        ("x > y", [2**63, 2**64 - 1]),
        ("abs(x) >= 9223372036854775808", [2**63, 2**64 - 1]),
        ("x + 1 > 2.5", [2**63, 2**64 - 1]),
        (f"y < {2**63}", [0, 2**63, 2**64 - 1]),
    ],
)
def test_integers_are_compared_as_such_however_large(tmp_path: Path, where: str, expected: list[int]) -> None:
    path = tmp_path / "list.parquet"
    values = [0, 2**63, 2**64 - 1]
    y = pa.array([1, 2, 2**63 - 1], pa.int64())
    table = pa.table({"url": list(map(str, values)), "x": pa.array(values, pa.uint64()), "y": y})
    pq.write_table(table, path)
    assert list(map(int, _taken(path, where=where))) == expected


def test_row_groups_that_statistics_rule_out_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "list.parquet"
    table = pa.table({"url": ["http://example.org/0", "http://example.org/1"], "x": [1, 2], "s": ["a", "b"]})
    pq.write_table(table, path, row_group_size=1)
    spec = InputSpec(urls=str(path), where="x >= 1")
    parquet, named = pq.ParquetFile(path), {"x": "x", "s": "s"}
    schema = Plan.of(spec, 10).schema().append(pa.field("x", pa.int64())).append(pa.field("s", pa.string()))
    for where in ("x > 1", "2 <= x", "x in [2, 3]", "1.5 < x < 9", "s == 'b'", "s > 'a' and x == 2"):
        assert possible_row_groups(parquet, Condition(where), named, schema) == {1}, where
    assert possible_row_groups(parquet, Condition("x is None or s < 'a'"), named, schema) == set()


@pytest.mark.parametrize("kind", ["csv", "arrow"])
def test_a_condition_means_the_same_in_every_format(lists: dict[str, Path], kind: str) -> None:
    where = "score is not None and width > 250 and matches(text, '^a')"
    assert _taken(lists[kind], where=where) == _taken(lists["parquet"], where=where) != []


def test_a_column_may_be_asked_for_and_kept(lists: dict[str, Path]) -> None:
    plan = Plan.of(
        InputSpec(
            urls=str(lists["csv"]),
            where="width < 100",
            keep_columns={"width": "list_width"},
            caption_column="text",
        ),
        1000,
    )
    [shard] = plan.shards()
    rows = shard.load()
    assert rows.column_names == ["url", "caption", "list_width"]
    assert 0 < rows.num_rows < ROWS
    assert max(rows.column("list_width").to_pylist()) < 100
    assert plan.left_out == ROWS - rows.num_rows


def test_row_groups_that_have_none_of_the_rows_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "list.parquet"
    pq.write_table(TABLE.set_column(1, "width", pa.array(range(ROWS))), path, row_group_size=100)
    damaged = bytearray(path.read_bytes())
    start = pq.ParquetFile(path).metadata.row_group(2).column(1).data_page_offset
    damaged[start : start + 40] = bytes(40)
    path.write_bytes(damaged)
    with pytest.raises(InputError):
        _taken(path, where="width >= 250")
    assert len(_taken(path, where="width >= 300")) == 400
    # A share of what is behind a group that is passed over is the same share as if it had been read.
    some = set(_taken(path, where="width >= 300", sample=0.3))
    assert some == {url for url in _drawn(0.3) if int(url.rpartition("/")[2]) >= 300}


def _drawn(share: float) -> list[str]:
    drawn = np.random.default_rng([0, 0]).random(ROWS) < share
    urls: list[str] = TABLE.column("url").filter(pa.array(drawn)).to_pylist()
    return urls


@pytest.mark.parametrize(
    "where",
    [
        "",
        "width = 3",
        "width AND 3",
        "width",
        "width > 'wide'",
        "text > 3",
        "1 > 0",
        "__import__('os').system('true')",
        "text.lower() == 'a'",
        "text in 'abc'",
        "width in [score]",
        "width is 3",
        "width == None",
        "f(width) > 1",
        "contains(text, width)",
        "matches(text, '(')",
        "text * 2 > 1",
        "text / 2 > 1",
        "text > 0.5",
        "lower() == 'a'",
        "[width > 3 for width in width]",
        "lambda: width",
        "width > 10 ** 400",
        "(" * 500 + "width > 1" + ")" * 500,
        f"{'not ' * 50_000}width > 1",
        "column(width) > 1",
        "width > 3; width < 2",
        "width > \x00",
        "nope > 1",
    ],
)
def test_what_is_no_condition_on_the_list_is_refused_in_a_sentence(
    lists: dict[str, Path], where: str
) -> None:
    with pytest.raises(TurboFetchError) as refused:
        Plan.of(InputSpec(urls=str(lists["parquet"]), where=where), 10).schema()
    assert isinstance(refused.value, SpecError | InputError)
    assert "where" in str(refused.value) or "no column 'nope'" in str(refused.value)


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_a_sample_is_about_its_share_and_the_same_every_time(lists: dict[str, Path], kind: str) -> None:
    some = _taken(lists[kind], sample=0.25)
    assert 0.18 * ROWS < len(some) < 0.32 * ROWS
    assert _taken(lists[kind], sample=0.25, size=7) == some == _taken(lists["arrow"], sample=0.25)
    assert set(some) < set(_taken(lists[kind], sample=0.5)), "a larger share holds the smaller one"
    assert _taken(lists[kind], sample=0.25, seed=1) != some


@pytest.mark.parametrize("order", ["position", "spread"])
@pytest.mark.parametrize("kind", ["parquet", "csv"])
@pytest.mark.parametrize("rows", [1, 99, 100, 250, ROWS, ROWS + 1])
def test_no_more_rows_are_taken_than_asked_for(
    lists: dict[str, Path], kind: str, rows: int, order: Literal["position", "spread"]
) -> None:
    urls = TABLE.column("url").to_pylist()
    assert sorted(_taken(lists[kind], rows=rows, order=order)) == sorted(urls[:rows])
    plan = Plan.of(InputSpec(urls=str(lists[kind]), rows=rows, order=order), 100)
    assert sum(shard.count for shard in plan.shards()) == plan.total_rows()[0] == min(rows, ROWS)


def test_the_limit_holds_over_all_files_and_after_the_condition(lists: dict[str, Path]) -> None:
    both = (str(lists["csv"]), str(lists["parquet"]))
    where = "width < 500"
    once = _taken(lists["parquet"], where=where)
    assert _taken(both, where=where) == once * 2
    assert _taken(both, where=where, rows=len(once) + 5) == once + once[:5]
    assert _taken(both, rows=ROWS + 150) == (TABLE.column("url").to_pylist() * 2)[: ROWS + 150]


def test_several_lists_are_read_in_the_order_in_which_they_are_named(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("http://example.org/b\n")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.csv").write_text("url\nhttp://example.org/a\n")
    (folder / "c.csv").write_text("url\nhttp://example.org/c\n")
    names = tuple(str(tmp_path / name) for name in ("b.txt", "folder"))
    assert _taken(names) == [f"http://example.org/{name}" for name in "bac"]
    with pytest.raises(InputError, match=r"a\.csv: .* more than once"):
        _taken((str(folder / "*.csv"), str(folder / "a.csv")))
    with pytest.raises(InputError, match=r"none\.txt: there is no such file"):
        _taken((str(tmp_path / "b.txt"), str(tmp_path / "none.txt")))


def test_a_file_without_a_header_is_read_by_the_names_it_is_given(tmp_path: Path) -> None:
    path = tmp_path / "list.tsv"
    path.write_bytes(
        b'http://example.org/1\t"a ""photo"""\t3\nhttp://example.org/2\nhttp://example.org/3\tc\t5\n'
    )
    names = ("url", "caption", "width")
    options: dict[str, Any] = {
        "column_names": names,
        "caption_column": "caption",
        "where": "width is None or width > 3",
    }
    spec = InputSpec(urls=str(path), **options)
    notes = ListNotes()
    [shard] = Plan.of(spec, 10).shards()
    assert shard.load(notes).to_pylist() == [
        {"url": "http://example.org/2", "caption": None},
        {"url": "http://example.org/3", "caption": "c"},
    ]
    assert notes.counts["short"][1].endswith("line 2"), "lines are counted as in the file"
    with pytest.raises(InputError, match=r"column_names is for csv and tsv"):
        Plan.of(InputSpec(urls=str(_as_text(tmp_path)), column_names=("url",)), 10)


def _as_text(folder: Path) -> Path:
    path = folder / "list.txt"
    path.write_text("http://example.org/1\n")
    return path


_INTEGERS = [pa.int8(), pa.int64(), pa.uint8(), pa.uint64()]


@pytest.mark.parametrize("kind", _INTEGERS, ids=str)
@pytest.mark.parametrize(
    ("where", "sql"),
    [
        ("n > 0.5", "n > 0.5"),
        ("n in [0.5, 1.5]", "n = 0.5"),
        ("n * 3 > 100", "n::DOUBLE * 3 > 100"),
        ("n + n > 100", "n::DOUBLE + n::DOUBLE > 100"),
        ("n - 1 >= 0", "n::DOUBLE - 1 >= 0"),
        ("n / (n - 3) > 0", "n::DOUBLE / nullif(n::DOUBLE - 3, 0) > 0"),
        ("1 / n > 0", "1 / nullif(n::DOUBLE, 0) > 0"),
        ("not 1 / n > 0", "not 1 / nullif(n::DOUBLE, 0) > 0"),
    ],
)
def test_the_largest_numbers_and_zero_fail_no_other_row(
    tmp_path: Path, kind: pa.DataType, where: str, sql: str
) -> None:
    bits = kind.bit_width - (not str(kind).startswith("u"))
    numbers = [0, 1, 3, None, 2**bits - 1, 2**bits - 2, 2 ** (bits - 1)]
    table = pa.table({"url": [f"http://example.org/{n}" for n in numbers], "n": pa.array(numbers, kind)})
    pq.write_table(table, tmp_path / "list.parquet")
    expected = duckdb.from_arrow(table).filter(sql).project("url").fetchall()
    assert _taken(tmp_path / "list.parquet", where=where) == [url for (url,) in expected]


def test_a_column_of_integers_is_compared_with_one_of_fractions_whatever_their_size(tmp_path: Path) -> None:
    urls = [f"http://example.org/{row}" for row in range(3)]
    numbers, fractions = [2**62 + 1, 2**62 + 1, 0], [0.5, 2.0**63, 0.5]
    pq.write_table(pa.table({"url": urls, "n": numbers, "x": fractions}), tmp_path / "list.parquet")
    assert _taken(tmp_path / "list.parquet", where="n > x") == urls[:1]
