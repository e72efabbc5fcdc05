"""Places: whole files appear, or none; what fails is named. Local folders and a real S3 server."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest
from fsspec.registry import _registry as filesystems

import processes
from object_store import configured, empty_bucket, filesystem
from processes import finished
from turbo_fetch.dataset.names import PROBE
from turbo_fetch.dataset.place import open_place
from turbo_fetch.errors import MissingExtra, OutputError, OutputHeld, SpecError
from turbo_fetch.storage import Entry, LocalStorage, RemoteStorage, Storage, disk


@pytest.fixture(params=["local", "s3", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    spool = str(tmp_path / "spool")
    if request.param == "s3":
        empty_bucket(request.getfixturevalue("s3"))
        return open_place("s3://data/set", spool)
    if request.param == "memory":
        fsspec.filesystem("memory").store.clear()
        return open_place("memory://data/set", spool)
    return open_place(str(tmp_path / "out" / "set"), spool)


def _names(place: Storage) -> dict[str, int | None]:
    return {entry.name: entry.bytes for entry in place.list()}


def _file(folder: Path, content: bytes, name: str = "made") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_what_is_published_can_be_read_listed_replaced_and_deleted(place: Storage, tmp_path: Path) -> None:
    assert _names(place) == {}
    for content in (b"first", b"second!"):
        made = _file(tmp_path, content)
        place.publish(made, "00000.tar")
        assert not made.exists()
        assert (place.read_bytes("00000.tar"), _names(place)) == (content, {"00000.tar": len(content)})
    assert place.exists("00000.tar")
    place.delete("00000.tar")
    place.delete("00000.tar")
    assert not place.exists("00000.tar")
    assert _names(place) == {}


@pytest.mark.parametrize("deleted", [[], ["a"], ["a", "missing"], ["missing"]])
def test_of_files_those_that_are_there_are_deleted(place: Storage, deleted: list[str]) -> None:
    for name in ("a", "b"):
        place.write_bytes(name, b"content")
    place.delete_files(deleted)
    assert _names(place).keys() == {"a", "b"} - {*deleted}


def test_bytes_can_be_written_and_a_missing_file_is_missing(place: Storage) -> None:
    place.write_bytes("job.json", b"{}")
    place.write_bytes("job.json", b"[1]")
    assert place.read_bytes("job.json") == b"[1]"
    with pytest.raises(FileNotFoundError):
        place.read_bytes("none.json")


def test_a_folder_is_published_whole_and_replaces_the_one_before(place: Storage, tmp_path: Path) -> None:
    for names in (("a.jpg", "old.jpg"), ("a.jpg", "b.jpg")):
        for name in names:
            _file(tmp_path / "work" / "00000", name.encode(), name)
        place.publish(tmp_path / "work" / "00000", "00000")
        assert not (tmp_path / "work" / "00000").exists()
    assert _names(place) == {"00000": None}
    assert place.read_bytes("00000/b.jpg") == b"b.jpg"
    assert not place.exists("00000/old.jpg")
    place.delete("00000")
    assert _names(place) == {}


def test_the_probe_passes_and_leaves_no_file(place: Storage) -> None:
    place.probe(PROBE)
    assert list(place.list(".turbo-fetch")) == []
    # Of an object store nobody can say whether a folder is there.
    assert _names(place) == {} or not place.is_local


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "/etc/passwd", "a/../../b"])
def test_a_name_cannot_leave_the_place(place: Storage, name: str) -> None:
    with pytest.raises((ValueError, OutputError), match="not a name inside"):
        place.delete(name)


def test_the_work_folder_is_inside_a_local_place_and_apart_for_others(tmp_path: Path) -> None:
    local = open_place(str(tmp_path))
    assert (local.is_local, local.path, local.work) == (True, tmp_path, tmp_path / ".turbo-fetch")
    remote = [open_place(f"memory://{name}", str(tmp_path)) for name in ("a", "b", "a/")]
    assert remote[0].work.parent == tmp_path
    assert remote[0].work == remote[2].work != remote[1].work
    assert remote[0].path is None
    assert open_place(f"file://{tmp_path}").work == local.work


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system."""
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system")
    folder = shared / f"turbo-fetch-test-{os.getpid()}"
    yield folder
    shutil.rmtree(folder)


def test_a_publication_over_file_systems_is_a_rename_in_the_end(tmp_path: Path, other: Path) -> None:
    place = LocalStorage(tmp_path / "out")
    place.publish(_file(other, b"content"), "a.tar")
    _file(other / "f", b"x", "1.jpg")
    place.publish(other / "f", "00000")
    assert _names(place) == {"a.tar": 7, "00000": None}
    assert list(other.iterdir()) == []


def test_who_loses_the_lease_while_a_file_is_copied_over_file_systems_does_not_put_it_in_place(
    tmp_path: Path, other: Path
) -> None:
    place = LocalStorage(tmp_path / "out")
    place.write_bytes("a.tar", b"theirs")
    copied = tmp_path / "out/.a.tar.000001.tmp"

    def check() -> None:
        if copied.exists():
            raise OutputHeld("lost")

    place.fence, place.holder = check, "000001"
    with pytest.raises(OutputHeld):
        place.publish(_file(other, b"mine"), "a.tar")
    place.fence = None
    assert _names(place) == {"a.tar": 6}


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    place = LocalStorage(tmp_path / "out")
    contents = [bytes([number]) * 200_000 for number in range(30)]
    place.write_bytes("x", contents[0])
    seen = set()
    for content in contents:
        with (tmp_path / "out" / "x").open("rb") as reader:
            place.write_bytes("x", content)
            seen.add(reader.read())
    assert seen == {contents[0], *contents[:-1]}


