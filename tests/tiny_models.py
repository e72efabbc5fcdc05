"""Small models of each family, with the real CLIP tokenizer: made from configs in seconds, random weights."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from diffusers.utils import logging as diffusers_logging
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    MistralConfig,
    PixtralImageProcessor,
    PixtralProcessor,
    PixtralVisionConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)
from transformers.utils import logging as transformers_logging

HIDDEN = 32


def write_clip_vocabulary(folder: Path) -> Path:
    """Write the real `vocab.json` and `merges.txt`, from the merges that open_clip ships."""
    folder.mkdir(parents=True, exist_ok=True)
    packed = files("open_clip").joinpath("bpe_simple_vocab_16e6.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode("utf-8").split("\n")
    merges = lines[1 : 49152 - 256 - 2 + 1]
    letters = list(_byte_letters())
    words = letters + [f"{letter}</w>" for letter in letters] + ["".join(merge.split()) for merge in merges]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: number for number, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]), encoding="utf-8")
    return folder


def clip_tokenizer(folder: Path) -> CLIPTokenizer:
    """Return the real CLIP tokenizer; writes its vocabulary into `folder`."""
    write_clip_vocabulary(folder)
    tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=77)
    return tokenizer


def tiny_sd(folder: Path, prediction: str = "epsilon", seed: int = 0) -> Path:
    """Save a Stable Diffusion pipeline for images of 64 pixels; returns `folder`."""
    torch.manual_seed(seed)
    tokenizer = clip_tokenizer(folder / "vocabulary")
    pipeline = StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=CLIPTextModel(_text_config()).eval(),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(**_UNET, cross_attention_dim=HIDDEN),
        scheduler=DDIMScheduler(**_BETAS, prediction_type=prediction, steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return _saved(pipeline, folder)


def tiny_sdxl(folder: Path, seed: int = 0) -> Path:
    """Save a Stable Diffusion XL pipeline; returns `folder`."""
    torch.manual_seed(seed)
    tokenizer = clip_tokenizer(folder / "vocabulary")
    projected = _text_config(projection_dim=HIDDEN)
    pipeline = StableDiffusionXLPipeline(
        vae=_vae(),
        text_encoder=CLIPTextModel(_text_config()).eval(),
        text_encoder_2=CLIPTextModelWithProjection(projected).eval(),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=UNet2DConditionModel(
            **_UNET,
            cross_attention_dim=2 * HIDDEN,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=HIDDEN + 6 * 8,
        ),
        scheduler=EulerDiscreteScheduler(**_BETAS),
    )
    return _saved(pipeline, folder)


def tiny_sd3(folder: Path, seed: int = 0, with_t5: bool = False, **transformer: Any) -> Path:
    """Save a Stable Diffusion 3 pipeline, by default without T5; `transformer` is of its config. Returns `folder`."""
    torch.manual_seed(seed)
    tokenizer = clip_tokenizer(folder / "vocabulary")
    projected = _text_config(projection_dim=HIDDEN)
    pipeline = StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=32,
            patch_size=2,
            in_channels=4,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=2 * HIDDEN,
            caption_projection_dim=32,
            pooled_projection_dim=2 * HIDDEN,
            out_channels=4,
            pos_embed_max_size=32,
            **{"num_layers": 2, **transformer},
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(shift_factor=0.06),
        text_encoder=CLIPTextModelWithProjection(projected).eval(),
        tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(projected).eval(),
        tokenizer_2=tokenizer,
        text_encoder_3=_t5() if with_t5 else None,
        tokenizer_3=T5Tokenizer(vocab=_T5_VOCABULARY, extra_ids=0) if with_t5 else None,
    )
    return _saved(pipeline, folder)


SD35: dict[str, dict[str, Any]] = {
    "medium": {"qk_norm": "rms_norm", "dual_attention_layers": (0,)},
    "large": {"qk_norm": "rms_norm"},
}
"""What tells the transformers of Stable Diffusion 3.5 from that of 3, by size."""


def tiny_flux(folder: Path, seed: int = 0, guided: bool = True) -> Path:
    """Save a Flux.1 pipeline, by default one that is told guidance, as `dev` is; returns `folder`."""
    torch.manual_seed(seed)
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=guided),
        vae=_vae(shift_factor=0.06, scaling_factor=0.36),
        text_encoder=CLIPTextModel(_text_config()).eval(),
        tokenizer=clip_tokenizer(folder / "vocabulary"),
        text_encoder_2=_t5(),
        tokenizer_2=T5Tokenizer(vocab=_T5_VOCABULARY, extra_ids=0),
        transformer=FluxTransformer2DModel(
            in_channels=16,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=2 * HIDDEN,
            pooled_projection_dim=HIDDEN,
            guidance_embeds=guided,
            axes_dims_rope=(4, 4, 8),
        ),
    )
    return _saved(pipeline, folder)


def tiny_flux2(folder: Path, seed: int = 0) -> Path:
    """Save a Flux.2 Klein pipeline; returns `folder`."""
    torch.manual_seed(seed)
    vae = _flux2_vae()
    pipeline = Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=vae,
        text_encoder=Qwen3ForCausalLM(Qwen3Config(**{**_QWEN, "num_hidden_layers": 27})).eval(),
        tokenizer=_qwen_tokenizer(),
        transformer=_flux2_transformer(guided=False),
    )
    return _saved(pipeline, folder)


def tiny_flux2_dev(folder: Path, seed: int = 0) -> Path:
    """Save a Flux.2 dev pipeline, whose texts are padded on the left; returns `folder`."""
    torch.manual_seed(seed)
    vae = _flux2_vae()
    text = MistralConfig(**{**_QWEN, "num_hidden_layers": 30, "vocab_size": 300})
    vision = PixtralVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28
    )
    tokenizer = _qwen_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["[IMG]", "[IMG_BREAK]", "[IMG_END]"]})
    tokenizer.padding_side = "left"
    pipeline = Flux2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=vae,
        text_encoder=Mistral3ForConditionalGeneration(
            Mistral3Config(text_config=text, vision_config=vision, image_token_index=len(tokenizer) - 3)
        ).eval(),
        tokenizer=PixtralProcessor(PixtralImageProcessor(), tokenizer, chat_template=_TOLD_CHAT),
        transformer=_flux2_transformer(guided=True),
    )
    return _saved(pipeline, folder)


def tiny_qwen_image(folder: Path, seed: int = 0, layers: int = 2) -> Path:
    """Save a Qwen-Image pipeline; returns `folder`."""
    torch.manual_seed(seed)
    text = {
        **_QWEN,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]},
    }
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": HIDDEN,
    }
    no_images: dict[str, Any] = dict.fromkeys(
        ("image_token_id", "video_token_id", "vision_start_token_id"), 259
    )
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **no_images)
    pipeline = QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            max_image_seq_len=8192, max_shift=0.9, shift_terminal=0.02, use_dynamic_shifting=True
        ),
        vae=AutoencoderKLQwenImage(  # type: ignore[attr-defined]
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 2],
            num_res_blocks=1,
            temperal_downsample=[False],
            latents_mean=[0.1, -0.2, 0.3, 0.0],
            latents_std=[1.5, 0.8, 1.2, 2.0],
        ).eval(),
        text_encoder=Qwen2_5_VLForConditionalGeneration(config).eval(),
        tokenizer=_qwen_tokenizer(),
        transformer=QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=layers,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=HIDDEN,
            axes_dims_rope=(2, 2, 4),
        ),
    )
    # As it is made, what changes in a layer changes no image by more than rounding does.
    pipeline.transformer.proj_out.weight.data *= 4  # type: ignore[attr-defined]
    return _saved(pipeline, folder)


def tiny_z_image(folder: Path, seed: int = 0) -> Path:
    """Save a Z-Image pipeline; returns `folder`."""
    torch.manual_seed(seed)
    pipeline = ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(shift_factor=0.1159, scaling_factor=0.3611),
        text_encoder=Qwen3Model(Qwen3Config(**_QWEN)).eval(),
        tokenizer=_qwen_tokenizer(),
        transformer=ZImageTransformer2DModel(
            in_channels=4,
            dim=32,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=4,
            n_kv_heads=4,
            cap_feat_dim=HIDDEN,
            axes_dims=[2, 2, 4],
            axes_lens=[1024, 64, 64],
        ),
    )
    return _saved(pipeline, folder)


def tiny_clip(folder: Path) -> Path:
    """Save a CLIP for images of 32 pixels; returns `folder`."""
    torch.manual_seed(3)
    sizes: dict[str, Any] = {"projection_dim": 16}
    text, vision = _text_config(**sizes), CLIPVisionConfig(**_VISION, **sizes)
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), **sizes)
    transformers_logging.disable_progress_bar()
    CLIPModel(config).save_pretrained(folder)
    clip_tokenizer(folder / "vocabulary").save_pretrained(folder)
    _as_on_the_hub(folder, folder / "vocabulary")
    crop = {"height": 32, "width": 32}
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=crop).save_pretrained(folder)
    return folder


def tiny_dino(folder: Path) -> Path:
    """Save a vision transformer for images of 32 pixels, as DINO is one; returns `folder`."""
    torch.manual_seed(4)
    transformers_logging.disable_progress_bar()
    ViTModel(ViTConfig(**_VISION), add_pooling_layer=False).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


TINY_MODELS: dict[str, Callable[[Path], Path]] = {"sd": tiny_sd, "sdxl": tiny_sdxl, "sd3": tiny_sd3}

TINY_FLOW_MODELS: dict[str, Callable[[Path], Path]] = {
    "flux": tiny_flux,
    "flux2": tiny_flux2,
    "flux2-dev": tiny_flux2_dev,
    "qwen-image": tiny_qwen_image,
    "z-image": tiny_z_image,
}
"""Families of flow matching that read prompts with a language model."""

_UNET: dict[str, Any] = {
    "sample_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 1,
    "block_out_channels": (16, 32),
    "norm_num_groups": 8,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 8,
}
_VISION: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
_BETAS: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


_VAE: dict[str, Any] = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 4,
    "latent_channels": 4,
    "sample_size": 64,
}


def _vae(**overrides: Any) -> AutoencoderKL:
    vae: Any = AutoencoderKL(**_VAE | overrides)
    vae.eval()
    return vae  # type: ignore[no-any-return]


_T5_VOCABULARY = [
    (piece, -float(number)) for number, piece in enumerate(["<pad>", "</s>", "<unk>", "▁", *"etaoinshrdlu"])
]


def _flux2_vae() -> Any:
    vae: Any = AutoencoderKLFlux2(**_VAE)
    vae.eval()
    vae.bn.running_mean.normal_(std=0.1)
    vae.bn.running_var.uniform_(0.5, 2.0)
    return vae


def _flux2_transformer(guided: bool) -> Flux2Transformer2DModel:
    return Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * _QWEN["hidden_size"],
        axes_dims_rope=(4, 4, 4, 4),
        timestep_guidance_channels=16,
        guidance_embeds=guided,
    )


def _t5() -> T5EncoderModel:
    sizes: dict[str, Any] = {"d_model": 2 * HIDDEN, "d_kv": 8, "d_ff": 37, "num_layers": 1, "num_heads": 4}
    return T5EncoderModel(T5Config(vocab_size=40, feed_forward_proj="gated-gelu", **sizes)).eval()  # type: ignore[no-any-return]


_QWEN: dict[str, Any] = {
    "vocab_size": 260,
    "hidden_size": HIDDEN,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 4096,
    "bos_token_id": 256,
    "eos_token_id": 258,
    "pad_token_id": 256,
}
_TOLD_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}{{ part.text }}{% endfor %}<|im_end|>\n{% endfor %}"
)
_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _qwen_tokenizer() -> Qwen2Tokenizer:
    """Return Qwen's tokenizer with a token for each byte, and its template of a chat."""
    turns = ["<|im_start|>", "<|im_end|>"]
    vocabulary = {word: number for number, word in enumerate([*_byte_letters(), "<|endoftext|>", *turns])}
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary, merges=[], additional_special_tokens=turns, model_max_length=4096
    )
    tokenizer.chat_template = _CHAT
    return tokenizer


def _text_config(**overrides: Any) -> CLIPTextConfig:
    options: dict[str, Any] = {
        "vocab_size": 49408,
        "hidden_size": HIDDEN,
        "intermediate_size": 37,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 77,
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "pad_token_id": 49407,
        "hidden_act": "gelu",
    }
    return CLIPTextConfig(**options | overrides)


def _saved(pipeline: Any, folder: Path) -> Path:
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    pipeline.save_pretrained(folder)
    for name in ("tokenizer", "tokenizer_2"):
        if isinstance(getattr(pipeline, name, None), CLIPTokenizer):
            _as_on_the_hub(folder / name, folder / "vocabulary")
    return folder


def _as_on_the_hub(tokenizer: Path, vocabulary: Path) -> None:
    """Have a saved CLIP tokenizer be the two files that models have, which are read eight times as fast."""
    (tokenizer / "tokenizer.json").unlink()
    for path in vocabulary.iterdir():
        shutil.copyfile(path, tokenizer / path.name)


def _byte_letters() -> list[str]:
    """Return the letter of each byte in GPT-2's byte-level alphabet, in CLIP's order."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) for byte in plain] + [chr(256 + number) for number in range(len(rest))]
