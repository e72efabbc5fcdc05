"""What happens beside the steps: checkpoints, stopping, progress, samples."""

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
from PIL import Image

from turbo_fetch.dreambooth.data.images import grid
from turbo_fetch.dreambooth.families import Family, is_empty
from turbo_fetch.dreambooth.run_folder import CHECKPOINTS, checkpoint_name, prune
from turbo_fetch.dreambooth.sampling.image_folder import RunControl, write_own
from turbo_fetch.dreambooth.sampling.remembered_prompts import without_empty_parts
from turbo_fetch.dreambooth.training.history import Entry
from turbo_fetch.dreambooth.training.module import DreamBooth
from turbo_fetch.errors import Interrupted
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.spec.train import TrainSpec
from turbo_fetch.stop import StopRequest
from turbo_fetch.storage import LocalStorage

REFRESH_EVERY_S: Final = 0.2
TELL_EVERY_S: Final = 1.0


class AtStepEnd(Callback):
    """Does something at the end of an optimiser step, whose passes may be several batches."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """See Lightning."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.step_ended(trainer, pl_module)

    def step_ended(self, trainer: Trainer, module: DreamBooth) -> None:
        """Do it. Those that train together are all called."""
        raise NotImplementedError


class OwnSignals(Callback):
    """Takes SIGTERM back from Lightning, which would end the process with code 0, maybe in mid-step."""

    def __init__(self) -> None:
        self._on_terminate = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """See Lightning."""
        if threading.current_thread() is threading.main_thread() and self._on_terminate is not None:
            signal.signal(signal.SIGTERM, self._on_terminate)


class Checkpoints(AtStepEnd):
    """Saves all that a run resumes from, every `checkpoint_every` steps and after the last one."""

    def __init__(self, train: TrainSpec, begin: Callable[[], None]) -> None:
        """`begin` is called before anything is saved: from there on, the run is bound to what it was begun with."""
        self._train = train
        self._begin = begin
        self._saved_step = 0

    def step_ended(self, trainer: Trainer, module: DreamBooth) -> None:
        """See AtStepEnd."""
        step = trainer.global_step
        if step % self._train.checkpoint_every == 0 or step == self._train.steps:
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Save a checkpoint of the present step, unless there is one."""
        step, output = trainer.global_step, Path(self._train.output)
        if step == self._saved_step:
            return
        self.save_as(trainer, checkpoint_name(step))
        self._saved_step = step
        if trainer.is_global_zero:
            prune(output, self._train.checkpoints_kept)

    def save_as(self, trainer: Trainer, name: str) -> None:
        """Save a checkpoint of the present step under another name, by which it is not counted."""
        if trainer.is_global_zero:
            self._begin()
        trainer.save_checkpoint(Path(self._train.output) / CHECKPOINTS / name)


class StopWhenAsked(AtStepEnd):
    """Saves a checkpoint and ends the run at the end of the step in which it is asked to stop."""

    def __init__(self, stop: StopRequest, checkpoints: Checkpoints) -> None:
        self._stop = stop
        self._checkpoints = checkpoints

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Make no step if it was asked to stop before the first."""
        trainer.should_stop = is_stopped(trainer, self._stop)

    def step_ended(self, trainer: Trainer, module: DreamBooth) -> None:
        """See AtStepEnd."""
        if is_stopped(trainer, self._stop):
            self._checkpoints.save(trainer)
            trainer.should_stop = True


def is_stopped(trainer: Trainer, stop: StopRequest) -> bool:
    """Return whether any of those that train together is asked to stop: they must end at the same step."""
    asked = bool(stop)
    return asked if trainer.world_size == 1 else trainer.strategy.reduce_boolean_decision(asked, all=False)


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


def _values(entry: Entry) -> dict[str, float]:
    return {name: value for name, value in entry.items() if name != "step"}


class Samples(AtStepEnd):
    """Makes a grid of images before the first step and every `sample_every` steps, always from the same noise.

    A grid that is being made when the run is asked to stop is given up; the run that resumes makes it.
    """

    def __init__(self, control: RunControl, train: TrainSpec, folder: Path) -> None:
        self._control = control
        self._train = train
        self._folder = folder

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """See Lightning."""
        step = trainer.global_step
        if step == 0 or (self._is_due(step) and not self._path(step).exists()):
            self._sample(trainer, pl_module)

    def step_ended(self, trainer: Trainer, module: DreamBooth) -> None:
        """See AtStepEnd."""
        if self._is_due(trainer.global_step):
            self._sample(trainer, module)

    def _is_due(self, step: int) -> bool:
        return step % self._train.sample_every == 0

    def _path(self, step: int) -> Path:
        return self._folder / f"step-{step:06d}.png"

    def _sample(self, trainer: Trainer, module: DreamBooth) -> None:
        if not trainer.is_global_zero:
            return
        try:
            with _undisturbed(trainer, module):
                rows = [self._row(module.setup_.family, prompt) for prompt in sample_prompts(self._train)]
        except Interrupted:
            self._control.listener.note(f"train: the samples of step {trainer.global_step:,} are given up")
            return
        path = self._path(trainer.global_step)
        if not write_own(LocalStorage(path.parent), path.name, grid(rows, gap=0)):
            self._control.listener.note(f"train: {path} is not one that turbo-fetch made, and left as it is")
        self._control.listener.picture("samples", path, trainer.global_step)

    def _row(self, family: Family, prompt: str) -> list[Image.Image]:
        numbers = range(self._train.samples.images)
        return [sample(family, self._train, prompt, number, self._go_on) for number in numbers]

    def _go_on(self, _pipeline: Any, _step: int, _time: Any, values: dict[str, Any]) -> dict[str, Any]:
        """Raise Interrupted between two denoising steps."""
        self._control.listener.refresh()
        if self._control.stop:
            raise Interrupted("stopped while making samples")
        return values


def sample_prompts(train: TrainSpec) -> list[str]:
    """Return the prompts of the samples of a run, those that name the subject for each of several."""
    prompts = train.samples.prompts or (None,)
    named = [dict.fromkeys(each.caption(prompt) for each in train.each_subject) for prompt in prompts]
    return [prompt for group in named for prompt in group]


def sample(
    family: Family, train: TrainSpec, prompt: str, number: int, at_step_end: Callable[..., Any] | None = None
) -> Image.Image:
    """Return one of the samples of a prompt."""
    samples = train.samples
    made: Image.Image = family.pipeline(
        **family.call_arguments([prompt], samples.guidance),
        generator=torch.Generator("cpu").manual_seed(samples.seed + number),
        num_inference_steps=samples.steps,
        height=train.resolution,
        width=train.resolution,
        callback_on_step_end=at_step_end,
    ).images[0]
    return made


@contextmanager
def _undisturbed(trainer: Trainer, module: DreamBooth) -> Iterator[None]:
    """Let the model sample: on one device, in evaluation mode, with the mean weights; restores all of it."""
    family, device = module.setup_.family, module.device
    training = {part: part.training for _, part in family.modules() if not is_empty(part)}
    places = {part: next(part.parameters()).device for part in training}
    devices = [device.index or 0] if device.type == "cuda" else []
    ema = module.ema.in_place() if module.ema else nullcontext()
    with (
        torch.random.fork_rng(devices),
        torch.no_grad(),
        ema,
        without_empty_parts(family),
        trainer.precision_plugin.forward_context(),
    ):
        try:
            for part in training:
                part.to(device).eval()
            yield
        finally:
            for part, was_training in training.items():
                part.to(places[part]).train(was_training)
