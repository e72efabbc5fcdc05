"""Who works on which shard: nothing is lost or handed out twice, whatever workers do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turbo_fetch.errors import InputError, OutputError, ShardFailed
from turbo_fetch.plan.sharder import InlineRows, Shard
from turbo_fetch.progress.tally import Tally
from turbo_fetch.runners.messages import JobError, NoMoreShards, ShardDone, WantShard
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
    supervisor = Supervisor(shards(count), book, HttpSpec())
    for number in range(workers):
        supervisor.started(number)
    return supervisor


@given(st.data(), st.integers(0, 12), st.integers(1, 3))
def test_every_shard_is_done_once_whoever_dies(data: st.DataObject, count: int, workers: int) -> None:
    book = Book()
    supervisor = _started(count, book, workers)
    held: dict[int, list[int]] = {number: [] for number in range(workers)}
    deaths = 0
    while held:
        worker = data.draw(st.sampled_from(sorted(held)))
        action = data.draw(st.sampled_from(["want", "done", "die"]))
        if action == "die" and deaths < FRUITLESS_DEATHS - 1:
            deaths += 1
            assert supervisor.ended(worker, "died")
            supervisor.started(worker)
            held[worker] = []
        elif action == "done" and held[worker]:
            supervisor.answer(worker, ShardDone(held[worker].pop(), {}))
        else:
            answer = supervisor.answer(worker, WantShard())
            if isinstance(answer, ShardTask):
                held[worker].append(answer.shard.id)
            else:
                assert answer == NoMoreShards()
                for shard in held.pop(worker):
                    supervisor.answer(worker, ShardDone(shard, {}))
                assert not supervisor.ended(worker, None)
    assert sorted(book.done_shards) == list(range(count))


def test_a_shard_that_was_handed_to_another_worker_is_not_done_twice() -> None:
    book = Book()
    supervisor = _started(1, book, workers=2)
    supervisor.answer(0, WantShard())
    supervisor.answer(1, ShardDone(0, {}))
    assert book.done_shards == []


def test_workers_that_get_nowhere_end_the_job_and_name_theirshards() -> None:
    book = Book()
    supervisor = _started(1, book)
    for _ in range(FRUITLESS_DEATHS - 1):
        supervisor.answer(0, WantShard())
        assert supervisor.ended(0, "was ended by SIGSEGV")
        supervisor.started(0)
    supervisor.answer(0, WantShard())
    assert not supervisor.ended(0, "was ended by SIGSEGV")
    assert isinstance(supervisor.failure, ShardFailed)
    assert "open shards: 0" in str(supervisor.failure)


def test_rows_that_end_between_deaths_keep_the_job_alive() -> None:
    supervisor = _started(1, Book())
    for _ in range(2 * FRUITLESS_DEATHS):
        tally = Tally()
        tally.outcomes["success"] = 1
        supervisor.answer(0, tally)
        assert supervisor.ended(0, "died")
        supervisor.started(0)


@pytest.mark.parametrize("stopping", [True, False])
def test_no_shard_is_handed_out_once_the_job_is_to_end(stopping: bool) -> None:
    supervisor = _started(3, Book())
    if stopping:
        supervisor.stopping = True
    else:
        supervisor.answer(0, JobError("OutputError", "disk full"))
        assert isinstance(supervisor.failure, OutputError)
    assert supervisor.answer(0, WantShard()) is None
    assert not supervisor.ended(0, "died")


def test_a_worker_that_retires_gets_no_further_shard_and_the_next_one_does() -> None:
    supervisor = _started(3, Book(), workers=1)
    assert isinstance(supervisor.answer(0, WantShard()), ShardTask)
    supervisor.retire(0)
    assert supervisor.answer(0, WantShard()) == NoMoreShards()
    assert supervisor.has_work
    supervisor.started(1)
    assert isinstance(supervisor.answer(1, WantShard()), ShardTask)


def test_a_list_that_cannot_be_read_any_more_ends_the_job() -> None:
    def broken() -> Iterator[ShardTask]:
        raise InputError("gone")
        yield

    supervisor = Supervisor(broken(), Book(), HttpSpec())
    supervisor.started(0)
    assert supervisor.answer(0, WantShard()) is None
    assert isinstance(supervisor.failure, InputError)
