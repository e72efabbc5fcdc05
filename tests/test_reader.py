"""Lists as people have them: every format, compressed or not, messy, remote, or broken."""

from __future__ import annotations

import bz2
import csv
import gc
import gzip
import io
import json
import lzma
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
import zstandard
from fsspec.registry import _registry as filesystems
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from object_store import configured, empty_bucket, filesystem, s3_server
from turbo_fetch.errors import InputError, MissingExtra
from turbo_fetch.plan.columns import Columns
from turbo_fetch.plan.reader import BATCH_ROWS, ListReader, find_lists, read_rows
from turbo_fetch.plan.urls import MALFORMED_MARK
from turbo_fetch.spec import InputSpec

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: zstandard.ZstdCompressor().compress(data),
}
ROWS: list[dict[str, Any]] = [
    {"url": "http://a.example/1,2", "caption": 'a "cat", red', "weight": 10, "score": 0.5, "ok": True},
    {"url": "http://b.example/ü", "caption": "zwei\nZeilen", "weight": 20, "score": 1.5, "ok": False},
    {"url": None, "caption": None, "weight": None, "score": None, "ok": None},
    {"url": "http://a.example/1,2", "caption": "", "weight": -30, "score": -2.0, "ok": True},
]
TABLE = pa.Table.from_pylist(ROWS)

same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def read(
    path: Path | str, caption: str | None = None, keep: tuple[str, ...] | dict[str, str] = (), **other: Any
) -> pa.Table:
    spec = InputSpec(urls=str(path), caption_column=caption, keep_columns=keep, **other)
    batches = list(read_rows(spec))
    assert all(0 < batch.num_rows <= BATCH_ROWS for batch in batches)
    return pa.Table.from_batches(batches) if batches else pa.table({"url": pa.array([], pa.string())})


def urls_of(path: Path | str, **other: Any) -> list[str | None]:
    urls: list[str | None] = read(path, **other)["url"].to_pylist()
    return urls


def write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def csv_text(rows: list[dict[str, Any]], delimiter: str = ",") -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(ROWS[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def ipc_bytes(table: pa.Table, is_file: bool) -> bytes:
    sink = pa.BufferOutputStream()
    with (pa.ipc.new_file if is_file else pa.ipc.new_stream)(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    data: bytes = sink.getvalue().to_pybytes()
    return data


TEXTS: dict[str, bytes] = {
    "csv": csv_text(ROWS).encode(),
    "tsv": csv_text(ROWS, "\t").encode(),
    "json": json.dumps(ROWS, indent=1).encode(),
    "jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in ROWS).encode(),
    "arrow": ipc_bytes(TABLE, is_file=True),
    "arrows": ipc_bytes(TABLE, is_file=False),
}


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("suffix", TEXTS)
def test_every_format_gives_the_same_rows(tmp_path: Path, suffix: str, compression: str) -> None:
    path = write(tmp_path / f"list.{suffix}{compression}", COMPRESS[compression](TEXTS[suffix]))
    table = read(path, caption="caption", keep=("weight", "score", "ok"))
    assert table.schema.types == [pa.string(), pa.string(), pa.int64(), pa.float64(), pa.bool_()]
    has_nulls_in_text = suffix not in {"csv", "tsv"}
    expected = ROWS if has_nulls_in_text else [{**row, **_no_nulls(row)} for row in ROWS]
    assert table.to_pylist() == expected


def _no_nulls(row: dict[str, Any]) -> dict[str, str]:
    return {name: row[name] or "" for name in ("url", "caption")}


def test_parquet_and_feather_keep_all_types(tmp_path: Path) -> None:
    kept = pa.table(
        {
            "address": pa.array(["http://a.example/", None]).dictionary_encode(),
            "boxes": pa.array([[{"x": 1}], None], pa.list_(pa.struct([("x", pa.int32())]))),
            "time": pa.array([0, 1], pa.timestamp("ms", "UTC")),
            "label": pa.array(["cat", "dog"]).dictionary_encode(),
            "TEXT": pa.array([b"one", b"\xff"], pa.binary()),
        }
    )
    pq.write_table(kept, tmp_path / "list.parquet")
    feather.write_feather(kept, tmp_path / "list.feather")
    for name in ("list.parquet", "list.feather"):
        table = read(tmp_path / name, "TEXT", ("boxes", "time", "label"), url_column="address")
        assert table["url"].to_pylist() == ["http://a.example/", None]
        assert table["caption"].to_pylist() == ["one", "\ufffd"]
        assert (
            table.select(["boxes", "time", "label"]).to_pydict()
            == kept.select(["boxes", "time", "label"]).to_pydict()
        )
        assert table.schema.field("boxes").type == kept.schema.field("boxes").type
        assert table.schema.field("time").type == kept.schema.field("time").type


def test_txt_takes_the_line_as_it_is(tmp_path: Path) -> None:
    lines = 'http://a.example/1,2\r\n\r\n  \n"http://b.example/"\thttp://c.example/\rhttp://d.example/\u2028x'
    assert urls_of(write(tmp_path / "list.txt", lines)) == [
        "http://a.example/1,2",
        '"http://b.example/"\thttp://c.example/',
        "http://d.example/\u2028x",
    ]


@given(st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]))))
@same_folder
def test_txt_keeps_every_line_that_is_not_blank(tmp_path: Path, lines: list[str]) -> None:
    path = write(tmp_path / "list.txt", "\n".join(["http://first.example/", *lines]))
    assert urls_of(path)[1:] == [line for line in lines if line.strip()]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("suffix", ["txt", "csv", "tsv", "json", "jsonl"])
