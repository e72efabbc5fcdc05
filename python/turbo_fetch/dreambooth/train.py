"""The `[train]` stage: look at everything, encode once, train with Lightning, export."""

from __future__ import annotations

import fcntl
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from turbo_fetch.dreambooth import checkpoint, families, record
from turbo_fetch.dreambooth.attention import set_attention
from turbo_fetch.dreambooth.caches import Captions, cached_captions, cached_latents
from turbo_fetch.dreambooth.callbacks import Onlooker, Progress, Samples, StopWhenAsked, progress_line
from turbo_fetch.dreambooth.collection import Collection, collect
from turbo_fetch.dreambooth.examples import Batches, Kind, Loader, Positions
from turbo_fetch.dreambooth.families import Family
from turbo_fetch.dreambooth.geometry import Size, buckets
from turbo_fetch.dreambooth.hardware import (
    LIGHTNING_PRECISION,
    device_of,
    memory_explained,
    place,
    precision_of,
)
from turbo_fetch.dreambooth.history import Entry, History, read_history
from turbo_fetch.dreambooth.learners import Learners, choose, spoken
from turbo_fetch.dreambooth.module import DreamBooth, Setup
from turbo_fetch.dreambooth.outcome import keep
from turbo_fetch.dreambooth.pictures import Picture, Unreadable
from turbo_fetch.dreambooth.preflight import doubts, word_doubts
from turbo_fetch.dreambooth.sequence import ExampleSequence
from turbo_fetch.dreambooth.sources import read_pictures, subject_place
from turbo_fetch.dreambooth.trackers import trackers
from turbo_fetch.errors import Interrupted, OutputExists, PicturesError, SpecError
from turbo_fetch.output_errors import explained
from turbo_fetch.runners.stop import StopRequest
from turbo_fetch.spec import Spec, TrainSpec

