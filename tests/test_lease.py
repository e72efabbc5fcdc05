"""The lease of an output: whoever else tries, is held still or dies, every row is there, once."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import processes
from album import album
from attack.kills import with_hook
from jobs import amid, content_hashes, job_spec, undisturbed, wait_for_hits, write_list
from leases import SILENCE_S, stands_still, start_on
from object_store import empty_bucket, filesystem
from origin import Origin
from processes import PATIENCE_S, finished, wait_until
from turbo_fetch.dataset import lease as lease_module
from turbo_fetch.dataset import names, process_identity
from turbo_fetch.dataset.lock import held
from turbo_fetch.dataset.place import open_place
from turbo_fetch.errors import OutputHeld
from turbo_fetch.spec import Spec
from turbo_fetch.spec.specfile import dump_spec
from turbo_fetch.storage import Storage

ALBUM = album(200, side=48)
ELSEWHERE = "another machine"


def _again(place: Storage, tmp_path: Path) -> Storage:
    """Return the same place as another process opens it, which has no lease."""
    other = open_place(place.url, str(tmp_path / "other"))
    other.fence = None
    return other


def _from_elsewhere(monkeypatch: pytest.MonkeyPatch, silence_s: float = SILENCE_S) -> None:
    """Make the leases that are taken from now on those of another machine."""
    monkeypatch.setattr(process_identity, "_HERE", ELSEWHERE)
    monkeypatch.setattr(lease_module, "SILENCE_S", silence_s)


def test_of_many_who_create_a_file_at_once_one_does(place: Storage) -> None:
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda number: place.create("dir/file", f"{number}".encode()), range(8)))
    assert made.count(True) == 1
    assert place.read_bytes("dir/file") == f"{made.index(True)}".encode()
    assert [entry.name for entry in place.list("dir")] == ["file"]


@pytest.mark.parametrize(
    ("mine", "other", "is_refused"),
    [
        ("all", "all", True),
        ("all", "1-of-4", True),
        ("1-of-4", "all", True),
        ("1-of-4", "1-of-4", True),
        ("1-of-4", "2-of-4", False),
        ("1-of-4", "1-of-2", True),
    ],
)
def test_leases_that_have_rows_in_common_exclude_each_other(
    place: Storage, tmp_path: Path, mine: str, other: str, is_refused: bool
) -> None:
    notes: list[str] = []
    with held(place, notes.append, scope=mine):
        who = rf"another run \(process {os.getpid()} on {os.uname().nodename}, since 20"
        refused = pytest.raises(OutputHeld, match=who) if is_refused else nullcontext()
        with refused, held(_again(place, tmp_path), notes.append, scope=other):
            pass
    with held(_again(place, tmp_path), notes.append, scope=other):
        pass
    assert not notes


def test_a_holder_elsewhere_that_gives_signs_of_life_keeps_the_lease(
    place: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    with monkeypatch.context() as elsewhere:
        _from_elsewhere(elsewhere, 1.0)
        holder = held(place, notes.append)
        holder.__enter__()
    with pytest.raises(OutputHeld, match="another run"), held(_again(place, tmp_path), notes.append):
        pass
    assert ["if it gives no sign of life for 1 s" in note for note in notes] == [True]
    holder.__exit__(None, None, None)


def test_what_a_holder_had_begun_when_it_lost_the_lease_is_refused_by_the_store(
    s3: str, tmp_path: Path
) -> None:
    empty_bucket(s3)
    mine, other = (open_place("s3://data/set", str(tmp_path / name)) for name in ("mine", "other"))
    mine.write_bytes("old", b"before")

    def another_writes() -> None:
        for name in ("old", "new"):
            if not taken:
                other.write_bytes(name, b"theirs")
        if taken:
            raise OutputHeld("lost")
        taken.append(True)

    taken: list[bool] = []
    for name in ("old", "new"):
        taken.clear()
        mine.fence = another_writes
        with pytest.raises(OutputHeld):
            mine.write_bytes(name, b"mine")
        assert other.read_bytes(name) == b"theirs"


_KILLED = """
import os, signal, sys
from turbo_fetch.dataset.lock import held
from turbo_fetch.dataset.place import open_place

with held(open_place(sys.argv[1], sys.argv[2])):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_lease_of_a_process_that_was_killed_here_is_taken_at_once(place: Storage, tmp_path: Path) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, place.url, str(tmp_path / "spool")], check=False, timeout=PATIENCE_S
    )
    assert killed.returncode == -signal.SIGKILL
    begun_s = time.monotonic()
    notes: list[str] = []
    with held(place, notes.append):
        # And not when it has been silent for long enough.
        assert time.monotonic() - begun_s < lease_module.SILENCE_S / 2
    assert not notes


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin(ALBUM, latency_s=0.05) as origin:
        yield origin


