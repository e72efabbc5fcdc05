"""Which attention runs here: found out by trying it, not by asking for versions."""

from __future__ import annotations

from typing import Any, Literal

import torch

from turbo_fetch.dreambooth.families import Family
from turbo_fetch.errors import SpecError

Wish = Literal["auto", "xformers", "sdpa"]


def xformers_fault(device: torch.device) -> str | None:
    """Return why xformers cannot run forward and backward on `device`; None if it can."""
    try:
        from xformers.ops import memory_efficient_attention
    except ImportError as error:
        return f"it is not installed ({error})"
    query = torch.ones(1, 8, 2, 40, device=device, requires_grad=True)
    try:
        memory_efficient_attention(query, query, query).sum().backward()
    except (NotImplementedError, RuntimeError, ValueError) as error:
        if device.type == "cpu":
            return "it has no operator for processors"
        return str(error).strip().partition("\n")[0]
    return None


def set_attention(family: Family, wish: Wish, device: torch.device) -> str:
    """Use xformers where it runs, else scaled dot product attention; returns the line that says so.

    Raises SpecError if xformers was asked for and does not run.
    """
    if wish == "sdpa":
        return "attention: PyTorch's scaled dot product attention, as asked"
    fault = xformers_fault(device)
    if fault is None and hasattr(family.denoiser, "enable_xformers_memory_efficient_attention"):
        denoiser: Any = family.denoiser
        denoiser.enable_xformers_memory_efficient_attention()
        return "attention: xformers"
    if wish == "xformers":
        raise SpecError(
            f'train.attention = "xformers", but on {device.type} {fault}; expected "auto" or "sdpa"'
        )
    return f"attention: PyTorch's scaled dot product attention; not xformers, for {fault}"
