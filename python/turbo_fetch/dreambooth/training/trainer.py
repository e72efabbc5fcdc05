"""Lightning's Trainer, made in one place for all, and a model placed on the device that it trains on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast

import torch
from lightning.pytorch import Callback, Trainer
from torch import nn

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
from turbo_fetch.dreambooth.training.checkpoint import WholeFiles
from turbo_fetch.errors import SpecError
from turbo_fetch.progress.summary import human_bytes
from turbo_fetch.spec.train import TrainSpec

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


def compile_denoiser(denoiser: Any, how: bool | Literal["blocks"]) -> None:
    """Compile the denoiser as a whole, or each of its repeated blocks, whose code is shared. Raises SpecError."""
    if how is True:
        denoiser.compile()
    for block in compiled_blocks(denoiser, how):
        block.compile()


def compiled_blocks(denoiser: nn.Module, how: bool | Literal["blocks"]) -> Sequence[nn.Module]:
    """Return the blocks of a denoiser that are compiled one by one; raises as `compile_denoiser`."""
    if how != "blocks":
        return ()
    blocks = repeated_blocks(denoiser)
    if not blocks:
        raise SpecError(
            f'train.compile = "blocks", but a {type(denoiser).__name__} has no blocks that repeat; expected true'
        )
    return blocks


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
