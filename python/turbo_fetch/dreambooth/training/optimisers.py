"""How weights follow the gradient: optimisers and schedules, made from the spec, and the running mean of weights.

Packages of optimisers are imported when asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Final

import torch
from diffusers.optimization import get_scheduler
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from turbo_fetch.errors import MissingExtra
from turbo_fetch.spec.train import OptimiserKind, OptimiserSpec, TrainSpec

_PACKAGES: Final[Mapping[OptimiserKind, tuple[str, str]]] = {
    "adamw8bit": ("bitsandbytes.optim", "AdamW8bit"),
    "lion": ("bitsandbytes.optim", "Lion"),
    "prodigy": ("prodigyopt", "Prodigy"),
}

_USUAL_RATE: Final = 1e-3
"""That of PyTorch's optimisers."""


def make_optimiser(spec: OptimiserSpec, groups: list[dict[str, Any]]) -> Any:
    """Return the optimiser of parameter groups, which bring their learning rates. Raises MissingExtra."""
    if spec.kind == "adamw":
        # Fused runs on processors too, at about half the cost of the loop.
        return torch.optim.AdamW(groups, betas=spec.betas, eps=spec.epsilon, fused=True)
    if spec.kind == "adafactor":
        from transformers.optimization import Adafactor

        return Adafactor(groups, scale_parameter=False, relative_step=False, warmup_init=False)
    kind = optimiser_class(spec.kind)
    if spec.kind == "lion":
        return kind(groups, betas=spec.betas)
    if spec.kind == "prodigy":
        return kind(
            groups, betas=spec.betas, eps=spec.epsilon, safeguard_warmup=True, use_bias_correction=True
        )
    return kind(groups, betas=spec.betas, eps=spec.epsilon)


def optimiser_class(kind: OptimiserKind) -> Any:
    """Return the class of an optimiser that comes with a package of its own, None for others. Raises MissingExtra."""
    if kind not in _PACKAGES:
        return None
    module, name = _PACKAGES[kind]
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        raise MissingExtra(package, "optimisers", f"train.optimiser.kind = {kind!r}") from error


def make_schedule(train: TrainSpec, optimiser: Any) -> Any:
    """Return the learning rate schedule, which counts optimiser steps."""
    schedule = train.schedule
    # The polynomial asks it how far it falls; Adafactor has none, and the rates are those of the groups.
    optimiser.defaults["lr"] = optimiser.defaults["lr"] or _USUAL_RATE
    return get_scheduler(
        schedule.kind,
        optimizer=optimiser,
        num_warmup_steps=schedule.warmup_steps,
        num_training_steps=train.steps,
        num_cycles=schedule.cycles,
        power=schedule.power,
    )


class Ema:
    """Means of parameters, in fp32 on their device, in the order in which they were given.

    Not diffusers' EMAModel: it rounds otherwise, so that earlier runs would not resume bit for bit, takes twice the
    time for an update, with `foreach` also room for all weights once more, and goes through main memory for samples.
    The arithmetic here is that of PyTorch's averaged models.
    """

    def __init__(self, parameters: Iterable[Tensor], decay: float) -> None:
        self._parameters = list(parameters)
        self.decay = decay
        self.steps = 0
        self.means = [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Move the means towards the parameters after an optimiser step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        average(self.means, [parameter.detach() for parameter in self._parameters], self.steps)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the parameters be the means while the context lasts."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def copy_to_weights(self) -> None:
        """Let the parameters be the means for good."""
        for parameter, mean in zip(self._parameters, self.means, strict=True):
            parameter.copy_(mean)

    @torch.no_grad()
    def _swap(self) -> None:
        for parameter, mean in zip(self._parameters, self.means, strict=True):
            kept = parameter.detach().clone()
            parameter.copy_(mean)
            mean.copy_(kept)

    def state_dict(self) -> dict[str, object]:
        """Return all state."""
        return {"steps": self.steps, "means": self.means}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, object]) -> None:
        """Take the state of an earlier run."""
        self.steps = int(str(state["steps"]))
        saved = state["means"]
        assert isinstance(saved, list)
        for mean, value in zip(self.means, saved, strict=True):
            mean.copy_(value)
