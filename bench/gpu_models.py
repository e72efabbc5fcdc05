"""Models for a machine without a network: small ones of each family, as the tests have them, and one of real shape."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from bench.dreambooth_model import save_pipeline

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from tiny_models import TINY_FLOW_MODELS, tiny_qwen_image, tiny_sd, tiny_sd3, tiny_sdxl

SMALL: Final[Mapping[str, Callable[[Path], Path]]] = {
    "sd": tiny_sd,
    "sdxl": tiny_sdxl,
    "sd3": partial(tiny_sd3, num_layers=4),
    **TINY_FLOW_MODELS,
    "qwen-image": partial(tiny_qwen_image, layers=4),
}
"""Each of three blocks that repeat or more, so that blocks can be swapped."""


def write_sd15(folder: Path) -> Path:
    """Save a pipeline of the shape of Stable Diffusion 1.5, 4.3 GB of random weights; returns `folder`."""
    torch.manual_seed(0)
    return save_pipeline(
        folder,
        AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            sample_size=512,
        ),
        CLIPTextModel(
            CLIPTextConfig(
                vocab_size=49_408,
                hidden_size=768,
                intermediate_size=3072,
                num_hidden_layers=12,
                num_attention_heads=12,
                bos_token_id=49_406,
                eos_token_id=49_407,
                pad_token_id=49_407,
            )
        ),
        # The defaults of the class are its shape but for the width of the text.
        UNet2DConditionModel(sample_size=64, cross_attention_dim=768),
    )
