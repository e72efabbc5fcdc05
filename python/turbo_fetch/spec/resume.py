"""Which keys of `[train]` a run that resumes is bound to, since its numbers depend on them, and which may change.

Every key is in one of the two lists, which a test holds: a new key has to decide. One that is in neither binds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

BINDING: Final = frozenset(
    {
        "base",
        "class",
        "identifier",
        "prompt",
        "method",
        "text_encoder",
        "clip_skip",
        "resolution",
        # With a constant schedule more are welcome, see `run_folder.essentials`.
        "steps",
        "subjects.class",
        "subjects.identifier",
        "subjects.prompt",
        "subjects.weight",
        "batch_size",
        "accumulation",
        "learning_rate",
        "text_encoder_learning_rate",
        "token_learning_rate",
        "prior_weight",
        # These compute the same with other roundings.
        "tf32",
        "cudnn_benchmark",
        "compile",
        "attention",
        "cache",
        # Latents of tiles are slightly others.
        "vae_tiling",
        # The weights beside which it learns are others.
        "base_precision",
        "seed",
        "strategy",
        "pictures.captions",
        "pictures.caption_dropout",
        "pictures.repeats",
        "pictures.flip",
        "pictures.crop",
        "pictures.random_crops",
        "pictures.buckets",
        "pictures.max_aspect",
        "pictures.masks",
        "pictures.mask_floor",
        "loss.kind",
        "loss.snr_gamma",
        "loss.noise_offset",
        "timesteps.distribution",
        "timesteps.mean",
        "timesteps.deviation",
        "timesteps.mode_scale",
        "timesteps.shift",
        "optimiser.kind",
        "optimiser.weight_decay",
        "optimiser.betas",
        "optimiser.epsilon",
        "optimiser.clip",
        "schedule.kind",
        "schedule.warmup_steps",
        "schedule.cycles",
        "schedule.power",
        "lora.kind",
        "lora.rank",
        "lora.factor",
        "lora.alpha",
        "lora.dropout",
        "lora.targets",
        "lora.blocks",
        "lora.dora",
        "token.initial",
        "token.vectors",
        "ema.decay",
    }
)
FREE: Final = frozenset(
    {
        # Compared by what is in it, and by what they come to on this machine: see `run_folder`.
        "subject",
        "subjects.images",
        "subjects.validation",
        "accelerator",
        "precision",
        "devices",
        "output",
        "gradient_checkpointing",
        "blocks_to_swap",
        "optimiser.fused_backward",
        "checkpoint_every",
        "checkpoints_kept",
        "sample_every",
        "log_every",
        # What it makes is compared with the images.
        "pictures.annotator",
        "pictures.workers",
        "samples.prompts",
        "samples.images",
        "samples.steps",
        "samples.guidance",
        "samples.seed",
        "validation.pictures",
        "validation.every",
        "validation.draws",
        "validation.keep_best",
    }
)


def binding(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return what of a dumped `[train]` a run is bound to."""
    found: dict[str, Any] = {}
    for name, value in table.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and key not in BINDING:
            inner = binding(value, f"{key}.")
            if inner or not value:
                found[name] = inner
        elif isinstance(value, list) and value and all(isinstance(each, Mapping) for each in value):
            found[name] = [binding(each, f"{key}.") for each in value]
        elif key not in FREE and not _is_free_table(key):
            found[name] = value
    return found


def _is_free_table(key: str) -> bool:
    """Return whether a key is a table, left out here, of which no key binds."""
    has_free, has_binding = (any(each.startswith(f"{key}.") for each in keys) for keys in (FREE, BINDING))
    return has_free and not has_binding
