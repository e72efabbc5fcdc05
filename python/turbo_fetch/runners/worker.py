"""A worker: one loop, one session, one pool of Rust threads, several open shards."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Executor
from functools import cached_property
from multiprocessing.connection import Connection
from time import monotonic
from typing import TYPE_CHECKING, Final, Protocol

import psutil
import uvloop

from turbo_fetch.dataset import attempts, names
from turbo_fetch.dataset.lease import behind_claim
from turbo_fetch.dataset.place import open_place
from turbo_fetch.errors import OutputHeld, TurboFetchError, shortage
from turbo_fetch.fetch.allocations import Demand, Grant
from turbo_fetch.fetch.client import Client
from turbo_fetch.fetch.documents import DocumentAnswers, DocumentNews
from turbo_fetch.fetch.limiter_client import LimiterClient
from turbo_fetch.fetch.pacing import budget_of, requests_at_once, set_rate
from turbo_fetch.fetch.pool import FetchPool
from turbo_fetch.fetch.shared_documents import SharedDocuments
from turbo_fetch.fetch.threads import AwaitedThreads
from turbo_fetch.progress.tally import Tally
from turbo_fetch.runners.messages import (
    CUT_OFF_S,
    GIVEN_UP_S,
    Alive,
    Bandwidth,
    GiveBack,
    GivenBack,
    JobError,
    Kept,
    NoMoreShards,
    Setup,
    ShardDone,
    Stop,
    ToParent,
    ToWorker,
    WantShard,
)
from turbo_fetch.shard.deny_lists import DenyList
from turbo_fetch.shard.open_shard import OpenShard, Tools
from turbo_fetch.shard.routes import Router
from turbo_fetch.shard.task import ShardTask
from turbo_fetch.shard.transform import Transform
from turbo_fetch.sources.archive_records import ArchiveRecords
from turbo_fetch.sources.landmarks import look_for
from turbo_fetch.sources.pools import SourcePools
from turbo_fetch.storage import Storage

if TYPE_CHECKING:
    from turbo_fetch.score.messages import ScoreJob
    from turbo_fetch.score.scorer import Scorer

NO_FILES: Final = (
    "too many open files: expected a higher limit (ulimit -n), or a smaller fetch.http.concurrency"
)

TALLY_EVERY_S: Final = 0.5
LOOK_FOR_PARENT_EVERY_S: Final = 1.0
DEMAND_EVERY_S: Final = 0.02
"""What comes up meanwhile travels together."""

LEASE_EVERY_S: Final = 5.0

MAX_OPEN_ROWS: Final = 100_000
MAX_OPEN_SHARDS: Final = 64
GARBAGE_THRESHOLD: Final = 50_000
MADE_PER_BODY: Final = 4
"""How many times the memory of bodies the images that are made of them take at once."""
TRANSFORMS_AT_ONCE: Final = 3
"""Batches in the native code at once: two share the cores, and the third keeps them busy while those end together."""


class Channel(Protocol):
    """The way to the parent; used by one thread in each direction. Both methods block."""

    def send(self, message: ToParent, /) -> None:
        """Pass a message on; raises OSError if the parent is gone."""

    def recv(self) -> ToWorker:
        """Return the next message; raises EOFError or OSError if the parent is gone."""


class Worker:
    """Pulls shards from the parent whenever the fetch pool runs low, and runs them side by side."""

    def __init__(
        self,
        channel: Channel,
        tools: Tools,
        limiter: LimiterClient | None,
        documents: SharedDocuments,
        attempt: str | None,
    ) -> None:
        self._channel = channel
        self._limiter = limiter
        self._documents = documents
        self._attempt = attempt
        self._tools = tools
        self._pool = tools.pool
        self._inbox: asyncio.Queue[ShardTask | None] = asyncio.Queue()
        self._wanted_back: asyncio.Queue[int] = asyncio.Queue()
        self._sender = AwaitedThreads(1, "sender")
        self._open: dict[int, OpenShard] = {}
        self._room = asyncio.Event()
        self._stopping = asyncio.Event()
        self._answers = 0
        self._heard_s = monotonic()

    @cached_property
    def _process(self) -> psutil.Process:
        return psutil.Process()

    async def run(self) -> None:
        """Work until the parent has no more shards, asks to stop, or is gone."""
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._listen, args=(loop,), daemon=True).start()
        async with asyncio.TaskGroup() as background:
            fetching = [background.create_task(pool.run()) for pool in (self._pool, self._tools.sources)]
            reporting = [
                background.create_task(each)
                for each in (
                    self._report(),
                    self._watch_lease(),
                    self._give_back(),
                    self._pass_on(self._documents.next_news),
                )
            ]
            if self._limiter is not None:
                reporting.append(background.create_task(self._pass_on(self._limiter.next_demand)))
            if self._attempt is not None:
                reporting.append(background.create_task(self._watch_parent()))
            async with asyncio.TaskGroup() as shards:
                stopper = shards.create_task(self._suspend_on_stop(fetching))
                await self._pull(shards)
                while self._open:
                    self._room.clear()
                    await self._room.wait()
                stopper.cancel()
            for task in (*fetching, *reporting):
                task.cancel()
        await self._send_tally()
        self._sender.shutdown(wait=False)

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Pass messages from the parent to the loop; a parent that is gone is a parent that said Stop."""
        with contextlib.suppress(RuntimeError):  # the loop ended first
            while True:
                try:
                    message = self._channel.recv()
                except (EOFError, OSError):
                    message = Stop()
                self._heard_s = monotonic()
                match message:
                    case Alive():
                        loop.call_soon_threadsafe(self._pool.network.hear_of, message.answered)
                    case ShardTask():
                        loop.call_soon_threadsafe(self._inbox.put_nowait, message)
                    case NoMoreShards():
                        loop.call_soon_threadsafe(self._inbox.put_nowait, None)
                    case GiveBack():
                        loop.call_soon_threadsafe(self._wanted_back.put_nowait, message.shard)
                    case Bandwidth():
                        loop.call_soon_threadsafe(set_rate, self._tools.budget, message.bytes_per_s)
                    case Grant():
                        loop.call_soon_threadsafe(self._pool.apply_grant, message)
                    case DocumentAnswers():
                        loop.call_soon_threadsafe(self._documents.apply, message)
                    case _:
                        loop.call_soon_threadsafe(self.stop)
                        return

    @property
    def is_stopping(self) -> bool:
        """Whether the worker is to end."""
        return self._stopping.is_set()

    async def made_ready(self, scorer: Scorer, threads: Executor) -> None:
        """See that the function is ready; end the job if it cannot be."""
        try:
            await asyncio.get_running_loop().run_in_executor(threads, scorer.make_ready)
        except TurboFetchError as error:
            await self._send(JobError(type(error).__name__, str(error)))
            self.stop()

    def stop(self) -> None:
        """Save what has arrived, then end, within seconds; to be called in the loop."""
        self._stopping.set()
        self._inbox.put_nowait(None)
        self._room.set()

    async def _pull(self, shards: asyncio.TaskGroup) -> None:
        while not self._stopping.is_set():
            await self._wait_for_room()
            if self._stopping.is_set():
                return
            await self._send(WantShard())
            task = await self._inbox.get()
            if task is None or self._stopping.is_set():
                self._pool.expect_no_more()
                return
            if self._attempt is not None:
                name = names.shard_name(task.shard.id, self._tools.fetch.output.shard_digits)
                await asyncio.get_running_loop().run_in_executor(
                    self._tools.files, attempts.adopt_spools, self._tools.storage, name
                )
            opened = OpenShard(self._tools, task)
            self._open[task.shard.id] = opened
            shards.create_task(self._run(opened))
            await opened.submitted.wait()

    async def _wait_for_room(self) -> None:
        wanting = asyncio.ensure_future(self._wants_rows())
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({wanting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            while not self._stopping.is_set() and self._is_full():
                self._room.clear()
                await self._room.wait()
        finally:
            wanting.cancel()
            stopping.cancel()

    async def _wants_rows(self) -> None:
        await self._pool.wants_rows()
        await self._tools.sources.wants_rows()

    def _is_full(self) -> bool:
        rows = sum(shard.shard.count for shard in self._open.values())
        return len(self._open) >= MAX_OPEN_SHARDS or rows >= MAX_OPEN_ROWS

    async def _run(self, opened: OpenShard) -> None:
        try:
            record = await opened.run()
            if record is not None:
                await self._send_tally()
                await self._send(ShardDone(opened.shard.id, record, self._attempt, opened.replaced))
            elif opened.is_given_back:
                await self._send(GivenBack(opened.shard.id))
        except TurboFetchError as error:
            where = "" if self._attempt is None else f" (on the machine {os.uname().nodename})"
            await self._send(JobError(type(error).__name__, f"{error}{where}"))
            self.stop()
        finally:
            opened.submitted.set()
            del self._open[opened.shard.id]
            self._room.set()

    async def _give_back(self) -> None:
        """Part with shards that another worker has more time for, as far as they are not begun."""
        while True:
            shard = await self._wanted_back.get()
            opened = self._open.get(shard)
            if opened is None or not opened.give_back():
                await self._send(Kept(shard))

    async def _suspend_on_stop(self, fetching: Sequence[asyncio.Task[None]]) -> None:
        await self._stopping.wait()
        for task in fetching:
            task.cancel()
        for opened in self._open.values():
            opened.suspend()

    async def _watch_parent(self) -> None:
        """Start no request while the parent is not heard of; end if that lasts, or if the network is gone for too long.

        The shards are left to workers that are in touch.
        """
        patience_s = self._tools.fetch.http.network_patience_s + CUT_OFF_S
        while True:
            await asyncio.sleep(LOOK_FOR_PARENT_EVERY_S)
            silent_s = monotonic() - self._heard_s
            self._pool.pause(silent_s >= CUT_OFF_S)
            outage = self._pool.network.outage()
            if silent_s >= GIVEN_UP_S or (outage is not None and outage[1] >= patience_s):
                self.stop()

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(TALLY_EVERY_S)
            await self._send_tally()

    async def _watch_lease(self) -> None:
        """Stop when another run has taken the output over: open shards are its to go on with."""
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            await asyncio.sleep(max(LEASE_EVERY_S, self._tools.storage.change_every_s / 4))
            try:
                await loop.run_in_executor(self._tools.files, self._tools.storage.check_fence)
            except OutputHeld as error:
                await self._send(JobError(type(error).__name__, str(error)))
                self.stop()
            except TurboFetchError:
                # Told by what has something to publish.
                continue

    async def _pass_on(self, next_message: Callable[[], Awaitable[Demand | DocumentNews]]) -> None:
        """Tell the parent what there is to say, again and again."""
        while True:
            await self._send(await next_message())
            await asyncio.sleep(DEMAND_EVERY_S)

    async def _send_tally(self) -> None:
        tally = self._tools.tally
        self._tools.tally = Tally()
        network = self._pool.network
        tally.answers, self._answers = network.answers - self._answers, network.answers
        tally.deferred = network.reasons()
        tally.deferred_domains = network.domains()
        tally.held = network.held
        tally.outage = network.outage()
        tally.answered, tally.has_witnesses = network.answered, network.has_witnesses
        sources = self._tools.sources
        tally.in_flight = self._pool.in_flight + sources.in_flight
        tally.waiting = self._pool.parked + self._pool.delayed + sources.waiting
        tally.open_shards = {shard: opened.rows_ended for shard, opened in self._open.items()}
        tally.to_score = sum(opened.to_score for opened in self._open.values())
        tally.pid = self._process.pid
        # What is only shown must not end a worker that has no file descriptor left.
        with contextlib.suppress(OSError, psutil.Error), self._process.oneshot():
            tally.memory_bytes = self._process.memory_info().rss
            times = self._process.cpu_times()
            tally.cpu_s = times.user + times.system
            tally.open_files = self._process.num_fds()
        await self._send(tally)

    async def _send(self, message: ToParent) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._sender, self._channel.send, message)
        except OSError:
            self.stop()


async def work(channel: Channel, setup: Setup, started: Callable[[Worker], None]) -> None:
    """Work until the parent has no more shards; `started` is called in the loop with the worker."""
    look_for(setup.landmarks)
    http = setup.fetch.http
    budget = budget_of(http)
    made_bytes = http.memory_mb * MADE_PER_BODY * 1_000_000
    transform = Transform(setup.fetch.image, setup.threads, made_bytes, setup.fetch.input.crops)
    with (
        AwaitedThreads(TRANSFORMS_AT_ONCE, "transform") as transforms,
        AwaitedThreads(2, "files") as files,
        SourcePools(setup.fetch, budget) as sources,
        _output(setup) as storage,
    ):
        documents = SharedDocuments()
        deny = DenyList.open(setup.fetch, storage)
        denied = None if deny is None else deny.objects_to
        async with Client(http, budget, documents=documents, proxies=setup.proxies, denied=denied) as client:
            limiter = LimiterClient(http) if setup.shares_limits else None
            paced = http.model_copy(update={"concurrency": requests_at_once(http)})
            pool = FetchPool(client, paced, limiter=limiter)
            router = Router(setup.fetch, deny)
            records = None if setup.fetch.input.warc is None else ArchiveRecords(http)
            tools = Tools(
                fetch=setup.fetch,
                storage=storage,
                pool=pool,
                sources=sources,
                router=router,
                budget=budget,
                transform=transform,
                transforms=transforms,
                files=files,
                deny=deny,
                records=records,
                is_aside=setup.attempt is not None,
            )
            worker = Worker(channel, tools, limiter, documents, setup.attempt)
            started(worker)
            with _scoring(setup.score, tools, worker):
                await worker.run()


@contextlib.contextmanager
def _scoring(job: ScoreJob | None, tools: Tools, worker: Worker) -> Iterator[None]:
    """Give the tools a way to the function of the user's while the context lasts, if there is one."""
    if job is None:
        yield
        return
    from turbo_fetch.score.scorer import Scorer

    with AwaitedThreads(job.spec.processes + 1, "scoring") as threads:
        tools.scorer = Scorer(job, lambda: worker.is_stopping)
        tools.scoring = threads
        # Made ready while the first images arrive.
        readiness = asyncio.ensure_future(worker.made_ready(tools.scorer, threads))
        try:
            yield
        finally:
            readiness.cancel()
            tools.scorer.close()


@contextlib.contextmanager
def _output(setup: Setup) -> Iterator[Storage]:
    """Open where the worker publishes to: the output, or its attempt at it."""
    output = setup.fetch.output
    storage = open_place(output.path, output.spool)
    if setup.attempt is None:
        yield behind_claim(storage, setup.claim)
        return
    with attempts.opened(storage, setup.attempt, output.spool) as attempt:
        yield attempt


def spare_garbage_collection() -> None:
    """Look for cyclic garbage rarely, in a process of our own: hardly anything here is any.

    Rows in the thousands live as long as their shard, and looking at them again and again cost a tenth of
    all time.
    """
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD)


