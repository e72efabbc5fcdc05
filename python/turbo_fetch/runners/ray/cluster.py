"""A Ray cluster as the runner sees it: the connection, and places for workers on its nodes."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, cast

from turbo_fetch.errors import ClusterError, Interrupted, MissingExtra
from turbo_fetch.runners.cpu_allocation import CORES_PER_WORKER, thread_count, worker_count
from turbo_fetch.runners.processes import SETTINGS
from turbo_fetch.runners.ray.worker import RayWorker
from turbo_fetch.runners.remote_errors import cause_in
from turbo_fetch.runners.waiting import Waiting
from turbo_fetch.spec import EngineSpec
from turbo_fetch.stop import handlers_kept

try:
    import grpc
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ModuleNotFoundError as error:
    raise MissingExtra("ray", "ray", 'engine.kind = "ray"') from error

CONNECT_S: Final = 8.0
INIT_S: Final = 60.0
SPREAD: Final = "SPREAD"


@dataclass(frozen=True, slots=True)
class Slot:
    """A place for one worker: how many cores it takes, and on which node, None for any."""

    threads: int
    node: str | None = None
    index: int = 0


@contextmanager
def connected(address: str | None, waiting: Waiting) -> Iterator[None]:
    """Be connected to the cluster while the context lasts; raises ClusterError if there is none, or Interrupted.

    A connection that the caller has already is used, and left as it is.
    """
    if ray.is_initialized():
        yield
        return
    wanted = address or "the one that RAY_ADDRESS or this machine tells"
    begin = partial(ray.init, address, logging_level=logging.ERROR, log_to_driver=False)
    try:
        _check_reachable(address or os.environ.get("RAY_ADDRESS", ""))
        with handlers_kept():
            # What is no Ray may keep Ray for a quarter of an hour, deaf to signals.
            waiting.run(begin, f"the Ray cluster at {wanted}", INIT_S)
    except Interrupted:
        raise
    # Ray raises ConnectionError, ValueError, RuntimeError and errors of grpc for what is one thing to a user.
    except Exception as error:
        reason, _, _ = cause_in(str(error) or type(error).__name__).partition(". ")
        raise ClusterError(
            f"no Ray cluster at {wanted}: {reason}; expected one that runs (`ray status`), and, if it uses "
            "tokens, its token in RAY_AUTH_TOKEN or ~/.ray/auth_token with RAY_AUTH_MODE=token"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raise OSError within seconds if no gRPC server is at an address; Ray itself would try for minutes."""
    at = address.removeprefix("ray://")
    host, colon, port = at.rpartition(":")
    if not (colon and port.isdigit()):
        return
    socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    if os.environ.get("RAY_USE_TLS", "0").lower() in {"1", "true"}:
        return
    with grpc.insecure_channel(at) as channel:
        try:
            grpc.channel_ready_future(channel).result(CONNECT_S)
        except grpc.FutureTimeoutError:
            raise ConnectionError(
                f"something listens there, but it did not answer as Ray does within {CONNECT_S:.0f} s"
            ) from None


def slots(engine: EngineSpec) -> list[Slot]:
    """Return the places for workers on the cluster as it is now.

    With `workers = "auto"` every node with cores has its own; else there are that many, wherever Ray finds room
    or an autoscaler makes it.
    """
    nodes = {node: cores for node, cores in alive_nodes().items() if cores >= 1}
    if engine.workers != "auto":
        threads = _threads_anywhere(engine, engine.workers, nodes)
        return [Slot(threads, index=index) for index in range(engine.workers)]
    return [
        Slot(min(thread_count(engine, cores), cores), node, index)
        for node, cores in sorted(nodes.items())
        for index in range(worker_count(engine, cores))
    ]


def shortage(engine: EngineSpec, started: int) -> str | None:
    """Say what workers wait for of which `started` wait for a place, None if it is their start alone."""
    nodes = alive_nodes()
    largest = max(nodes.values(), default=0)
    if largest < 1:
        return (
            "nodes with cores: the cluster has none, only a head or nodes without any (`ray start --address` on "
            "another machine adds one)"
        )
    if engine.workers == "auto":
        return None
    threads = _threads_anywhere(engine, engine.workers, nodes)
    if threads > largest:
        return (
            f"a node with {threads} cores for each worker (engine.threads): the largest has {largest}; lower "
            "engine.threads, or add larger nodes"
        )
    places = sum(cores // threads for cores in nodes.values())
    if places < engine.workers:
        return (
            f"{engine.workers - places} more places of {threads} cores: engine.workers is {engine.workers}, and the "
            f"cluster has room for {places}; the run goes on with those meanwhile"
        )
    return (
        f"{started} workers to start, each with {threads} cores, which other programs on the cluster may hold"
    )


def alive_nodes() -> dict[str, int]:
    """Return the ids of the nodes that are alive, with their cores."""
    return {node["NodeID"]: int(node["Resources"].get("CPU", 0)) for node in _nodes() if node["Alive"]}


def node_name(node: str | None) -> str:
    """Return the address of a node, whether or not it is alive."""
    return next((str(each["NodeManagerAddress"]) for each in _nodes() if each["NodeID"] == node), "unknown")


def cluster_resources() -> dict[str, float]:
    """Return what the cluster has in all, by the name of the resource."""
    return cast("dict[str, float]", ray.cluster_resources())  # type: ignore[no-untyped-call]


def _nodes() -> list[dict[str, Any]]:
    return cast("list[dict[str, Any]]", ray.nodes())  # type: ignore[no-untyped-call]


def start_worker(number: int, slot: Slot) -> Any:
    """Return the handle of a new actor; whether and when it starts shows when it is called."""
    actor = ray.remote(RayWorker).options(
        name=f"turbo-fetch worker {number}",
        num_cpus=slot.threads,
        max_restarts=0,
        runtime_env={"env_vars": SETTINGS},
        scheduling_strategy=SPREAD
        if slot.node is None
        else NodeAffinitySchedulingStrategy(slot.node, soft=False),
    )
    return actor.remote()


def _threads_anywhere(engine: EngineSpec, workers: int, nodes: dict[str, int]) -> int:
    if engine.threads != "auto":
        return engine.threads
    most = min(CORES_PER_WORKER, max(nodes.values(), default=1))
    return max(1, min(most, sum(nodes.values()) // workers))
