"""Rows that are records of WARC files, as in Common Crawl's index; the files are written by warcio."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import fsspec
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

import turbo_fetch
from album import encoded
from fetching import LIMITS
from jobs import job_spec, ledger
from loops import run_on
from object_store import empty_bucket, filesystem
from origin import Origin
from raw_origin import CLOSE, RawOrigin
from turbo_fetch.arrow.schemas import RECORD
from turbo_fetch.fetch.budget import ByteBudget
from turbo_fetch.fetch.client import Client, Fetched
from turbo_fetch.fetch.failures import KnownFailure
from turbo_fetch.maintenance.retry import retry
from turbo_fetch.outcomes import Outcome
from turbo_fetch.plan.reader import read_rows
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.sources.identity import place_of
from turbo_fetch.sources.source import CHUNK_BYTES
from turbo_fetch.sources.stores import Stores
from turbo_fetch.spec import HttpSpec, InputSpec, WarcSpec
from turbo_fetch.stop import StopRequest

BODY = encoded(80, 60, 1)
LONG = Random(1).randbytes(700_000)


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


RECORDS: dict[str, tuple[str, str, Mapping[str, str], bytes]] = {
    "good": ("response", "200 OK", {}, BODY),
    "chunked": ("response", "200 OK", {"Transfer-Encoding": "chunked"}, chunked(BODY)),
    "packed": ("response", "200 OK", {"Content-Encoding": "gzip"}, gzip.compress(BODY)),
    "resource": ("resource", "", {}, BODY),
    "gone": ("response", "404 Not Found", {}, b"gone"),
    "moved": ("response", "301 Moved Permanently", {"Location": "http://b.example/"}, b""),
    "opted-out": ("response", "200 OK", {"X-Robots-Tag": "noai"}, BODY),
    "page": ("response", "200 OK", {"Content-Type": "text/html"}, b"<html>"),
    "request": ("request", "GET / HTTP/1.1", {}, b""),
    "huge": ("response", "200 OK", {}, LONG),
    "bomb": ("response", "200 OK", {}, b"\0" * 30_000_000),
}
OUTCOMES = {
    "good": "success",
    "chunked": "success",
    "packed": "success",
    "resource": "success",
    "gone": "http-4xx",
    "moved": "redirect",
    "opted-out": "opt-out",
    "page": "not-an-image",
    "request": "no-record",
    "huge": "too-large",
    "bomb": "too-large",
    "other": "no-record",
    "in part": "no-record",
    "between": "no-record",
    "nowhere": "no-record",
    "missing": "not-found",
}


def url(name: str) -> str:
    return f"http://a.example/{name}.jpg"


def write_warc(path: Path) -> dict[str, tuple[int, int]]:
    """Write all records, each a gzip member of its own; return where each begins and how long it is."""
    places = {}
    with path.open("wb") as file:
        writer = WARCWriter(file, gzip=True)
        for name, (kind, status, headers, body) in RECORDS.items():
            head = {"Content-Type": "image/jpeg", **headers}
            http = None
            if kind == "response":
                http = StatusAndHeaders(status, list(head.items()), protocol="HTTP/1.1")
            elif kind == "request":
                http = StatusAndHeaders(status, list(head.items()), is_http_request=True)
            begin = file.tell()
            record = writer.create_warc_record(url(name), kind, payload=io.BytesIO(body), http_headers=http)
            writer.write_record(record)
            record.raw_stream.close()
            places[name] = (begin, file.tell() - begin)
    return places


def write_index(path: Path, places: dict[str, tuple[int, int]], **types: pa.DataType) -> None:
    """Write an index with Common Crawl's columns; some rows are wrong."""
    good = places["good"]
    rows: dict[str, tuple[Any, Any, Any]] = {
        name: ("crawl/a.warc.gz", *place) for name, place in places.items()
    }
    rows["other"] = ("crawl/a.warc.gz", *places["chunked"])
    rows["in part"] = ("crawl/a.warc.gz", good[0], good[1] // 2)
    rows["between"] = ("crawl/a.warc.gz", good[0] + 7, good[1])
    rows["nowhere"] = ("crawl/a.warc.gz", None, 5)
    rows["missing"] = ("crawl/b.warc.gz", *good)
    file, offset, length = zip(*rows.values(), strict=True)
    table = {
        "url": [url(name) for name in rows],
        "warc_filename": list(file),
        "warc_record_offset": pa.array(offset, pa.int32()),
        "warc_record_length": pa.array(length, pa.int32()),
    }
    pq.write_table(pa.table(table), path)


@pytest.mark.parametrize("kind", ["web", "store", "folder"])
def test_records_are_images_wherever_the_archive_is(tmp_path: Path, s3: str, kind: str) -> None:
    (tmp_path / "crawl").mkdir()
    places = write_warc(tmp_path / "crawl" / "a.warc.gz")
    write_index(tmp_path / "index.parquet", places)
    empty_bucket(s3)
    filesystem(s3).put(str(tmp_path / "crawl"), "data/crawl", recursive=True)
    filesystem(s3).chmod("data/crawl/a.warc.gz", "public-read")
    prefix = {"web": f"{s3}/data/", "store": "s3://data/", "folder": f"{tmp_path}/"}[kind]
    spec = job_spec(
        tmp_path / "index.parquet",
        tmp_path / "out",
        input={"caption_column": None, "warc": {"prefix": prefix}},
        sources={"files": [str(tmp_path / "crawl")], "stores": ["s3://data/crawl"]},
        http={"max_body_mb": 0.5, "ports": "any"},
        image={"encode": "original"},
        output={"format": "parquet"},
    )
    turbo_fetch.run(spec)
    expected = {**OUTCOMES, "missing": "http-4xx"} if kind == "web" else OUTCOMES
    found = {row["url"]: row for row in ledger(tmp_path / "out")}
    assert {name: found[url(name)]["outcome"] for name in expected} == expected
    metadata = {row["url"]: row for row in pq.read_table(tmp_path / "out" / "00000.parquet").to_pylist()}
    for name in ("good", "chunked", "packed", "resource"):
        assert metadata[url(name)]["image"]["bytes"] == BODY, name
    assert found[url("good")]["http_status"] == 200
    assert found[url("gone")]["http_status"] == 404
    assert found[url("good")]["final_url"] == f"{prefix}crawl/a.warc.gz"
    assert not {"warc_filename", "record file"} & metadata[url("good")].keys()


def test_a_server_that_ignores_ranges_gives_no_row_the_record_of_another(tmp_path: Path) -> None:
    places = write_warc(tmp_path / "a.warc.gz")
    offset, length = places["chunked"]
    table = pa.table(
        {
            "url": [None, url("good")],
            "warc_filename": ["a.warc.gz"] * 2,
            "warc_record_offset": [offset] * 2,
            "warc_record_length": [length] * 2,
        }
    )
    pq.write_table(table, tmp_path / "index.parquet")
    with Origin({"a.warc.gz": (tmp_path / "a.warc.gz").read_bytes()}) as origin:
        warc = {"prefix": origin.url("")}
        spec = job_spec(
            tmp_path / "index.parquet", tmp_path / "out", input={"caption_column": None, "warc": warc}
        )
        turbo_fetch.run(spec)
    found = [(row["outcome"], row["detail"], row["body_bytes"]) for row in ledger(tmp_path / "out")]
    assert found == [("no-record", "the server does not send parts of files", 0)] * 2


@pytest.mark.parametrize("framing", [b"Content-Length: 900000", b"Connection: close"])
def test_no_more_is_read_of_a_part_than_was_asked_for(framing: bytes) -> None:
    head = b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 7-900006/900007\r\n" + framing + b"\r\n\r\n"
    client_of_test = Client(HttpSpec(**LIMITS), ByteBudget(10_000_000))

    async def scenario(url: str) -> Fetched:
        async with client_of_test as client:
            return await client.get(url, {"Range": "bytes=7-1006"})

    with RawOrigin({"/a": [head + bytes(900_000), CLOSE]}) as origin:
        fetched = run_on("uvloop", scenario(origin.url("/a")))
    assert (fetched.outcome, fetched.detail) == (
        Outcome.NO_RECORD,
        "the server does not send parts of files",
    )
    assert fetched.body_bytes < 400_000
    assert client_of_test.budget.used_bytes == 0


class WithoutRanges(MemoryFileSystem):  # type: ignore[misc]
    """A store that sends all of an object whatever part is asked for."""

    protocol = "whole"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(MemoryFileSystem._strip_protocol(path.replace("whole://", "memory://")))

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """Return a whole object."""
        return bytes(super().cat_file(path))


@pytest.mark.parametrize("count", [0, 1, CHUNK_BYTES, 2 * CHUNK_BYTES, 2 * CHUNK_BYTES + 1])
def test_a_store_that_ignores_ranges_gives_whole_objects_once_and_no_parts(count: int) -> None:
    fsspec.register_implementation("whole", WithoutRanges, clobber=True)
    content = LONG * 3
    content = content[:count]
    WithoutRanges().pipe_file("/a", content)
    stores = Stores(["whole://"])
    chunks = list(stores.chunks("whole://a", 0, None))
    assert b"".join(chunks) == content
    assert [len(chunk) < CHUNK_BYTES for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    if count > CHUNK_BYTES:
        for start, stop in ((0, CHUNK_BYTES), (5, None), (5, 9)):
            with pytest.raises(KnownFailure, match="does not send parts"):
                list(stores.chunks("whole://a", start, stop))


@pytest.mark.parametrize("name", ["index.csv", "index.jsonl", "index.arrow"])
def test_an_index_may_be_a_list_of_any_format(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    table = {"url": [url("good")], "file": ["a.warc.gz"], "at": [7], "bytes": [5]}
    if path.suffix == ".csv":
        path.write_text(f"url,file,at,bytes\n{url('good')},a.warc.gz,7,5\n")
    elif path.suffix == ".jsonl":
        path.write_text(json.dumps({name: values[0] for name, values in table.items()}))  # type: ignore[index]
    else:
        feather.write_feather(pa.table(table), path)
    warc = WarcSpec(file_column="file", offset_column="at", length_column="bytes")
    (rows,) = read_rows(InputSpec(urls=str(path), warc=warc))
    assert [rows.column(name)[0].as_py() for name in RECORD] == ["a.warc.gz", "7", "5"]


@pytest.mark.parametrize(
    ("offset", "length", "place"),
    [
        ("0", "5", (0, 5)),
        ("7.0", "5", (7, 12)),
        ("-1", "5", None),
        ("1", "0", None),
        ("x", "1", None),
        (None, None, None),
        ("inf", "1", None),
    ],
)
def test_places_are_numbers(offset: str | None, length: str | None, place: tuple[int, int] | None) -> None:
    assert place_of(offset, length) == place


def test_a_retry_finds_the_records_in_the_list(
    tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "crawl").mkdir()
    places = write_warc(tmp_path / "crawl" / "a.warc.gz")
    write_index(tmp_path / "index.parquet", {"good": places["good"], "chunked": places["chunked"]})
    empty_bucket(s3)
    filesystem(s3).put(str(tmp_path / "crawl"), "data/crawl", recursive=True)
    spec = job_spec(
        tmp_path / "index.parquet",
        tmp_path / "out",
        input={"caption_column": None, "rows": 2, "warc": {"prefix": "s3://data/"}},
        sources={"stores": ["s3://data/"]},
        http={"retries": 0},
    )
    with monkeypatch.context() as environment:
        environment.setenv("FSSPEC_S3_ENDPOINT_URL", "http://127.0.0.1:1")
        turbo_fetch.run(spec)
    assert [row["outcome"] for row in ledger(tmp_path / "out")] == ["connect"] * 2
    retry(spec, ProgressListener(), StopRequest())
    assert [row["outcome"] for row in ledger(tmp_path / "out")] == ["success"] * 2
