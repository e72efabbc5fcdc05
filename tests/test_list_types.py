"""Types of kept columns: one for all files and rows of a list, and no value lost without a word."""

from __future__ import annotations

import csv
import gzip
import json
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from turbo_fetch.dataset.samples import metadata_schema
from turbo_fetch.errors import InputError, SpecError
from turbo_fetch.plan import survey
from turbo_fetch.plan.columns import Columns
from turbo_fetch.plan.list_notes import ListNotes, sentences
from turbo_fetch.plan.sharder import Plan
from turbo_fetch.plan.type_inference import Kind, joined
from turbo_fetch.spec import ImageSpec, InputSpec
from turbo_fetch.spec.specfile import parse_spec

URL = "http://a.example/"

same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def kept(path: Path, **other: Any) -> tuple[pa.DataType, list[Any]]:
    """Return the type and the values of the kept column `n`."""
    plan = Plan.of(InputSpec(urls=str(path), **{"keep_columns": ("n",), **other}), 1000)
    columns = [shard.load().column("n") for shard in plan.shards()]
    assert {column.type for column in columns} == {plan.schema().field("n").type}
    return columns[0].type, [value for column in columns for value in column.to_pylist()]


def write_rows(path: Path, values: list[Any]) -> None:
    """Write a list with the values in a column `n`."""
    match path.suffix:
        case ".csv":
            with path.open("w", newline="") as file:
                csv.writer(file).writerows([("url", "n"), *((URL, value) for value in values)])
        case ".gz":
            write_rows(path.with_suffix(""), values)
            path.write_bytes(gzip.compress(path.with_suffix("").read_bytes()))
            path.with_suffix("").unlink()
        case ".jsonl":
            path.write_text("".join(json.dumps({"url": URL, "n": value}) + "\n" for value in values))
        case ".parquet":
            pq.write_table(pa.table({"url": [URL] * len(values), "n": values}), path, row_group_size=5000)
        case _:
            feather.write_feather(pa.table({"url": [URL] * len(values), "n": values}), path)


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "jsonl"])
@pytest.mark.parametrize("place", [0, 20_000, 39_999])
def test_one_text_among_numbers_makes_the_column_text(tmp_path: Path, suffix: str, place: int) -> None:
    values: list[Any] = list(range(40_000))
    values[place] = "many"
    write_rows(tmp_path / f"list.{suffix}", values)
    assert kept(tmp_path / f"list.{suffix}") == (pa.string(), list(map(str, values)))


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet", "feather"])
@pytest.mark.parametrize(
    ("first", "second", "kind"),
    [
        ([None, None], ["text", "more"], pa.string()),
        ([1, 2], ["text", None], pa.string()),
        ([1, 2], [0.5, None], pa.float64()),
        ([None, None], [1, None], pa.int64()),
        ([True, None], ["yes", "no"], pa.string()),
    ],
)
def test_types_are_joined_over_files(
    tmp_path: Path, suffix: str, first: list[Any], second: list[Any], kind: pa.DataType
) -> None:
    for number, values in enumerate((first, second)):
        write_rows(tmp_path / f"{number}.{suffix}", values)
    found, values = kept(tmp_path)
    if suffix == "feather" and kind == pa.float64() and 1 in first:
        # Nothing in the file tells whether a double would hold its integers.
        kind = pa.string()
    assert found == kind
    if kind == pa.string():
        shown = [None if value is None else str(value) for value in first + second]
        assert [(value or "").lower() for value in values] == [(text or "").lower() for text in shown]
    else:
        assert values == first + second
    (tmp_path / f"1.{suffix}").rename(tmp_path / f"00.{suffix}")
    assert kept(tmp_path)[0] == kind


scalars: list[st.SearchStrategy[Any]] = [
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-100, 100),
    st.floats(allow_nan=False),
    st.booleans(),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.lists(st.integers(-5, 5)),
    st.lists(st.text("ab")),
    st.dictionaries(st.sampled_from("xy"), st.integers(-5, 5)),
]
columns = st.lists(
    st.one_of(scalars)
    .flatmap(lambda _: st.sampled_from(scalars))
    .flatmap(lambda scalar: st.lists(st.none() | scalar, min_size=1, max_size=5)),
    min_size=1,
    max_size=4,
)


@given(columns)
@same_folder
def test_no_value_of_json_lists_is_lost(
    tmp_path_factory: pytest.TempPathFactory, files: list[list[Any]]
) -> None:
    folder = tmp_path_factory.mktemp("list")
    for number, values in enumerate(files):
        write_rows(folder / f"{number}.jsonl", values)
    kind, found = kept(folder)
    for expected, value in zip([value for values in files for value in values], found, strict=True):
        if kind == pa.string() and expected is not None and not isinstance(expected, str):
            assert json.loads(value) == expected
        else:
            assert value == expected
            assert isinstance(expected, bool) == isinstance(value, bool)


