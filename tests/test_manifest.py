"""The manifest: in step with the files, whatever happened between them."""

from __future__ import annotations

import json
import resource
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from object_store import empty_bucket, filesystem
from turbo_fetch._native import Listing
from turbo_fetch.dataset import manifest as manifest_module
from turbo_fetch.dataset.manifest import Manifest, read_manifest
from turbo_fetch.dataset.place import open_place
from turbo_fetch.errors import OutputError, OutputHeld
from turbo_fetch.storage import LocalStorage, Storage


def _record(shard: int, size: int = 10) -> dict[str, Any]:
    return {
        "count": 5,
        "duration": 1.25,
        "start_time": 1.0,
        "end_time": 2.25,
        "status_dict": {"success": 4, "HTTP Error 404: Not Found": 1},
        "shard": shard,
        "rows": 5,
        "outcomes": {"success": 4, "http-4xx": 1},
        "failing_hosts": {"a.example": 1},
        "files": [{"name": f"{shard:05d}.tar", "bytes": size, "sha256": "00"}],
    }


def _publish(place: Storage, shard: int) -> dict[str, Any]:
    """Publish a shard as a worker does: its files, then its commit record."""
    record = _record(shard)
    place.write_bytes(f"{shard:05d}.tar", bytes(10))
    place.write_bytes(f"{shard:05d}_stats.json", json.dumps(record, indent=2).encode())
    return record


def _lines(place: Storage) -> list[int]:
    return [json.loads(line)["shard"] for line in place.read_bytes(".turbo-fetch/manifest").splitlines()]


def test_lines_end_in_the_order_of_shards_whatever_the_order_of_commits(place: Storage) -> None:
    with Manifest.open(place) as manifest:
        for shard in (4, 0, 12, 3):
            manifest.commit(_publish(place, shard))
        assert manifest.committed == {0, 3, 4, 12}
    assert _lines(place) == [0, 3, 4, 12]
    again = Manifest.open(place)
    assert again.committed == {0, 3, 4, 12}
    assert [record["shard"] for record in again.records()] == [0, 3, 4, 12]


def test_a_record_keeps_what_is_needed_and_not_what_only_concerns_its_making(place: Storage) -> None:
    with Manifest.open(place) as manifest:
        manifest.commit(_publish(place, 0))
    (record,) = Manifest.open(place).records()
    assert record == {
        name: _record(0)[name] for name in ("shard", "rows", "outcomes", "failing_hosts", "files")
    }


def test_shards_published_but_not_in_the_manifest_are_adopted(place: Storage) -> None:
    with Manifest.open(place) as manifest:
        manifest.commit(_publish(place, 1))
        _publish(place, 0)
        _publish(place, 2)
    with Manifest.open(place) as manifest:
        assert manifest.committed == {0, 1, 2}
    assert _lines(place) == [0, 1, 2]


@pytest.mark.parametrize("gone", ["00001.tar", "00001_stats.json"])
def test_a_record_whose_files_are_missing_is_dropped(place: Storage, gone: str) -> None:
    with Manifest.open(place) as manifest:
        for shard in (0, 1):
            manifest.commit(_publish(place, shard))
    place.delete(gone)
    with Manifest.open(place) as manifest:
        assert manifest.committed == {0}
    assert _lines(place) == [0]


def test_a_record_whose_file_has_another_size_is_dropped(place: Storage) -> None:
    with Manifest.open(place) as manifest:
        manifest.commit(_publish(place, 0))
    place.write_bytes("00000.tar", bytes(9))
    assert Manifest.open(place).committed == frozenset()


def test_a_folder_backs_its_record(tmp_path: Path) -> None:
    place = open_place(str(tmp_path))
    (tmp_path / "00000").mkdir()
    record = {**_record(0), "files": [{"name": "00000", "bytes": 123, "sha256": "00"}]}
    place.write_bytes("00000_stats.json", json.dumps(record).encode())
    assert Manifest.open(place).committed == {0}
    (tmp_path / "00000").rmdir()
    assert Manifest.open(place).committed == frozenset()


def test_statistics_of_img2dataset_are_no_record(tmp_path: Path) -> None:
    place = open_place(str(tmp_path))
    place.write_bytes("00000_stats.json", b'{"count": 5, "successes": 4}')
    place.write_bytes("00001_stats.json", b'{"count"')
    assert Manifest.open(place).committed == frozenset()


