"""`turbo-fetch init`: a spec for a list of which nothing is known, that runs as it is."""

from __future__ import annotations

import gzip
import json
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

import turbo_fetch
from album import encoded
from jobs import ledger
from object_store import empty_bucket, filesystem
from turbo_fetch.cli.commands import app
from turbo_fetch.cli.init import SCHEMA
from turbo_fetch.errors import InputError, SpecError
from turbo_fetch.plan.sharder import Plan
from turbo_fetch.spec.specfile import load_spec, parse_spec

TABLE = pa.table(
    {
        "id": [1, 2, 3],
        "image link": ["http://example.org/1.jpg", None, "https://example.org/3.jpg"],
        "page_url": ["http://example.org/1", "http://example.org/2", "http://example.org/3"],
        "alt_text": ["a cat", "the dog of the neighbours", None],
        "width": [100, 200, 300],
        "sha256": ["0" * 64, "a" * 64, "B" * 64],
    }
)


def _init(*arguments: Any) -> Result:
    return CliRunner().invoke(app, ["init", *map(str, arguments)])


def _made(path: Path, table: pa.Table) -> Path:
    rows = table.to_pylist()
    match path.suffix:
        case ".parquet":
            pq.write_table(table, path)
        case ".arrow":
            with pa.ipc.new_file(path, table.schema) as writer:
                writer.write_table(table)
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case ".json":
            path.write_text(json.dumps(rows))
        case suffix:
            delimiter = "," if suffix == ".csv" else "\t"
            lines = [
                list(table.column_names),
                *(["" if v is None else str(v) for v in row.values()] for row in rows),
            ]
            path.write_text("\n".join(map(delimiter.join, lines)))
    return path


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "csv", "tsv", "json", "jsonl"])
def test_the_spec_of_a_list_reads_its_urls_and_captions(tmp_path: Path, suffix: str) -> None:
    path = _made(tmp_path / f"list.{suffix}", TABLE)
    spec = tmp_path / "jobs" / "spec.toml"
    ended = _init(path, "--spec", spec, "--contact", "https://example.org/bot")
    assert ended.exit_code == 0, ended.output
    assert "'image link'" in ended.output
    tables = tomllib.loads(spec.read_text())
    schema = json.loads((spec.parent / SCHEMA).read_text())
    assert spec.read_text().startswith(f"#:schema ./{SCHEMA}\n")
    jsonschema.validate(tables, schema)
    assert tables["fetch"]["input"] == {
        "urls": str(path),
        "url_column": "image link",
        "caption_column": "alt_text",
    }
    fetch = load_spec(spec).fetch
    assert fetch is not None
    assert fetch.http.has_contact
    [shard] = Plan.of(fetch.input, 10).shards()
    assert shard.load().column("caption").to_pylist()[:2] == ["a cat", "the dog of the neighbours"]


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_what_the_spec_only_proposes_holds_as_well(tmp_path: Path, suffix: str) -> None:
    path = _made(tmp_path / f"list.{suffix}", TABLE)
    assert _init(path, "--spec", tmp_path / "spec.toml").exit_code == 0
    proposed = "\n".join(
        line.removeprefix("# ") if " = " in line else line
        for line in (tmp_path / "spec.toml").read_text().splitlines()
    )
    (tmp_path / "all.toml").write_text(proposed)
    fetch = load_spec(tmp_path / "all.toml").fetch
    assert fetch is not None
    assert fetch.input.hash_column == "sha256"
    assert fetch.input.kept["width"] == "list_width"
    [shard] = Plan.of(fetch.input, 10).shards()
    assert shard.count == 3


