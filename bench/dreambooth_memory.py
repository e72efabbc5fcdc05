"""Estimate what training each published model takes of a GPU: `python -m bench.dreambooth_memory [MODEL ...]`.

No weights are read: a model is its configs, which are facts of the published repositories, and its step is taken on
PyTorch's device `meta`. Writes bench/results/dreambooth-memory.json, from which docs/dreambooth/memory.md is made.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import transformers

from bench.gpu_models import SMALL
from turbo_fetch.dreambooth.families import skeleton
from turbo_fetch.dreambooth.families.architectures import ARCHITECTURES
from turbo_fetch.dreambooth.families.block_swap import repeated_blocks
from turbo_fetch.dreambooth.training.estimate import Estimate, Estimator
from turbo_fetch.errors import ModelError
from turbo_fetch.spec import TrainSpec

# `bench.gpu_models` has made the tests' modules known.
from tiny_models import TINY_FLOW_MODELS, tiny_sd3  # isort: skip

RESULT: Final = Path(__file__).parent / "results" / "dreambooth-memory.json"
SMALLEST_CARD_BYTES: Final = 8e9
LARGEST_CARD_BYTES: Final = 24e9

_T5: Final = {
    "class": "T5Config",
    "d_model": 4096,
    "d_ff": 10_240,
    "d_kv": 64,
    "num_layers": 24,
    "num_heads": 64,
    "vocab_size": 32_128,
    "feed_forward_proj": "gated-gelu",
}
_QWEN3_4B: Final = {
    "class": "Qwen3Config",
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151_936,
    "tie_word_embeddings": True,
}
_QWEN25_VL_7B: Final = {
    "class": "Qwen2_5_VLConfig",
    "text_config": {
        "hidden_size": 3584,
        "intermediate_size": 18_944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152_064,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    },
    "vision_config": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 3584,
    },
}
_MISTRAL_24B: Final = {
    "class": "Mistral3Config",
    "text_config": {
        "model_type": "mistral",
        "hidden_size": 5120,
        "intermediate_size": 32_768,
        "num_hidden_layers": 40,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 131_072,
    },
    "vision_config": {
        "model_type": "pixtral",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "patch_size": 14,
    },
}
_VAE_16: Final = {**ARCHITECTURES["sd3"][1]["vae"], "scaling_factor": 0.3611, "shift_factor": 0.1159}
_SCHEDULER: Final = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
_CLIP_L: Final = ARCHITECTURES["v1"][1]["text_encoder"]


@dataclass(frozen=True)
class Published:
    """A model: the small one with its tokenizers, what is of its size, and its configs by component."""

    small: Any
    parameters_e9: float
    """Of the denoiser."""
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Those of diffusers' classes say only what differs from the defaults."""


MODELS: Final[Mapping[str, Published]] = {
    "Stable Diffusion 1.5": Published(SMALL["sd"], 0.86, ARCHITECTURES["v1"][1]),
    "SDXL": Published(SMALL["sdxl"], 2.57, ARCHITECTURES["xl_base"][1]),
    "Stable Diffusion 3.5 Medium": Published(
        partial(tiny_sd3, with_t5=True), 2.47, {**ARCHITECTURES["sd35_medium"][1], "text_encoder_3": _T5}
    ),
    "Stable Diffusion 3.5 Large": Published(
        partial(tiny_sd3, with_t5=True), 8.06, {**ARCHITECTURES["sd35_large"][1], "text_encoder_3": _T5}
    ),
    "FLUX.2-klein-4B": Published(
        TINY_FLOW_MODELS["flux2"],
        3.88,
        {
            "transformer": {
                "_class_name": "Flux2Transformer2DModel",
                "num_layers": 5,
                "num_single_layers": 20,
                "num_attention_heads": 24,
                "joint_attention_dim": 7680,
                "guidance_embeds": False,
            },
            "vae": {"_class_name": "AutoencoderKLFlux2"},
            "text_encoder": _QWEN3_4B,
        },
    ),
    "FLUX.2-dev": Published(
        TINY_FLOW_MODELS["flux2-dev"],
        32.2,
        {
            "transformer": {"_class_name": "Flux2Transformer2DModel"},
            "vae": {"_class_name": "AutoencoderKLFlux2"},
            "text_encoder": _MISTRAL_24B,
        },
    ),
    "Z-Image": Published(
        TINY_FLOW_MODELS["z-image"],
        6.15,
        {
            "transformer": {"_class_name": "ZImageTransformer2DModel"},
            "vae": _VAE_16,
            "text_encoder": _QWEN3_4B,
        },
    ),
    "FLUX.1-dev": Published(
        TINY_FLOW_MODELS["flux"],
        11.9,
        {
            "transformer": {"_class_name": "FluxTransformer2DModel", "guidance_embeds": True},
            "vae": _VAE_16,
            "text_encoder": _CLIP_L,
            "text_encoder_2": _T5,
        },
    ),
    "Qwen-Image": Published(
        TINY_FLOW_MODELS["qwen-image"],
        20.4,
        {
            "transformer": {"_class_name": "QwenImageTransformer2DModel"},
            "vae": {"_class_name": "AutoencoderKLQwenImage"},
            "text_encoder": _QWEN25_VL_7B,
        },
    ),
}

