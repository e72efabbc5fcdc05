"""How weights follow the gradient: optimisers and schedules, made from the spec, and the running mean of weights.

Packages of optimisers are imported when asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from importlib import import_module
from typing import Any, Final, Protocol

import torch
from diffusers.optimization import get_scheduler
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from turbo_fetch.errors import MissingExtra
from turbo_fetch.spec.train import TrainSpec
from turbo_fetch.spec.train_tables import OptimiserKind, OptimiserSpec

_PACKAGES: Final[Mapping[OptimiserKind, tuple[str, str]]] = {
    "adamw8bit": ("bitsandbytes.optim", "AdamW8bit"),
    "lion": ("bitsandbytes.optim", "Lion"),
    "prodigy": ("prodigyopt", "Prodigy"),
    "prodigy_schedulefree": ("prodigyplus", "ProdigyPlusScheduleFree"),
}


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
    if spec.kind == "prodigy_schedulefree":
        # A rate for each group where there are several; of one it would print that there is one.
        made = kind(groups, betas=spec.betas, eps=spec.epsilon, split_groups=len(groups) > 1)
        _keep_types(made)
        return made
    return kind(groups, betas=spec.betas, eps=spec.epsilon)


def step_in_backward(optimiser: Any) -> None:
    """Have each parameter take its step as soon as its gradient is whole, which is then freed.

    The step of the optimiser after the backward pass finds no gradients.
    """
    for number, group in enumerate(optimiser.param_groups):
        for parameter in group["params"]:
            parameter.register_post_accumulate_grad_hook(partial(_step_alone, optimiser, number))


def _step_alone(optimiser: Any, number: int, parameter: Tensor) -> None:
    """Take the step of one parameter of a group. Those that find their rate, and so change a group, cannot."""
    groups = optimiser.param_groups
    optimiser.param_groups = [{**groups[number], "params": [parameter]}]
    try:
        optimiser.step()
    finally:
        optimiser.param_groups = groups
    parameter.grad = None


def _keep_types(optimiser: torch.optim.Optimizer) -> None:
    """Have state that is loaded stay of its type: PyTorch gives it that of the parameter, which rounds otherwise."""
    types: dict[int, dict[str, torch.dtype]] = {}

    def before(_optimiser: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
        for number, state in saved["state"].items():
            types[number] = {name: value.dtype for name, value in state.items() if isinstance(value, Tensor)}

    def after(loaded: torch.optim.Optimizer) -> None:
        parameters = [parameter for group in loaded.param_groups for parameter in group["params"]]
        for number, names in types.items():
            state = loaded.state[parameters[number]]
            state.update({name: state[name].to(dtype) for name, dtype in names.items()})

    optimiser.register_load_state_dict_pre_hook(before)
    optimiser.register_load_state_dict_post_hook(after)


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
    # From it the polynomial falls, to 1e-7; where groups have rates of their own, in proportion.
    optimiser.defaults["lr"] = train.rates[next(train.trained_groups)]
    return get_scheduler(
        schedule.kind,
        optimizer=optimiser,
        num_warmup_steps=schedule.warmup_steps,
        num_training_steps=train.steps,
        num_cycles=schedule.cycles,
        power=schedule.power,
    )


class WeightMean(Protocol):
    """Means of what is trained, which are used in its place."""

    def update(self) -> None:
        """Take note of an optimiser step."""

    def in_place(self) -> AbstractContextManager[None]:
        """Let the parameters be the means while the context lasts."""

    def copy_to_weights(self) -> None:
        """Let the parameters be the means for good."""

    def state_dict(self) -> dict[str, object]:
        """Return all state, the means among it."""

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Take the state of an earlier run."""


class ScheduleFree:
    """The mean that a schedule-free optimiser keeps, in the parameters themselves and its own state."""

    def __init__(self, parameters: Iterable[Tensor], optimiser: Any) -> None:
        self._parameters = list(parameters)
        self._optimiser = optimiser
        self._taken: list[Tensor] | None = None

    def update(self) -> None:
        """Do nothing: a step has moved it."""

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """See WeightMean. The parameters are afterwards what they were, to the last bit."""
        kept = [parameter.detach().clone() for parameter in self._parameters]
        self._optimiser.eval()
        try:
            yield
        finally:
            self._optimiser.train()
            _copy(kept, self._parameters)

    def copy_to_weights(self) -> None:
        """See WeightMean."""
        _copy(self._taken or self._means(), self._parameters)

    def state_dict(self) -> dict[str, object]:
        """See WeightMean."""
        return {"steps": 0, "means": self._means()}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """See WeightMean: an optimiser that resumes has its own."""
        assert isinstance(state["means"], list)
        self._taken = state["means"]

    def _means(self) -> list[Tensor]:
        with self.in_place():
            return [parameter.detach().clone() for parameter in self._parameters]


@torch.no_grad()
def _copy(values: Iterable[Tensor], parameters: Iterable[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)


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
        average = get_ema_multi_avg_fn(decay)
        average(self.means, [parameter.detach() for parameter in self._parameters], self.steps)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the parameters be the means while the context lasts."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def copy_to_weights(self) -> None:
        """Let the parameters be the means for good."""
        _copy(self.means, self._parameters)

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