CACHE = "cache"
HISTORY = "history.jsonl"


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What came of a training stage."""

    path: str
    steps: int
    last: Entry | None
    was_complete: bool

    def text(self) -> str:
        """See stages.Report."""
        if self.was_complete or self.last is None:
            return f"train     {self.path}, which was complete already"
        return f"train     {self.path}: {progress_line(self.last, self.steps)}"


@dataclass(frozen=True)
class Material:
    """All pictures of a run, by what they are of."""

    subject: list[Picture]
    prior: list[Picture]
    validation: list[Picture]


def run(spec: Spec, watcher: Onlooker, stop: StopRequest) -> TrainReport:
    """Train what `[train]` says, from where an earlier run stopped; blocks until done.

    Raises SpecError, PicturesError, ModelError, OutputError, OutputExists, MissingExtra, TrainingFailed, or
    Interrupted, after which the same call goes on exactly where it stopped.
    """
    train = spec.train
    if train is None:
        raise SpecError("the spec has no table [train]")
    output = Path(train.output)
    with _locked(output), memory_explained(train), _quiet():
        material = _material(spec, train, output, watcher.note)
        essentials = record.essentials(train, _digests(material.subject), _digests(material.prior))
        before = record.check(output, essentials)
        if before.get("steps_done") == train.steps:
            return TrainReport(str(output), train.steps, None, was_complete=True)
        record.write(output, {"essentials": essentials, "steps_done": None})
        last = _train(spec, train, material, watcher, stop)
        record.write(output, {"essentials": essentials, "steps_done": train.steps})
    return TrainReport(str(output), train.steps, last, was_complete=False)


def _train(
    spec: Spec, train: TrainSpec, material: Material, watcher: Onlooker, stop: StopRequest
) -> Entry | None:
    output = Path(train.output)
    resume, step = _newest(output, watcher)
    device = device_of(train)
    precision = precision_of(train, device)
    family = families.load(train.base)
    # Captions may name a new token, so what learns is chosen before anything is encoded.
    learners = choose(family, train)
    place(family, device, precision)
    watcher.note(set_attention(family, train.attention, device))
    kinds = _kinds(train, family, material, watcher.note)
    captions = _captions(train, family, learners, list(kinds.values()))
    history = History(output / HISTORY, step)
    module = DreamBooth(Setup(train, family, learners, captions, history))
    if train.compile:
        family.denoiser.compile()
    trainer = _trainer(spec, train, LIGHTNING_PRECISION[precision], _callbacks(train, watcher, stop))
    world, rank = trainer.world_size, trainer.global_rank
    batches = Batches(kinds["subject"], kinds.get("prior"), rank, world)
    loader = Loader(batches, Positions(step * train.accumulation, train.steps * train.accumulation), _workers(train))
    validation = _validation_loader(kinds.get("validation"))
    try:
        trainer.fit(module, loader, validation, ckpt_path=resume)
    except Unreadable as error:
        raise PicturesError(str(error).strip().rpartition("\n")[2]) from error
    if trainer.global_step < train.steps:
        raise Interrupted(
            f"interrupted after step {trainer.global_step:,} of {train.steps:,}, which is saved in {output}. "
            "Run the same command again to go on"
        )
    history.flush()
    if trainer.is_global_zero:
        keep(module, output, watcher.note)
        checkpoint.prune(output, train.checkpoints_kept)
    return history.last


def _newest(output: Path, watcher: Onlooker) -> tuple[Path | None, int]:
    """Return the newest checkpoint that is not damaged, and its step."""
    found = checkpoint.checkpoints(output)
    if not found:
        return None, 0
    step, path = list(found.items())[-1]
    checkpoint.read_checkpoint(path)
    watcher.note(f"train: going on after step {step:,}")
    return path, step


def _material(spec: Spec, train: TrainSpec, output: Path, note: Callable[[str], None]) -> Material:
    """Read and check all pictures; says what is doubtful."""
    work = output / CACHE
    subject = read_pictures(subject_place(spec, train.subject, "train.subject"), "subject", work, note)
    for doubt in doubts(train, subject, _captions_of(train, subject)):
        note(doubt)
    prior, validation = [], []
    if spec.prior is not None:
        prior = read_pictures(_class_place(spec, train), "class", work, note)
    if train.validation is not None:
        validation = read_pictures(train.validation.pictures, "subject", work, note)
    return Material(subject, prior, validation)


def _class_place(spec: Spec, train: TrainSpec) -> str:
    from turbo_fetch.dreambooth.prior import class_pictures

    return str(class_pictures(spec))


def _captions_of(train: TrainSpec, pictures: Sequence[Picture], template: str | None = None) -> list[str]:
    own = train.pictures.captions == "auto"
    return [
        spoken(train, train.caption(picture.caption if own and picture.caption else template))
        for picture in pictures
    ]


def _digests(pictures: Sequence[Picture]) -> list[str]:
    return sorted(f"{picture.digest}:{picture.caption or ''}" for picture in pictures)


def _kinds(
    train: TrainSpec, family: Family, material: Material, note: Callable[[str], None]
) -> dict[str, Kind]:
    """Return the examples of each kind, encoded if they are to be cached."""
    tokenizer = next(iter(family.tokenizers.values()))
    captions = _captions_of(train, material.subject)
    for doubt in word_doubts(train, tokenizer, captions):
        note(doubt)
    sizes = _sizes(train, family)
    kinds = {"subject": _kind(train, family, collect(material.subject, captions, sizes, train.pictures, train.seed))}
    kinds["subject"] = _repeated(kinds["subject"], train)
    if material.prior:
        captions = _captions_of(train, material.prior, _class_prompt(train))
        collection = collect(material.prior, captions, sizes, train.pictures, train.seed + 1)
        kinds["prior"] = _kind(train, family, collection)
    if material.validation:
        captions = _captions_of(train, material.validation)
        plain = train.pictures.model_copy(update={"flip": False, "crop": "center", "caption_dropout": 0.0})
        collection = collect(material.validation, captions, sizes, plain, train.seed)
        kinds["validation"] = _kind(train, family, collection, batch_size=1)
    return kinds