ARROW = {
    pa.int8(): [1, None, -128],
    pa.int64(): [2**62 + 1, None],
    pa.uint64(): [2**63 + 1],
    pa.float32(): [0.5, None],
    pa.float64(): [0.1],
    pa.bool_(): [True, None],
    pa.string(): ["a", None, ""],
    pa.large_string(): ["b"],
    pa.binary(): [b"\xff", None],
    pa.date32(): [date(2020, 1, 2)],
    pa.timestamp("ms"): [datetime(2020, 1, 2, 3)],
    pa.timestamp("us", "UTC"): [datetime.fromisoformat("2020-01-02T03:04:05+00:00")],
    pa.duration("s"): [timedelta(seconds=5)],
    pa.decimal128(8, 2): [Decimal("1.25")],
    pa.list_(pa.int32()): [[1, None], None, []],
    pa.list_(pa.string()): [["x"]],
    pa.struct([("x", pa.int32())]): [{"x": 1}, None],
    pa.struct([("y", pa.string())]): [{"y": "z"}],
    pa.dictionary(pa.int8(), pa.string()): ["cat", "dog"],
    pa.null(): [None],
}


@pytest.mark.parametrize("second", ARROW)
@pytest.mark.parametrize("first", ARROW)
def test_no_value_of_tables_is_lost(tmp_path: Path, first: pa.DataType, second: pa.DataType) -> None:
    given = []
    for number, kind in enumerate((first, second)):
        column = pa.array(ARROW[kind], kind)
        given += column.to_pylist()
        pq.write_table(pa.table({"url": [URL] * len(column), "n": column}), tmp_path / f"{number}.parquet")
    plan = Plan.of(InputSpec(urls=str(tmp_path), keep_columns=("n",)), 1000)
    found = [value for shard in plan.shards() for value in shard.load()["n"].to_pylist()]
    assert [value is None for value in found] == [value is None for value in given]
    kind = plan.schema().field("n").type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        assert found == given
    if first == second:
        assert found == given


def test_joining_types_does_not_depend_on_their_order() -> None:
    kinds = [Kind(kind, is_long) for kind in ARROW for is_long in (False, True)]
    for first in kinds:
        for second in kinds:
            one, other = (joined(first, second).type, joined(second, first).type)
            assert one == other or {field.name for field in one} == {field.name for field in other} == {
                "x",
                "y",
            }


def test_what_is_not_looked_at_and_does_not_fit_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "LOCAL_BYTES", 0)
    values: list[Any] = list(range(40_000))
    values[35_000:35_002] = ["many", "007"]
    write_rows(tmp_path / "list.csv", values)
    spec = InputSpec(urls=str(tmp_path / "list.csv"), keep_columns=("n",))
    counts: dict[str, Any] = {}
    found = []
    for shard in Plan.of(spec, 1000).shards():
        counts |= shard.rows.counts  # type: ignore[attr-defined]
        found += shard.load()["n"].to_pylist()
    assert found == [*values[:35_000], None, None, *values[35_002:]]
    [sentence] = sentences(counts)
    assert sentence.startswith(
        "2 rows: the value of column 'n' is not a valid int64 and became null (first: "
    )
    assert sentence.endswith("list.csv, row 35,001: 'many')")
    with pytest.raises(InputError, match=r"2 rows: the value of column 'n'.*fetch.input.strict = true"):
        list(Plan.of(spec.model_copy(update={"strict": True}), 1000).shards())


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_declared_type_is_taken(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"list.{suffix}"
    write_rows(path, [1, 2, None])
    assert kept(path, column_types={"n": "string"}) == (
        pa.string(),
        ["1", "2", "" if suffix == "csv" else None],
    )
    assert kept(path, column_types={"n": "double"}) == (pa.float64(), [1.0, 2.0, None])
    with pytest.raises(SpecError, match="column_types names 'm', which is not in keep_columns"):
        parse_spec(
            {"fetch": {"input": {"urls": "x", "column_types": {"m": "int64"}}, "output": {"path": "y"}}}
        )


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet", "feather"])
@pytest.mark.parametrize(
    ("url", "others"),
    [
        ("image.url", ("image", "image.url.small", "image.")),
        ("image", ("image.url", "image.url.small")),
        (".", ("..", "a.b")),
        ("a b", ("a", 'b"c', "#")),
        ("ü", ("u\u0308", "😀.", "ü.x")),
    ],
)
def test_columns_may_have_any_names(tmp_path: Path, suffix: str, url: str, others: tuple[str, ...]) -> None:
    path = tmp_path / f"list.{suffix}"
    columns = {
        **{name: [number, 2**60 + number] for number, name in enumerate(others)},
        url: [URL, f"{URL}2"],
    }
    match suffix:
        case "csv":
            with path.open("w", newline="") as file:
                csv.writer(file).writerows([columns, *zip(*columns.values(), strict=True)])
        case "jsonl":
            rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case "parquet":
            pq.write_table(pa.table(columns), path)
        case _:
            feather.write_feather(pa.table(columns), path)
    plan = Plan.of(InputSpec(urls=str(path), url_column=url, keep_columns=others), 10)
    (shard,) = plan.shards()
    found = shard.load()
    assert found.column("url").to_pylist() == columns[url]
    assert {name: found.column(name).to_pylist() for name in others} == {
        name: columns[name] for name in others
    }


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        ("int64", [1, 1.9, 2.0, "3", "x", True, 1e300], [1, None, 2, 3, None, None, None]),
        ("double", [1, 1.5, "2.5", "x", True], [1.0, 1.5, 2.5, None, None]),
        ("bool", [True, "false", 1, "1"], [True, False, None, None]),
        ("date", ["2020-01-02", "x", 7], [date(2020, 1, 2), None, None]),
        ("timestamp", ["2020-01-02 03:04:05", 1577934245, 1.5], [datetime(2020, 1, 2, 3, 4, 5), None, None]),
    ],
)
def test_values_of_json_become_a_declared_type_as_cells_do_or_null(
    tmp_path: Path, kind: Any, values: list[Any], expected: list[Any]
) -> None:
    write_rows(tmp_path / "list.jsonl", values)
    plan = Plan.of(InputSpec(urls=str(tmp_path), keep_columns=("n",), column_types={"n": kind}), 1000)
    notes, (shard,) = ListNotes(), plan.shards()
    assert shard.load(notes).column("n").to_pylist() == expected
    assert sum(rows for rows, _ in notes.counts.values()) == expected.count(None)


