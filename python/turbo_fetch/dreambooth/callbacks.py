"""What happens beside the steps: stopping, progress, trackers, samples."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from lightning.pytorch import Callback, Trainer
from PIL import Image

from turbo_fetch.dreambooth.checkpoint import FOLDER, checkpoint_name
from turbo_fetch.dreambooth.history import Entry
from turbo_fetch.dreambooth.learners import spoken
from turbo_fetch.dreambooth.module import DreamBooth
from turbo_fetch.output_errors import explained
from turbo_fetch.spec.train import TrainSpec

REFRESH_EVERY_S: Final = 0.2
NOTE_EVERY_S: Final = 10.0


class Onlooker(Protocol):
    """Who is told of the progress; see job.Watcher."""

    def note(self, text: str) -> None:
        """Take a line that a person should see."""

    def refresh(self) -> None:
        """Take the chance to redraw."""


class StopWhenAsked(Callback):
    """Saves a checkpoint and ends the run at the end of the step in which it is asked to stop."""

    def __init__(self, asked: Callable[[], bool], output: Path, accumulation: int) -> None:
        self._asked = asked
        self._output = output
        self._accumulation = accumulation

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """See Lightning."""
        if self._asked() and (batch_idx + 1) % self._accumulation == 0:
            trainer.save_checkpoint(self._output / FOLDER / checkpoint_name(trainer.global_step))
            trainer.should_stop = True


class Progress(Callback):
    """Tells of the losses: to the onlooker a few times a minute, to the trackers every `every` steps."""

    def __init__(self, onlooker: Onlooker, train: TrainSpec) -> None:
        self._onlooker = onlooker
        self._train = train
        self._told_step = 0
        self._started_s = self._noted_s = self._refreshed_s = time.monotonic()
        self._first_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """See Lightning."""
        self._first_step = self._told_step = trainer.global_step
        self._started_s = self._noted_s = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """See Lightning."""
        now_s = time.monotonic()
        if now_s - self._refreshed_s >= REFRESH_EVERY_S:
            self._refreshed_s = now_s
            self._onlooker.refresh()
        if trainer.global_step - self._told_step >= self._train.log_every:
            self._told_step = trainer.global_step
            self._tell(trainer, pl_module.setup_.history.flush())
        if now_s - self._noted_s >= NOTE_EVERY_S:
            self._noted_s = now_s
            pl_module.setup_.history.flush()
            self._note(pl_module.setup_.history.last, now_s)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """See Lightning."""
        self._tell(trainer, pl_module.setup_.history.flush())

    def _tell(self, trainer: Trainer, entries: list[Entry]) -> None:
        if not entries:
            return
        latest = {name: value for name, value in entries[-1].items() if name != "step"}
        for logger in trainer.loggers:
            logger.log_metrics({f"train/{name}": value for name, value in latest.items()}, entries[-1]["step"])

    def _note(self, entry: Entry | None, now_s: float) -> None:
        if entry is None:
            return
        per_s = (entry["step"] - self._first_step) / (now_s - self._started_s)
        self._onlooker.note(f"train: {progress_line(entry, self._train.steps)}, {per_s:.2f} steps/s")


def progress_line(entry: Entry, steps: int) -> str:
    """Return where a run is and both of its losses."""
    prior = f", class {entry['prior_loss']:.4f}" if "prior_loss" in entry else ""
    return f"step {entry['step']:,} of {steps:,}, loss {entry['loss']:.4f} (subject {entry['subject_loss']:.4f}{prior})"


class Samples(Callback):
    """Makes a grid of pictures before the first step and every `sample_every` steps, always from the same noise."""

    def __init__(self, train: TrainSpec, folder: Path) -> None:
        self._train = train
        self._folder = folder
        self._sampled_step = -1

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """See Lightning."""
        if trainer.global_step == 0:
            self._sample(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """See Lightning."""
        step = trainer.global_step
        if step % self._train.sample_every == 0 and step > self._sampled_step and step > 0:
            self._sample(trainer, pl_module)

    def _sample(self, trainer: Trainer, module: DreamBooth) -> None:
        self._sampled_step = trainer.global_step
        if not trainer.is_global_zero:
            return
        prompts = self._train.samples.prompts or (self._train.prompt,)
        rows = []
        with _undisturbed(trainer, module):
            for prompt in prompts:
                rows.append(self._row(module, spoken(self._train, self._train.caption(prompt))))
        sheet = _sheet(rows)
        path = self._folder / f"step-{trainer.global_step:06d}.png"
        with explained(str(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            sheet.save(path)
        for logger in trainer.loggers:
            _log_picture(logger, sheet, trainer.global_step)

    def _row(self, module: DreamBooth, prompt: str) -> list[Image.Image]:
        samples, pipeline = self._train.samples, module.setup_.family.pipeline
        pictures = []
        for number in range(samples.images):
            made = pipeline(
                prompt,
                generator=torch.Generator("cpu").manual_seed(samples.seed + number),
                num_inference_steps=samples.steps,
                guidance_scale=samples.guidance,
                height=self._train.resolution,
                width=self._train.resolution,
            )
            pictures.append(made.images[0])
        return pictures


@contextmanager
def _undisturbed(trainer: Trainer, module: DreamBooth) -> Iterator[None]:
    """Let the model sample: on one device, not learning, with the mean weights; training goes on as if not."""
    family, device = module.setup_.family, module.device
    training = {part: part.training for _, part in family.modules()}
    places = {part: next(part.parameters()).device for part in training}
    devices = [device.index or 0] if device.type == "cuda" else []
    ema = module.ema.in_place() if module.ema else nullcontext()
    with torch.random.fork_rng(devices), torch.no_grad(), ema, trainer.precision_plugin.forward_context():
        try:
            for part in training:
                part.to(device).eval()
            yield
        finally:
            for part, was_training in training.items():
                part.to(places[part]).train(was_training)


def _sheet(rows: list[list[Image.Image]]) -> Image.Image:
    width, height = rows[0][0].size
    sheet = Image.new("RGB", (width * max(map(len, rows)), height * len(rows)), "white")
    for line, row in enumerate(rows):
        for column, picture in enumerate(row):
            sheet.paste(picture, (column * width, line * height))
    return sheet


def _log_picture(logger: Any, picture: Image.Image, step: int) -> None:
    if hasattr(logger, "log_image"):
        logger.log_image("samples", [picture], step=step)
    elif hasattr(logger.experiment, "add_image"):
        import numpy as np

        logger.experiment.add_image("samples", np.asarray(picture), step, dataformats="HWC")
