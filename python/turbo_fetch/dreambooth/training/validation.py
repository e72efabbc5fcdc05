"""The loss over images that are not learned from, every so many steps, and the checkpoint of its lowest value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from turbo_fetch.dreambooth.data.examples import Validation
from turbo_fetch.dreambooth.run_folder import BEST, SUFFIX, best_checkpoint, read_checkpoint
from turbo_fetch.dreambooth.sampling.image_folder import RunControl
from turbo_fetch.dreambooth.training.callbacks import AtStepEnd, Checkpoints, is_stopped
from turbo_fetch.dreambooth.training.module import DreamBooth
from turbo_fetch.errors import OutputError
from turbo_fetch.spec.train import TrainSpec
from turbo_fetch.spec.train_tables import ValidationSpec


class Validations(AtStepEnd):
    """Measures the loss, always with the same noise, and keeps the best weights if that is wanted."""

    def __init__(
        self, train: TrainSpec, held_out: Validation, control: RunControl, checkpoints: Checkpoints
    ) -> None:
        assert train.validation is not None
        self._train = train
        self._options: ValidationSpec = train.validation
        self._held_out = held_out
        self._control = control
        self._checkpoints = checkpoints
        self._best: float | None = None
        self._loss = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Measure again at the step after which a run resumes: it may have been stopped while it did."""
        path = best_checkpoint(Path(self._train.output))
        self._best, why = _best_before(path, self._measured_on())
        if why and trainer.is_global_zero:
            self._control.listener.note(f"train: {why}; the best weights are looked for anew")
            path.unlink()
        if trainer.global_step and self._is_due(trainer.global_step):
            self.step_ended(trainer, pl_module)

    def step_ended(self, trainer: Trainer, module: DreamBooth) -> None:
        """See AtStepEnd."""
        if not self._is_due(trainer.global_step):
            return
        losses = self._measure(trainer, module)
        if losses is None:
            return
        loss = self._loss = losses["validation_loss"]
        self._control.listener.step(trainer.global_step, self._train.steps, "steps", losses)
        if self._options.keep_best and (self._best is None or loss < self._best):
            self._best = loss
            self._checkpoints.save_as(trainer, f"{BEST}{SUFFIX}")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Say of the best weights why they are."""
        checkpoint["validation"] = {"loss": self._loss, "measured_on": self._measured_on()}

    def _is_due(self, step: int) -> bool:
        return step % self._options.every == 0

    def _measured_on(self) -> list[str]:
        """Return what losses have to have in common to be compared."""
        sets = [concept.image_set for concept in self._held_out.concepts.values()]
        digests = [image.digest for images in sets for image in images.images]
        return [
            *digests,
            *(caption for images in sets for caption in images.captions),
            str(self._options.draws),
        ]

    def _measure(self, trainer: Trainer, module: DreamBooth) -> dict[str, float] | None:
        """Return the mean loss, and of several subjects that of each; None if it is asked to stop before that."""
        losses = []
        with _evaluating(trainer, module):
            for number in range(len(self._held_out)):
                draws = range(self._options.draws)
                batch = self._held_out[number]
                losses.append(torch.stack([module.held_out_loss(batch, draw) for draw in draws]).mean())
                self._control.listener.refresh()
                # After the last step nothing resumes that could measure it.
                if trainer.global_step < self._train.steps and is_stopped(trainer, self._control.stop):
                    return None
        of_each = {
            identifier: module.over_devices(torch.stack(own).mean())
            for identifier, own in self._by_subject(losses).items()
        }
        # As often as each comes in training, however many images of it are held out.
        weights = dict(zip(self._identifiers, self._train.weights, strict=True))
        total = sum(weights[identifier] for identifier in of_each)
        mean = sum(weights[identifier] * float(own) for identifier, own in of_each.items()) / total
        measured = {"validation_loss": mean}
        if len(of_each) > 1:
            measured |= {f"validation_loss_{identifier}": float(own) for identifier, own in of_each.items()}
        return measured

    @property
    def _identifiers(self) -> list[str]:
        return [each.identifier for each in self._train.each_subject]

    def _by_subject(self, losses: Sequence[Tensor]) -> dict[str, list[Tensor]]:
        found: dict[str, list[Tensor]] = {}
        for number, loss in enumerate(losses):
            found.setdefault(self._held_out.identifier(number), []).append(loss)
        return found


def _best_before(path: Path, measured_on: list[str]) -> tuple[float | None, str]:
    """Return the lowest loss of the run so far, and if there is one that cannot be compared, why."""
    if not path.is_file():
        return None, ""
    try:
        found = read_checkpoint(path).get("validation", {})
    except OutputError as error:
        return None, str(error)
    if found.get("measured_on") != measured_on:
        return None, "validation is on other images than before"
    return float(found["loss"]), ""


@contextmanager
def _evaluating(trainer: Trainer, module: DreamBooth) -> Iterator[None]:
    """Let the model predict as it will when it is used: with the mean weights, without dropout; restores all of it."""
    training = [part for part in module.modules() if part.training]
    ema = module.ema.in_place() if module.ema else nullcontext()
    with torch.no_grad(), ema, trainer.precision_plugin.forward_context():
        try:
            module.eval()
            yield
        finally:
            for part in training:
                part.training = True