def test_a_byte_order_mark_tells_the_encoding(tmp_path: Path, suffix: str, encoding: str) -> None:
    text = {
        "txt": "http://a.example/ü\r\nhttp://b.example/",
        "csv": "url\r\nhttp://a.example/ü\r\nhttp://b.example/",
        "tsv": "url\tn\nhttp://a.example/ü\t1\nhttp://b.example/\t2",
        "json": '[{"url": "http://a.example/ü"}, {"url": "http://b.example/"}]',
        "jsonl": '{"url": "http://a.example/ü"}\n{"url": "http://b.example/"}',
    }[suffix]
    path = write(tmp_path / f"list.{suffix}", text.encode(encoding))
    assert urls_of(path) == ["http://a.example/ü", "http://b.example/"]


def test_bytes_that_are_not_utf_8_are_marked_as_such(tmp_path: Path) -> None:
    assert urls_of(write(tmp_path / "a.txt", b"http://a.example/\xe9\n\0")) == [
        "http://a.example/\ufffd",
        "\0",
    ]
    assert urls_of(write(tmp_path / "a.csv", b"url\nhttp://a.example/\xe9\n")) == ["http://a.example/\ufffd"]
    line = b'{"url": "http://a.example/\xe9"}\n'
    assert urls_of(write(tmp_path / "a.jsonl", line)) == ["http://a.example/\ufffd"]
    offsets, data = pa.array([0, 18], pa.int32()).buffers()[1], pa.py_buffer(b"http://a.example/\xff")
    pq.write_table(pa.table({"url": pa.StringArray.from_buffers(1, offsets, data)}), tmp_path / "a.parquet")
    assert urls_of(tmp_path / "a.parquet") == ["http://a.example/\ufffd"]


