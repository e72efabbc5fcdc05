"""Training on a Ray cluster: the same loop in several processes, through Ray Train's Lightning integration.

The workers find everything by paths that all machines share. One that dies takes its group with it; the next one
resumes from the newest checkpoint.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
from contextlib import closing
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

from turbo_fetch import errors
from turbo_fetch.dreambooth.data.sources import class_images_place
from turbo_fetch.dreambooth.quiet import quiet
from turbo_fetch.dreambooth.run_folder import HISTORY, passes_of_step
from turbo_fetch.dreambooth.training.history import TrainReport, read_history
from turbo_fetch.dreambooth.training.train import train_here
from turbo_fetch.dreambooth.training.trainer import TrainerFactory
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.runners.ray.board import ASK_EVERY_S, FarStop, Relay, RemoteListener, new_board
from turbo_fetch.runners.ray.cluster import cluster_resources, connected
from turbo_fetch.runners.ray.stage import FRUITLESS_LOSSES, Needs, check_node, lit_beacon, needs_of
from turbo_fetch.runners.remote_errors import cause_in
from turbo_fetch.runners.waiting import Waiting
from turbo_fetch.spec import Spec, TrainSpec
from turbo_fetch.stop import StopRequest

import ray  # isort: skip - ray_cluster says what is missing without it
from ray.train import RunConfig, ScalingConfig  # isort: skip
from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment, prepare_trainer  # isort: skip
from ray.train.torch import TorchTrainer  # isort: skip

_FINAL: Final = (
    errors.SpecError,
    errors.PicturesError,
    errors.ModelError,
    errors.OutputExists,
    errors.InputError,
    errors.ClusterError,
)
"""Errors that another try would meet again."""


def train_on_ray(spec: Spec, train: TrainSpec, listener: ProgressListener, stop: StopRequest) -> TrainReport:
    """Train on the workers of `[engine]`; blocks until done. Raises ClusterError, and what `train.run` does.

    Of a group of workers that loses one the rest ends too; the next group goes on from the newest checkpoint, with as
    many workers as there is room for.
    """
    waiting = Waiting(listener.note, stop)
    with connected(spec.engine.address, waiting), lit_beacon(train.output) as beacon:
        board, fruitless, furthest = new_board(), 0, 0
        config = {"spec": _everywhere(spec), "board": board, "lit": beacon}
        while True:
            relay = Relay(board, listener, stop)
            error = _fitted(needs_of(spec), _workers(spec, train), config, relay, waiting)
            failure = ray.get(board.failure.remote())
            if failure is not None:
                raise errors.named(*failure)
            if error is None:
                break
            # Steps that are done again are none.
            fruitless = 0 if relay.furthest > furthest else fruitless + 1
            furthest = max(furthest, relay.furthest)
            if fruitless >= FRUITLESS_LOSSES:
                raise errors.TrainingFailed(
                    f"training on the cluster failed: {_what_failed(error)}"
                ) from error
            listener.note(
                f"train: a worker was lost ({_what_failed(error)}); all go on from the newest checkpoint"
            )
    shutil.rmtree(_storage(train), ignore_errors=True)
    last = list(read_history(Path(train.output) / HISTORY))[-1]
    return TrainReport(train.output, train.steps, last, was_complete=False)


def _fitted(
    needs: Needs, workers: int, config: dict[str, Any], relay: Relay, waiting: Waiting
) -> Exception | None:
    """Train with one group of workers; return why it ended too soon, if it did. Raises Interrupted."""
    scaling = ScalingConfig(
        num_workers=workers, use_gpu=needs.has_gpu, resources_per_worker={"CPU": needs.cores}
    )
    # Ray would look for what an earlier one of the same name has left.
    run_config = RunConfig(
        name=f"turbo-fetch-{token_hex(4)}", storage_path=str(_storage(config["spec"].train))
    )
    fitting = _Fitting(
        TorchTrainer(_work, train_loop_config=config, scaling_config=scaling, run_config=run_config)
    )
    while fitting.is_alive():
        fitting.join(ASK_EVERY_S)
        relay.pass_on()
        if not relay.has_begun and fitting.is_alive():
            waiting.wait(
                f"{needs.text()} on the cluster for each of {workers} worker{'s' if workers > 1 else ''}"
            )
    waiting.over()
    relay.pass_on()
    return fitting.error


class _Fitting(threading.Thread):
    """Ray's blocking call, in a thread of its own, so that the driver can watch and stop."""

    def __init__(self, trainer: TorchTrainer) -> None:
        super().__init__(name="ray train", daemon=True)
        self._trainer = trainer
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self._trainer.fit()
        # Ray wraps whatever happened on a worker; the driver tells it.
        except Exception as error:
            self.error = error


