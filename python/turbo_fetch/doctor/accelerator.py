"""What training would use here; imports torch, if it is installed, and so is called only when asked for."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import torch

BF16_CAPABILITY: Final = (8, 0)
PACKAGES: Final = ("torch", "diffusers", "transformers", "peft", "xformers", "bitsandbytes")


@dataclass(frozen=True, slots=True)
class Accelerator:
    """The device of training and how it would be used; `device` is None if torch is not installed."""

    device: str | None
    name: str
    memory_bytes: int
    precision: str
    """bf16, fp16 or fp32."""
    attention: str
    """xformers or sdpa: scaled_dot_product_attention."""
    compile: bool
    """Whether torch.compile can work: it needs a C compiler, and Triton on CUDA."""
    versions: dict[str, str]


def probe() -> Accelerator:
    """Return what there is; never raises for want of a package or a device."""
    versions = versions_of(PACKAGES)
    try:
        import torch
    except ImportError:
        return Accelerator(None, "", 0, "fp32", "sdpa", False, versions)
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        precision = best_precision(torch.device("cuda", 0))
        attention = "xformers" if _xformers_works() else "sdpa"
        memory = int(properties.total_memory)
        return Accelerator(
            "cuda", properties.name, memory, precision, attention, _can_compile("cuda"), versions
        )
    if torch.backends.mps.is_available():
        return Accelerator("mps", "Apple GPU", 0, "fp32", "sdpa", False, versions)
    return Accelerator("cpu", "processor", 0, "fp32", "sdpa", _can_compile("cpu"), versions)


def best_precision(device: torch.device) -> str:
    """Return fp32, bf16 or fp16: the fastest type in which training is right on a device.

    By compute capability: PyTorch says of every card that it can hold bf16, but those before Ampere have no arithmetic
    for it, and are slower in it than in fp32.
    """
    if device.type != "cuda":
        return "fp32"
    import torch

    return "bf16" if torch.cuda.get_device_capability(device) >= BF16_CAPABILITY else "fp16"


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    found = {}
    for package in packages:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _xformers_works() -> bool:
    """Return whether xformers has an attention operator for this device: an installed one may have none."""
    try:
        import torch
        from xformers.ops import memory_efficient_attention  # type: ignore[import-untyped,unused-ignore]

        probe_input = torch.zeros(1, 1, 1, 8, device="cuda", dtype=torch.float16)
        memory_efficient_attention(probe_input, probe_input, probe_input)
    # A build for another CUDA fails in many ways, all of which mean no.
    except Exception:
        return False
    return True


def _can_compile(device: str) -> bool:
    import shutil
    from importlib.util import find_spec

    compiler = any(shutil.which(name) for name in ("cc", "gcc", "clang"))
    return compiler and (device == "cpu" or find_spec("triton") is not None)