def test_files_without_a_header_are_recognised(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text('http://example.org/1.jpg,"a cat, asleep"\nhttp://example.org/2.jpg,a dog\n')
    assert _init(path, "--spec", tmp_path / "spec.toml").exit_code == 0
    fetch = load_spec(tmp_path / "spec.toml").fetch
    assert fetch is not None
    [shard] = Plan.of(fetch.input, 10).shards()
    assert shard.load().to_pylist() == [
        {"url": "http://example.org/1.jpg", "caption": "a cat, asleep"},
        {"url": "http://example.org/2.jpg", "caption": "a dog"},
    ]


def test_a_list_of_lines_has_urls_alone(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("http://example.org/1.jpg\n\nhttp://example.org/2.jpg\n")
    ended = _init(tmp_path / "list.txt", "--spec", tmp_path / "spec.toml", "--output", "s3://bucket/cats")
    assert ended.exit_code == 0, ended.output
    tables = tomllib.loads((tmp_path / "spec.toml").read_text())
    assert tables["fetch"]["input"] == {"urls": str(tmp_path / "list.txt")}
    assert tables["fetch"]["output"]["path"] == "s3://bucket/cats"


@given(name=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_columns_may_have_any_name(tmp_path: Path, name: str) -> None:
    table = pa.table({name: ["http://example.org/1.jpg"], f"{name}'\"\\": ["a few words here"]})
    path = _made(tmp_path / "list.parquet", table)
    spec = tmp_path / "spec.toml"
    spec.unlink(missing_ok=True)
    ended = _init(path, "--spec", spec)
    assert ended.exit_code == 0, ended.output
    fetch = load_spec(spec).fetch
    assert fetch is not None
    assert fetch.input.url_column == name
    [shard] = Plan.of(fetch.input, 10).shards()
    assert shard.load().to_pylist() == [{"url": "http://example.org/1.jpg", "caption": "a few words here"}]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "no column holds URLs (it has no rows)"),
        ("url,caption\n", "no column holds URLs (it has no rows)"),
        ("name,width\ncat,3\n", "no column holds URLs ('name': 'cat'; 'width': '3')"),
        (None, "there is no such file"),
    ],
)
def test_what_is_no_list_of_urls_is_told_in_a_sentence(
    tmp_path: Path, content: str | None, expected: str
) -> None:
    path = tmp_path / "list.csv"
    if content is not None:
        path.write_text(content)
    ended = _init(path, "--spec", tmp_path / "spec.toml")
    assert ended.exit_code == 2
    assert expected in ended.output
    assert not (tmp_path / "spec.toml").exists()


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
@pytest.mark.parametrize("is_struct", [True, False])
def test_images_in_the_list_are_found_and_not_read(tmp_path: Path, suffix: str, is_struct: bool) -> None:
    body = encoded(80, 60, 1)
    images = [{"bytes": body, "path": "1.jpg"}, None] if is_struct else [body, None]
    path = _made(tmp_path / f"list.{suffix}", pa.table({"image": images, "text": ["a cat", "a dog"]}))
    ended = _init(path, "--spec", tmp_path / "spec.toml", "--output", tmp_path / "out")
    assert ended.exit_code == 0, ended.output
    assert "images    in 'image', captions in 'text'" in ended.output
    turbo_fetch.run(load_spec(tmp_path / "spec.toml"))
    assert [row["outcome"] for row in ledger(tmp_path / "out")] == ["success", "not-found"]


@pytest.mark.parametrize(
    ("addresses", "sources"),
    [
        (["/data/a/1.jpg", "file:///data/b%20c/2.jpg"], {"files": ["/data"]}),
        (["a/1.jpg", "/1.png"], {"files": ["/folder/of/the/images"]}),
        (
            ["S3://bucket/1.jpg", "hf://datasets/a/b/1.jpg"],
            {"stores": ["hf://datasets/a/b/", "s3://bucket/"]},
        ),
        (["s3://name:secret@bucket/1.jpg", "ftp://a/1.jpg", "data:,"], {}),
        (["http://example.org/1.jpg", "gs://bucket/1"], {"stores": ["gs://bucket/"]}),
    ],
)
def test_places_that_a_list_names_are_proposed_and_stay_closed(
    tmp_path: Path, addresses: list[str], sources: dict[str, list[str]]
) -> None:
    path = _made(
        tmp_path / "list.csv", pa.table({"at": addresses, "n": [str(n) for n, _ in enumerate(addresses)]})
    )
    ended = _init(path, "--spec", tmp_path / "spec.toml")
    assert ended.exit_code == 0, ended.output
    assert ("fetch.sources" in ended.output) == bool(sources)
    text = (tmp_path / "spec.toml").read_text()
    assert "secret" not in text
    assert tomllib.loads(text)["fetch"].get("sources", {}) == {}
    proposed = text.replace("# files", "files").replace("# stores", "stores")
    assert tomllib.loads(proposed)["fetch"].get("sources", {}) == sources
    (tmp_path / "all.toml").write_text(proposed)
    fetch = load_spec(tmp_path / "all.toml").fetch
    assert fetch is not None
    assert fetch.input.url_column == "at"


def test_an_index_of_archives_is_recognised(tmp_path: Path) -> None:
    table = TABLE.append_column("warc_filename", pa.array(["a.warc.gz"] * 3))
    for name in ("warc_record_offset", "warc_record_length"):
        table = table.append_column(name, pa.array([1, 2, 3]))
    path = _made(tmp_path / "index.parquet", table)
    ended = _init(path, "--spec", tmp_path / "spec.toml")
    assert ended.exit_code == 0, ended.output
    assert "records   of WARC files" in ended.output
    fetch = load_spec(tmp_path / "spec.toml").fetch
    assert fetch is not None
    assert fetch.input.warc is not None
    assert (
        "# keep_columns = {" in (text := (tmp_path / "spec.toml").read_text()) or "# keep_columns = [" in text
    )
    assert "warc_filename" not in (tmp_path / "spec.toml").read_text()