@contextlib.contextmanager
def garbage_collection_spared() -> Iterator[None]:
    """Look for cyclic garbage rarely while the context lasts, in a process that is somebody else's."""
    before = gc.get_threshold()
    gc.set_threshold(GARBAGE_THRESHOLD)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def main() -> None:
    """Run a worker process on the socket whose descriptor is the first argument."""
    connection: Connection[ToParent, ToWorker] = Connection(int(sys.argv[1]))
    try:
        setup = connection.recv()
    except (EOFError, OSError):
        return
    assert isinstance(setup, Setup)
    spare_garbage_collection()
    try:
        uvloop.run(work(connection, setup, _stop_on_sigterm))
    except* (OSError, RuntimeError) as group:
        # It may come up anywhere, a module that is imported late included.
        reason = next(filter(None, map(shortage, _leaves(group))), None)
        if reason is None:
            raise
        sys.stderr.write(f"{reason}\n")
        os._exit(1)
    # The listening thread may still wait for the parent; everything is saved, so nothing waits for it.
    sys.stdout.flush()
    os._exit(0)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the errors of which a group is made."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error


def _stop_on_sigterm(worker: Worker) -> None:
    """End cleanly on a SIGTERM of our own. What reaches the whole group, as Ctrl-C does, is for the parent."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, worker.stop)
    for number in (signal.SIGINT, signal.SIGUSR1):
        loop.add_signal_handler(number, lambda: None)
