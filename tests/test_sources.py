"""Whole runs over rows that no web server is asked for: files, object stores, data URLs, folders of images."""

from __future__ import annotations

import base64
import io
import tarfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

import turbo_fetch
from album import album, encoded
from hub import hub_of
from jobs import job_spec, ledger, write_list
from object_store import empty_bucket, filesystem
from origin import Origin
from turbo_fetch.maintenance.retry import retry
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.spec import Spec
from turbo_fetch.stop import StopRequest


def rows(output: Path) -> list[dict[str, Any]]:
    """Return the metadata of all samples."""
    return [row for path in sorted(output.glob("[0-9]*.parquet")) for row in pq.read_table(path).to_pylist()]


def outcomes(output: Path) -> dict[str, str]:
    """Return the outcome of each URL."""
    return {row["url"]: row["outcome"] for row in ledger(output)}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with images, of which two have captions."""
    folder = tmp_path / "photos"
    for name, body in album(6).items():
        path = folder / ("nested" if name > "00002.jpg" else "") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    (folder / "00001.txt").write_text("a grey cat\n")
    (folder / "nested" / "00004.txt").write_text("two dogs")
    (folder / "notes.md").write_text("no image")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "no.jpg").write_bytes(b"no")
    return folder


def folder_spec(photos: Path, output: Path, **changes: Any) -> Spec:
    return job_spec(photos, output, input={"keep_columns": ["name"]}, **changes)


def test_one_list_may_mix_the_web_with_all_sources(photos: Path, tmp_path: Path, s3: str) -> None:
    body = encoded(80, 60, 1)
    empty_bucket(s3)
    filesystem(s3).pipe({"data/open/a b.jpg": body, "data/private/b.jpg": body, "data/open/empty": b""})
    data = f"data:image/jpeg;base64,{base64.b64encode(body).decode()}"
    expected = {
        f"{photos}/00000.jpg": "success",
        f"file://{photos}/nested/00003.jpg": "success",
        "00001.jpg": "success",
        "nowhere.jpg": "not-found",
        "/etc/passwd": "address",
        f"{photos}/notes.md": "not-an-image",
        "s3://data/open/a b.jpg": "success",
        "S3://data/open/a b.jpg": "success",
        "s3://data/open/empty": "not-an-image",
        "s3://data/open/none.jpg": "not-found",
        "s3://data/private/b.jpg": "address",
        "s3://data/open/../private/b.jpg": "address",
        "s3://data/open-private/b.jpg": "address",
        "gs://bucket/x.jpg": "address",
        "ftp://example.org/x.jpg": "url",
        data: "success",
        "data:;base64,?": "url",
    }
    with Origin({"web.jpg": body}) as origin:
        expected[origin.url("web.jpg")] = "success"
        urls = write_list(tmp_path / "list.parquet", list(expected))
        sources = {"files": [str(photos)], "stores": ["s3://data/open/"]}
        spec = job_spec(urls, tmp_path / "out", sources=sources)
        turbo_fetch.run(spec)
    shown = {url: url.partition(",")[0] + ",…" if url.startswith("data:") else url for url in expected}
    assert outcomes(tmp_path / "out") == {shown[url]: outcome for url, outcome in expected.items()}
    metadata = {row["url"]: row for row in rows(tmp_path / "out")}
    assert metadata[data]["original_width"] == 80
    assert metadata["s3://data/open/a b.jpg"]["original_width"] == 80


def test_by_default_a_list_reaches_neither_files_nor_stores(photos: Path, tmp_path: Path, s3: str) -> None:
    empty_bucket(s3)
    filesystem(s3).pipe({"data/a.jpg": encoded(80, 60, 1)})
    expected = {
        f"{photos}/00000.jpg": "url",
        f"file://{photos}/00000.jpg": "address",
        "s3://data/a.jpg": "address",
        "data:image/jpeg,…": "not-an-image",
    }
    turbo_fetch.run(job_spec(write_list(tmp_path / "list.parquet", list(expected)), tmp_path / "out"))
    assert outcomes(tmp_path / "out") == expected


def test_a_folder_of_lists_does_not_open_what_lies_beside_them(photos: Path, tmp_path: Path) -> None:
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "a.jpg").write_bytes(encoded(80, 60, 1))
    (lists / "urls.txt").write_text(f"{lists}/a.jpg\nfile://{lists}/a.jpg\n")
    for number, urls in enumerate((lists, lists / "*.txt")):
        out = tmp_path / str(number)
        turbo_fetch.run(job_spec(urls, out, input={"caption_column": None}))
        assert outcomes(out) == {f"{lists}/a.jpg": "url", f"file://{lists}/a.jpg": "address"}


def test_a_folder_of_images_is_a_list_with_captions(photos: Path, tmp_path: Path) -> None:
    turbo_fetch.run(folder_spec(photos, tmp_path / "out"))
    found = rows(tmp_path / "out")
    assert [row["name"] for row in found] == [
        "00000", "00001", "00002", "nested/00003", "nested/00004", "nested/00005",
    ]  # fmt: skip
    assert [row["caption"] for row in found] == [None, "a grey cat", None, None, "two dogs", None]
    assert [row["status"] for row in found] == ["success"] * 6
    with tarfile.open(tmp_path / "out" / "00000.tar") as samples:
        members = {member.name: samples.extractfile(member).read() for member in samples}  # type: ignore[union-attr]
    assert members["0000001.txt"] == b"a grey cat"
    assert Image.open(io.BytesIO(members["0000001.jpg"])).size == (64, 64)


class Told(ProgressListener):
    """Keeps what a person is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        """See ProgressListener."""
        self.notes.append(text)


