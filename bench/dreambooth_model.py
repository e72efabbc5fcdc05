"""The model on which trainers are compared: Stable Diffusion 1.5 with every width divided by eight, random weights.

Three text layers of twelve, at 256 pixels, keep the parts of a step in the real proportion. Floating-point operations
of a step (UNet forward and backward, VAE encoder forward, text encoder forward): 71 %, 29 %, 0.4 % here; 68 %, 32 %,
0.4 % in the real model at 512 pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

from turbo_fetch.dreambooth.families.clip_vocabulary import clip_tokenizer

RESOLUTION: Final = 256
_TEXT_WIDTH: Final = 96
_GROUPS: Final = 8


def write_model(folder: Path, seed: int = 0) -> Path:
    """Save the model as a diffusers pipeline; returns `folder`."""
    torch.manual_seed(seed)
    return save_pipeline(folder, _vae(), _text_encoder(), _unet())


def save_pipeline(
    folder: Path, vae: AutoencoderKL, text_encoder: CLIPTextModel, unet: UNet2DConditionModel
) -> Path:
    """Save a pipeline of these parts with CLIP's tokenizer and Stable Diffusion's noise; returns `folder`."""
    pipeline: Any = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=clip_tokenizer(folder / "tokenizer"),
        unet=unet,
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return folder


def write_images(folder: Path, count: int, seed: int) -> Path:
    """Write images of smooth random colours as PNG; returns `folder`."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    for number in range(count):
        coarse = Image.fromarray(random.integers(0, 255, (8, 8, 3), dtype=np.uint8))
        coarse.resize((RESOLUTION, RESOLUTION), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


def operations() -> dict[str, int]:
    """Return the floating-point operations of one forward pass of each part over one image."""
    side = RESOLUTION // 8
    with torch.device("meta"):
        unet, vae, text_encoder = _unet(), _vae(), _text_encoder()
        noisy, pixels = torch.empty(1, 4, side, side), torch.empty(1, 3, RESOLUTION, RESOLUTION)
        times, ids = torch.zeros(1, dtype=torch.long), torch.zeros(1, 77, dtype=torch.long)
        hidden = torch.empty(1, 77, _TEXT_WIDTH)
        return {
            "unet": _counted(lambda: unet(noisy, times, hidden)),
            "vae_encoder": _counted(lambda: vae.encode(pixels)),
            "text_encoder": _counted(lambda: text_encoder(ids)),
        }


def _counted(run: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def _unet() -> Any:
    return UNet2DConditionModel(
        sample_size=RESOLUTION // 8,
        block_out_channels=(40, 80, 160, 160),
        layers_per_block=2,
        cross_attention_dim=_TEXT_WIDTH,
        # In diffusers this is how many heads there are: of 40 channels, the narrowest of the real model.
        attention_head_dim=(1, 2, 4, 4),
        norm_num_groups=_GROUPS,
    )


def _vae() -> Any:
    return AutoencoderKL(
        sample_size=RESOLUTION,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 64),
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=_GROUPS,
    )


def _text_encoder() -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=49_408,
        hidden_size=_TEXT_WIDTH,
        intermediate_size=4 * _TEXT_WIDTH,
        num_hidden_layers=3,
        num_attention_heads=12,
        projection_dim=_TEXT_WIDTH,
        max_position_embeddings=77,
        bos_token_id=49_406,
        eos_token_id=49_407,
        pad_token_id=49_407,
    )
    return CLIPTextModel(config)
