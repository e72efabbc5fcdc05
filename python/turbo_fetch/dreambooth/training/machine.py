"""What of a machine a run uses: the device, the precision, how fp32 is computed, and what computes attention."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal

import torch
from diffusers.models.attention_dispatch import attention_backend

from turbo_fetch.doctor.accelerator import best_precision, xformers_fault
from turbo_fetch.dreambooth.families import Family
from turbo_fetch.errors import SpecError
from turbo_fetch.spec.train import TrainSpec

Attention = Literal["auto", "xformers", "sdpa"]

TF32_CAPABILITY: Final = (8, 0)


def device_of(train: TrainSpec, local_rank: int) -> torch.device:
    """Return the device of this process, one of those of its machine. Raises SpecError if there is none of the kind."""
    kind = train.accelerator
    if kind in {"auto", "gpu"} and torch.cuda.is_available():
        if train.devices > torch.cuda.device_count():
            raise SpecError(
                f"train.devices = {train.devices}: this machine has {torch.cuda.device_count()} GPU(s)"
            )
        return torch.device("cuda", local_rank)
    if kind in {"auto", "mps"} and torch.backends.mps.is_available():
        return torch.device("mps")
    if kind in {"auto", "cpu"}:
        return torch.device("cpu")
    raise SpecError(f'train.accelerator = "{kind}": this machine has none; expected "auto" or "cpu"')


def check_block_swap_device(train: TrainSpec, device: torch.device) -> None:
    """Refuse to swap blocks where there is no GPU to spare. Raises SpecError."""
    if train.blocks_to_swap and device.type != "cuda":
        raise SpecError(
            f"train.blocks_to_swap = {train.blocks_to_swap} keeps blocks out of the memory of an NVIDIA GPU, and this "
            "device is none; expected 0"
        )


def precision_of(train: TrainSpec, device: torch.device) -> str:
    """Return fp32, bf16 or fp16. Raises SpecError if the device cannot do what is asked for."""
    if train.precision == "fp16" and device.type == "cpu":
        raise SpecError(
            'train.precision = "fp16" does not run on processors; expected "auto", "fp32" or "bf16"'
        )
    if train.precision != "auto":
        return train.precision
    precision = best_precision(device)
    if precision == "fp16" and train.optimiser.fused_backward:
        raise SpecError(
            'train.optimiser.fused_backward = true, but train.precision = "auto" is fp16 on this device, which scales '
            'the gradients and looks at all before a step; expected train.precision = "fp32", or false'
        )
    return precision


def uses_tf32(train: TrainSpec, device: torch.device, precision: str) -> bool:
    """Return whether fp32 is computed as TF32. Raises SpecError if that is asked for and the device has none."""
    has_it = device.type == "cuda" and torch.cuda.get_device_capability(device) >= TF32_CAPABILITY
    if train.tf32 is True and not has_it:
        raise SpecError(
            "train.tf32 = true, but this device has no TF32, which NVIDIA GPUs have since Ampere (compute capability "
            '8.0); expected "auto"'
        )
    return has_it and (precision != "fp32" if train.tf32 == "auto" else train.tf32)


@contextmanager
def kernels_chosen(train: TrainSpec, device: torch.device, precision: str) -> Iterator[None]:
    """Have PyTorch compute fp32 and choose kernels as the spec says while the context lasts. Raises SpecError."""
    if train.cudnn_benchmark and device.type != "cuda":
        raise SpecError(
            "train.cudnn_benchmark = true is for NVIDIA GPUs, and this device is none; expected false"
        )
    tf32, cudnn = uses_tf32(train, device, precision), torch.backends.cudnn
    # Lightning and the compiler read these, and fail where PyTorch's newer settings (`fp32_precision`) say otherwise.
    before = torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    cudnn.allow_tf32, cudnn.benchmark = tf32, train.cudnn_benchmark
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        cudnn.allow_tf32, cudnn.benchmark = before[1:]


def use_xformers(denoiser: Any) -> None:
    """Have a denoiser attend with xformers.

    Newer transformers ask for a kernel by its name, and would lose the positions with diffusers' own processors of it.
    Naming one also makes it every other model's of this process, also on a device where it does not run: undone here.
    """
    processors = (getattr(module, "processor", None) for module in denoiser.modules())
    if any(hasattr(processor, "_attention_backend") for processor in processors):
        with attention_backend():
            denoiser.set_attention_backend("xformers")
    else:
        denoiser.enable_xformers_memory_efficient_attention()


def set_attention(family: Family, wish: Attention, device: torch.device) -> str:
    """Use xformers where it runs, else scaled dot product attention; returns the line that says so.

    Raises SpecError if xformers was asked for and does not run.
    """
    uses_it, line = attention_on(device, wish)
    if uses_it:
        use_xformers(family.denoiser)
    return line


def attention_on(device: torch.device, wish: Attention) -> tuple[bool, str]:
    """Return whether a device attends with xformers, and the line that says so; raises as `set_attention`."""
    if wish == "sdpa":
        return False, "attention: PyTorch's scaled dot product attention, as asked"
    fault = xformers_fault(device)
    if fault is None:
        return True, "attention: xformers"
    if wish == "xformers":
        raise SpecError(
            f'train.attention = "xformers", but on {device.type} {fault}; expected "auto" or "sdpa"'
        )
    return False, f"attention: PyTorch's scaled dot product attention; not xformers, for {fault}"


def check_machine(train: TrainSpec) -> None:
    """Refuse what this machine has not or cannot do. Raises SpecError."""
    device = device_of(train, 0)
    check_block_swap_device(train, device)
    attention_on(device, train.attention)
    with kernels_chosen(train, device, precision_of(train, device)):
        pass