def test_what_a_killed_process_left_is_gone_after_the_next_write(tmp_path: Path) -> None:
    written = """
import os, signal, sys
from pathlib import Path
from turbo_fetch.storage import LocalStorage
os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL)
LocalStorage(Path(sys.argv[1])).write_bytes("job", b"of the process that was killed" * 100)
"""
    killed = subprocess.run([sys.executable, "-c", written, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    place = LocalStorage(tmp_path)
    assert len(_names(place)) == 1
    assert not place.exists("job")
    place.write_bytes("job", b"whole")
    assert _names(place) == {"job": 5}
    assert place.read_bytes("job") == b"whole"


STOPPED = """
import os, signal, sys
from pathlib import Path
from turbo_fetch.storage import LocalStorage

def stop(event, arguments):
    if event == "os.rename":
        os.kill(os.getpid(), signal.SIGSTOP)

sys.addaudithook(stop)
LocalStorage(Path(sys.argv[1])).write_bytes("file", b"old")
"""


def test_a_writer_that_stands_still_holds_nobody_up_and_changes_nothing_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "LOCK_WAIT_S", 0.2)
    stopped = processes.start([sys.executable, "-c", STOPPED, str(tmp_path)], stderr=subprocess.PIPE)
    try:
        assert os.WIFSTOPPED(os.waitpid(stopped.pid, os.WUNTRACED)[1])
        LocalStorage(tmp_path).write_bytes("file", b"new")
    finally:
        stopped.send_signal(signal.SIGCONT)
    _, told = finished(stopped)
    assert stopped.returncode == 1
    assert "OutputError" in told
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"new")]


def test_writers_of_the_same_file_at_once_never_mix_what_they_write(tmp_path: Path) -> None:
    contents = [bytes([number]) * (100_000 - 9_000 * number) for number in range(8)]
    with ThreadPoolExecutor(len(contents)) as threads:
        for _ in range(5):
            list(threads.map(lambda content: LocalStorage(tmp_path).write_bytes("job", content), contents))
            assert LocalStorage(tmp_path).read_bytes("job") in contents
    assert [*_names(LocalStorage(tmp_path))] == ["job"]


def test_publishing_to_s3_is_one_put(s3: str, tmp_path: Path) -> None:
    empty_bucket(s3)
    place = open_place("s3://data/set", str(tmp_path))
    place.publish(_file(tmp_path, bytes(1000)), "00000.tar")
    versions = filesystem(s3).info("data/set/00000.tar")
    assert versions["ETag"].count("-") == 0
    assert filesystem(s3).find("data") == ["data/set/00000.tar"]


def test_no_bucket_is_said(s3: str, tmp_path: Path) -> None:
    empty_bucket(s3)
    with pytest.raises(OutputError, match=r"s3://nowhere/set.*(bucket|not found)"):
        open_place("s3://nowhere/set", str(tmp_path)).probe(PROBE)


def test_no_server_is_said(tmp_path: Path) -> None:
    with configured("http://127.0.0.1:9"):
        fsspec.config.conf["s3"]["config_kwargs"] = {"retries": {"max_attempts": 0}, "connect_timeout": 1}
        with pytest.raises(OutputError, match="s3://data/set"):
            open_place("s3://data/set", str(tmp_path)).probe(PROBE)


def test_a_package_that_is_missing_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    # Where another test has loaded it, fsspec would not look for it again.
    monkeypatch.delitem(filesystems, "gs", raising=False)
    with pytest.raises(MissingExtra, match=r"turbo-fetch\[gcs\]"):
        open_place("gs://bucket/set")


@pytest.mark.parametrize("url", ["", "nosuch://x/y"])
def test_a_url_that_means_nothing_is_the_fault_of_the_spec(url: str) -> None:
    with pytest.raises(SpecError, match="expected a path or an fsspec URL"):
        open_place(url)


def test_a_file_in_the_way_of_a_local_place_is_said(tmp_path: Path) -> None:
    _file(tmp_path, b"", "out")
    with pytest.raises(OutputError, match=str(tmp_path / "out")):
        open_place(str(tmp_path / "out")).probe(PROBE)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_place_that_is_read_only_or_full_is_said(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("this machine does not let root mount")
    try:
        place = open_place(str(disk))
        place.write_bytes("x", b"old")
        with pytest.raises(OutputError, match=r"used up, 200,000 bytes needed, [\d,]+ bytes free"):
            place.write_bytes("x", bytes(200_000))
        assert place.read_bytes("x") == b"old"
        assert list(place.list()) == [Entry("x", 3)]
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(OutputError, match="Read-only file system"):
            place.probe(PROBE)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_remote_place_is_known_as_such(s3: str, tmp_path: Path) -> None:
    assert isinstance(open_place("s3://data/set", str(tmp_path)), RemoteStorage)