def _work(config: dict[str, Any]) -> None:
    """Train in one worker of the group."""
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    spec: Spec = config["spec"]
    board = config["board"]
    assert spec.train is not None
    place = ray.train.get_context()
    strategy, environment = RayDDPStrategy(), RayLightningEnvironment()  # type: ignore[no-untyped-call]
    factory = TrainerFactory(
        strategy, "auto", (environment,), place.get_local_rank(), place.get_world_size(), prepare_trainer
    )
    board.tell.remote("begun")
    listener = RemoteListener(board) if place.get_world_rank() == 0 else ProgressListener()
    try:
        check_node(config["lit"])
        with quiet(), closing(FarStop(board)) as stop:
            train_here(spec, spec.train, listener, stop, factory)
    except (errors.Interrupted, *_FINAL) as error:
        ray.get(board.fail.remote(type(error).__name__, str(error)))


def _workers(spec: Spec, train: TrainSpec) -> int:
    """Return how many workers train: where the cluster decides, a number that a step's batches can be divided by."""
    if spec.engine.workers != "auto":
        return spec.engine.workers
    gpus = int(cluster_resources().get("GPU", 0)) if needs_of(spec).has_gpu else 1
    passes = passes_of_step(Path(train.output), train)
    return gpus if passes is None else max(n for n in range(1, gpus + 1) if passes % n == 0)


def _everywhere(spec: Spec) -> Spec:
    """Return the spec with paths of this machine as all machines of the cluster know them."""
    train = spec.train
    assert train is not None
    changes: dict[str, Any] = {"base": _absolute(train.base)}
    if train.pictures.annotator:
        annotator = _absolute(train.pictures.annotator)
        changes["pictures"] = train.pictures.model_copy(update={"annotator": annotator})
    if train.subject:
        changes["subject"] = _absolute(train.subject)
    changes["subjects"] = tuple(
        each.model_copy(update={"images": _absolute(each.images)}) for each in train.subjects
    )
    output = str(Path(train.output).absolute())
    updated: dict[str, Any] = {"train": train.model_copy(update={**changes, "output": output})}
    if spec.prior is not None:
        # The stage before has made them.
        updated["prior"] = spec.prior.model_copy(update={"source": _absolute(str(class_images_place(spec)))})
    return spec.model_copy(update=updated)


def _storage(train: TrainSpec) -> Path:
    """Return where Ray Train keeps its own records of a run."""
    return Path(train.output).absolute() / "ray"


def _absolute(place: str) -> str:
    return str(Path(place).absolute()) if os.path.exists(place) else place  # noqa: PTH110 - also of hub ids


def _what_failed(error: Exception) -> str:
    """Return what happened on a worker, which Ray wraps several times, and what that often means."""
    reasons = [str(each) for each in (getattr(error, "worker_failures", None) or {}).values()]
    cause = cause_in("\n".join([str(error), *reasons]))
    if "gloo" in cause.lower() or "connectFullMesh" in cause:
        cause += (
            "; the workers do not reach each other: expected one network for all nodes, and GLOO_SOCKET_IFNAME set to "
            "its interface where a node has several"
        )
    return cause