@given(
    st.lists(st.tuples(*[st.text(st.characters(exclude_categories=["Cs"])) for _ in range(2)]), min_size=1)
)
@same_folder
def test_csv_reads_what_csv_writers_write(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    rows = [("http://first.example/", ""), *rows]
    with (tmp_path / "list.csv").open("w", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([("url", "caption"), *rows])
    table = read(tmp_path / "list.csv", caption="caption")
    assert list(zip(*table.to_pydict().values(), strict=True)) == rows


def test_ragged_rows_are_kept(tmp_path: Path) -> None:
    text = (
        "caption,url,n\none\ntwo,http://b.example/\nthree,http://c.example/,3,,\nf,our,http://d.example/,4\n"
    )
    assert read(write(tmp_path / "list.csv", text), caption="caption", keep=("n",)).to_pylist() == [
        {"url": None, "caption": "one", "n": None},
        {"url": "http://b.example/", "caption": "two", "n": None},
        {"url": "http://c.example/", "caption": "three", "n": 3},
        {"url": f"{MALFORMED_MARK}f,our,http://d.example/,4", "caption": None, "n": None},
    ]


def test_a_quote_that_nothing_closes_is_text(tmp_path: Path) -> None:
    text = 'url,caption\nhttp://a.example/,"never\nhttp://b.example/,closed\n'
    table = read(write(tmp_path / "list.csv", text), caption="caption")
    assert table.to_pydict() == {
        "url": ["http://a.example/", "http://b.example/"],
        "caption": ['"never', "closed"],
    }


def test_fields_may_be_huge(tmp_path: Path) -> None:
    caption = "word, " * 500_000
    path = write(tmp_path / "list.csv", f'url,caption\nhttp://a.example/,"{caption}"\nhttp://b.example/,x\n')
    assert read(path, caption="caption")["caption"].to_pylist() == [caption, "x"]


@pytest.mark.parametrize(
    ("cells", "kind", "values"),
    [
        (["1", "-2", ""], pa.int64(), [1, -2, None]),
        (["1", " 2.5", "NaN"], pa.float64(), [1.0, 2.5, None]),
        (["true", "false", "N/A"], pa.bool_(), [True, False, None]),
        (["007", "10", ""], pa.string(), ["007", "10", ""]),
        (["", "", ""], pa.string(), ["", "", ""]),
        (["1", "x", ""], pa.string(), ["1", "x", ""]),
        (["99999999999999999999", "1", ""], pa.string(), ["99999999999999999999", "1", ""]),
        (["9007199254740993", "0.5", ""], pa.string(), ["9007199254740993", "0.5", ""]),
        (["0x10", "1", ""], pa.string(), ["0x10", "1", ""]),
        (["+5", "6", ""], pa.string(), ["+5", "6", ""]),
        (["-0", "6", ""], pa.string(), ["-0", "6", ""]),
        (["1", "true", ""], pa.string(), ["1", "true", ""]),
        (["1e400", "2.5", ""], pa.string(), ["1e400", "2.5", ""]),
        (["inf", "2.5", ""], pa.float64(), [float("inf"), 2.5, None]),
    ],
)
def test_csv_columns_get_the_type_of_their_cells(
    tmp_path: Path, cells: list[str], kind: pa.DataType, values: list[Any]
) -> None:
    path = write(tmp_path / "list.csv", "url,n\n" + "".join(f"http://a.example/,{cell}\n" for cell in cells))
    table = read(path, keep=("n",))
    assert table.schema.field("n").type == kind
    assert table["n"].to_pylist() == values


def test_dates_and_times_are_recognised(tmp_path: Path) -> None:
    path = write(tmp_path / "list.csv", "url,day,time\nhttp://a.example/,2020-01-02,2020-01-02 03:04:05\n")
    assert read(path, keep=("day", "time")).schema.types[1:] == [pa.date32(), pa.timestamp("s")]


def test_json_values_without_a_common_type_are_kept_as_json(tmp_path: Path) -> None:
    values = [1, "one", None, {"a": [1]}, [True]]
    lines = [{"url": "http://a.example/", "mixed": value, "tags": ["x"], "box": {"w": 1}} for value in values]
    path = write(tmp_path / "list.jsonl", "\n".join(map(json.dumps, lines)))
    table = read(path, keep=("mixed", "tags", "box"))
    assert table["mixed"].to_pylist() == ["1", "one", None, '{"a":[1]}', "[true]"]
    assert table.schema.field("tags").type == pa.list_(pa.string())
    assert table["box"].to_pylist() == ['{"w":1}'] * 5


def test_json_lines_that_are_no_objects_are_rows_all_the_same(tmp_path: Path) -> None:
    text = (
        '{"url": "http://a.example/"}\n{"url": \n\n[1]\n"http://b.example/"\n{"url": 7}\n{"url": "\\ud800"}'
    )
    assert urls_of(write(tmp_path / "list.jsonl", text)) == [
        "http://a.example/",
        f'{MALFORMED_MARK}{{"url": ',
        f"{MALFORMED_MARK}[1]",
        "http://b.example/",
        "7",
        "\ufffd",
    ]


json_rows = st.lists(
    st.fixed_dictionaries(
        {"url": st.none() | st.text(), "caption": st.none() | st.text()},
        optional={"other": st.recursive(st.none() | st.text(), st.lists)},
    ),
    min_size=1,
)


@given(json_rows, st.sampled_from([None, 0, 2]), st.booleans())
@example([{"url": MALFORMED_MARK, "caption": None}], None, False)
@same_folder
def test_json_reads_what_json_writers_write(
    tmp_path: Path, rows: list[dict[str, Any]], indent: int | None, ascii_only: bool
) -> None:
    rows = [{"url": "http://first.example/", "caption": None}, *rows]
    text = json.dumps(rows, indent=indent, ensure_ascii=ascii_only)
    table = read(write(tmp_path / "list.json", text), caption="caption")
    assert table.to_pylist() == [{"url": row["url"], "caption": row["caption"]} for row in rows]


@pytest.mark.parametrize(
    "text",
    [
        '{"url": ["http://a.example/", "http://b.example/"], "n": [1, 2]}',
        '{"url": {"0": "http://a.example/", "5": "http://b.example/"}, "n": {"5": 2, "0": 1}}',
        '{"url": "http://a.example/", "n": 1}\n{"url": "http://b.example/", "n": 2}',
        '{\n "url": [\n"http://a.example/",\n"http://b.example/"], "n": [1, 2]\n}',
    ],
)
def test_a_json_object_may_hold_columns_or_a_row(tmp_path: Path, text: str) -> None:
    table = read(write(tmp_path / "list.json", text), keep=("n",))
    assert table.to_pydict() == {"url": ["http://a.example/", "http://b.example/"], "n": [1, 2]}


@pytest.mark.parametrize("suffix", ["txt", "csv", "json", "jsonl"])
def test_an_empty_file_has_no_rows(tmp_path: Path, suffix: str) -> None:
    assert urls_of(write(tmp_path / f"list.{suffix}", "")) == []


def test_a_folder_gives_its_files_in_order_and_nothing_hidden(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt.gz", ".hidden.txt", "_SUCCESS", "_part.txt", "notes.md", "c.TXT"):
        write(tmp_path / name, COMPRESS[".gz" if name.endswith("gz") else ""](f"http://{name}/".encode()))
    (tmp_path / "d.txt").mkdir()
    assert urls_of(tmp_path) == ["http://a.txt.gz/", "http://b.txt/", "http://c.TXT/"]
    assert urls_of(tmp_path / "[ab]*") == ["http://a.txt.gz/", "http://b.txt/"]


def test_a_name_with_glob_characters_is_a_file_first(tmp_path: Path) -> None:
    assert urls_of(write(tmp_path / "list[1].txt", "http://a.example/")) == ["http://a.example/"]


def test_compression_is_known_by_content(tmp_path: Path) -> None:
    assert urls_of(write(tmp_path / "list.txt", gzip.compress(b"http://a.example/"))) == ["http://a.example/"]
    assert urls_of(write(tmp_path / "list.txt.gz", b"http://a.example/")) == ["http://a.example/"]
    members = gzip.compress(b"http://a.example/\n") + gzip.compress(b"http://b.example/\n")
    assert len(urls_of(write(tmp_path / "members.txt.gz", members))) == 2
    frames = COMPRESS[".zst"](b"http://a.example/\n") + COMPRESS[".zst"](b"http://b.example/\n")
    assert len(urls_of(write(tmp_path / "frames.txt.zst", frames))) == 2


@pytest.mark.parametrize("first", range(0x50, 0x60))
def test_zstandard_frames_without_data_are_skipped(tmp_path: Path, first: int) -> None:
    skipped = bytes([first]) + b"\x2a\x4d\x18\x04\0\0\0abcd"
    parts = (COMPRESS[".zst"](f"http://{name}.example/\n".encode()) for name in "ab")
    path = write(tmp_path / "list.txt", b"".join(skipped + part for part in parts) + skipped)
    assert urls_of(path) == ["http://a.example/", "http://b.example/"]


def test_an_empty_bzip2_stream_may_come_first(tmp_path: Path) -> None:
    path = write(tmp_path / "list.txt", bz2.compress(b"") + bz2.compress(b"http://a.example/\n"))
    assert urls_of(path) == ["http://a.example/"]


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("place", [None, 0, 1, 2])
def test_what_follows_compressed_data_and_is_none_is_refused(
    tmp_path: Path, suffix: str, place: int | None
) -> None:
    more = bytearray(COMPRESS[suffix](b"http://b.example/\n"))
    if place is not None:
        more[place] ^= 1
    path = write(
        tmp_path / f"list.txt{suffix}",
        COMPRESS[suffix](b"http://a.example/\n") + (b"garbage" if place is None else bytes(more)),
    )
    with pytest.raises(InputError, match="cannot be read"):
        read(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("list.csv", b"uri,text\nx,y\n", r"no column 'url'; did you mean 'uri'\? Columns: 'uri', 'text'"),
        ("list.csv", b"url,url\nx,y\n", "2 columns are named 'url'"),
        ("list.jsonl", b'{"link": "x"}\n', "no column 'url'. Columns: 'link'"),
        ("list.jsonl", b"<html>\n", "not a list of JSON objects; it starts with '<html>'"),
        ("list.json", b'[{"url": "http://a.example/"}', "cannot be read: it ends before the array's ']'"),
        ("list.json", b'[{"url": "http://a.example/"}] x', "text after the array's ']'"),
        ("list.parquet", b"PAR1 nonsense PAR1", "cannot be read"),
        ("list.parquet", b"", "cannot be read"),
        ("list.arrow", b"nonsense" * 10, "cannot be read"),
        ("list.txt.gz", gzip.compress(b"http://a.example/\n" * 99999)[:-20], "cannot be read: .*end"),
        ("list.txt.bz2", bz2.compress(b"http://a.example/\n")[:-5], "cannot be read: .*cut off"),
        ("list.txt.xz", lzma.compress(b"http://a.example/\n")[:-5], "cannot be read: .*cut off"),
        ("list.txt.zst", COMPRESS[".zst"](b"http://a.example/\n" * 99)[:-5], "cannot be read: .*cut off"),
        ("list.xls", b"x", "the format cannot be inferred from the name; expected one of .txt, .csv"),
        ("list.parquet.gz", b"x", "expected one without .gz"),
    ],
)
def test_a_bad_list_is_an_error_that_names_it(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(InputError, match=message) as error:
        read(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
@pytest.mark.parametrize(
    "first",
    [
        "[broken",
        "[]",
        "[1, 2]",
        "[" + " " * 300_000 + "x",
        '{"url": "http://b.example/",}',
        "x" * 600_000,
        "null",
    ],
    ids=lambda text: text[:10],
)
def test_a_malformed_first_line_of_json_is_a_row(tmp_path: Path, suffix: str, first: str) -> None:
    path = write(tmp_path / f"list.{suffix}", f'\n{first}\n{{"url": "http://a.example/"}}\n')
    malformed, sound = urls_of(path)
    assert malformed == MALFORMED_MARK + first[:2000]
    assert sound == "http://a.example/"


@pytest.mark.parametrize(
    "text",
    [
        '[\n{"url": "http://a.example/"}\n]',
        '[{"url": "http://a.example/"},\n{"url": "http://b.example/"}]',
        '[{"n":\n{"x": 1}, "url": "http://a.example/"}]',
        ' [{\n"url": "http://a.example/"}]',
        '["http://a.example/"\n]',
    ],
)
@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_an_array_of_json_may_have_lines(tmp_path: Path, suffix: str, text: str) -> None:
    assert urls_of(write(tmp_path / f"list.{suffix}", text))[0] == "http://a.example/"


def test_json_columns_of_different_lengths_are_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "list.json", '{"url": ["a", "b"], "n": [1]}')
    with pytest.raises(InputError, match="column 'n' does not have one value for each of the 2 URLs"):
        read(path, keep=("n",))


def test_places_without_a_list_are_errors_that_name_them(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "url\n")
    write(tmp_path / "b.txt", "")
    (tmp_path / "empty").mkdir()
    for urls, message in [
        (tmp_path / "none.csv", "there is no such file"),
        (tmp_path / "*.parquet", "no file matches this glob"),
        (tmp_path / "empty", "no file of a known format"),
        (tmp_path, "files have several formats: csv, txt; expected one"),
        ("", "Reading …: the address is empty"),
        ("nope://list.csv", "nope"),
    ]:
        with pytest.raises(InputError, match=message):
            find_lists(InputSpec(urls=str(urls)))
    with pytest.raises(InputError, match=r"named \*\.parquet"):
        find_lists(InputSpec(urls=str(tmp_path), format="parquet"))


def test_a_missing_package_is_named_with_the_way_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    monkeypatch.delitem(filesystems, "gs", raising=False)
    with pytest.raises(MissingExtra, match=r"pip install 'turbo-fetch\[gcs\]'"):
        find_lists(InputSpec(urls="gs://bucket/list.csv"))


def test_txt_has_no_other_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "list.txt", "http://a.example/")
    with pytest.raises(InputError, match="no column 'caption'"):
        read(path, caption="caption")


def test_kept_columns_may_not_take_names_of_the_dataset(tmp_path: Path) -> None:
    path = write(tmp_path / "list.csv", "url,status\nx,y\n")
    with pytest.raises(InputError, match=r"keep_columns = \{ status = \"list_status\" \}"):
        read(path, keep=("status",))
    assert read(path, keep={"status": "list_status"}).to_pydict() == {"url": ["x"], "list_status": ["y"]}


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "csv"])
def test_a_wrong_column_is_named_and_the_file_is_closed(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"list.{suffix}"
    if suffix == "parquet":
        pq.write_table(TABLE, path)
    else:
        write(path, TEXTS[suffix])
    with pytest.raises(InputError, match="no column 'URI'; did you mean 'url'"):
        read(path, url_column="URI")
    gc.collect()


def test_nested_urls_are_an_error(tmp_path: Path) -> None:
    pq.write_table(pa.table({"url": [["http://a.example/"]]}), tmp_path / "list.parquet")
    with pytest.raises(InputError, match="'url' is of type list"):
        read(tmp_path / "list.parquet")


def test_a_fingerprint_follows_the_content(tmp_path: Path) -> None:
    def fingerprint(content: bytes) -> str:
        return find_lists(InputSpec(urls=str(write(tmp_path / "list.txt", content))))[0].fingerprint

    long = b"http://a.example/\n" * 100_000
    contents = [b"", b"a", b"b", long, b"x" + long[1:], long[:-2] + b"x\n", long + b"\n"]
    assert len({fingerprint(content) for content in contents}) == len(contents)
    assert fingerprint(long) == fingerprint(long)


@pytest.mark.parametrize("name", ["list.csv", "list.csv.gz"])
def test_the_fraction_read_grows_to_one(tmp_path: Path, name: str) -> None:
    text = "url\n" + "".join(f"http://host{row * 7919 % 99991}.example/{row}\n" for row in range(300_000))
    path = write(tmp_path / name, COMPRESS[".gz" if name.endswith("gz") else ""](text.encode()))
    [source] = find_lists(InputSpec(urls=str(path)))
    assert source.size == path.stat().st_size
    columns = Columns("url")
    with ListReader(source, columns, columns.schema({})) as reader:
        fractions = [(reader.fraction_read, reader.rows_read / 300_000) for _ in reader]
        assert all(abs(fraction - rows) < 0.25 for fraction, rows in fractions)
        assert [fraction for fraction, _ in fractions] == sorted(fraction for fraction, _ in fractions)
        assert reader.fraction_read == 1.0


def test_lists_are_read_from_an_object_store() -> None:
    with s3_server() as address, configured(address):
        empty_bucket(address)
        store = filesystem(address)
        store.pipe("s3://data/lists/day/b.csv.gz", gzip.compress(b"url\nhttp://b.example/\n"))
        store.pipe("s3://data/lists/day/a.csv", b"url\nhttp://a.example/\n")
        assert urls_of("s3://data/lists/day") == ["http://a.example/", "http://b.example/"]
        assert urls_of("s3://data/lists/day/*.gz") == ["http://b.example/"]
        [before] = find_lists(InputSpec(urls="s3://data/lists/day/a.csv"))
        store.pipe("s3://data/lists/day/a.csv", b"url\nhttp://c.example/\n")
        store.invalidate_cache()
        [after] = find_lists(InputSpec(urls="s3://data/lists/day/a.csv"))
        assert before.url == after.url == "s3://data/lists/day/a.csv"
        assert before.size == after.size
        assert before.fingerprint != after.fingerprint
        with pytest.raises(InputError, match=r"s3://data/lists/none\.csv: there is no such file"):
            find_lists(InputSpec(urls="s3://data/lists/none.csv"))
