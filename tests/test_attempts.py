"""Attempts at shards: each shard is published once, whoever else tried; places that differ are noticed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import pytest

from object_store import configured, empty_bucket, s3_server
from turbo_fetch.dataset.attempts import (
    adopt_spool,
    close_attempt,
    discard_attempts,
    light_beacon,
    move_shard,
    new_attempt,
    open_attempt,
    recover,
)
from turbo_fetch.dataset.place import open_place
from turbo_fetch.errors import OutputError
from turbo_fetch.storage import Storage


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
            {"name": f"{name}.tar", "bytes": len(content)},
            {"name": f".turbo-fetch/ledger/{name}.ledger", "bytes": len(content)},
        ],
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
    with pytest.raises(OutputError, match=r"00003\.tar of the attempt .* is gone"):
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
    other = subprocess.Popen(
        [sys.executable, "-c", code, output.url, new_attempt(beacon), str(tmp_path), f"{shard}.spool"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert other.stdout is not None
    assert other.stdout.readline() == b"ready\n"
    place = open_attempt(output, new_attempt(beacon), str(tmp_path))
    adopt_spool(place, shard)
    assert not (place.work / f"{shard}.spool").exists()
    other.kill()
    other.communicate()
    adopt_spool(place, shard)
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
    adopt_spool(second, "00007")
    assert (second.work / "00007.spool").read_bytes() == b"journal"
    assert not first.work.exists()


def test_a_worker_that_ends_leaves_nothing_but_spools(output: Storage, tmp_path: Path) -> None:
    place = open_attempt(output, new_attempt(light_beacon(output)), str(tmp_path))
    (place.work / "00001.tar").write_bytes(b"half")
    close_attempt(place)
    assert not place.work.exists()


def test_a_shard_is_moved_in_an_object_store_by_one_request_a_file(tmp_path: Path) -> None:
    with s3_server() as address, configured(address):
        empty_bucket(address)
        output = open_place("s3://data/set", str(tmp_path / "spool"))
        attempt = new_attempt(light_beacon(output))
        aside = open_attempt(output, attempt, str(tmp_path))
        records = [_publish(aside, attempt, shard, b"content") for shard in range(3)]
        sent: list[str] = []
        client = fsspec.filesystem("s3")
        client.s3.meta.events.register("before-send.s3", lambda request, **_: sent.append(request.method))
        left = [name for record in records for name in move_shard(output, attempt, record)]
        assert sent == ["PUT"] * 9
        output.delete_files(left)
        assert sent == ["PUT"] * 9 + ["POST"]
        assert not any(output.list(f".turbo-fetch/attempts/{attempt}"))
        assert [output.read_bytes(f"{shard:05d}.tar") for shard in range(3)] == [b"content"] * 3
