"""The `[train]` stage: look at everything, encode once, train with Lightning, export."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from lightning.pytorch import Callback
from torch.utils.data import DataLoader

from turbo_fetch.dataset.lock import locked
from turbo_fetch.dataset.place import open_place
from turbo_fetch.dreambooth import checkpoint, families, record
from turbo_fetch.dreambooth.attention import set_attention
from turbo_fetch.dreambooth.callbacks import (
    Progress,
    Samples,
    StopWhenAsked,
    checkpoint_writers,
)
from turbo_fetch.dreambooth.companions import companions
from turbo_fetch.dreambooth.examples import Batches, Kind, Loader, Positions, Validation
from turbo_fetch.dreambooth.hardware import device_of, memory_explained, place, precision_of, put_aside
from turbo_fetch.dreambooth.history import Entry, History
from turbo_fetch.dreambooth.learners import choose
from turbo_fetch.dreambooth.material import Material, make_captions, make_kinds, read_material
from turbo_fetch.dreambooth.module import DreamBooth, Setup
from turbo_fetch.dreambooth.outcome import keep
from turbo_fetch.dreambooth.pictures import Unreadable
from turbo_fetch.dreambooth.placement import Placement, here, make_trainer, quiet
from turbo_fetch.dreambooth.train_report import HISTORY, TrainReport
from turbo_fetch.errors import Interrupted, PicturesError, SpecError
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.spec import Spec, TrainSpec
from turbo_fetch.stop import StopRequest

SAMPLES: Final = "samples"


def run(spec: Spec, listener: ProgressListener, stop: StopRequest) -> TrainReport:
    """Train what `[train]` says, from where an earlier run stopped; blocks until done.

    Raises SpecError, PicturesError, ModelError, OutputError, OutputExists, MissingExtra, TrainingFailed, or
    Interrupted, after which the same call goes on exactly where it stopped.
    """
    train = spec.train
    if train is None:
        raise SpecError("the spec has no table [train]")
    with locked(open_place(train.output)), quiet():
        if spec.engine.kind == "ray":
            from turbo_fetch.dreambooth.on_ray import train_on_ray

            return train_on_ray(spec, train, listener, stop)
        with companions(spec, train):
            return train_here(spec, train, listener, stop, here(train))


def train_here(
    spec: Spec, train: TrainSpec, listener: ProgressListener, stop: StopRequest, placement: Placement
) -> TrainReport:
    """Train in this process, maybe together with others; raises as `run`."""
    output = Path(train.output)
    with memory_explained(train):
        material = read_material(spec, train, listener.note)
        essentials = record.essentials(train, material.digests(train))
        before = record.check(output, essentials)
        if before.get("steps_done") == train.steps:
            return TrainReport(str(output), train.steps, None, was_complete=True)
        record.write(output, {"essentials": essentials, "steps_done": None})
        last, is_first = _train(spec, train, material, (listener, stop), placement)
        if is_first:
            record.write(output, {"essentials": essentials, "steps_done": train.steps})
    return TrainReport(str(output), train.steps, last, was_complete=False)


def _train(
    spec: Spec,
    train: TrainSpec,
    material: Material,
    onlookers: tuple[ProgressListener, StopRequest],
    placement: Placement,
) -> tuple[Entry | None, bool]:
    """Run the loop and keep the model; return the last entry of the history, and whether this is the first device."""
    listener, stop = onlookers
    output = Path(train.output)
    resume, step = _newest(output, listener)
    device = device_of(train)
    precision = precision_of(train, device)
    family = families.load(train.base)
    # The matrices of LoRA begin at random.
    checkpoint.seed_random_states(train.seed)
    # Captions may name a new token, so what learns is chosen before anything is encoded.
    learners = choose(family, train)
    place(family, device, precision, train)
    listener.note(set_attention(family, train.attention, device))
    kinds = make_kinds(train, family, material, listener.note)
    captions = make_captions(train, family, learners, kinds)
    if train.cache:
        put_aside(family, learners)
    trainer = make_trainer(train, device, precision, _callbacks(train, listener, stop), placement)
    history = History(output / HISTORY, step, writes=trainer.is_global_zero)
    module = DreamBooth(Setup(train, family, learners, captions, history))
    if train.compile:
        family.denoiser.compile()
    batches = Batches(kinds["subject"], kinds.get("prior"), trainer.global_rank, trainer.world_size)
    positions = Positions(step * train.accumulation, train.steps * train.accumulation)
    try:
        trainer.fit(
            module,
            Loader(batches, positions, _readers(train)),
            _validation(kinds),
            ckpt_path=resume,
            weights_only=True,
        )
    except Unreadable as error:
        raise PicturesError(str(error).strip().rpartition("\n")[2]) from error
    if trainer.global_step < train.steps:
        raise Interrupted(
            f"interrupted after step {trainer.global_step:,} of {train.steps:,}, which is saved in {output}. "
            "Run the same command again to go on"
        )
    history.flush()
    if trainer.is_global_zero:
        keep(module, output, listener.note)
        checkpoint.prune(output, train.checkpoints_kept)
    return history.last, trainer.is_global_zero


def _newest(output: Path, listener: ProgressListener) -> tuple[Path | None, int]:
    """Return the newest checkpoint that is not damaged, and its step."""
    found = checkpoint.checkpoints(output)
    if not found:
        return None, 0
    step, path = list(found.items())[-1]
    checkpoint.read_checkpoint(path)
    listener.note(f"train: going on after step {step:,}")
    return path, step


def _callbacks(train: TrainSpec, listener: ProgressListener, stop: StopRequest) -> list[Callback]:
    output = Path(train.output)
    samples = [Samples(listener, train, output / SAMPLES)] if train.sample_every else []
    return [
        StopWhenAsked(lambda: bool(stop), output, train.accumulation),
        Progress(listener, train),
        *samples,
        *checkpoint_writers(train, output),
    ]


def _readers(train: TrainSpec) -> int:
    """Return how many processes read pictures."""
    wanted = train.pictures.workers
    if wanted != "auto":
        return wanted
    return 0 if train.cache else min(4, max(0, (os.cpu_count() or 1) - 1))


def _validation(kinds: dict[str, Kind]) -> DataLoader[object] | None:
    kind = kinds.get("validation")
    return None if kind is None else DataLoader(Validation(kind), batch_size=None)