@pytest.fixture(scope="module")
def quiet(origin: Origin, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The list, and what an uninterrupted run makes of it."""
    return undisturbed(
        tmp_path_factory.mktemp("quiet"), origin, ALBUM, lambda urls, output: _spec(urls, str(output))
    )


def _spec(urls: Path, output: str) -> Spec:
    return job_spec(
        urls,
        Path(),
        http={"concurrency": 2},
        output={"path": output, "samples_per_shard": 20},
        engine={"workers": 2, "threads": 1},
    )


@pytest.mark.linux
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("kind", "machine", "whole_group"),
    [("s3", ELSEWHERE, True), ("disk", ELSEWHERE, False), ("disk", "", True)],
    ids=["machine on an object store", "driver on a shared disk", "run on this machine"],
)
def test_who_was_held_still_for_too_long_commits_nothing_any_more(
    quiet: tuple[Path, dict[str, str]],
    origin: Origin,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    kind: str,
    machine: str,
    whole_group: bool,
) -> None:
    urls, expected = quiet
    output = str(tmp_path / "out")
    if kind == "s3":
        empty_bucket(request.getfixturevalue("s3"))
        output = "s3://data/set"
    spec = _spec(urls, output)
    first = start_on(machine, spec, tmp_path, clock_ahead_s=86_400 if machine else 0)
    send = os.killpg if whole_group else os.kill
    with amid(first, origin, 60):
        send(first.pid, signal.SIGSTOP)
    second = start_on("", spec, tmp_path)
    place = open_place(output)
    try:
        # Until the second one has it, and has begun.
        hits = origin.hits.total() if whole_group else 0
        wait_until("its lease", partial(_is_taken_over, place), second)
        if whole_group:
            wait_for_hits(second, origin, origin.hits.total() - hits + 1)
    finally:
        send(first.pid, signal.SIGCONT)
    _, told = finished(second)
    assert second.returncode == 0, told
    _, err = finished(first)
    assert first.returncode == 75, err
    assert "another run took over" in err
    if kind == "s3":
        filesystem(request.getfixturevalue("s3")).get("data/set/", str(tmp_path / "out"), recursive=True)
    assert content_hashes(tmp_path / "out") == expected
    found = Counter(
        key
        for path in (tmp_path / "out").glob("*.parquet")
        for key in pq.read_table(path, columns=["key"]).column("key").to_pylist()
    )
    assert len(found) == found.total() == len(ALBUM)
    for path in (tmp_path / "out").glob("*_stats.json"):
        for file in json.loads(path.read_bytes())["files"]:
            assert (
                hashlib.sha256((tmp_path / "out" / file["name"]).read_bytes()).hexdigest() == file["sha256"]
            )


@pytest.mark.linux
def test_who_has_lost_the_lease_and_is_about_to_make_a_file_makes_none_that_the_next_one_publishes(
    quiet: tuple[Path, dict[str, str]], origin: Origin, tmp_path: Path
) -> None:
    _, expected = quiet
    first_shard = write_list(tmp_path / "list.parquet", [origin.url(name) for name in [*ALBUM][:20]])
    spec = job_spec(
        first_shard, tmp_path / "out", output={"samples_per_shard": 20}, engine={"workers": 1, "threads": 1}
    )
    # Before it makes the first tar, and when it has made it, and not filled it.
    about_to_make = {"KILL_NAME": ".part", "KILL_AT": "2 3"}
    # When its tar is whole.
    about_to_publish = {"KILL_NAME": "/00000.tar", "KILL_AT": "1"}
    running = []
    for number, stop in enumerate((about_to_make, about_to_publish)):
        hook = with_hook(tmp_path / f"hook{number}", tmp_path / "out")
        stop["KILL_BY"] = f"group {signal.SIGSTOP:d}"
        running.append(start_on("", spec, tmp_path, environment={**hook, **stop}))
        assert stands_still(running[-1]), running[-1].communicate()
    first, second = running
    os.killpg(first.pid, signal.SIGCONT)
    stands_still(first)
    os.killpg(second.pid, signal.SIGCONT)
    _, told = finished(second)
    assert second.returncode == 0, told
    if first.poll() is None:
        os.killpg(first.pid, signal.SIGCONT)
    _, err = finished(first)
    assert first.returncode == 75, err
    assert "another run took over" in err
    found = content_hashes(tmp_path / "out")
    assert found.keys() >= {"00000.tar", "00000.parquet"}
    assert {name: digest for name, digest in expected.items() if name.startswith("00000")} == found
    assert not list(tmp_path.rglob("*.part")) + list(tmp_path.rglob(".*.tmp"))


def _is_taken_over(place: Storage) -> bool:
    return any(_token(entry.name) > 1 for entry in place.list(".turbo-fetch/lease"))


@pytest.mark.linux
@pytest.mark.parametrize("command", ["run", "refresh"])
def test_who_writes_the_card_still_has_the_lease(origin: Origin, tmp_path: Path, command: str) -> None:
    listed = write_list(tmp_path / "list.parquet", [origin.url(name) for name in [*ALBUM][:5]])
    spec = job_spec(listed, tmp_path / "out", engine={"workers": 1, "threads": 1})
    arguments = ["run", str(tmp_path / "job.toml")]
    (tmp_path / "job.toml").write_text(dump_spec(spec))
    if command == "refresh":
        subprocess.run([sys.executable, "-m", "turbo_fetch", *arguments, "--quiet"], check=True, timeout=60)
        arguments = ["refresh", str(tmp_path / "out"), "--apply"]
    stop = {"KILL_NAME": "/README.md", "KILL_AT": "1", "KILL_BY": f"group {signal.SIGSTOP:d}"}
    running = processes.start(
        [sys.executable, "-m", "turbo_fetch", *arguments],
        env={**os.environ, **with_hook(tmp_path / "hook", tmp_path / "out"), **stop},
        start_new_session=True,
    )
    assert stands_still(running)
    newest = max((tmp_path / "out/.turbo-fetch/lease").glob("all.*"))
    is_released = json.loads(newest.read_bytes())["is_released"]
    os.killpg(running.pid, signal.SIGCONT)
    assert running.wait(timeout=60) == 0
    assert not is_released
    assert json.loads(newest.read_bytes())["is_released"]


def _token(name: str) -> int:
    named = names.scope_of_lease(name)
    return 0 if named is None else named[1]
