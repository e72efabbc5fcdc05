"""Where a run trains: Lightning's Trainer, made in one place for one process, several devices, or a cluster."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, cast

import torch
from lightning.fabric.utilities import cloud_io
from lightning.pytorch import Callback, Trainer

from turbo_fetch.dreambooth.checkpoint import WholeFiles
from turbo_fetch.dreambooth.hardware import LIGHTNING_PRECISION
from turbo_fetch.spec import TrainSpec

_LIGHTNING: Final = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")


@dataclass(frozen=True)
class Placement:
    """Strategy, devices and plugins of a Trainer."""

    strategy: Any = "auto"
    devices: Any = 1
    plugins: tuple[Any, ...] = ()
    finish: Any = field(default=lambda trainer: trainer)
    """Called with the Trainer before it is used, to return it as the place wants it."""


def here(train: TrainSpec) -> Placement:
    """Return the placement of a run on this machine."""
    strategy = "ddp" if train.strategy == "auto" and train.devices > 1 else train.strategy
    return Placement(strategy, train.devices)


def make_trainer(
    train: TrainSpec,
    device: torch.device,
    precision: str,
    callbacks: list[Callback],
    place: Placement,
) -> Trainer:
    """Return the Trainer of a run."""
    validation = train.validation
    trainer = Trainer(
        accelerator="gpu" if device.type == "cuda" else device.type,
        devices=place.devices,
        strategy=place.strategy,
        plugins=[WholeFiles(), *place.plugins],
        precision=cast(Any, LIGHTNING_PRECISION[precision]),
        max_steps=train.steps,
        accumulate_grad_batches=train.accumulation,
        gradient_clip_val=train.optimiser.clip or None,
        logger=False,
        callbacks=callbacks,
        check_val_every_n_epoch=None,
        val_check_interval=validation.every * train.accumulation if validation else None,
        limit_val_batches=1.0 if validation else 0,
        num_sanity_val_steps=0,
        # Batches are dealt to devices by their position.
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=train.output,
    )
    finished: Trainer = place.finish(trainer)
    return finished


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning from telling what a user of turbo-fetch can neither see nor change."""
    levels = {name: logging.getLogger(name).level for name in _LIGHTNING}
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings(), _local_folders():
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", category=UserWarning, module="torch.optim.lr_scheduler")
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


@contextmanager
def _local_folders() -> Iterator[None]:
    """Tell Lightning that folders are local, as outputs of training are.

    It would import the clients of all object stores that are installed, to see whether a folder is in one:
    a second and 45 MB.
    """
    asked = cloud_io._is_object_storage
    cloud_io._is_object_storage = lambda fs: False
    try:
        yield
    finally:
        cloud_io._is_object_storage = asked
