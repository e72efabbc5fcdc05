"""A running mean of the weights that learn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class Ema:
    """Means of parameters, in fp32 on their device, in the order in which they were given."""

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
        torch._foreach_lerp_(self.means, [p.detach() for p in self._parameters], 1 - decay)

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
