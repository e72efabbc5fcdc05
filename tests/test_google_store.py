"""Google Cloud Storage, through gcsfs: lists, images and datasets at `gs://`, against an emulator on loopback."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

import turbo_fetch
from album import album
from google_store import google_store
from jobs import Silent, amid, content_hashes, job_spec, ledger, start, write_list
from origin import Origin
from turbo_fetch.dataset.lock import locked
from turbo_fetch.dataset.place import open_place
from turbo_fetch.dataset.reader import open_dataset
from turbo_fetch.errors import OutputHeld
from turbo_fetch.maintenance.retry import retry
from turbo_fetch.maintenance.verify import verify
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.spec import EngineSpec, Spec
from turbo_fetch.stop import StopRequest

# gcsfs sends bodies as bytes, of which aiohttp thinks little.
pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")

ALBUM = album(40, side=40)
SET = "gs://data/set"


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[str]:
    with google_store() as address:
        yield address


@pytest.fixture
def bucket() -> Any:
    """A client of the empty bucket, apart from the one under test."""
    filesystem = fsspec.filesystem("gs", token="anon", use_listings_cache=False, skip_instance_cache=True)
    if found := filesystem.find("data"):
        filesystem.rm(found)
    return filesystem


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin(ALBUM) as origin:
        yield origin


def _local(bucket: Any, folder: Path) -> Path:
    """Bring the dataset here."""
    for name in bucket.find("data/set"):
        path = folder / name.removeprefix("data/set/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bucket.cat_file(name))
    return folder


@pytest.mark.parametrize("output_format", ["webdataset", "files", "parquet"])
def test_a_list_there_becomes_the_dataset_there_that_it_is_here(
    bucket: Any, tmp_path: Path, origin: Origin, output_format: str
) -> None:
    urls = write_list(tmp_path / "list.parquet", [origin.url(name) for name in ALBUM])
    bucket.put_file(str(urls), "data/lists/list.parquet")
    changes = {"output": {"format": output_format, "samples_per_shard": 20}}
    turbo_fetch.run(job_spec(urls, tmp_path / "local", **changes), ProgressListener())
    changes["output"]["path"] = SET
    changes["input"] = {"urls": "gs://data/lists/*.parquet"}
    turbo_fetch.run(job_spec(urls, tmp_path, **changes), ProgressListener())
    assert content_hashes(_local(bucket, tmp_path / "there")) == content_hashes(tmp_path / "local")
    images = [sample.image for sample in open_dataset(SET).samples()]
    assert images == [sample.image for sample in open_dataset(str(tmp_path / "local")).samples()]
    verified = verify(SET, "full", EngineSpec(workers=1), Silent(), StopRequest())
    assert (verified.problems, verified.rows) == ([], 40)
    assert turbo_fetch.run(job_spec(urls, tmp_path, **changes), ProgressListener()).fetch.was_complete


def test_a_killed_run_resumes_there(bucket: Any, tmp_path: Path, origin: Origin) -> None:
    urls = write_list(tmp_path / "list.parquet", [origin.url(name) for name in ALBUM])
    output = {"samples_per_shard": 10}
    turbo_fetch.run(job_spec(urls, tmp_path / "local", output=output), ProgressListener())
    spec = job_spec(urls, tmp_path, output={**output, "path": SET, "spool": str(tmp_path / "spool")})
    process = start(spec, tmp_path, "--quiet")
    with amid(process, origin, 20):
        process.kill()
    process.communicate()
    turbo_fetch.run(spec, ProgressListener())
    assert content_hashes(_local(bucket, tmp_path / "there")) == content_hashes(tmp_path / "local")


def test_of_two_writers_one_has_the_output(bucket: Any, tmp_path: Path) -> None:
    here, there = (open_place(SET, str(tmp_path / name)) for name in ("here", "there"))
    assert here.create("once", b"1")
    assert not there.create("once", b"2")
    assert here.read_bytes("once") == b"1"
    with locked(here), pytest.raises(OutputHeld), locked(there):
        pass
    with locked(there):
        there.write_bytes("data", b"3")
    assert bucket.cat_file("data/set/data") == b"3"


def test_files_of_every_size_are_published_listed_moved_and_deleted(bucket: Any, tmp_path: Path) -> None:
    place = open_place(SET, str(tmp_path / "work"))
    for size in (0, 1, 11 * 2**20 + 7):
        body = os.urandom(size)
        (tmp_path / "file").write_bytes(body)
        place.publish(tmp_path / "file", "00000.tar")
        place.move("00000.tar", "moved.tar")
        assert place.read_bytes("moved.tar") == body
        assert [(entry.name, entry.bytes) for entry in place.list()] == [("moved.tar", size)]
    place.delete("moved.tar")
    assert not place.exists("moved.tar")


def test_images_there_are_read_and_what_is_refused_is_told(bucket: Any, tmp_path: Path) -> None:
    body = ALBUM["00000.jpg"]
    bucket.pipe({"data/in/a b.jpg": body, "data/in/empty": b"", "data/in/large": body + bytes(3_000_000)})
    bucket.pipe({"data/in/forbidden.jpg": body, "data/other.jpg": body})
    expected = {
        "gs://data/in/a b.jpg": "success",
        "gs://data/in/large": "success",
        "gs://data/in/empty": "not-an-image",
        "gs://data/in/none.jpg": "not-found",
        "gs://data/in/forbidden.jpg": "no-access",
        "gs://data/other.jpg": "address",
    }
    urls = write_list(tmp_path / "list.parquet", list(expected))
    spec = job_spec(urls, tmp_path / "out", sources={"stores": ["gs://data/in/"]}, http={"retries": 0})
    turbo_fetch.run(spec, ProgressListener())
    assert {row["url"]: row["outcome"] for row in ledger(tmp_path / "out")} == expected


def test_a_folder_of_images_there_is_a_list(bucket: Any, tmp_path: Path) -> None:
    bucket.pipe({f"data/photos/{name}": body for name, body in album(3).items()})
    bucket.pipe({"data/photos/00001.txt": b"a grey cat"})
    listed = {"urls": "gs://data/photos", "format": "images", "keep_columns": ["name"]}
    turbo_fetch.run(job_spec(tmp_path, tmp_path / "out", input=listed), ProgressListener())
    samples = list(open_dataset(str(tmp_path / "out")).samples())
    assert [(sample.metadata["name"], sample.caption) for sample in samples] == [
        ("00000", None), ("00001", "a grey cat"), ("00002", None),
    ]  # fmt: skip


def test_a_store_that_is_down_is_read_by_a_retry(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client tries again by itself, for longer than a read may take."""
    bucket.pipe({"data/a.jpg": ALBUM["00000.jpg"]})
    urls = write_list(tmp_path / "list.parquet", ["gs://data/a.jpg"])

    def spec(timeout_s: int) -> Spec:
        http = {"retries": 0, "timeout_s": timeout_s}
        return job_spec(urls, tmp_path / "out", sources={"stores": ["gs://data/"]}, http=http)

    with monkeypatch.context() as environment:
        environment.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1")
        turbo_fetch.run(spec(2), ProgressListener())
    assert ledger(tmp_path / "out")[0]["outcome"] == "timeout"
    assert retry(spec(60), ProgressListener(), StopRequest()).recovered == 1
