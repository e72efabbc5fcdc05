"""Training on a Ray cluster: the same loop in several processes, through Ray Train's Lightning integration.

The workers find everything by paths that all machines share. One that dies takes its group with it; Ray starts the
group again, which resumes from the newest checkpoint.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from turbo_fetch import errors
from turbo_fetch.dreambooth.data.sources import class_images_place
from turbo_fetch.dreambooth.quiet import quiet
from turbo_fetch.dreambooth.run_folder import HISTORY
from turbo_fetch.dreambooth.training.history import TrainReport, read_history
from turbo_fetch.dreambooth.training.train import train_here
from turbo_fetch.dreambooth.training.trainer import TrainerFactory
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.runners.ray.cluster import cluster_resources, connected
from turbo_fetch.runners.remote_errors import cause_in
from turbo_fetch.runners.waiting import Waiting
from turbo_fetch.spec import EngineSpec, Spec, TrainSpec
from turbo_fetch.stop import StopRequest

import ray  # isort: skip - ray_cluster says what is missing without it
from ray.train import FailureConfig, RunConfig, ScalingConfig  # isort: skip
from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment, prepare_trainer  # isort: skip
from ray.train.torch import TorchTrainer  # isort: skip

RESTARTS: Final = 3
ASK_EVERY_S: Final = 0.5
_FINAL: Final = (
    errors.SpecError,
    errors.PicturesError,
    errors.ModelError,
    errors.OutputExists,
    errors.InputError,
)
"""Errors that another try would meet again."""


def train_on_ray(spec: Spec, train: TrainSpec, listener: ProgressListener, stop: StopRequest) -> TrainReport:
    """Train on the workers of `[engine]`; blocks until done. Raises ClusterError, and what `train.run` does."""
    with connected(spec.engine.address, Waiting(listener.note, stop)):
        board: Any = ray.remote(Board).options(num_cpus=0).remote()
        trainer = TorchTrainer(
            _work,
            train_loop_config={
                "spec": _everywhere(spec),
                "board": board,
            },
            scaling_config=_scaling(spec.engine, train),
            run_config=RunConfig(
                name="turbo-fetch",
                storage_path=str(_storage(train)),
                failure_config=FailureConfig(max_failures=RESTARTS),
            ),
        )
        fitting = _Fitting(trainer)
        while fitting.is_alive():
            fitting.join(ASK_EVERY_S)
            _relay(board, listener, stop)
        _relay(board, listener, stop)
        failure = ray.get(board.failure.remote())
    if failure is not None:
        raise getattr(errors, failure[0])(failure[1])
    if fitting.error is not None:
        raise errors.TrainingFailed(
            f"training on the cluster failed: {_what_failed(fitting.error)}"
        ) from fitting.error
    shutil.rmtree(_storage(train), ignore_errors=True)
    last = list(read_history(Path(train.output) / HISTORY))[-1]
    return TrainReport(train.output, train.steps, last, was_complete=False)


class Board:
    """An actor on which the workers write how they are and the driver whether to stop."""

    def __init__(self) -> None:
        self._stop = False
        self._failure: tuple[str, str] | None = None
        self._notes: list[str] = []
        self._steps: list[tuple[int, int, dict[str, float]]] = []
        self._images: list[tuple[str, str, int]] = []

    def ask_to_stop(self) -> None:
        """Have the workers save and end."""
        self._stop = True

    def is_stopping(self) -> bool:
        """Whether the workers are to save and end."""
        return self._stop

    def note(self, text: str) -> None:
        """Take a line for a person."""
        self._notes.append(text)

    def step(self, done: int, total: int, values: dict[str, float]) -> None:
        """Take how far the run is."""
        self._steps.append((done, total, values))

    def picture(self, name: str, path: str, step: int) -> None:
        """Take an image that is in the output, which the driver reaches too."""
        self._images.append((name, path, step))

    def fail(self, kind: str, message: str) -> None:
        """Take an error that ends the run; `kind` names a class of :mod:`turbo_fetch.errors`."""
        self._failure = self._failure or (kind, message)

    def failure(self) -> tuple[str, str] | None:
        """Return the error that ended the run."""
        return self._failure

    def news(
        self,
    ) -> tuple[list[str], list[tuple[int, int, dict[str, float]]], list[tuple[str, str, int]]]:
        """Return the notes, steps and images since the last call."""
        news = self._notes, self._steps, self._images
        self._notes, self._steps, self._images = [], [], []
        return news


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


class _RemoteListener(ProgressListener):
    """Passes on to the board; only the first worker has one."""

    def __init__(self, board: Any) -> None:
        self._board = board

    def note(self, text: str) -> None:
        self._board.note.remote(text)

    def step(self, done: int, total: int, unit: str, values: Mapping[str, float]) -> None:
        self._board.step.remote(done, total, dict(values))

    def picture(self, name: str, path: Path, step: int) -> None:
        self._board.picture.remote(name, str(path), step)


class _FarStop(StopRequest):
    """Asks the board now and then whether to stop."""

    def __init__(self, board: Any) -> None:
        super().__init__()
        self._board = board
        self._asked_s = 0.0

    def __bool__(self) -> bool:
        if not self.count and time.monotonic() - self._asked_s >= ASK_EVERY_S:
            self._asked_s = time.monotonic()
            self.count = int(ray.get(self._board.is_stopping.remote()))
        return self.count > 0


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
    listener = _RemoteListener(board) if place.get_world_rank() == 0 else ProgressListener()
    try:
        with quiet(), closing(_FarStop(board)) as stop:
            train_here(spec, spec.train, listener, stop, factory)
    except (errors.Interrupted, *_FINAL) as error:
        ray.get(board.fail.remote(type(error).__name__, str(error)))


def _relay(board: Any, listener: ProgressListener, stop: StopRequest) -> None:
    """Pass on the news of the workers, and a request to stop to them."""
    if stop:
        board.ask_to_stop.remote()
    notes, steps, images = ray.get(board.news.remote())
    for note in notes:
        listener.note(note)
    for done, total, values in steps:
        listener.step(done, total, "steps", values)
    for name, path, step in images:
        listener.picture(name, Path(path), step)
    listener.refresh()


def _scaling(engine: EngineSpec, train: TrainSpec) -> ScalingConfig:
    gpus = int(cluster_resources().get("GPU", 0))
    uses_gpu = train.accelerator != "cpu" and gpus > 0
    workers = (max(1, gpus) if uses_gpu else 1) if engine.workers == "auto" else engine.workers
    threads = 1 if engine.threads == "auto" else engine.threads
    return ScalingConfig(num_workers=workers, use_gpu=uses_gpu, resources_per_worker={"CPU": threads})


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