Changes = tuple[str, dict[str, Any]]
_CHECKPOINTED: Final = {"gradient_checkpointing": True}
_FUSED: Final = {"kind": "adamw8bit", "clip": 0, "fused_backward": True}
LADDERS: Final[Mapping[str, tuple[Changes, ...]]] = {
    "lora": (
        ("nothing", {}),
        ("gradient_checkpointing = true", _CHECKPOINTED),
        ('and base_precision = "int8"', {"base_precision": "int8"}),
        ('or base_precision = "nf4"', {"base_precision": "nf4"}),
        ("and sample_every = 0", {"sample_every": 0}),
        ("and resolution = 512", {"resolution": 512}),
    ),
    "lora, swapped": (
        ("half of the blocks swapped", {**_CHECKPOINTED, "blocks_to_swap": 0.5}),
        ("all blocks swapped", {"blocks_to_swap": 1.0}),
        ('and base_precision = "int8"', {"base_precision": "int8"}),
        ("and sample_every = 0", {"sample_every": 0}),
        ("and resolution = 512", {"resolution": 512}),
    ),
    "full": (
        ("nothing", {}),
        ("gradient_checkpointing = true", _CHECKPOINTED),
        ('and optimiser.kind = "adamw8bit"', {"optimiser": {"kind": "adamw8bit"}}),
        ("and optimiser.fused_backward = true, clip = 0", {"optimiser": _FUSED}),
        ("and sample_every = 0", {"sample_every": 0}),
        ("and resolution = 512", {"resolution": 512}),
    ),
}
"""By method, what is set from the least on, each beside what is before it; of blocks the share that is swapped."""


def estimates(name: str, method: str, base: Path, estimator: Estimator) -> Iterator[tuple[str, Estimate]]:
    """Yield what training takes with each rung of the ladder, up to the one that fits the smallest card."""
    table: dict[str, Any] = {"base": str(base), "subject": "photos", "class": "dog", "text_encoder": False}
    table["method"] = method.partition(",")[0]
    blocks = len(repeated_blocks(skeleton(str(base)).denoiser))
    for words, keys in LADDERS[method]:
        table |= keys
        if "blocks_to_swap" in keys:
            table["blocks_to_swap"] = int(keys["blocks_to_swap"] * blocks)
        needed = estimator.estimate(TrainSpec.model_validate(table))
        print(f"{name}, {method}, {words}: {needed.peak_bytes / 1e9:.1f} GB", file=sys.stderr)
        yield words, needed
        if needed.peak_bytes * 1.1 <= SMALLEST_CARD_BYTES:
            return


def write_configs(model: Published, folder: Path) -> Path:
    """Write a diffusers folder of a published model without its weights; returns `folder`."""
    model.small(folder)
    for weights in folder.rglob("*.safetensors"):
        weights.unlink()
    for name, config in model.configs.items():
        place = folder / name
        if "_class_name" in config:
            file = "scheduler_config.json" if name == "scheduler" else "config.json"
            (place / file).write_text(json.dumps(config))
        elif not name.startswith("tokenizer"):
            kind = config.get("class", "CLIPTextConfig")
            made = getattr(transformers, kind)(
                **{key: value for key, value in config.items() if key != "class"}
            )
            made.save_pretrained(place)
    return folder


def main(names: list[str]) -> None:
    """Estimate the models of these names, by default all, and keep the others as they were."""
    rows = json.loads(RESULT.read_text())["models"] if RESULT.exists() else {}
    for name in names or MODELS:
        model, estimator = MODELS[name], Estimator("bf16", with_prior=False)
        with TemporaryDirectory() as folder:
            base = write_configs(model, Path(folder) / "base")
            rows[name] = {"parameters_e9": model.parameters_e9, "methods": {}}
            for method in LADDERS:
                # Weights in fp32, their gradients freed, and the smallest state: what no setting makes less.
                if method == "full" and model.parameters_e9 * 6e9 > LARGEST_CARD_BYTES:
                    continue
                rows[name]["methods"][method] = [
                    {"set": words, "peaks": needed.peaks}
                    for words, needed in estimates(name, method, base, estimator)
                ]
        whole = {
            "made_by": "python -m bench.dreambooth_memory",
            "models": {each: rows[each] for each in MODELS if each in rows},
        }
        RESULT.write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (KeyError, ModelError) as error:
        raise SystemExit(f"{error}; expected names of {', '.join(MODELS)}") from error
