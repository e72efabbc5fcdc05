"""Which parts of a model compute in which type: some are right in fp32 or in their own alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import wraps
from typing import Any, Final

import torch
from torch import Tensor, nn

DTYPES: Final[Mapping[str, torch.dtype]] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
"""What the spec calls precisions."""


def kept_in_fp32(module: nn.Module, dtype: torch.dtype) -> frozenset[str]:
    """Return the parts of parameter names that say that one stays in fp32 where the module becomes `dtype`.

    The libraries of models know them and keep to them when they load; a T5, for one, overflows in fp16.
    """
    kept = {*(getattr(module, "_keep_in_fp32_modules_strict", None) or ())}
    of_transformers = hasattr(module, "_keep_in_fp32_modules_strict")
    if dtype == torch.float16 or not of_transformers:
        kept |= {*(getattr(module, "_keep_in_fp32_modules", None) or ())}
    return frozenset(kept) if dtype != torch.float32 else frozenset()


def round_parameters(module: nn.Module, dtype: torch.dtype) -> None:
    """Have the parameters that are not trained as `dtype`, but for those that stay in fp32."""
    kept = kept_in_fp32(module, dtype)
    for name, parameter in module.named_parameters():
        is_kept = parameter.requires_grad or kept.intersection(name.split("."))
        if parameter.is_floating_point() and not is_kept:
            parameter.data = parameter.data.to(dtype)


def convert(module: nn.Module, dtype: torch.dtype) -> None:
    """Have all of a module as `dtype`, but for what stays in fp32."""
    kept = kept_in_fp32(module, dtype)
    values = {p: p.data for name, p in module.named_parameters() if kept.intersection(name.split("."))}
    module.to(dtype)
    for parameter, value in values.items():
        parameter.data = value


def in_own_type(module: Any, method: str) -> None:
    """Let a method of a module compute in the type of its weights, whatever autocast it is called in."""
    run: Callable[..., Any] = getattr(module, method)

    @wraps(run)
    def in_type(*args: Any, **kwargs: Any) -> Any:
        def fitting(value: Any) -> Any:
            is_other = isinstance(value, Tensor) and value.is_floating_point()
            return value.to(module.dtype) if is_other else value

        kind = module.device.type
        known = torch.amp.is_autocast_available(kind)
        with torch.autocast(kind, enabled=False) if known else nullcontext():
            return run(*map(fitting, args), **{name: fitting(value) for name, value in kwargs.items()})

    setattr(module, method, in_type)
