"""What a run trains on: the device, its precision and memory, and Lightning's Trainer, made in one place for all."""

from __future__ import annotations

import logging
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, cast

import torch
from diffusers.models.attention_dispatch import attention_backend
from lightning.pytorch import Callback, Trainer
from torch import nn

from turbo_fetch.doctor.accelerator import best_precision, xformers_fault
from turbo_fetch.dreambooth.families import DTYPES, Family, is_empty
from turbo_fetch.dreambooth.families.block_swap import (
    chosen_blocks,
    repeated_blocks,
    swap_blocks,
    swapped_bytes,
    swapped_matrices,
)
from turbo_fetch.dreambooth.families.precision import round_parameters
from turbo_fetch.dreambooth.families.quantised import quantise
from turbo_fetch.dreambooth.run_folder import checkpoints
from turbo_fetch.dreambooth.training.checkpoint import WholeFiles
from turbo_fetch.errors import SpecError, TrainingFailed
from turbo_fetch.progress.summary import human_bytes
from turbo_fetch.spec.resume import FREE
from turbo_fetch.spec.train import TrainSpec
from turbo_fetch.spec.train_tables import FIND_THEIR_RATE

Attention = Literal["auto", "xformers", "sdpa"]

TF32_CAPABILITY: Final = (8, 0)
_LIGHTNING: Final = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")
_LIGHTNING_PRECISION: Final = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


@dataclass(frozen=True)
class TrainerFactory:
    """Makes the Trainer of a run: in one process, on several devices of a machine, or on a cluster."""

    strategy: Any = "auto"
    devices: Any = 1
    plugins: tuple[Any, ...] = ()
    local_rank: int = 0
    """Number of this process among those of its machine."""
    processes: int = 1
    """How many train together."""
    finish: Callable[[Trainer], Trainer] = field(default=lambda trainer: trainer)
    """Called with the Trainer before it is used, to return it as the cluster wants it."""

    def make(
        self, train: TrainSpec, device: torch.device, precision: str, callbacks: list[Callback]
    ) -> Trainer:
        """Return the Trainer of a run."""
        trainer = Trainer(
            accelerator="gpu" if device.type == "cuda" else device.type,
            devices=self.devices,
            strategy=self.strategy,
            plugins=[WholeFiles(), *self.plugins],
            precision=cast(Any, _LIGHTNING_PRECISION[precision]),
            max_steps=train.steps,
            accumulate_grad_batches=train.accumulation,
            gradient_clip_val=train.optimiser.clip or None,
            logger=False,
            callbacks=callbacks,
            # Both are seen to by callbacks of our own.
            enable_checkpointing=False,
            limit_val_batches=0,
            # Batches are dealt to devices by their position.
            use_distributed_sampler=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=train.output,
        )
        return self.finish(trainer)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning from telling what a user of turbo-fetch can neither see nor change."""
    levels = {name: logging.getLogger(name).level for name in _LIGHTNING}
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", category=UserWarning, module="torch.optim.lr_scheduler")
        # Of processors alone: autocast of GPUs gives both the same type.
        warnings.filterwarnings("ignore", "Mismatch dtype between input and weight", UserWarning)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


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


def compile_denoiser(denoiser: Any, how: bool | Literal["blocks"]) -> None:
    """Compile the denoiser as a whole, or each of its repeated blocks, whose code is shared. Raises SpecError."""
    if how is True:
        denoiser.compile()
    if how != "blocks":
        return
    blocks = repeated_blocks(denoiser)
    if not blocks:
        raise SpecError(
            f'train.compile = "blocks", but a {type(denoiser).__name__} has no blocks that repeat; expected true'
        )
    for block in blocks:
        block.compile()


def place_model(family: Family, device: torch.device, precision: str, train: TrainSpec) -> None:
    """Move the model to the device; with LoRA, what is not trained is in half precision where that is asked for.

    In other methods the whole model is exported, so that weights that are not trained must stay as they are; but an
    encoder that never is, a T5, is rounded, as it fits few devices otherwise. The VAE stays in fp32, in which alone
    that of some families is right.
    """
    for name, module in family.modules():
        if not is_empty(module) or device.type == "meta":
            place_part(family, name, device, precision, train)


def place_part(family: Family, name: str, device: torch.device, precision: str, train: TrainSpec) -> None:
    """Move one component to the device, see `place_model`."""
    module: nn.Module = getattr(family.pipeline, name)
    round_parameters(module, component_types(type(family), train, precision)[name])
    is_denoiser = name == family.denoiser_name
    swapped = blocks_swapped(family, name, train) if device.type != "meta" else []
    if is_denoiser and train.base_precision != "auto" and device.type != "meta":
        back = {owner for block in swapped for owner, _, _ in swapped_matrices(block)}
        quantise(module, train.base_precision, device, back)
    if swapped:
        swap_blocks(module, swapped, device)
    module.to(device)
    if is_denoiser and device.type == "cuda":
        module.to(memory_format=torch.channels_last)


def blocks_swapped(family: Family, name: str, train: TrainSpec) -> Sequence[nn.Module]:
    """Return the blocks of a component that are swapped: of a text encoder that only encodes all of them."""
    module = getattr(family.pipeline, name)
    if name == family.denoiser_name:
        return chosen_blocks(module, train.blocks_to_swap)
    is_encoder = name.startswith("text_encoder")
    return (
        repeated_blocks(module) if is_encoder and train.blocks_to_swap and train.frees_text_encoders else []
    )


def swap_note(family: Family, train: TrainSpec) -> str:
    """Return the line that says what is swapped."""
    size, pinned = swapped_bytes(family.denoiser)
    slower = f"; only {human_bytes(pinned)} of them could be pinned, so that steps are slower"
    return (
        f"train: {train.blocks_to_swap} blocks of the {family.denoiser_name}, {human_bytes(size)}, lie in main memory"
        f"{slower if pinned < size else ''}"
    )


def component_types(family: type[Family], train: TrainSpec, precision: str) -> Mapping[str, torch.dtype]:
    """Return the type in which a run has each component, in words of `families.load`, see `place_model`."""
    whole = () if train.method == "lora" else (family.denoiser_name, *family.text_encoder_names)
    half = DTYPES[precision]
    return defaultdict(lambda: half, dict.fromkeys(("vae", *whole), torch.float32), default=half)


@contextmanager
def memory_explained(train: TrainSpec) -> Iterator[None]:
    """Turn a lack of memory into a TrainingFailed that says what to change."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _out_of_memory(train, error) from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error) and "out of memory" not in str(error):
            raise
        raise _out_of_memory(train, error) from error