@pytest.mark.parametrize(("usual", "odd"), [(1, 1.5), ([1], [1.7]), ([[1]], [[1], [2.5]])])
def test_a_fraction_that_comes_late_is_null_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, usual: Any, odd: Any
) -> None:
    monkeypatch.setattr(survey, "OTHER_BYTES", 1)
    write_rows(tmp_path / "list.jsonl", [*[usual] * 40_000, odd])
    plan = Plan.of(InputSpec(urls=str(tmp_path), keep_columns=("n",)), 100_000)
    notes, (shard,) = ListNotes(), plan.shards()
    assert shard.load(notes).column("n").to_pylist() == [*[usual] * 40_000, None]
    assert [rows for rows, _ in notes.counts.values()] == [1]


def test_numbers_beyond_a_double_are_no_null_in_a_text(tmp_path: Path) -> None:
    lines = ("1e400", '"é"', '{"a": -1e400, "b": null}')
    text = "".join(f'{{"url": "{URL}", "n": {value}}}\n' for value in lines)
    (tmp_path / "list.jsonl").write_text(text)
    assert kept(tmp_path / "list.jsonl") == (pa.string(), ["Infinity", "é", '{"a":-Infinity,"b":null}'])


def test_integers_of_any_length_are_kept(tmp_path: Path) -> None:
    (tmp_path / "list.jsonl").write_text(
        f'{{"url": "{URL}", "n": 99999999999999999999}}\n{{"url": "{URL}", "n": 1}}\n'
    )
    assert kept(tmp_path / "list.jsonl") == (pa.string(), ["99999999999999999999", "1"])


def unusable(tmp_path: Path, suffix: str, column: str, values: list[Any], **other: Any) -> str:
    rows = [{"url": URL, "text": "x", column: value} for value in values]
    path = tmp_path / f"list.{suffix}"
    if suffix == "csv":
        lines = ["url,text", *(f"{row['url']},{row['text']}" for row in rows)]
        path.write_text("\n".join(lines).replace("None", ""))
    elif suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        feather.write_feather(pa.Table.from_pylist(rows), path)
    with pytest.raises(InputError) as error:
        Plan.of(InputSpec(urls=str(path), **other), 10).schema()
    assert str(path) in str(error.value)
    assert column in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet", "feather"])
