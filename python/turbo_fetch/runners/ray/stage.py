"""A stage on a node of a Ray cluster that has what it needs, instead of on this machine."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from os import uname
from pathlib import Path
from typing import Any, Final

import ray
from ray.exceptions import RayError, RayTaskError

from turbo_fetch import __version__, errors
from turbo_fetch.dataset import names
from turbo_fetch.dataset.place import open_place
from turbo_fetch.errors import ClusterError, Interrupted, TurboFetchError
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.runners.ray.board import ASK_EVERY_S, FarStop, Relay, RemoteListener, new_board
from turbo_fetch.runners.ray.cluster import cluster_resources, connected
from turbo_fetch.runners.remote_errors import cause_in
from turbo_fetch.runners.waiting import Waiting
from turbo_fetch.spec import Spec
from turbo_fetch.spec.specfile import dump_spec, load_text
from turbo_fetch.stop import StopRequest

FRUITLESS_LOSSES: Final = 3
"""Workers that are lost in a row without a step done, after which another would be lost too."""
STOP_S: Final = 4.0
"""How long a stage may take to stop by itself; its images are whole files, so that it can bear to be killed."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a stage, or each worker of one, takes of a node."""

    cores: int
    has_gpu: bool

    def text(self) -> str:
        """Return it in words."""
        return f"{'a GPU and ' if self.has_gpu else ''}{self.cores} core{'s' if self.cores > 1 else ''}"


@dataclass(frozen=True, slots=True)
class Beacon:
    """A file that the driver has put into a place, and its version."""

    url: str
    token: str
    version: str = __version__


@dataclass(frozen=True, slots=True)
class _Failed:
    """What a stage returns that raised: a class of :mod:`turbo_fetch.errors`, and what it says."""

    kind: str
    message: str


def needs_of(spec: Spec) -> Needs:
    """Return what stages of a spec that train or use a model take: a GPU where there is one, unless `[train]` wants
    none."""
    wants_gpu = spec.train is None or spec.train.accelerator != "cpu"
    cores = 1 if spec.engine.threads == "auto" else spec.engine.threads
    return Needs(cores, wants_gpu and cluster_resources().get("GPU", 0) >= 1)


def run_on_ray(
    name: str, home: str, output: str, spec: Spec, listener: ProgressListener, stop: StopRequest
) -> Any:
    """Run the stage of the module `home` somewhere on the cluster, and return its report; blocks until done.

    `output` is a place that it writes to, which the other machine has to see too. A worker that is lost is replaced,
    which goes on with what is missing. Raises ClusterError, Interrupted, and what the stage does.
    """
    waiting = Waiting(listener.note, stop)
    with connected(spec.engine.address, waiting), lit_beacon(output) as beacon:
        board, needs = new_board(), needs_of(spec)
        begin = partial(_started, needs, name, home, _everywhere(spec), board, beacon)
        fruitless = 0
        while True:
            relay = Relay(board, listener, stop)
            try:
                result = _awaited(begin(), name, relay, waiting, needs)
            except RayTaskError as error:
                raise ClusterError(
                    f"the stage [{name}] failed on the cluster: {cause_in(str(error))}"
                ) from error
            except RayError as error:
                fruitless = 0 if relay.furthest else fruitless + 1
                reason = cause_in(str(error))
                if fruitless >= FRUITLESS_LOSSES:
                    raise ClusterError(
                        f"the stage [{name}] lost its worker {fruitless} times without getting anywhere: {reason}"
                    ) from error
                listener.note(f"{name}: its worker was lost ({reason}); another one goes on")
                continue
            if isinstance(result, _Failed):
                raise errors.named(result.kind, result.message)
            return result


def _started(needs: Needs, *arguments: Any) -> Any:
    task = ray.remote(_work).options(
        num_cpus=needs.cores, num_gpus=int(needs.has_gpu), max_retries=0, name=f"turbo-fetch {arguments[0]}"
    )
    return task.remote(*arguments)


def _awaited(call: Any, name: str, relay: Relay, waiting: Waiting, needs: Needs) -> Any:
    """Return the result of a call, telling what happens meanwhile. Raises RayError, Interrupted."""
    place = f"{needs.text()} on a node of the cluster, for the stage [{name}]"
    try:
        while True:
            ready, _ = ray.wait([call], timeout=ASK_EVERY_S)
            relay.pass_on()
            if ready:
                return ray.get(call)
            if not relay.has_begun:
                waiting.wait(place)
            asked_s = relay.asked_to_stop_s
            if asked_s is not None and time.monotonic() - asked_s > STOP_S:
                raise Interrupted(
                    f"interrupted in the stage [{name}]; what it had made stays. Run the same command again to resume"
                )
    finally:
        waiting.over()
        ray.cancel(call, force=True)


def _work(name: str, home: str, spec: Spec, board: Any, beacon: Beacon) -> Any:
    """Run a stage here, in a process of the cluster; return its report or what it raised."""
    board.tell.remote("begun")
    try:
        check_node(beacon)
        with closing(FarStop(board)) as stop:
            return import_module(home).run(spec, RemoteListener(board), stop)
    except ModuleNotFoundError as error:
        return _Failed(
            "ClusterError",
            f"the machine {uname().nodename} lacks the package {error.name!r}, which the stage [{name}] needs; "
            "expected turbo-fetch[train] on every node that trains or makes images",
        )
    except errors.MissingExtra as error:
        return _Failed("ClusterError", f"on the machine {uname().nodename}: {error}")
    except TurboFetchError as error:
        return _Failed(type(error).__name__, str(error))


def check_node(beacon: Beacon) -> None:
    """Raise ClusterError if this machine has another turbo-fetch, or sees another output, than the driver."""
    machine = uname().nodename
    if beacon.version != __version__:
        raise ClusterError(
            f"the machine {machine} has turbo-fetch {__version__}, the driver has {beacon.version}; expected the same "
            "everywhere"
        )
    place = open_place(beacon.url)
    if not place.exists(names.STAGE_BEACON) or place.read_bytes(names.STAGE_BEACON).decode() != beacon.token:
        raise ClusterError(
            f"the machine {machine} does not see {beacon.url} as the driver does; expected an object store, or a "
            "folder that all machines share"
        )


@contextmanager
def lit_beacon(output: str) -> Iterator[Beacon]:
    """Put a file into the output while the context lasts, by which another machine tells that it sees the same one."""
    place, token = open_place(output), secrets.token_hex(8)
    place.write_bytes(names.STAGE_BEACON, token.encode())
    try:
        yield Beacon(place.url, token)
    finally:
        place.delete(names.STAGE_BEACON)


def _everywhere(spec: Spec) -> Spec:
    """Return the spec with relative paths made absolute, so that they mean the same on all machines."""
    return load_text(dump_spec(spec, root=Path.cwd()).encode(), "spec")