@settings(max_examples=20)
@given(cut=st.integers(0, 200), garbage=st.binary(max_size=20))
def test_a_torn_or_garbled_end_loses_no_shard(
    tmp_path_factory: pytest.TempPathFactory, cut: int, garbage: bytes
) -> None:
    folder = tmp_path_factory.mktemp("m")
    place = open_place(str(folder))
    with Manifest.open(place) as manifest:
        for shard in range(3):
            manifest.commit(_publish(place, shard))
    before = (folder / ".turbo-fetch/manifest").read_bytes()
    (folder / ".turbo-fetch/manifest").write_bytes(before[: len(before) - cut] + garbage)
    with Manifest.open(place) as manifest:
        assert manifest.committed == {0, 1, 2}
        manifest.commit(_publish(place, 3))
    content = (folder / ".turbo-fetch/manifest").read_bytes()
    assert content.startswith(before)
    assert _lines(place) == [0, 1, 2, 3]


def test_a_commit_is_in_the_local_file_when_it_returns(tmp_path: Path) -> None:
    place = open_place(str(tmp_path))
    manifest = Manifest.open(place)
    for shard in (1, 0):
        manifest.commit(_publish(place, shard))
        assert _lines(place)[-1] == shard
    manifest.close()


def test_a_shard_is_committed_once(tmp_path: Path) -> None:
    place = open_place(str(tmp_path))
    with Manifest.open(place) as manifest:
        record = _publish(place, 0)
        manifest.commit(record)
        with pytest.raises(ValueError, match="committed already"):
            manifest.commit(record)
    assert _lines(place) == [0]


def test_an_object_store_gets_the_manifest_at_most_every_so_often(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty_bucket(s3)
    place = open_place("s3://data/set", str(tmp_path))
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with Manifest.open(place) as manifest:
        manifest.commit(_publish(place, 0))
        now += manifest_module.PUT_EVERY_S - 1
        manifest.commit(_publish(place, 1))
        assert not filesystem(s3).exists("data/set/.turbo-fetch/manifest")
        now += 1
        manifest.commit(_publish(place, 2))
        assert _lines(place) == [0, 1, 2]
        manifest.commit(_publish(place, 3))
        assert _lines(place) == [0, 1, 2]
    assert _lines(place) == [0, 1, 2, 3]


def test_withdrawn_records_are_committed_again_or_taken_back(place: Storage) -> None:
    with Manifest.open(place) as manifest:
        for shard in range(3):
            manifest.commit(_publish(place, shard))
    with Manifest.open(place) as manifest:
        manifest.withdraw([0, 2, 7])
        assert manifest.committed == {1}
        manifest.commit({**_record(0), "failing_hosts": {"new.example": 2}})
        assert manifest.committed == {0, 1}
    assert _lines(place) == [0, 1, 2]
    assert [record["failing_hosts"] for record in Manifest.open(place).records()] == [
        {"new.example": 2},
        {"a.example": 1},
        {"a.example": 1},
    ]


def test_of_what_is_lost_meanwhile_a_file_is_named(place: Storage) -> None:
    with Manifest.open(place) as manifest:
        for shard in range(4):
            manifest.commit(_publish(place, shard))
        assert manifest.lost() == {}
        place.delete("00001.tar")
        place.delete("00002_stats.json")
        place.write_bytes("00003.tar", bytes(9))
        assert manifest.lost() == {1: "00001.tar", 2: "00002_stats.json", 3: "00003.tar"}


def test_a_manifest_that_is_lost_meanwhile_is_what_is_named(tmp_path: Path) -> None:
    place = open_place(str(tmp_path))
    manifest = Manifest.open(place)
    manifest.commit(_publish(place, 0))
    path = tmp_path / ".turbo-fetch/manifest"
    path.unlink()
    assert manifest.lost() == {0: str(path)}


@pytest.mark.parametrize("losing", ["commit", "withdraw", "close"])
def test_who_lost_the_output_leaves_the_manifest_of_the_next_one_alone(place: Storage, losing: str) -> None:
    mine = Manifest.open(place)
    for shard in (1, 0):
        mine.commit(_publish(place, shard))
    other = Manifest.open(open_place(place.url))

    def lost() -> None:
        raise OutputHeld("lost")

    place.fence = lost
    record = _record(2)
    losses: dict[str, Callable[[], None]] = {
        "commit": lambda: mine.commit(record),
        "withdraw": lambda: mine.withdraw([0]),
        "close": mine.close,
    }
    with pytest.raises(OutputHeld):
        losses[losing]()
    other.commit(_publish(open_place(place.url), 2))
    assert other.lost() == {}
    other.close()
    assert _lines(place) == [0, 1, 2]


def test_shards_withdrawn_one_after_the_other_are_all_taken_back(place: Storage) -> None:
    with Manifest.open(place) as manifest:
        for shard in range(3):
            manifest.commit(_publish(place, shard))
        manifest.withdraw([0])
        manifest.withdraw([1])
        assert manifest.committed == {2}
    assert _lines(place) == [0, 1, 2]


def test_a_withdrawn_shard_whose_files_were_replaced_halfway_is_not_taken_back(place: Storage) -> None:
    with Manifest.open(place) as manifest:
        for shard in range(2):
            manifest.commit(_publish(place, shard))
    with Manifest.open(place) as manifest:
        manifest.withdraw([0])
        place.delete("00000_stats.json")
    assert _lines(place) == [1]


def test_a_run_on_another_machine_goes_on_from_the_object_store(s3: str, tmp_path: Path) -> None:
    empty_bucket(s3)
    for shard, machine in enumerate(("a", "b", "a")):
        place = open_place("s3://data/set", str(tmp_path / machine))
        with Manifest.open(place) as manifest:
            assert manifest.committed == set(range(shard))
            manifest.commit(_publish(place, shard))
    assert _lines(place) == [0, 1, 2]


def test_a_full_disk_leaves_the_manifest_valid(tmp_path: Path) -> None:
    place = open_place(str(tmp_path))
    with Manifest.open(place) as manifest:
        manifest.commit(_publish(place, 0))
        record = _publish(place, 1)
        size = (tmp_path / ".turbo-fetch/manifest").stat().st_size
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, hard))
        try:
            with pytest.raises(OutputError, match=r"manifest.*used up"):
                manifest.commit(record)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert manifest.committed == {0}
        assert _lines(place) == [0]
        manifest.commit(record)
    assert _lines(place) == [0, 1]


