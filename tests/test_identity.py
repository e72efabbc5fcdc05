"""Which rows name the same image, of every source: by what they say, and in whole runs."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import turbo_fetch
from album import album, encoded
from jobs import job_spec, ledger, write_list
from object_store import empty_bucket, filesystem
from origin import Origin
from turbo_fetch.dataset.reader import open_dataset
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.sources.identity import Identities
from turbo_fetch.spec import Spec
from turbo_fetch.spec.specfile import parse_spec

BODY = encoded(80, 60, 1)
DATA = f"data:image/jpeg;base64,{base64.b64encode(BODY).decode()}"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, body in album(3).items():
        (folder / name).write_bytes(body)
    return folder


def _identities(**fetch: Any) -> Identities:
    fetch.setdefault("sources", {"files": ["/data"], "stores": ["s3://b/", "hf://datasets/o/n/"]})
    spec = parse_spec({"fetch": {"input": {"urls": "x.csv"}, "output": {"path": "out"}, **fetch}}).fetch
    assert spec is not None
    return Identities(spec)


def _of(*texts: str | None, **fetch: Any) -> list[str | None]:
    return _identities(**fetch).of(pa.table({"url": pa.array(texts, pa.string())}))


@pytest.mark.parametrize(
    "same",
    [
        ("http://Example.org:80/a b#c", " http://example.org/a%20b"),
        ("/data/a b.jpg", "a b.jpg", "./a b.jpg", "//data//./a b.jpg"),
        ("/data/a b.jpg", "file:///data/a%20b.jpg", "FILE:/data/a b.jpg#x"),
        ("s3://b/a b.jpg", "S3://b/a b.jpg", "s3a://b/a b.jpg"),
        ("gs://b/x.jpg", "gcs://b/x.jpg"),
        ("hf://datasets/o/n/a.jpg", "hf://datasets/o/n@main/a.jpg"),
        (DATA, DATA.replace("image/jpeg", "image/png"), f"DATA:,{quote(BODY)}", f"{DATA}#x"),
    ],
)  # fmt: skip
def test_what_is_written_otherwise_is_the_same(same: tuple[str, ...]) -> None:
    found = _of(*same)
    assert None not in found
    assert len(set(found)) == 1


def test_what_is_another_image_is_another_one() -> None:
    texts = [
        "http://example.org/a", "https://example.org/a", "/data/a", "/data/A", "/data/b/../a", "/data/a%20b",
        "/data/a b",         "s3://b/a", "s3://b//a", "s3://b/A", "gs://b/a", "hf://datasets/o/n/a", "hf://datasets/o/n@x/a",
        "hf://o/n/a",         DATA, "data:,",
    ]  # fmt: skip
    found = _of(*texts)
    assert None not in found
    assert len(set(found)) == len(texts)


def test_what_names_nothing_has_no_identity() -> None:
    assert _of(None, "", "  ", "data:;base64,?", "data:no-comma", "s3://", "file:relative.jpg") == [None] * 7


def test_a_relative_path_stays_so_where_it_may_be_in_several_folders() -> None:
    several = {"sources": {"files": ["/data", "/more"]}}
    assert _of("a.jpg", "./a.jpg", **several) == ["file:a.jpg"] * 2
    assert _of("/data/a.jpg", **several) != ["file:a.jpg"]


def test_in_a_list_of_images_the_text_is_the_identity() -> None:
    given = {"input": {"urls": "x.parquet", "image_column": "image"}}
    assert _of("cat.jpg", "./cat.jpg", None, "http://EXAMPLE.org/a", **given) == [
        "cat.jpg", "./cat.jpg", None, "http://example.org/a",
    ]  # fmt: skip


def test_a_record_is_known_by_its_place_where_it_has_no_address_of_the_web() -> None:
    given = {"input": {"urls": "x.parquet", "warc": {"prefix": "/data/"}}}
    places = [
        ("a.gz", "0", "9"),
        ("a.gz", "0.0", "9"),
        ("a.gz", "9", "9"),
        (None, "0", "9"),
        ("a.gz", "9", "9"),
    ]
    columns = {name: [place[each] for place in places] for each, name in enumerate(_record_columns())}
    urls = pa.array([None, None, "dns:x", None, "http://example.org/"], pa.string())
    first, second, third, nowhere, web = _identities(**given).of(pa.table({"url": urls, **columns}))
    assert first == second
    assert first is not None
    assert nowhere is None
    assert web == "http://example.org/"
    assert len({first, third, web}) == 3


def _record_columns() -> tuple[str, ...]:
    from turbo_fetch.arrow.schemas import RECORD

    return tuple(RECORD)


@given(st.lists(st.sampled_from(["a", "b c", "é", "%41", "..", ".", ""]), min_size=1, max_size=6))
def test_a_path_is_the_same_in_a_file_url_and_twice(parts: list[str]) -> None:
    path = "/".join(parts)
    first, second, third = _of(f"/data/{path}", f"file:///data/{quote(path)}", f"/data/./{path}")
    assert first == second == third


def _grouped(urls: Path, out: Path, **changes: Any) -> Spec:
    return job_spec(urls, out, duplicates={"by": ["url"], "captions": "all"}, **changes)


def _outcomes(out: Path) -> list[tuple[str, str | None]]:
    return [(row["outcome"], row["detail"]) for row in ledger(out)]


def test_rows_of_every_source_are_read_once_and_give_their_captions(
    photos: Path, tmp_path: Path, s3: str
) -> None:
    empty_bucket(s3)
    filesystem(s3).pipe({"data/a.jpg": BODY})
    with Origin({"web.jpg": BODY}) as origin:
        images = [
            (f"{photos}/00000.jpg", "00000.jpg", f"file://{photos}/./00000.jpg"),
            ("s3://data/a.jpg", "S3://data/a.jpg"),
            (DATA, f"data:,{quote(BODY)}"),
            (origin.url("web.jpg"), f"{origin.url('web.jpg')}#again"),
            (f"{photos}/00001.jpg",),
        ]
        rows = [image[0] for image in images] + [again for image in images for again in image[1:]]
        urls = write_list(tmp_path / "list.parquet", rows)
        sources = {"files": [str(photos)], "stores": ["s3://data/"]}
        turbo_fetch.run(_grouped(urls, tmp_path / "out", sources=sources), ProgressListener())
        assert origin.hits.total() == 1
    assert _outcomes(tmp_path / "out") == [
        *[("success", None)] * 5,
        *[("duplicate", f"duplicate of 00000{image:02d}") for image in (0, 0, 1, 2, 3)],
    ]
    captions = [sample.metadata["captions"] for sample in open_dataset(str(tmp_path / "out")).samples()]
    twice = [[f"image {row}", f"image {row + 6}"] for row in (1, 2, 3)]
    assert captions == [["image 0", "image 5", "image 6"], *twice, ["image 4"]]


def test_rows_of_an_earlier_list_and_of_another_dataset_count(photos: Path, tmp_path: Path) -> None:
    sources = {"files": [str(photos)]}
    for number, (name, against) in enumerate({"first": (), "second": (str(tmp_path / "first"),)}.items()):
        rows = [f"{photos}/00000.jpg", f"{photos}/0000{number + 1}.jpg"]
        urls = write_list(tmp_path / f"{name}.parquet", rows)
        duplicates = {"by": ["url"], "against": list(against)}
        turbo_fetch.run(
            job_spec(urls, tmp_path / name, sources=sources, duplicates=duplicates), ProgressListener()
        )
    of_first = ("duplicate", f"duplicate of 0000000 in {tmp_path}/first")
    assert _outcomes(tmp_path / "second") == [of_first, ("success", None)]
    more = write_list(tmp_path / "more.parquet", ["00001.jpg", "00002.jpg"])
    duplicates = {"by": ["url"]}
    output = {"if_exists": "extend"}
    spec = job_spec(more, tmp_path / "first", sources=sources, duplicates=duplicates, output=output)
    turbo_fetch.run(spec, ProgressListener())
    assert _outcomes(tmp_path / "first")[2:] == [("duplicate", "duplicate of 0000001"), ("success", None)]


def test_images_in_a_column_that_have_one_name_are_taken_once(tmp_path: Path) -> None:
    images = [*album(3).values()]
    table = pa.table({"url": ["a.jpg", "b.jpg", "a.jpg"], "image": images, "caption": ["x", "y", "z"]})
    pq.write_table(table, tmp_path / "images.parquet")
    spec = _grouped(tmp_path / "images.parquet", tmp_path / "out", input={"image_column": "image"})
    turbo_fetch.run(spec, ProgressListener())
    assert _outcomes(tmp_path / "out") == [
        ("success", None), ("success", None), ("duplicate", "duplicate of 0000000"),
    ]  # fmt: skip


def test_a_path_that_no_source_reads_is_still_no_url(photos: Path, tmp_path: Path) -> None:
    urls = write_list(tmp_path / "list.parquet", [f"{photos}/00000.jpg", "", "", None])
    turbo_fetch.run(_grouped(urls, tmp_path / "out"), ProgressListener())
    assert [outcome for outcome, _ in _outcomes(tmp_path / "out")] == ["url"] * 4


def test_a_deny_list_may_name_images_of_every_source(photos: Path, tmp_path: Path, s3: str) -> None:
    empty_bucket(s3)
    filesystem(s3).pipe({"data/a.jpg": BODY})
    denied = [f"file://{photos}/00000.jpg", "00001.jpg", "S3://data/a.jpg", f"data:,{quote(BODY)}"]
    (tmp_path / "deny.txt").write_text("\n".join(denied))
    rows = ["00000.jpg", f"{photos}/./00001.jpg", "s3://data/a.jpg", DATA, "00002.jpg"]
    spec = job_spec(
        write_list(tmp_path / "list.parquet", rows),
        tmp_path / "out",
        sources={"files": [str(photos)], "stores": ["s3://data/"]},
        deny={"urls": [str(tmp_path / "deny.txt")]},
    )
    turbo_fetch.run(spec, ProgressListener())
    assert _outcomes(tmp_path / "out") == [*[("denied", "URL is on a deny list")] * 4, ("success", None)]
