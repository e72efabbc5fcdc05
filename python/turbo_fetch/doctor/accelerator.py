"""What training would use here; imports torch, if it is installed, and so is called only when asked for."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final

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
    xformers: str | None = None
    """Why an installed xformers has no kernels of its own here."""


def probe() -> Accelerator:
    """Return what there is; never raises for want of a package or a device."""
    versions = versions_of(PACKAGES)
    try:
        import torch
    except ImportError:
        return Accelerator(None, "", 0, "fp32", "sdpa", False, versions)
    built = _xformers_build_fault() if "xformers" in versions else None
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        precision = best_precision(torch.device("cuda", 0))
        attention = "sdpa" if xformers_fault(torch.device("cuda", 0)) else "xformers"
        memory = int(properties.total_memory)
        return Accelerator(
            "cuda", properties.name, memory, precision, attention, _can_compile("cuda"), versions, built
        )
    if torch.backends.mps.is_available():
        return Accelerator("mps", "Apple GPU", 0, "fp32", "sdpa", False, versions)
    return Accelerator("cpu", "processor", 0, "fp32", "sdpa", _can_compile("cpu"), versions, built)


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


def xformers_fault(device: torch.device) -> str | None:
    """Return why xformers is not to be used on `device`; None if it runs there, by kernels of its own.

    Where its kernels are for another PyTorch or CUDA, it calls PyTorch's, which are there without it.
    """
    if device.type == "cpu":
        return "it has no operator for processors"
    fault = _xformers_build_fault()
    if fault is not None:
        return fault
    import torch
    from xformers.ops import memory_efficient_attention

    query = torch.ones(1, 8, 2, 40, device=device, requires_grad=True)
    try:
        memory_efficient_attention(query, query, query).sum().backward()
    except (NotImplementedError, RuntimeError, ValueError) as error:
        return str(error).strip().partition("\n")[0]
    return None


def _xformers_build_fault() -> str | None:
    """Return why xformers has no kernels of its own here, if it has none: its wheels are for one CUDA."""
    import torch

    # What it says of that itself is several lines, at its import.
    logging.getLogger("xformers").setLevel(logging.ERROR)
    try:
        from xformers import _cpp_lib
    except ImportError as error:
        return f"it is not installed ({error})"
    if _cpp_lib._cpp_library_load_exception is None:
        return None
    return (
        f"its kernels are for {_built_for(_cpp_lib)}, and here is PyTorch {torch.__version__} "
        f"with CUDA {torch.version.cuda}"
    )


def _built_for(library: Any) -> str:
    built = getattr(library._cpp_library_load_exception, "build_info", None)
    return "another PyTorch" if built is None else f"PyTorch {built.torch_version} with CUDA {_cuda(built)}"


def _cuda(built: Any) -> str:
    number = built.cuda_version
    return f"{number // 100}.{number % 100}" if isinstance(number, int) else "?"


def _can_compile(device: str) -> bool:
    import shutil
    from importlib.util import find_spec

    compiler = any(shutil.which(name) for name in ("cc", "gcc", "clang"))
    return compiler and (device == "cpu" or find_spec("triton") is not None)
