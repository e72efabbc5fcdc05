"""Workers all over a Ray cluster: warm actors, fed by the driver, replaced where they die, added where nodes join."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from signal import Signals
from textwrap import shorten
from typing import Any, Final

import ray
from ray.exceptions import RayActorError, RayError

from turbo_fetch import __version__
from turbo_fetch.errors import ClusterError
from turbo_fetch.runners.driver import Driver
from turbo_fetch.runners.messages import Stop, ToWorker
from turbo_fetch.runners.ray.cluster import (
    Slot,
    alive_nodes,
    connected,
    node_name,
    shortage,
    slots,
    start_worker,
)
from turbo_fetch.runners.ray.worker import Ended
from turbo_fetch.runners.remote_errors import cause_in
from turbo_fetch.runners.supervisor import TICK_S, Listener, Supervisor
from turbo_fetch.runners.waiting import Waiting
from turbo_fetch.shard.task import ShardTask
from turbo_fetch.spec import EngineSpec, FetchSpec
from turbo_fetch.stop import StopRequest

STOP_GRACE_S: Final = 15.0
CHECK_S: Final = 30.0
"""How long the workers that were started first may take to show that they can do the job, before those that have
shown it begin."""
LOOK_FOR_NODES_EVERY_S: Final = 5.0


@dataclass(slots=True)
class _Worker:
    number: int
    slot: Slot
    actor: Any
    poll: Any
    """The call under way: of `version`, then of `exchange` again and again; None between the two."""
    is_checked: bool = False
    outbox: list[ToWorker] = field(default_factory=list)


class RayRunner:
    """Runs shards in actors of a Ray cluster."""

    def __init__(self, fetch: FetchSpec, engine: EngineSpec, listener: Listener, stop: StopRequest) -> None:
        self._driver = Driver(fetch, listener)
        self._engine = engine
        self._stop = stop
        self._workers: dict[int, _Worker] = {}
        self._begun_s = 0.0
        self._looked_s = -math.inf
        self._next_number = 0
        self._waiting = Waiting(listener.note, stop)
        self._asked_s = -math.inf
        self._lost_nodes: set[str | None] = set()
        self._shortage = ""

    def run(self, tasks: Iterator[ShardTask]) -> None:
        """Run all shards.

        Raises ClusterError if there is no cluster, or it cannot do this job; Interrupted if stopped (all that
        arrived is saved), the worker's error if the job cannot go on, ShardFailed if workers keep dying without
        getting anywhere.
        """
        driver = self._driver
        supervisor = Supervisor(map(driver.portable, tasks), driver, driver.http, driver.documents)
        with connected(self._engine.address, self._waiting):
            self._driver.begin()
            try:
                self._supervise(supervisor)
            finally:
                for worker in self._workers.values():
                    ray.kill(worker.actor)
                supervisor.close()
                self._driver.close()
        self._driver.end(supervisor.failure, self._stop)

    def _supervise(self, supervisor: Supervisor) -> None:
        self._begun_s = time.monotonic()
        kill_at = math.inf
        stops_seen = 0
        while (self._workers or supervisor.has_work) and time.monotonic() < kill_at:
            if supervisor.has_work:
                self._fill(supervisor)
            self._start_checked()
            self._receive(supervisor)
            self._write(supervisor)
            if self._stop.count > stops_seen:
                stops_seen = self._stop.count
                self._stop.acknowledge()
                supervisor.stopping = True
                kill_at = 0.0 if stops_seen > 1 else self._ask_to_stop()
            if supervisor.failure is not None and kill_at == math.inf:
                kill_at = self._ask_to_stop()
            self._tell_shortage(supervisor)
            self._driver.tick()

    def _tell_shortage(self, supervisor: Supervisor) -> None:
        """Say what workers that do not start wait for."""
        unchecked = [worker for worker in self._workers.values() if not worker.is_checked]
        if supervisor.stopping or not supervisor.has_work or not (unchecked or not self._workers):
            self._waiting.over()
            return
        now_s = time.monotonic()
        if now_s - self._asked_s >= LOOK_FOR_NODES_EVERY_S:
            self._asked_s = now_s
            self._shortage = shortage(self._engine, len(unchecked)) or "workers to start on the cluster"
        self._waiting.tell(self._shortage)

    def _fill(self, supervisor: Supervisor) -> None:
        """Start a worker in every place that has none, nodes that joined since included."""
        now_s = time.monotonic()
        if now_s - self._looked_s < LOOK_FOR_NODES_EVERY_S and self._workers:
            return
        self._looked_s = now_s
        taken = {(worker.slot.node, worker.slot.index) for worker in self._workers.values()}
        for slot in slots(self._engine):
            if (slot.node, slot.index) not in taken:
                number = self._next_number
                self._next_number += 1
                actor = start_worker(number, slot)
                self._workers[number] = _Worker(number, slot, actor, actor.version.remote())
                supervisor.started(number)

    def _start_checked(self) -> None:
        """Let workers begin once all have shown that they can, or the slow ones have had their time."""
        waiting = [worker for worker in self._workers.values() if worker.poll is None]
        if not waiting:
            return
        is_late = time.monotonic() - self._begun_s > CHECK_S
        if is_late or all(worker.is_checked for worker in self._workers.values()):
            for worker in waiting:
                worker.actor.start.remote(self._driver.setup(worker.slot.threads))
                worker.poll = worker.actor.exchange.remote(worker.outbox)
                worker.outbox = []

    def _receive(self, supervisor: Supervisor) -> None:
        by_poll = {worker.poll: worker for worker in self._workers.values() if worker.poll is not None}
        if not by_poll:
            time.sleep(TICK_S)
            return
        ready, _ = ray.wait(list(by_poll), num_returns=1, timeout=TICK_S)
        for poll in ready:
            worker = by_poll[poll]
            try:
                said = ray.get(poll)
            except RayError as error:
                self._died(worker, error, supervisor)
            else:
                if worker.is_checked:
                    self._listen(worker, said, supervisor)
                else:
                    self._check(worker, said, supervisor)

    def _check(self, worker: _Worker, version: str, supervisor: Supervisor) -> None:
        worker.is_checked = True
        worker.poll = None
        if version != __version__:
            supervisor.failure = ClusterError(
                f"a node of the cluster has turbo-fetch {version}, the driver has {__version__}; expected the same "
                "everywhere: install it on the nodes, or let `turbo-fetch submit` bring it"
            )

    def _listen(self, worker: _Worker, said: list[Any], supervisor: Supervisor) -> None:
        for message in said:
            if isinstance(message, Ended):
                self._ended(worker, message.error, supervisor)
                return
            supervisor.take(worker.number, message)
        self._collect(supervisor)
        worker.poll = worker.actor.exchange.remote(worker.outbox)
        worker.outbox = []

    def _write(self, supervisor: Supervisor) -> None:
        """Send what has to be said to workers whose poll is under way, and may last."""
        self._collect(supervisor)
        for worker in self._workers.values():
            if worker.outbox and worker.is_checked and worker.poll is not None:
                worker.actor.tell.remote(worker.outbox)
                worker.outbox = []

    def _collect(self, supervisor: Supervisor) -> None:
        for number, message in supervisor.pending_messages():
            if number in self._workers:
                self._workers[number].outbox.append(message)

    def _died(self, worker: _Worker, error: RayError, supervisor: Supervisor) -> None:
        reason = _reason(error)
        if not worker.is_checked and isinstance(error, RayActorError) and error.actor_init_failed:
            supervisor.failure = ClusterError(
                f"a worker cannot start on the cluster: {reason}; expected turbo-fetch {__version__} and all that it "
                "needs on every node: install it there, or let `turbo-fetch submit` bring it"
            )
        self._ended(worker, f"died: {reason}", supervisor)

    def _ended(self, worker: _Worker, why: str | None, supervisor: Supervisor) -> None:
        del self._workers[worker.number]
        ray.kill(worker.actor)
        is_gone = worker.slot.node is not None and worker.slot.node not in alive_nodes()
        if is_gone and worker.slot.node not in self._lost_nodes:
            self._lost_nodes.add(worker.slot.node)
            others = sum(1 for other in self._workers.values() if other.slot.node == worker.slot.node)
            name = node_name(worker.slot.node)
            self._driver.note(
                f"node {name} left ({others + 1} of the workers); their shards are resumed elsewhere"
            )
        by = next((each for each in Signals if each.name in (why or "").split()), None)
        supervisor.ended(worker.number, "was on a node that left" if is_gone else why, not is_gone, by)
        self._looked_s = -math.inf

    def _ask_to_stop(self) -> float:
        for worker in list(self._workers.values()):
            if worker.poll is None or not worker.is_checked:
                ray.kill(worker.actor)
                del self._workers[worker.number]
            else:
                worker.outbox.append(Stop())
        return time.monotonic() + STOP_GRACE_S


def _reason(error: RayError) -> str:
    """Return what Ray knows of a worker's death: its error, or the first sentence, for the next ones are guesses."""
    if isinstance(error, RayActorError) and error.actor_init_failed:
        return cause_in(str(error))
    text = " ".join(str(error).split())
    _, _, detail = text.partition("Worker exit detail: ")
    sentence, _, _ = (detail or text).partition(". ")
    return shorten(sentence.removesuffix("."), 200)
