"""Who works on which shard: nothing is lost or handed out twice, whatever workers do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from signal import Signals
from time import monotonic

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turbo_fetch.errors import InputError, OutputError, ShardFailed
from turbo_fetch.plan.sharder import InlineRows, Shard
from turbo_fetch.progress.tally import Tally
from turbo_fetch.runners.assigned import ANSWER_S
from turbo_fetch.runners.document_cache import IN_MEMORY
from turbo_fetch.runners.messages import (
    Alive,
    GiveBack,
    GivenBack,
    JobError,
    Kept,
    NoMoreShards,
    ShardDone,
    ToWorker,
    WantShard,
)
from turbo_fetch.runners.supervisor import FRUITLESS_DEATHS, Supervisor
from turbo_fetch.shard.task import ShardTask
from turbo_fetch.spec import HttpSpec


class Book:
    """A listener that writes down what it is told."""

    def __init__(self) -> None:
        self.done_shards: list[int] = []
        self.deaths: list[str] = []
        self.notes: list[str] = []

    def tally(self, worker: int, tally: Tally) -> None: ...

    def done(self, message: ShardDone) -> None:
        self.done_shards.append(message.shard)

    def worker_ended(self, worker: int, open_rows: int | None) -> None: ...

    def worker_died(self, worker: int, why: str) -> None:
        self.deaths.append(f"{worker} {why}")

    def note(self, text: str) -> None:
        self.notes.append(text)

    def tick(self) -> None: ...


def shards(count: int) -> Iterator[ShardTask]:
    return (ShardTask(Shard(number, 1, InlineRows(b""))) for number in range(count))


def _started(count: int, book: Book, workers: int = 1) -> Supervisor:
    supervisor = Supervisor(shards(count), book, HttpSpec(), Path(IN_MEMORY))
    for number in range(workers):
        supervisor.started(number)
    return supervisor


def _told(supervisor: Supervisor) -> dict[int, list[ToWorker]]:
    """Return what each worker is told, but that the parent is alive."""
    told: dict[int, list[ToWorker]] = {}
    for worker, message in supervisor.pending_messages():
        if not isinstance(message, Alive):
            told.setdefault(worker, []).append(message)
    return told


@given(st.data(), st.integers(0, 12), st.integers(1, 4))
def test_every_shard_is_done_once_whoever_dies(data: st.DataObject, count: int, workers: int) -> None:
    """Workers want, begin, do, and give back in any order, and die, also between giving back and saying so."""
    book = Book()
    supervisor = _started(count, book, workers)
    held: dict[int, list[int]] = {number: [] for number in range(workers)}
    begun: set[tuple[int, int]] = set()
    wanting: set[int] = set()
    asked: list[tuple[int, int]] = []
    given_back: list[tuple[int, int]] = []
    """Shards that their worker has parted with and not said so."""
    deaths = 0

    def hear() -> None:
        for worker, messages in _told(supervisor).items():
            for message in messages:
                match message:
                    case ShardTask():
                        held[worker].append(message.shard.id)
                        wanting.discard(worker)
                    case GiveBack():
                        assert message.shard in held[worker]
                        asked.append((worker, message.shard))
                    case NoMoreShards():
                        for shard in held.pop(worker):
                            supervisor.take(worker, ShardDone(shard, {}))
                        assert not supervisor.ended(worker, None)
                        asked[:] = [one for one in asked if one[0] != worker]

    while held:
        worker = data.draw(st.sampled_from(sorted(held)))
        action = data.draw(st.sampled_from(["want", "begin", "done", "part", "say", "die"]))
        mine = [one for one in asked if one[0] == worker]
        unsaid = [one for one in given_back if one[0] == worker]
        if action == "die" and deaths < FRUITLESS_DEATHS - 1:
            deaths += 1
            assert supervisor.ended(worker, "died")
            supervisor.started(worker)
            held[worker] = []
            wanting.discard(worker)
            for pairs in (asked, given_back):
                pairs[:] = [one for one in pairs if one[0] != worker]
            begun = {one for one in begun if one[0] != worker}
        elif action == "begin" and held[worker]:
            begun.add((worker, held[worker][0]))
        elif action == "done" and held[worker]:
            supervisor.take(worker, ShardDone(held[worker].pop(0), {}))
        elif action == "part" and mine:
            asked.remove(mine[0])
            if mine[0][1] in held[worker] and mine[0] not in begun:
                held[worker].remove(mine[0][1])
                given_back.append(mine[0])
            else:
                supervisor.take(worker, Kept(mine[0][1]))
        elif unsaid:
            given_back.remove(unsaid[0])
            supervisor.take(worker, GivenBack(unsaid[0][1]))
        elif worker not in wanting:
            wanting.add(worker)
            supervisor.take(worker, WantShard())
        hear()
    assert sorted(book.done_shards) == list(range(count))


def test_nobody_is_let_go_while_a_shard_of_a_dead_worker_waits() -> None:
    rows = 2000
    tasks = (ShardTask(Shard(number, rows, InlineRows(b""))) for number in range(4))
    supervisor = Supervisor(tasks, Book(), HttpSpec(), Path(IN_MEMORY))
    for worker in range(3):
        supervisor.started(worker)
    for worker in (0, 1, 2, 0):
        _fill(supervisor, worker, 1)
    supervisor.take(2, WantShard())
    assert _told(supervisor) == {}
    assert supervisor.ended(2, "died")
    # It has too much to do for the next shard at once, and is not told that there is none.
    supervisor.take(0, WantShard())
    assert _told(supervisor) == {}
    supervisor.take(1, ShardDone(1, {}))
    supervisor.take(1, WantShard())
    told = [
        (worker, each.shard.id)
        for worker, (each,) in _told(supervisor).items()
        if isinstance(each, ShardTask)
    ]
    assert told == [(1, 2)]


def _fill(supervisor: Supervisor, worker: int, shards: int) -> None:
    """Let a worker take so many shards."""
    for _ in range(shards):
        supervisor.take(worker, WantShard())
        (message,) = _told(supervisor)[worker]
        assert isinstance(message, ShardTask)


def test_a_worker_that_comes_late_gets_its_share_of_what_is_not_begun() -> None:
    supervisor = _started(9, Book())
    _fill(supervisor, 0, 9)
    supervisor.started(1)
    supervisor.started(2)
    got: Counter[int] = Counter()
    waiting = {1, 2}
    for worker in waiting:
        supervisor.take(worker, WantShard())
    while told := _told(supervisor):
        for worker, messages in told.items():
            for message in messages:
                if isinstance(message, GiveBack):
                    # The eldest three are begun.
                    answer = GivenBack if message.shard > 2 else Kept
                    supervisor.take(worker, answer(message.shard))
                elif isinstance(message, ShardTask):
                    got[worker] += 1
                    supervisor.take(worker, WantShard())
    assert got == {1: 3, 2: 3}


def test_a_worker_that_does_not_answer_keeps_nobody_waiting_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    supervisor = _started(6, Book(), workers=3)
    _fill(supervisor, 0, 4)
    _fill(supervisor, 1, 2)
    supervisor.take(2, WantShard())
    assert _told(supervisor) == {0: [GiveBack(3)]}
    now_s = monotonic() + ANSWER_S + 1
    monkeypatch.setattr("turbo_fetch.runners.supervisor.monotonic", lambda: now_s)
    assert _told(supervisor) == {1: [GiveBack(5)]}
    supervisor.take(0, Kept(3))
    assert not _told(supervisor)
    supervisor.take(1, Kept(5))
    assert _told(supervisor) == {0: [GiveBack(2)]}


def test_who_could_get_nothing_is_let_go() -> None:
    supervisor = _started(2, Book(), workers=2)
    _fill(supervisor, 0, 2)
    supervisor.take(1, WantShard())
    assert _told(supervisor) == {0: [GiveBack(1)]}
    assert supervisor.has_work
    supervisor.take(0, Kept(1))
    supervisor.take(0, Kept(0))
    assert _told(supervisor) == {1: [NoMoreShards()]}
    assert not supervisor.has_work


def test_a_shard_that_was_handed_to_another_worker_is_not_done_twice() -> None:
    book = Book()
    supervisor = _started(1, book, workers=2)
    _fill(supervisor, 0, 1)
    supervisor.take(1, ShardDone(0, {}))
    assert book.done_shards == []


def test_workers_that_get_nowhere_end_the_job_and_name_their_shards() -> None:
    book = Book()
    supervisor = _started(1, book)
    for _ in range(FRUITLESS_DEATHS - 1):
        _fill(supervisor, 0, 1)
        assert supervisor.ended(0, "was ended by SIGSEGV")
        supervisor.started(0)
    _fill(supervisor, 0, 1)
    assert not supervisor.ended(0, "was ended by SIGSEGV")
    assert isinstance(supervisor.failure, ShardFailed)
    assert "open shards: 0" in str(supervisor.failure)


def test_a_shard_goes_on_with_the_signal_that_ended_its_worker() -> None:
    supervisor = _started(1, Book())
    _fill(supervisor, 0, 1)
    assert supervisor.ended(0, "was ended by SIGSEGV", by=Signals.SIGSEGV)
    supervisor.started(0)
    supervisor.take(0, WantShard())
    given = [message for _, message in supervisor.pending_messages() if isinstance(message, ShardTask)]
    assert [task.died_by for task in given] == [Signals.SIGSEGV]


def test_rows_that_end_between_deaths_keep_the_job_alive() -> None:
    supervisor = _started(1, Book())
    for _ in range(2 * FRUITLESS_DEATHS):
        tally = Tally()
        tally.outcomes["success"] = 1
        supervisor.take(0, tally)
        assert supervisor.ended(0, "died")
        supervisor.started(0)


@pytest.mark.parametrize("stopping", [True, False])
def test_no_shard_is_handed_out_once_the_job_is_to_end(stopping: bool) -> None:
    supervisor = _started(3, Book())
    if stopping:
        supervisor.stopping = True
    else:
        supervisor.take(0, JobError("OutputError", "disk full"))
        assert isinstance(supervisor.failure, OutputError)
    supervisor.take(0, WantShard())
    assert not _told(supervisor)
    assert not supervisor.ended(0, "died")


def test_a_worker_that_retires_gets_no_further_shard_and_the_next_one_does() -> None:
    supervisor = _started(3, Book(), workers=1)
    _fill(supervisor, 0, 1)
    supervisor.retire(0)
    supervisor.take(0, WantShard())
    assert _told(supervisor) == {0: [NoMoreShards()]}
    assert supervisor.has_work
    supervisor.started(1)
    _fill(supervisor, 1, 1)


def test_a_list_that_cannot_be_read_any_more_ends_the_job() -> None:
    def broken() -> Iterator[ShardTask]:
        raise InputError("gone")
        yield

    supervisor = Supervisor(broken(), Book(), HttpSpec(), Path(IN_MEMORY))
    supervisor.started(0)
    supervisor.take(0, WantShard())
    assert not _told(supervisor)
    assert isinstance(supervisor.failure, InputError)