def test_who_asks_no_site_is_not_asked_for_a_contact(photos: Path, tmp_path: Path) -> None:
    told = Told()
    turbo_fetch.run(folder_spec(photos, tmp_path / "out"), told)
    assert not any("contact" in note for note in told.notes)
    urls = write_list(tmp_path / "list.parquet", [str(photos / "00001.jpg")])
    turbo_fetch.run(job_spec(urls, tmp_path / "listed"), told)
    assert any("contact" in note for note in told.notes)


def test_a_folder_in_a_store_is_a_list_too(photos: Path, tmp_path: Path, s3: str) -> None:
    empty_bucket(s3)
    filesystem(s3).put(str(photos), "data/photos", recursive=True)
    changes = {"input": {"urls": "s3://data/photos", "format": "images", "keep_columns": ["name"]}}
    turbo_fetch.run(job_spec(photos, tmp_path / "out", **changes))
    turbo_fetch.run(folder_spec(photos, tmp_path / "local"))
    here, there = rows(tmp_path / "local"), rows(tmp_path / "out")
    assert [{**row, "url": ""} for row in here] == [{**row, "url": ""} for row in there]
    assert there[0]["url"] == "s3://data/photos/00000.jpg"


def test_links_out_of_a_folder_of_images_are_not_followed(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(encoded(80, 60, 1))
    (tmp_path / "secret.txt").write_text("secret words")
    (photos / "z.jpg").symlink_to(tmp_path / "secret.jpg")
    (photos / "z.txt").symlink_to(tmp_path / "secret.txt")
    (photos / "y").symlink_to(tmp_path)
    turbo_fetch.run(folder_spec(photos, tmp_path / "out"))
    last = rows(tmp_path / "out")[-1]
    assert (last["name"], last["caption"], last["error_message"]) == (
        "z", None, "outside of the folders in fetch.sources.files",
    )  # fmt: skip


def test_what_was_not_readable_is_read_by_a_retry(
    photos: Path, tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store is down at first, as far as its client can see."""
    empty_bucket(s3)
    filesystem(s3).put(str(photos), "data/photos", recursive=True)
    names = ["00000.jpg", "nested/00004.jpg"]
    urls = write_list(tmp_path / "list.parquet", [f"s3://data/photos/{name}" for name in names])
    spec = job_spec(urls, tmp_path / "out", sources={"stores": ["s3://data/"]}, http={"retries": 0})
    with monkeypatch.context() as environment:
        environment.setenv("FSSPEC_S3_ENDPOINT_URL", "http://127.0.0.1:1")
        turbo_fetch.run(spec)
    assert {(row["outcome"], row["detail"]) for row in ledger(tmp_path / "out")} == {
        ("connect", "the store cannot be reached")
    }
    retried = retry(spec, ProgressListener(), StopRequest())
    assert (retried.asked, retried.recovered) == (2, 2)
    assert set(outcomes(tmp_path / "out").values()) == {"success"}


def test_a_list_may_name_files_of_a_hub(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "large.png").write_bytes(encoded(900, 900, 3, kind="PNG") + b"\0" * 2_000_000)
    expected = {
        "hf://datasets/me/set/00000.jpg": "success",
        "hf://datasets/me/set/nested/00003.jpg": "success",
        "hf://datasets/me/set/large.png": "success",
        "hf://datasets/me/set/none.jpg": "not-found",
        "hf://datasets/me/settings/00000.jpg": "address",
        "hf://datasets/other/set/00000.jpg": "address",
    }
    urls = write_list(tmp_path / "list.parquet", list(expected))
    with hub_of({"datasets/me/set": photos}) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        turbo_fetch.run(job_spec(urls, tmp_path / "out", sources={"stores": ["hf://datasets/me/set/"]}))
    assert outcomes(tmp_path / "out") == expected