def test_a_folder_of_images_in_a_store_is_recognised_beside_its_captions(tmp_path: Path, s3: str) -> None:
    empty_bucket(s3)
    filesystem(s3).pipe({"data/a/1.jpg": encoded(80, 60, 1), "data/a/1.txt": b"a cat"})
    ended = _init("s3://data/a/", "--spec", tmp_path / "spec.toml", "--output", tmp_path / "out")
    assert ended.exit_code == 0, ended.output
    turbo_fetch.run(load_spec(tmp_path / "spec.toml"))
    assert [row["outcome"] for row in ledger(tmp_path / "out")] == ["success"]


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "csv", "jsonl", "txt"])
def test_a_first_file_without_rows_says_nothing_about_the_others(tmp_path: Path, suffix: str) -> None:
    url = pa.table({"url": ["http://example.org/1.jpg"]})
    for number, table in enumerate([url.slice(0, 0), url]):
        path = tmp_path / f"{number}.{suffix}"
        if suffix == "txt":
            path.write_text("".join(table.column("url").to_pylist()))
        else:
            _made(path, table)
    ended = _init(tmp_path / f"*.{suffix}", "--spec", tmp_path / "spec.toml")
    assert ended.exit_code == 0, ended.output
    assert "URLs      in 'url'" in ended.output


def test_rows_longer_than_a_block_are_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text(
        f"url,caption\nhttp://example.org/1.jpg,{'long ' * 200_000}\nhttp://example.org/2.jpg,a\n"
    )
    ended = _init(path, "--spec", tmp_path / "spec.toml")
    assert ended.exit_code == 0, ended.output
    assert "URLs      in 'url', captions in 'caption'" in ended.output


def test_captions_that_most_rows_lack_are_found(tmp_path: Path) -> None:
    rows = {"url": ["http://example.org/1.jpg"] * 40, "caption": [None] * 39 + ["cat"]}
    ended = _init(_made(tmp_path / "list.parquet", pa.table(rows)), "--spec", tmp_path / "spec.toml")
    assert "captions in 'caption'" in ended.output


def test_no_spec_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("http://example.org/1.jpg\n")
    (tmp_path / "spec.toml").write_text("mine")
    ended = _init(tmp_path / "list.txt", "--spec", tmp_path / "spec.toml")
    assert ended.exit_code == 2
    assert "is there already" in ended.output
    assert (tmp_path / "spec.toml").read_text() == "mine"


@pytest.mark.parametrize("suffix", ["csv", "tsv", "csv.gz"])
@pytest.mark.parametrize("separator", [";", "|", "\t", ","])
@pytest.mark.parametrize("has_header", [True, False])
def test_what_stands_between_fields_is_recognised(
    tmp_path: Path, suffix: str, separator: str, has_header: bool
) -> None:
    rows = [["0,5", f"http://example.org/{row},a.jpg", f'"a {separator} photo"'] for row in range(3)]
    if separator == ",":
        rows = [[f'"{cell}"' if "," in cell and cell[0] != '"' else cell for cell in row] for row in rows]
    lines = [["score", "link", "caption"], *rows][not has_header :]
    text = "".join(separator.join(line) + "\n" for line in lines).encode()
    path = tmp_path / f"list.{suffix}"
    path.write_bytes(gzip.compress(text) if suffix.endswith("gz") else text)
    made = _init(path, "--spec", tmp_path / "spec.toml")
    assert made.exit_code == 0, made.output
    fetch = load_spec(tmp_path / "spec.toml").fetch
    assert fetch is not None
    shard = next(iter(Plan.of(fetch.input, 10).shards(0))).load()
    assert shard.column("url").to_pylist() == [f"http://example.org/{row},a.jpg" for row in range(3)]
    assert shard.column("caption").to_pylist() == [f"a {separator} photo"] * 3


def test_a_character_in_addresses_is_not_what_stands_between_fields(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(
        "http://example.org/a;v=1.jpg,a|b|c photo\nhttp://example.org/b.jpg,x|y photo\n"
    )
    assert _init(tmp_path / "list.csv", "--spec", tmp_path / "spec.toml").exit_code == 0
    fetch = load_spec(tmp_path / "spec.toml").fetch
    assert fetch is not None
    assert (fetch.input.separator, fetch.input.url_column, fetch.input.caption_column) == (
        None,
        "column_1",
        "column_2",
    )


def test_a_run_on_another_separator_says_how_to_name_it(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("url;caption\nhttp://example.org/a.jpg;a photo\n")
    fetch = {"input": {"urls": str(tmp_path / "list.csv")}, "output": {"path": str(tmp_path / "out")}}
    with pytest.raises(
        InputError, match=r"its only one is 'url;caption'.*set fetch\.input\.separator = \";\""
    ):
        turbo_fetch.run(parse_spec({"fetch": fetch}))
    for separator, listed, message in (
        (";;", "list.csv", "expected one character"),
        ("a", "list.csv", "expected one character"),
        (";", "list.jsonl", "separator is for csv and tsv"),
    ):
        (tmp_path / "list.jsonl").write_text('{"url": "http://example.org/a.jpg"}\n')
        fetch["input"] = {"urls": str(tmp_path / listed), "separator": separator}
        with pytest.raises((InputError, SpecError), match=message):
            turbo_fetch.run(parse_spec({"fetch": fetch}))
