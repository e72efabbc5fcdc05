"""The training step, as Lightning runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from turbo_fetch.dreambooth.data.cache import Captions
from turbo_fetch.dreambooth.data.examples import Batch, Examples
from turbo_fetch.dreambooth.data.image_set import draws
from turbo_fetch.dreambooth.families import Family
from turbo_fetch.dreambooth.families.timesteps import draw, process_at
from turbo_fetch.dreambooth.families.trainable import Trainable
from turbo_fetch.dreambooth.run_folder import FORMAT
from turbo_fetch.dreambooth.training import objectives
from turbo_fetch.dreambooth.training.checkpoint import random_states, restore_random_states
from turbo_fetch.dreambooth.training.history import AFTER_OVERFLOW, History
from turbo_fetch.dreambooth.training.optimisers import (
    Ema,
    ScheduleFree,
    WeightMean,
    make_optimiser,
    make_schedule,
    step_in_backward,
)
from turbo_fetch.errors import TrainingFailed
from turbo_fetch.spec.train import TrainSpec


@dataclass(frozen=True)
class Setup:
    """What a run trains and with what; made by train.py."""

    train: TrainSpec
    family: Family
    trainable: Trainable
    captions: Captions
    history: History


class DreamBooth(LightningModule):
    """Learns a subject beside its class. The random numbers of a pass depend on seed and position alone."""

    # Checkpoints hold what is trained; the rest of the model is in the base.
    strict_loading = False

    def __init__(self, setup: Setup) -> None:
        super().__init__()
        self.setup_ = setup
        self.parts = nn.ModuleDict(setup.trainable.modules)
        self.process = setup.family.process()
        ema = setup.train.ema
        self.ema: WeightMean | None = Ema(self._learning(), ema.decay) if ema else None
        self.skipped_steps = 0
        """Steps of this process whose gradients overflowed in fp16: they count as steps, but nothing is learned."""
        self._is_skipped = False
        self._random: Mapping[str, Any] | None = None

    def _learning(self) -> list[Tensor]:
        """Return what is trained, always in the same order."""
        return [parameter for _, parameter in self.setup_.trainable.named()]

    def training_step(self, batch: Batch, _index: int) -> Tensor:
        """Return the loss of one pass."""
        losses = self.losses(batch, self._generator(3, self._place(batch)))
        self.setup_.history.add(losses)
        return losses.total

    def losses(self, batch: Batch, generator: torch.Generator) -> objectives.DualLoss:
        """Return the loss of a batch and its parts; both halves go through the model at once if they can."""
        errors, weights = zip(
            *(self._errors(examples, generator) for examples in batch.passes()), strict=True
        )
        known = [weight for weight in weights if weight is not None]
        return objectives.dual_loss(
            _joined(errors),
            _joined(known) if known else None,
            len(batch.subject.captions),
            self.setup_.train.prior_weight,
        )

    def _errors(self, examples: Examples, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Draw noise and a timestep for each example, let the model predict, and compare."""
        setup, loss = self.setup_, self.setup_.train.loss
        posterior = examples.posterior
        if posterior is None:
            assert examples.pixels is not None
            posterior = setup.family.encode_images(examples.pixels)
        latents = posterior.sample(generator)
        wanted = setup.train.timesteps
        process = process_at(setup.family, self.process, wanted, latents)
        timesteps = draw(process, len(latents), generator, wanted).to(latents.device)
        noise = torch.randn(latents.shape, generator=generator, device=generator.device).to(latents)
        if loss.noise_offset:
            shifts = torch.randn(latents.shape[:2], generator=generator, device=generator.device)
            noise = objectives.offset(noise, shifts.to(latents), loss.noise_offset)
        text = setup.captions.encode(examples.captions, latents.device)
        predicted = setup.family.predict(
            process.noisy(latents, noise, timesteps), process.model_times(timesteps), text, examples.sizes
        )
        errors = objectives.example_errors(
            predicted, process.target(latents, noise, timesteps), examples.mask
        )
        return errors, process.weights(timesteps, loss.snr_gamma)

    def held_out_loss(self, batch: Batch, draw: int) -> Tensor:
        """Return the loss of an image that is not learned from, with the noise of a draw: the same each time."""
        return self.losses(batch.to(self.device), self._generator(5, batch.position, draw)).subject

    def configure_optimizers(self) -> Any:
        """Return optimiser and schedule."""
        train = self.setup_.train
        optimiser = make_optimiser(train.optimiser, self.setup_.trainable.groups)
        if train.optimiser.kind == "prodigy_schedulefree":
            self.ema = ScheduleFree(self._learning(), optimiser)
        schedule = make_schedule(train, optimiser)
        if train.optimiser.fused_backward:
            step_in_backward(optimiser)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """Take an optimiser step, which ends one step of the history and of the running mean."""
        rate = float(optimizer.param_groups[0]["lr"])
        scale = self._gradient_scale()
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        # It is lowered where a gradient overflowed, and then the weights stay as they are.
        self._is_skipped = self._gradient_scale() < scale
        # Lightning does so after the next forward pass, which would need room for the gradients beside its activations.
        optimizer.zero_grad()
        self.setup_.history.end_step(rate, self.over_devices)
        if self._is_skipped:
            self.skipped_steps += 1
        elif self.ema is not None:
            self.ema.update()

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Move the schedule on, unless the step was skipped."""
        if not self._is_skipped:
            super().lr_scheduler_step(scheduler, metric)

    def _gradient_scale(self) -> float:
        """Return by what gradients are scaled, in fp16; otherwise 1."""
        return 1.0 if self._scaler is None else float(self._scaler.get_scale())

    @property
    def _scaler(self) -> Any:
        return getattr(self.trainer.precision_plugin, "scaler", None)

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Cut the norm of the gradient; Lightning refuses to with fused AdamW in half precision."""
        if not gradient_clip_val or "mixed" not in str(self.trainer.precision):
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        if self._scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            # Of others Lightning has done so, and a fused optimiser would do it after the norm is cut.
            self._scaler.unscale_(optimizer)
        learning = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(learning, gradient_clip_val)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Return the batch on the device."""
        return batch.to(device)

    def on_train_start(self) -> None:
        """Resume the random numbers of the checkpoint, after all that came before the first step."""
        if self._random is not None:
            restore_random_states(self._random)
            self._random = None

    def take(self, saved: Mapping[str, Any]) -> None:
        """Let the weights be those of a checkpoint."""
        self.load_state_dict(saved["state_dict"], strict=False)
        if self.ema is not None:
            self.ema.load_state_dict(saved["ema"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only what is trained, and add what Lightning does not know of. Raises TrainingFailed."""
        self.setup_.history.flush()
        checkpoint["state_dict"] = {
            name: value.detach() for name, value in self.named_parameters() if value.requires_grad
        }
        _check_finite(checkpoint["state_dict"], self.trainer.global_step)
        checkpoint["format"] = FORMAT
        checkpoint["random"] = random_states()
        if self.ema is not None:
            checkpoint["ema"] = self.ema.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take what `on_save_checkpoint` added, and count passes as this run does, on other devices maybe."""
        passes = checkpoint["global_step"] * self.setup_.train.accumulation
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        more = passes - progress["total"]["ready"]
        for counts in (progress["total"], progress["current"]):
            counts.update({name: count + more for name, count in counts.items()})
        self._random = checkpoint["random"]
        if self.ema is not None:
            self.ema.load_state_dict(checkpoint["ema"])

    def _place(self, batch: Batch) -> int:
        """Return the place of a batch in the run, all devices together: with n of them, each n-th is ours."""
        return batch.position * self.trainer.world_size + self.global_rank

    def over_devices(self, losses: Tensor) -> Tensor:
        """Return the mean of the losses of all devices."""
        if self.trainer.world_size == 1:
            return losses
        mean = self.trainer.strategy.reduce(losses, reduce_op="mean")
        assert isinstance(mean, Tensor)
        return mean

    def _generator(self, purpose: int, *position: int) -> torch.Generator:
        """Return the random numbers of a place in the run, the same on all devices: the processor makes them."""
        seed = draws(self.setup_.train.seed, purpose, *position).integers(1 << 62)
        return torch.Generator().manual_seed(int(seed))


def _check_finite(weights: Mapping[str, Tensor], step: int) -> None:
    """Raise TrainingFailed if a step made weights that are no numbers: the loss says so a step later."""
    are_finite = torch.stack([weight.isfinite().all() for weight in weights.values()]).tolist()
    for name, is_finite in zip(weights, are_finite, strict=True):
        if not is_finite:
            raise TrainingFailed(f"step {step} made {name} infinite or no number. {AFTER_OVERFLOW}")


def _joined(parts: Any) -> Tensor:
    tensors: list[Tensor] = list(parts)
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)