def _out_of_memory(train: TrainSpec, error: BaseException) -> TrainingFailed:
    advice: list[tuple[Any, str]] = [
        (train.batch_size > 1, smaller_batch(train)[0]),
        (not train.gradient_checkpointing, "gradient_checkpointing = true"),
        (can_swap(train), f"blocks_to_swap = {max(10, 2 * train.blocks_to_swap)}"),
        (train.optimiser.kind == "adamw", 'optimiser.kind = "adamw8bit"'),
        (can_fuse(train), fused_words(train)),
        (train.trains("full"), 'method = "lora"'),
        (train.trains_text_encoder, "text_encoder = false"),
        (
            train.base_precision == "auto" and train.changed(base_precision="nf4") is not None,
            'base_precision = "nf4"',
        ),
        (True, f"a resolution below {train.resolution}"),
    ]
    options = [text for applies, text in advice if applies]
    what = f"out of memory ({str(error).strip().partition(chr(10))[0]})"
    if not checkpoints(Path(train.output)):
        return TrainingFailed(f"{what}. In [train], in this order: {', '.join(options)}")
    kept = [text for text in options if text.partition(" ")[0] in FREE and " with " not in text]
    resuming = "".join(f" {text} may be set, and the run resumes from it." for text in kept)
    others = ", ".join(text for text in options if text not in kept)
    return TrainingFailed(
        f"{what}; the last checkpoint is good.{resuming} In another train.output, in this order: {others}"
    )


def can_swap(train: TrainSpec) -> bool:
    """Return whether blocks of the denoiser, or more of them, could be swapped, once gradients are checkpointed."""
    return train.changed(gradient_checkpointing=True, blocks_to_swap=3) is not None


def can_fuse(train: TrainSpec) -> bool:
    """Return whether the optimiser's step could be fused into the backward pass, and would save much."""
    one_pass = train.batch_size == train.accumulation == train.devices == 1
    wanted = train.trains("full") and not train.optimiser.fused_backward and train.precision != "fp16"
    return wanted and one_pass and train.optimiser.kind not in FIND_THEIR_RATE


def fused_words(train: TrainSpec) -> str:
    """Return what fuses the optimiser's step into the backward pass."""
    return "optimiser.fused_backward = true" + (" with optimiser.clip = 0" if train.optimiser.clip else "")


def smaller_batch(train: TrainSpec) -> tuple[str, dict[str, int]]:
    """Return what makes one image of a batch, in words and keys; gradients are summed instead, where they can be."""
    if train.optimiser.fused_backward:
        return "batch_size = 1", {"batch_size": 1}
    accumulation = train.batch_size * train.accumulation
    keys = {"batch_size": 1, "accumulation": accumulation}
    return f"batch_size = 1 with accumulation = {accumulation}", keys


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
    if wish == "sdpa":
        return "attention: PyTorch's scaled dot product attention, as asked"
    fault = xformers_fault(device)
    if fault is None:
        use_xformers(family.denoiser)
        return "attention: xformers"
    if wish == "xformers":
        raise SpecError(
            f'train.attention = "xformers", but on {device.type} {fault}; expected "auto" or "sdpa"'
        )
    return f"attention: PyTorch's scaled dot product attention; not xformers, for {fault}"