@pytest.mark.parametrize("values", [[1, 2], [0.5, None], [True, False], [None, None]])
def test_a_column_without_urls_is_an_error_before_the_start(
    tmp_path: Path, suffix: str, values: list[Any]
) -> None:
    message = unusable(tmp_path, suffix, "url", values)
    assert "expected" in message


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "feather"])
@pytest.mark.parametrize("value", [["http://a.example/"], {"href": "http://a.example/"}])
def test_nested_urls_captions_and_hashes_are_an_error_before_the_start(
    tmp_path: Path, suffix: str, value: Any
) -> None:
    unusable(tmp_path, suffix, "url", [None, value])
    unusable(tmp_path, suffix, "text", [value], caption_column="text")
    unusable(tmp_path, suffix, "text", [value], hash_column="text")
    unusable(tmp_path, suffix, "text", [7], hash_column="text")
    unusable(tmp_path, suffix, "text", [7], boxes_column="text")


@pytest.mark.parametrize("suffix", ["csv", "parquet", "feather"])
def test_a_column_that_a_later_file_lacks_is_an_error_before_the_start(tmp_path: Path, suffix: str) -> None:
    for number in range(40):
        write_rows(tmp_path / f"{number:02}.{suffix}", [1])
    if suffix == "csv":
        (tmp_path / "39.csv").write_text(f"url,m\n{URL},1\n")
    else:
        write = pq.write_table if suffix == "parquet" else feather.write_feather
        write(pa.table({"url": [URL], "m": [1]}), tmp_path / f"39.{suffix}")
    with pytest.raises(InputError, match=rf"39\.{suffix}: there is no column 'n'"):
        Plan.of(InputSpec(urls=str(tmp_path), keep_columns=("n",)), 10).schema()


def test_a_member_that_some_json_rows_lack_is_null(tmp_path: Path) -> None:
    (tmp_path / "1.jsonl").write_text(f'{{"url": "{URL}"}}\n')
    (tmp_path / "2.jsonl").write_text(f'{{"url": "{URL}", "n": 5}}\n')
    assert kept(tmp_path) == (pa.int64(), [None, 5])


def test_a_name_for_two_columns_is_an_error() -> None:
    tables = {"input": {"urls": "x", "keep_columns": {"a": "c", "b": "c"}}, "output": {"path": "y"}}
    with pytest.raises(SpecError, match="the name 'c' to several columns"):
        parse_spec({"fetch": tables})


BROKEN = pa.StringArray.from_buffers(3, *pa.array([b"a\xffb", b"", b"\xc3"]).buffers()[1:])


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()], ids=str)
def test_what_is_not_utf8_in_a_dictionary_is_replaced_and_counted(kind: pa.DataType) -> None:
    coded = pa.DictionaryArray.from_arrays(pa.array([1, 0, None, 2], pa.int32()), BROKEN)
    batch = pa.record_batch({"url": pa.array([URL] * 4), "n": coded})
    columns, notes = Columns("url", keep={"n": "n"}), ListNotes("list")
    rows = columns.rows(batch, columns.schema({"n": kind}), notes)
    rows.validate(full=True)
    assert rows.column("n").to_pylist() == ["", "a\ufffdb", None, "\ufffd"]
    assert notes.counts == {"undecodable": (2, "list, row 2")}


def test_what_is_not_utf8_in_nested_values_is_replaced_also_where_they_become_json() -> None:
    nested = pa.StructArray.from_arrays([BROKEN], ["t"])
    batch = pa.record_batch({"url": pa.array([URL] * 3), "n": nested})
    columns = Columns("url", keep={"n": "n"})
    rows = columns.rows(batch, columns.schema({"n": pa.string()}), ListNotes("list"))
    assert [json.loads(text) for text in rows.column("n").to_pylist()] == [
        {"t": "a\ufffdb"},
        {"t": ""},
        {"t": "\ufffd"},
    ]


def test_a_struct_without_fields_stays_one_and_is_refused(tmp_path: Path) -> None:
    write_rows(tmp_path / "list.feather", pa.array([{}, None], pa.struct([])))
    plan = Plan.of(InputSpec(urls=str(tmp_path / "list.feather"), keep_columns=("n",)), 10)
    with pytest.raises(InputError, match=r"column 'n' has the type struct<>"):
        metadata_schema(plan.schema(), ImageSpec())


def test_seconds_that_parquet_lacks_are_null_and_told(tmp_path: Path) -> None:
    write_rows(tmp_path / "list.feather", pa.array([2**60, 1], pa.timestamp("s")))
    plan = Plan.of(InputSpec(urls=str(tmp_path / "list.feather"), keep_columns=("n",)), 10)
    notes, (shard,) = ListNotes(), plan.shards()
    assert shard.load(notes).column("n").to_pylist() == [None, datetime(1970, 1, 1, 0, 0, 1)]
    [sentence] = sentences(notes.counts)
    assert "column 'n' is not a valid timestamp[s]" in sentence
    assert sentence.endswith("row 1: '36534630048-05-13T13:56:16')")
