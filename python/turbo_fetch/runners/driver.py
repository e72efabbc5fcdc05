"""What a driver does whatever its cluster: rows go to workers, done shards come back, each is committed once.

See :mod:`turbo_fetch.dataset.attempts` for where shards come from and go to.
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cache
from pathlib import Path

from turbo_fetch.dataset import names
from turbo_fetch.dataset.attempts import light_beacon, new_attempt
from turbo_fetch.dataset.moves import Moves
from turbo_fetch.dataset.place import open_place
from turbo_fetch.errors import Interrupted, TurboFetchError
from turbo_fetch.fetch.proxies import Proxies
from turbo_fetch.plan.list_notes import ListNotes
from turbo_fetch.plan.sharder import inline
from turbo_fetch.runners.messages import Setup, ShardDone
from turbo_fetch.runners.supervisor import Listener
from turbo_fetch.score.messages import ScoreJob
from turbo_fetch.shard.task import ShardTask
from turbo_fetch.sources.landmarks import landmarks, places
from turbo_fetch.spec import FetchSpec
from turbo_fetch.stop import StopRequest


class Driver:
    """A Listener between a supervisor and the job, to which a shard is done only when it is where it belongs.

    Shards are moved in threads; the job is told in the thread that calls `tick`.
    """

    def __init__(self, fetch: FetchSpec, listener: Listener) -> None:
        self._storage = open_place(fetch.output.path, fetch.output.spool)
        # A relative path would mean another folder on every machine.
        output = fetch.output.model_copy(update={"path": self._storage.url})
        self._fetch = fetch.model_copy(update={"output": output})
        self._places = places(fetch)
        self.http = fetch.http
        self.documents = self._storage.make_work() / names.DOCUMENTS
        self._proxies = Proxies.of(fetch.http.proxy, os.environ)
        self._score = None if fetch.score is None else ScoreJob.of(fetch.score)
        self._listener = listener
        self._beacon = ""
        self._moves: Moves[ShardDone] = Moves(self._storage)
        self.tally = listener.tally
        self.worker_died = listener.worker_died
        self.worker_ended = listener.worker_ended
        self.note = listener.note

    def begin(self) -> None:
        """Make it possible for workers to see that they see the output; raises OutputError."""
        self._beacon = light_beacon(self._storage)

    def setup(self, threads: int) -> Setup:
        """Return what a new worker is told."""
        return Setup(
            self._fetch,
            threads,
            attempt=new_attempt(self._beacon),
            score=self._score,
            proxies=self._proxies,
            landmarks=landmarks(self._places),
        )

    def portable(self, task: ShardTask) -> ShardTask:
        """Return the task with its rows themselves where they are in a file that only this machine may see.

        Raises InputError if the file cannot be read any more.
        """
        shard = task.shard
        path = shard.rows.local_path
        if path is None or self._is_shared(path):
            return task
        notes = ListNotes()
        table = shard.load(notes)
        return replace(task, shard=replace(shard, rows=inline(table, notes.counts)))

    def done(self, message: ShardDone) -> None:
        """See Listener. Begins to move the shard."""
        assert message.attempt is not None
        self._moves.begin(message, message.attempt, message.record, message.replaced)

    def tick(self) -> None:
        """See Listener. Raises OutputError if a shard cannot be moved."""
        for message in self._moves.arrived():
            self._listener.done(message)
        self._listener.tick()

    def close(self) -> None:
        """Wait until all done shards are where they belong; raises OutputError if one cannot be moved."""
        for message in self._moves.rest():
            self._listener.done(message)

    def _is_shared(self, path: Path) -> bool:
        """Whether a file is on the disk of the output, which all machines see, as each worker proves."""
        root = Path(path.anchor)
        return self._storage.path is not None and root != _mount_of(path) == _mount_of(self._storage.path)

    def end(self, failure: TurboFetchError | None, stop: StopRequest) -> None:
        """Raise what a run has to say for itself, if anything."""
        if failure is not None:
            raise failure
        if stop:
            raise Interrupted("stopped by a signal; all that had arrived is saved")


def _mount_of(path: Path) -> Path:
    """Return where the file system is mounted in which a path is; the root where a link leads to another one."""
    named, real = _mount_above(path.parent), _mount_above(path.resolve().parent)
    return named if named == real else Path(path.anchor)


@cache
def _mount_above(folder: Path) -> Path:
    return next(each for each in (folder, *folder.parents) if each.is_mount())
