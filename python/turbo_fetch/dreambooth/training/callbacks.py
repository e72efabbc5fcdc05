"""What happens beside the steps: stopping, progress, samples."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image

from turbo_fetch.dreambooth.data.images import grid
from turbo_fetch.dreambooth.run_folder import BEST, CHECKPOINTS, checkpoint_name
from turbo_fetch.dreambooth.sampling.image_folder import write_own
from turbo_fetch.dreambooth.training.history import Entry
from turbo_fetch.dreambooth.training.module import DreamBooth
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.spec.train import TrainSpec
from turbo_fetch.storage import LocalStorage

REFRESH_EVERY_S: Final = 0.2
TELL_EVERY_S: Final = 1.0


class StopWhenAsked(Callback):
    """Saves a checkpoint and ends the run at the end of the step in which it is asked to stop."""

    def __init__(self, asked: Callable[[], bool], output: Path, accumulation: int) -> None:
        self._asked = asked
        self._output = output
        self._accumulation = accumulation
        self._on_terminate = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Take SIGTERM back from Lightning, which would end the process with code 0, maybe in mid-step."""
        if threading.current_thread() is threading.main_thread() and self._on_terminate is not None:
            signal.signal(signal.SIGTERM, self._on_terminate)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """See Lightning."""
        if (batch_idx + 1) % self._accumulation:
            return
        asked = self._asked()
        if trainer.world_size > 1:
            # Those that train together must end at the same step.
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
        if asked:
            trainer.save_checkpoint(self._output / CHECKPOINTS / checkpoint_name(trainer.global_step))
            trainer.should_stop = True


class Progress(Callback):
    """Tells the listener of the losses: every `log_every` steps, and at least about every second."""

    def __init__(self, listener: ProgressListener, train: TrainSpec) -> None:
        self._listener = listener
        self._train = train
        self._told_step = 0
        self._told_s = self._refreshed_s = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """See Lightning."""
        self._told_step = trainer.global_step
        self._listener.step(trainer.global_step, self._train.steps, "steps", {})

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """See Lightning."""
        now_s = time.monotonic()
        if now_s - self._refreshed_s >= REFRESH_EVERY_S:
            self._refreshed_s = now_s
            self._listener.refresh()
        is_due = trainer.global_step - self._told_step >= self._train.log_every
        if is_due or now_s - self._told_s >= TELL_EVERY_S:
            self._told_s = now_s
            self._tell(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """See Lightning."""
        self._tell(pl_module)

    def _tell(self, module: DreamBooth) -> None:
        module.setup_.history.flush()
        entry = module.setup_.history.last
        if entry is not None and entry["step"] > self._told_step:
            self._told_step = entry["step"]
            self._listener.step(entry["step"], self._train.steps, "steps", _values(entry))


def checkpoint_writers(train: TrainSpec, output: Path) -> list[Callback]:
    """Return what writes a checkpoint every `checkpoint_every` steps, and the best one by validation."""
    folder = output / CHECKPOINTS
    writers: list[Callback] = [
        ModelCheckpoint(
            folder,
            filename="step-{step:06d}",
            auto_insert_metric_name=False,
            monitor="step",
            mode="max",
            save_top_k=train.checkpoints_kept,
            every_n_train_steps=train.checkpoint_every,
            enable_version_counter=False,
        )
    ]
    if train.validation is not None and train.validation.keep_best:
        writers.append(
            ModelCheckpoint(
                folder,
                filename=BEST,
                monitor="validation_loss",
                mode="min",
                save_top_k=1,
                save_on_train_epoch_end=False,
                enable_version_counter=False,
            )
        )
    return writers


def _values(entry: Entry) -> dict[str, float]:
    return {name: value for name, value in entry.items() if name != "step"}


class Samples(Callback):
    """Makes a grid of images before the first step and every `sample_every` steps, always from the same noise."""

    def __init__(self, listener: ProgressListener, train: TrainSpec, folder: Path) -> None:
        self._listener = listener
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
        with _undisturbed(trainer, module):
            rows = [self._row(module, self._train.caption(prompt)) for prompt in prompts]
        sheet = grid(rows, gap=0)
        path = self._folder / f"step-{trainer.global_step:06d}.png"
        if not write_own(LocalStorage(self._folder), path.name, sheet):
            self._listener.note(f"train: {path} is not one that turbo-fetch made, and left as it is")
        self._listener.picture("samples", path, trainer.global_step)

    def _row(self, module: DreamBooth, prompt: str) -> list[Image.Image]:
        samples, family = self._train.samples, module.setup_.family
        images = []
        for number in range(samples.images):
            made = family.pipeline(
                family.whole_prompts([prompt]),
                generator=torch.Generator("cpu").manual_seed(samples.seed + number),
                num_inference_steps=samples.steps,
                guidance_scale=samples.guidance,
                height=self._train.resolution,
                width=self._train.resolution,
            )
            images.append(made.images[0])
        return images


@contextmanager
def _undisturbed(trainer: Trainer, module: DreamBooth) -> Iterator[None]:
    """Let the model sample: on one device, in evaluation mode, with the mean weights; restores all of it."""
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