@settings(max_examples=60)
@given(data=st.data())
def test_a_line_that_counts_natively_counts_by_python_too(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    place = open_place(str(tmp_path_factory.mktemp("m")))
    with Manifest.open(place) as manifest:
        for shard in range(3):
            manifest.commit(_publish(place, shard))
    assert place.path is not None
    path = place.path / ".turbo-fetch/manifest"
    lines = path.read_bytes().splitlines(keepends=True)
    changes = data.draw(st.integers(0, 3))
    for _ in range(changes):
        number = data.draw(st.integers(0, 2))
        at = data.draw(st.integers(0, len(lines[number]) - 1))
        lines[number] = lines[number][:at] + data.draw(st.binary(max_size=2)) + lines[number][at + 1 :]
    path.write_bytes(b"".join(data.draw(st.permutations(lines))))
    for gone in data.draw(st.sets(st.sampled_from(["00001.tar", "00002_stats.json"]))):
        place.delete(gone)
    listing = Listing()
    place.enter(listing)
    found = [shard for shard in listing.check(path) if shard is not None]
    shards = {record["shard"] for record in read_manifest(place)}
    suffixes = (".tar", "_stats.json")
    whole = {shard for shard in shards if all(place.exists(f"{shard:05d}{suffix}") for suffix in suffixes)}
    assert set(found) <= whole
    assert changes or set(found) == whole


class _Crowded(LocalStorage):
    """A place that says it holds very many shards, which no test can afford to make."""

    def enter(self, listing: Listing, folder: str = "") -> None:
        files: list[tuple[bytes, int | None]] = []
        for shard in range(20_000):
            if folder:
                files.append((f"{shard:05d}.ledger".encode(), 10))
                continue
            files.append((f"{shard:05d}.tar".encode(), 10))
            files.append((f"{shard:05d}_stats.json".encode(), 100))
        listing.add(folder, files)


def test_memory_per_shard_is_small(tmp_path: Path) -> None:
    lines = (json.dumps(_record(shard)) + "\n" for shard in range(20_000))
    (tmp_path / ".turbo-fetch").mkdir()
    (tmp_path / ".turbo-fetch/manifest").write_text("".join(lines))
    place = _Crowded(tmp_path, tmp_path / ".turbo-fetch")
    tracemalloc.start()
    try:
        manifest = Manifest.open(place)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(manifest.committed) == 20_000
    assert held / 20_000 < 200


def test_a_line_does_not_go_into_the_manifest_of_another_run_that_took_over_meanwhile(tmp_path: Path) -> None:
    place = open_place(str(tmp_path))
    with Manifest.open(place) as manifest:
        path = tmp_path / ".turbo-fetch/manifest"

        def stand_still() -> None:
            (tmp_path / "theirs").write_bytes(b"theirs")
            (tmp_path / "theirs").replace(path)
            place.fence = None

        place.fence = stand_still
        manifest.commit(_record(0))
        assert path.read_bytes() == b"theirs"
