"""What a driver does whatever its cluster: rows go to workers, done shards come back, each is committed once.

See :mod:`turbo_fetch.dataset.attempts` for where shards come from and go to.
"""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Final

from turbo_fetch.dataset.attempts import discard_attempts, light_beacon, move_shard, new_attempt
from turbo_fetch.dataset.place import open_place
from turbo_fetch.errors import Interrupted, TurboFetchError
from turbo_fetch.fetch.proxies import Proxies
from turbo_fetch.plan.list_notes import ListNotes
from turbo_fetch.plan.sharder import ParquetRange, SpreadRange, inline
from turbo_fetch.runners.messages import Setup, ShardDone
from turbo_fetch.runners.supervisor import Listener
from turbo_fetch.score.messages import ScoreJob
from turbo_fetch.shard.task import ShardTask
from turbo_fetch.spec import FetchSpec
from turbo_fetch.stop import StopRequest

MOVES_AT_ONCE: Final = 16
DELETED_AT_ONCE: Final = 400
"""Files that an object store keeps under the old names, until one request deletes them."""


class Driver:
    """A Listener between a supervisor and the job, to which a shard is done only when it is where it belongs.

    Shards are moved in threads; the job is told in the thread that calls `tick`.
    """

    def __init__(self, fetch: FetchSpec, listener: Listener) -> None:
        self._storage = open_place(fetch.output.path, fetch.output.spool)
        # A relative path would mean another folder on every machine.
        output = fetch.output.model_copy(update={"path": self._storage.url})
        self._fetch = fetch.model_copy(update={"output": output})
        self.http = fetch.http
        self._proxies = Proxies.of(fetch.http.proxy, os.environ)
        self._score = None if fetch.score is None else ScoreJob.of(fetch.score)
        self._listener = listener
        self._beacon = ""
        self._threads = ThreadPoolExecutor(MOVES_AT_ONCE, "moves")
        self._moving: dict[Future[list[str]], ShardDone] = {}
        self._left: list[str] = []
        self._deleting: set[Future[None]] = set()
        self.tally = listener.tally
        self.worker_died = listener.worker_died
        self.worker_ended = listener.worker_ended
        self.note = listener.note

    def begin(self) -> None:
        """Make it possible for workers to see that they see the output; raises OutputError."""
        self._beacon = light_beacon(self._storage)

    def setup(self, threads: int) -> Setup:
        """Return what a new worker is told."""
        attempt = new_attempt(self._beacon)
        return Setup(self._fetch, threads, attempt=attempt, proxies=self._proxies, score=self._score)

    def done(self, message: ShardDone) -> None:
        """See Listener. Begins to move the shard."""
        assert message.attempt is not None
        moving = self._threads.submit(move_shard, self._storage, message.attempt, message.record)
        self._moving[moving] = message

    def tick(self) -> None:
        """See Listener. Raises OutputError if a shard cannot be moved."""
        self._collect()
        self._listener.tick()

    def close(self) -> None:
        """Wait until all done shards are where they belong; raises OutputError if one cannot be moved."""
        wait(self._moving)
        self._threads.shutdown()
        self._collect()

    def end(self, failure: TurboFetchError | None, stop: StopRequest) -> None:
        """Raise what a run has to say for itself, if anything; delete what it needed beside the dataset."""
        if failure is not None:
            raise failure
        if stop:
            raise Interrupted("stopped by a signal; all that had arrived is saved")
        discard_attempts(self._storage)

    def _collect(self) -> None:
        for moving in [moving for moving in self._moving if moving.done()]:
            message = self._moving.pop(moving)
            self._left += moving.result()
            self._listener.done(message)
        for deleting in [deleting for deleting in self._deleting if deleting.done()]:
            self._deleting.remove(deleting)
            deleting.result()
        if len(self._left) >= DELETED_AT_ONCE:
            self._deleting.add(self._threads.submit(self._storage.delete_files, self._left))
            self._left = []


def portable(task: ShardTask) -> ShardTask:
    """Return the task with its rows themselves where they are in a file that only this machine may see.

    Raises InputError if the file cannot be read any more.
    """
    shard = task.shard
    if isinstance(shard.rows, ParquetRange | SpreadRange) and shard.rows.source.local_path is not None:
        notes = ListNotes()
        table = shard.load(notes)
        return replace(task, shard=replace(shard, rows=inline(table, notes.counts)))
    return task
