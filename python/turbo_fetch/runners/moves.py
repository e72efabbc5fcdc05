"""What goes between the driver of a cluster and its workers: rows there, and done shards back.

See :mod:`turbo_fetch.attempts` for where shards come from and go to.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Final

from turbo_fetch.attempts import move_shard
from turbo_fetch.plan.sharder import ParquetRange, Shard, inline
from turbo_fetch.runners.messages import ShardDone
from turbo_fetch.runners.supervisor import Listener
from turbo_fetch.storage import Storage

MOVES_AT_ONCE: Final = 16


class Moves:
    """Moves done shards to where they belong, in threads; `done` is told of each in the caller's thread."""

    def __init__(self, storage: Storage, done: Callable[[ShardDone], None]) -> None:
        self._storage = storage
        self._done = done
        self._threads = ThreadPoolExecutor(MOVES_AT_ONCE, "moves")
        self._running: dict[Future[None], ShardDone] = {}

    def start(self, message: ShardDone) -> None:
        """Begin to move a shard that was published under `message.attempt`."""
        assert message.attempt is not None
        moving = self._threads.submit(move_shard, self._storage, message.attempt, message.record)
        self._running[moving] = message

    def collect(self) -> None:
        """Tell of the shards that are where they belong; raises OutputError if one cannot be moved."""
        for moving in [moving for moving in self._running if moving.done()]:
            message = self._running.pop(moving)
            moving.result()
            self._done(message)

    def close(self) -> None:
        """Wait for all moves, then collect."""
        wait(self._running)
        self._threads.shutdown()
        self.collect()


class MovingListener:
    """A Listener to whom a shard is done only when it is where it belongs."""

    def __init__(self, listener: Listener, moves: Moves) -> None:
        self._moves = moves
        self.tally = listener.tally
        self.worker_died = listener.worker_died
        self.tick = listener.tick

    def done(self, message: ShardDone) -> None:
        """See Listener."""
        self._moves.start(message)


def portable(shard: Shard) -> Shard:
    """Return the shard with its rows themselves where they are in a file that only this machine may see.

    Raises InputError if the file cannot be read any more.
    """
    if isinstance(shard.rows, ParquetRange) and shard.rows.source.local_path is not None:
        return Shard(shard.id, shard.count, inline(shard.load()))
    return shard
