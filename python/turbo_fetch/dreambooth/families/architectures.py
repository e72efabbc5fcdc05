"""The configs of the models whose weights lie in single files that do not say them: facts of the published models.

Only what differs from the defaults of diffusers' and transformers' classes is written down. Sources: the configs of the
models' own repositories (stable-diffusion-v1-5, stable-diffusion-2-1, stable-diffusion-xl-base-1.0,
stable-diffusion-3-medium, stable-diffusion-3.5-medium and -large).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

Config = Mapping[str, Any]

_BLOCKS: Final = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
}
_VAE: Final = {"_class_name": "AutoencoderKL", **_BLOCKS, "sample_size": 512, "scaling_factor": 0.18215}
_UNET: Final = {"_class_name": "UNet2DConditionModel"}
_SCHEDULE: Final = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
_CLIP: Final = {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407}
_CLIP_L: Final = {
    **_CLIP,
    "architectures": ["CLIPTextModel"],
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "quick_gelu",
    "projection_dim": 768,
}
_CLIP_H: Final = {
    **_CLIP,
    "architectures": ["CLIPTextModel"],
    "hidden_size": 1024,
    "intermediate_size": 4096,
    # Of its 24 layers the last is not used.
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "hidden_act": "gelu",
    "projection_dim": 1024,
}
_CLIP_G: Final = {
    **_CLIP,
    "architectures": ["CLIPTextModelWithProjection"],
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "hidden_act": "gelu",
    "projection_dim": 1280,
}
_TOKENIZER: Final = {"pad_token": "<|endoftext|>"}
_OPEN_CLIP_TOKENIZER: Final = {"pad_token": "!"}
"""open_clip pads with zeros, which is the number of this token."""

_SD1: Final = {
    "unet": {**_UNET, "sample_size": 64, "cross_attention_dim": 768},
    "vae": _VAE,
    "text_encoder": _CLIP_L,
    "tokenizer": _TOKENIZER,
    "scheduler": {
        "_class_name": "PNDMScheduler",
        **_SCHEDULE,
        "skip_prk_steps": True,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    },
}
_SD2: Final = {
    "unet": {
        **_UNET,
        "sample_size": 96,
        "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True,
        "upcast_attention": True,
    },
    "vae": {**_VAE, "sample_size": 768},
    "text_encoder": _CLIP_H,
    "tokenizer": _OPEN_CLIP_TOKENIZER,
    "scheduler": {
        "_class_name": "DDIMScheduler",
        **_SCHEDULE,
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        # The weights do not say it. So is the larger of the two published models, and what kohya's scripts call v2.
        "prediction_type": "v_prediction",
    },
}
_SDXL: Final = {
    "unet": {
        **_UNET,
        "sample_size": 128,
        "block_out_channels": [320, 640, 1280],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "transformer_layers_per_block": [1, 2, 10],
        "attention_head_dim": [5, 10, 20],
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    "vae": {**_VAE, "sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True},
    "text_encoder": _CLIP_L,
    "text_encoder_2": _CLIP_G,
    "tokenizer": _TOKENIZER,
    "tokenizer_2": _OPEN_CLIP_TOKENIZER,
    "scheduler": {
        "_class_name": "EulerDiscreteScheduler",
        **_SCHEDULE,
        "steps_offset": 1,
        "timestep_spacing": "leading",
    },
}


def _sd3(**transformer: Any) -> Config:
    return {
        "transformer": {
            "_class_name": "SD3Transformer2DModel",
            "sample_size": 128,
            "in_channels": 16,
            "out_channels": 16,
            "joint_attention_dim": 4096,
            "pooled_projection_dim": 2048,
            **transformer,
        },
        "vae": {
            **_VAE,
            "sample_size": 1024,
            "latent_channels": 16,
            "scaling_factor": 1.5305,
            "shift_factor": 0.0609,
            "force_upcast": True,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
        },
        "text_encoder": {**_CLIP_L, "architectures": ["CLIPTextModelWithProjection"]},
        "text_encoder_2": _CLIP_G,
        "tokenizer": _TOKENIZER,
        "tokenizer_2": _OPEN_CLIP_TOKENIZER,
        "scheduler": {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0},
    }


_SD3_MEDIUM: Final = {"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536}

ARCHITECTURES: Final[Mapping[str, tuple[str, Config]]] = {
    "v1": ("StableDiffusionPipeline", _SD1),
    "v2": ("StableDiffusionPipeline", _SD2),
    "xl_base": ("StableDiffusionXLPipeline", _SDXL),
    "sd3": ("StableDiffusion3Pipeline", _sd3(**_SD3_MEDIUM, pos_embed_max_size=192)),
    "sd35_medium": (
        "StableDiffusion3Pipeline",
        _sd3(
            **_SD3_MEDIUM,
            pos_embed_max_size=384,
            qk_norm="rms_norm",
            dual_attention_layers=list(range(13)),
        ),
    ),
    "sd35_large": (
        "StableDiffusion3Pipeline",
        _sd3(
            num_layers=38,
            num_attention_heads=38,
            caption_projection_dim=2432,
            pos_embed_max_size=192,
            qk_norm="rms_norm",
        ),
    ),
}
"""Pipeline class and configs by what diffusers calls the kind of a file."""

EXTRAS: Final[Mapping[str, Mapping[str, Any]]] = {
    "StableDiffusionXLPipeline": {"force_zeros_for_empty_prompt": True},
}
"""What a pipeline says beside its components."""
ABSENT: Final = {
    "StableDiffusionPipeline": ("safety_checker", "feature_extractor", "image_encoder"),
    "StableDiffusionXLPipeline": ("feature_extractor", "image_encoder"),
    # A T5 is in few files, and its tokenizer in none.
    "StableDiffusion3Pipeline": ("text_encoder_3", "tokenizer_3", "feature_extractor", "image_encoder"),
}
"""Components that a pipeline from a single file does without."""
