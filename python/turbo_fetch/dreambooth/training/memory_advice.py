"""What to change in a spec when memory runs out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from turbo_fetch.dreambooth.run_folder import checkpoints
from turbo_fetch.errors import TrainingFailed
from turbo_fetch.spec.resume import FREE
from turbo_fetch.spec.train import TrainSpec
from turbo_fetch.spec.train_tables import FIND_THEIR_RATE


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
