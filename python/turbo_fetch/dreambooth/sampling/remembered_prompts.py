"""Prompts of samples, encoded while the text encoders are there, for when they are not any more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from turbo_fetch.dreambooth.families import Family, is_empty


class _Reached(Exception):
    """The pipeline has encoded its prompts and calls the denoiser."""


class RememberedPrompts:
    """Stands for a pipeline's `encode_prompt`, whose results it keeps: the same call is answered without encoders.

    Whatever a pipeline encodes for a prompt, and for guidance beside it, it encodes before it calls its denoiser.
    """

    def __init__(self, family: Family) -> None:
        self._family = family
        self._encode: Callable[..., Any] = family.pipeline.encode_prompt
        self._kept: dict[str, Any] = {}
        family.pipeline.encode_prompt = self

    def __call__(self, *args: Any, **options: Any) -> Any:
        """See diffusers' `encode_prompt`."""
        given = [*args, *options.values()]
        device = next((value for value in given if isinstance(value, torch.device)), None)
        key = repr([value for value in given if value is not device])
        if key not in self._kept:
            encoded = self._encode(*args, **options)
            self._kept[key] = tree_map_only(Tensor, lambda tensor: tensor.cpu(), encoded)
        return tree_map_only(Tensor, lambda tensor: tensor.to(device), self._kept[key])

    @torch.no_grad()
    def keep(self, make: Callable[[], Any]) -> None:
        """Encode the prompts of images that `make` would make; the denoiser has no need to be there."""
        hook = self._family.denoiser.register_forward_pre_hook(_stop)
        try:
            with suppress(_Reached):
                make()
        finally:
            hook.remove()


def _stop(_module: nn.Module, _given: Any) -> None:
    raise _Reached


@contextmanager
def without_empty_parts(family: Family) -> Iterator[None]:
    """Have the pipeline not see components without weights, one of which it may take its device from."""
    empty = {name: module for name, module in family.modules() if is_empty(module)}
    # Past diffusers, which for None writes into the pipeline's config, for good, that it has no such component.
    seen = vars(family.pipeline)
    seen.update(dict.fromkeys(empty))
    try:
        yield
    finally:
        seen.update(empty)
