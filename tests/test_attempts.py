"""Attempts at shards: each shard is published once, whoever else tried; places that differ are noticed."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import urllib.request
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest
from bench.object_store import keeping_store

import processes
from object_store import configured
from turbo_fetch.dataset.attempts import (
    Replaced,
    adopt_spools,
    close_attempt,
    discard_attempts,
    light_beacon,
    move_shard,
    new_attempt,
    note_replaced,
    open_attempt,
    recover,
)
from turbo_fetch.dataset.lock import locked
from turbo_fetch.dataset.place import open_place
from turbo_fetch.errors import OutputError
from turbo_fetch.storage import Storage
from turbo_fetch.storage.s3_requests import S3Requests


@pytest.fixture
def output(tmp_path: Path) -> Storage:
    return open_place(str(tmp_path / "out"), str(tmp_path / "spool"))


def _publish(place: Storage, attempt: str, shard: int, content: bytes) -> dict[str, Any]:
    """Publish a shard of one tar and its ledger as a worker does, its record last."""
    name = f"{shard:05d}"
    made = place.make_work() / f"{name}.tar"
    made.write_bytes(content)
    place.publish(made, f"{name}.tar")
    place.write_bytes(f".turbo-fetch/ledger/{name}.ledger", content)
    record = {
        "shard": shard,
        "name": name,
        "files": [
            {"name": f"{name}.tar", "bytes": len(content), "sha256": sha256(content).hexdigest()},
            {"name": f".turbo-fetch/ledger/{name}.ledger", "bytes": len(content), "sha256": attempt},
        ],
        "rows": 1,
        "outcomes": {"success": 1},
        "failing_hosts": {},
        "by": attempt,
    }
    place.write_bytes(f"{name}_stats.json", json.dumps(record).encode())
    return record


def test_of_two_attempts_only_the_one_that_is_taken_shows(output: Storage, tmp_path: Path) -> None:
    beacon = light_beacon(output)
    first, zombie = new_attempt(beacon), new_attempt(beacon)
    places = {name: open_attempt(output, name, str(tmp_path)) for name in (first, zombie)}
    _publish(places[zombie], zombie, 0, b"zombie's")
    record = _publish(places[first], first, 0, b"first's")
    move_shard(output, first, record)
    _publish(places[zombie], zombie, 0, b"zombie's again")
    assert (
        output.read_bytes("00000.tar") == output.read_bytes(".turbo-fetch/ledger/00000.ledger") == b"first's"
    )
    assert json.loads(output.read_bytes("00000_stats.json"))["by"] == first


def test_a_move_that_was_interrupted_is_finished_by_another(output: Storage, tmp_path: Path) -> None:
    attempt = new_attempt(light_beacon(output))
    record = _publish(open_attempt(output, attempt, str(tmp_path)), attempt, 3, b"whole")
    output.move(f".turbo-fetch/attempts/{attempt}/00003.tar", "00003.tar")
    move_shard(output, attempt, record)
    move_shard(output, attempt, record)
    assert output.read_bytes("00003.tar") == b"whole"


def test_files_that_are_nowhere_are_an_error(output: Storage, tmp_path: Path) -> None:
    attempt = new_attempt(light_beacon(output))
    record = _publish(open_attempt(output, attempt, str(tmp_path)), attempt, 3, b"whole")
    output.delete(f".turbo-fetch/attempts/{attempt}/00003.tar")
    with pytest.raises(OutputError, match=r"attempts/.*/00003\.tar is gone"):
        move_shard(output, attempt, record)


def test_whole_shards_that_nobody_took_are_recovered_once_and_halves_are_not(
    output: Storage, tmp_path: Path
) -> None:
    beacon = light_beacon(output)
    one, other = new_attempt(beacon), new_attempt(beacon)
    places = {name: open_attempt(output, name, str(tmp_path)) for name in (one, other)}
    _publish(places[one], one, 0, b"committed already")
    _publish(places[one], one, 1, b"whole")
    _publish(places[other], other, 1, b"whole too")
    places[other].write_bytes("00002.tar", b"half a shard")
    records = list(recover(output, committed={0}))
    assert [record["shard"] for record in records] == [1]
    assert output.read_bytes("00001.tar") in {b"whole", b"whole too"}
    assert not output.exists("00000.tar")
    assert not output.exists("00002.tar")
    assert not output.exists(".turbo-fetch/attempts")


REPORT = ".turbo-fetch/refresh/00004.refresh"


def _replacing(
    output: Storage, tmp_path: Path, content: bytes, *reports: str
) -> tuple[str, dict[str, Any], Replaced]:
    """Commit shard 4, and publish another version of it aside; return that attempt, its record and what it replaces."""
    beacon = light_beacon(output)
    first, second = new_attempt(beacon), new_attempt(beacon)
    old = _publish(open_attempt(output, first, str(tmp_path)), first, 4, b"old")
    move_shard(output, first, old)
    aside = open_attempt(output, second, str(tmp_path))
    new = _publish(aside, second, 4, content)
    for report in reports:
        aside.write_bytes(report, b"what has changed")
    replaced = Replaced.by(old, *reports)
    note_replaced(aside, new, replaced)
    return second, new, replaced


def _by(output: Storage) -> str:
    return str(json.loads(output.read_bytes("00004_stats.json"))["by"])


@pytest.mark.parametrize("moved", range(5))
def test_another_version_of_a_shard_is_taken_wherever_the_parent_was_killed(
    output: Storage, tmp_path: Path, moved: int
) -> None:
    attempt, _, _ = _replacing(output, tmp_path, b"new", REPORT)
    # As far as the parent came: the old record goes, then file by file.
    if moved:
        output.delete("00004_stats.json")
    for name in ["00004.tar", ".turbo-fetch/ledger/00004.ledger", "00004_stats.json"][: max(0, moved - 1)]:
        output.move(f".turbo-fetch/attempts/{attempt}/{name}", name)
    records = list(recover(output, committed={4} if moved in {0, 4} else set()))
    assert [record["by"] for record in records] == ([] if moved == 4 else [attempt])
    assert _by(output) == attempt
    assert output.read_bytes("00004.tar") == b"new"
    assert output.read_bytes(REPORT) == b"what has changed"
    assert not output.exists(".turbo-fetch/attempts")


def test_a_version_of_a_shard_that_has_changed_since_is_not_taken(output: Storage, tmp_path: Path) -> None:
    _replacing(output, tmp_path, b"late")
    third = new_attempt(light_beacon(output))
    move_shard(output, third, _publish(open_attempt(output, third, str(tmp_path)), third, 4, b"later"))
    assert list(recover(output, committed={4})) == []
    assert (_by(output), output.read_bytes("00004.tar")) == (third, b"later")


def test_a_file_that_stays_the_same_is_not_moved(output: Storage, tmp_path: Path) -> None:
    attempt, new, replaced = _replacing(output, tmp_path, b"old")
    output.delete(f".turbo-fetch/attempts/{attempt}/00004.tar")
    left = move_shard(output, attempt, new, replaced)
    assert _by(output) == attempt
    assert output.read_bytes("00004.tar") == b"old"
    output.delete_files(left)
    assert list(recover(output, committed={4})) == []


def test_a_machine_that_sees_another_output_is_told(output: Storage, tmp_path: Path) -> None:
    attempt = new_attempt(light_beacon(output))
    elsewhere = open_place(str(tmp_path / "elsewhere"))
    with pytest.raises(OutputError, match="does not see the output that the driver sees"):
        open_attempt(elsewhere, attempt, str(tmp_path))


def test_the_beacon_stays_until_the_dataset_is_done(output: Storage) -> None:
    beacon = light_beacon(output)
    assert light_beacon(output) == beacon
    discard_attempts(output)
    assert light_beacon(output) != beacon


@pytest.mark.parametrize("digits", [3, 5, 8])
def test_the_spool_of_a_dead_worker_is_adopted_and_that_of_a_living_one_is_not(
    output: Storage, tmp_path: Path, digits: int
) -> None:
    shard = f"{7:0{digits}d}"
    beacon = light_beacon(output)
    code = (
        "import sys\n"
        "from turbo_fetch.dataset.attempts import open_attempt\n"
        "from turbo_fetch.dataset.place import open_place\n"
        "output, attempt, spool = sys.argv[1:4]\n"
        "place = open_attempt(open_place(output), attempt, spool)\n"
        "(place.work / sys.argv[4]).write_bytes(b'journal')\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
    )
    other = processes.start(
        [sys.executable, "-c", code, output.url, new_attempt(beacon), str(tmp_path), f"{shard}.spool"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "ready\n"
    place = open_attempt(output, new_attempt(beacon), str(tmp_path))
    adopt_spools(place, shard)
    assert not (place.work / f"{shard}.spool").exists()
    other.kill()
    other.communicate()
    adopt_spools(place, shard)
    assert (place.work / f"{shard}.spool").read_bytes() == b"journal"
    close_attempt(place)
    assert (place.work / f"{shard}.spool").exists()


def test_the_spool_of_a_worker_that_ended_is_adopted_though_its_process_lives_on(
    output: Storage, tmp_path: Path
) -> None:
    """As processes of Spark do, which run one task after the other."""
    beacon = light_beacon(output)
    first = open_attempt(output, new_attempt(beacon), str(tmp_path))
    (first.work / "00007.spool").write_bytes(b"journal")
    close_attempt(first)
    second = open_attempt(output, new_attempt(beacon), str(tmp_path))
    adopt_spools(second, "00007")
    assert (second.work / "00007.spool").read_bytes() == b"journal"
    assert not first.work.exists()


def test_a_worker_that_ends_leaves_nothing_but_spools(output: Storage, tmp_path: Path) -> None:
    place = open_attempt(output, new_attempt(light_beacon(output)), str(tmp_path))
    (place.work / "00001.tar").write_bytes(b"half")
    close_attempt(place)
    assert not place.work.exists()


def _asked(address: str) -> int:
    with urllib.request.urlopen(f"{address}/requests") as answer:
        return int(answer.read())


@pytest.mark.parametrize("is_signed_by_client", [True, False])
def test_a_shard_is_moved_in_an_object_store_by_one_request_a_file(
    tmp_path: Path, is_signed_by_client: bool
) -> None:
    # A folder with what addresses and headers have to quote.
    with keeping_store() as address, configured(address):
        if not is_signed_by_client:
            fsspec.config.conf["s3"]["s3_additional_kwargs"] = {"ACL": "private"}
        output = open_place("s3://data/a set, 100 % äöü", str(tmp_path / "spool"))
        attempt = new_attempt(light_beacon(output))
        aside = open_attempt(output, attempt, str(tmp_path))
        records = [_publish(aside, attempt, shard, b"content") for shard in range(3)]
        before = _asked(address)
        left = [name for record in records for name in move_shard(output, attempt, record)]
        assert _asked(address) - before == 9
        output.delete_files(left)
        assert _asked(address) - before == 10
        assert not any(output.list(f".turbo-fetch/attempts/{attempt}"))
        assert [output.read_bytes(f"{shard:05d}.tar") for shard in range(3)] == [b"content"] * 3


def test_behind_a_fence_another_version_replaces_the_one_that_was_seen(tmp_path: Path) -> None:
    with keeping_store() as address, configured(address):
        output = open_place("s3://data/set", str(tmp_path / "spool"))
        with locked(output):
            attempt, new, replaced = _replacing(output, tmp_path, b"new", REPORT)
            output.delete_files(move_shard(output, attempt, new, replaced))
            assert (_by(output), output.read_bytes("00004.tar")) == (attempt, b"new")
            assert output.read_bytes(REPORT) == b"what has changed"
            assert list(recover(output, committed={4})) == []


@pytest.mark.parametrize(
    ("status", "content"), [(200, b"<Error><Code>InternalError</Code></Error>"), (500, b""), (403, b"no XML")]
)
def test_a_copy_that_is_not_plainly_done_is_left_to_the_client(status: int, content: bytes) -> None:
    """An object store says so with status 200 as well, when it fails late."""
    asked: list[str] = []

    class Failing(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Failing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with configured(f"http://127.0.0.1:{server.server_port}"):
            copies = S3Requests(fsspec.filesystem("s3"))
            done = [copies.copy("data", "from", f"to/{number}", {"IfNoneMatch": "*"}) for number in range(5)]
        server.shutdown()
    assert done == [False] * 5
    assert len(asked) == 3, "after three in a row nobody is asked in this way"
