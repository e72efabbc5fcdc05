"""Stable Diffusion 1.x and 2.x: one CLIP text encoder, a UNet, diffusion by epsilon or velocity.

Below the adapter are the names that weights have in the original checkpoints, from those that diffusers gives them.
Sources: the modules of CompVis/latent-diffusion, Stability-AI/generative-models and mlfoundations/open_clip, whose
attribute paths these names are.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final, cast, get_args

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from turbo_fetch.dreambooth.families.facts import noise_schedule, settle
from turbo_fetch.dreambooth.families.family import Conditioning, Family, tokens
from turbo_fetch.dreambooth.families.layout import DIFFUSION_MODEL
from turbo_fetch.dreambooth.families.noise import Diffusion, Prediction
from turbo_fetch.errors import ModelError, SpecError
from turbo_fetch.spec.train import TrainSpec


class StableDiffusion(Family):
    """See the module."""

    name = "sd"
    pipeline_name = "StableDiffusionPipeline"
    denoiser_name = "unet"
    text_encoder_names: ClassVar[tuple[str, ...]] = ("text_encoder",)
    resolution = 512
    skips_layers = True
    trains_text_encoders = True
    # A safety checker is of no use in training and costs a gigabyte.
    not_loaded: ClassVar[Mapping[str, Any]] = {"safety_checker": None, "requires_safety_checker": False}
    kohya_prefixes: ClassVar[Mapping[str, str]] = {"unet": "lora_unet", "text_encoder": "lora_te"}

    def __init__(self, pipeline: DiffusionPipeline) -> None:
        super().__init__(pipeline)
        self._skipped: list[nn.Module] = []
        if self.facts.clip_skip:
            self.skip_layers(self.facts.clip_skip)

    def skip_layers(self, count: int) -> None:
        """See Family. Without its last layers the encoder is read in training, samples and prompts alike."""
        if not self.skips_layers:
            return
        self.make_whole()
        layers = self._text_layers
        if count >= len(layers):
            raise SpecError(f"train.clip_skip = {count}, but the text encoder has only {len(layers)} layers")
        self._skipped = list(layers[len(layers) - count :])
        del layers[len(layers) - count :]
        self.pipeline.text_encoder.config.clip_skip = count

    def make_whole(self) -> None:
        """See Family."""
        if self._skipped:
            self._text_layers.extend(self._skipped)
            self._skipped = []

    @property
    def _text_layers(self) -> nn.ModuleList:
        encoder = self.pipeline.text_encoder
        layers: nn.ModuleList = getattr(encoder, "text_model", encoder).encoder.layers
        return layers

    @property
    def is_second(self) -> bool:
        """Whether its text model is by open_clip, as that of Stable Diffusion 2: its activation is the exact GELU."""
        return bool(self.pipeline.text_encoder.config.hidden_act == "gelu")

    @classmethod
    def check_options(cls, train: TrainSpec) -> None:
        """See Family: its noise levels are those that it was trained with."""
        super().check_options(train)
        if train.timesteps.shift != "auto":
            raise SpecError(
                f"train.timesteps.shift = {train.timesteps.shift!r} is for models of flow matching, and a {cls.name} "
                'model is none; expected "auto"'
            )

    def settle_prediction(self, kind: str) -> None:
        """See Family."""
        if kind != "auto":
            settle(self.pipeline, prediction_type=kind)

    def process(self) -> Diffusion:
        """See Family."""
        prediction = self.facts.prediction
        if prediction not in get_args(Prediction):
            raise ModelError(
                f"train.base: its scheduler says that the model predicts {prediction!r}, which is not trained here; "
                f"expected {' or '.join(get_args(Prediction))}, or train.loss.kind that says which of them is right"
            )
        return Diffusion(noise_schedule(self.pipeline.scheduler).alphas_cumprod, cast(Prediction, prediction))

    def header(self) -> dict[str, str]:
        """See Family."""
        predicts_v = self.facts.prediction == "v_prediction"
        second = "stable-diffusion-v2-768-v" if predicts_v else "stable-diffusion-v2-512"
        return {
            "modelspec.architecture": second if self.is_second else "stable-diffusion-v1",
            "modelspec.implementation": "diffusers",
            "modelspec.prediction_type": "v" if predicts_v else "epsilon",
            "ss_base_model_version": f"sd_v{2 if self.is_second else 1}{'_v' if predicts_v else ''}",
            "ss_v2": str(self.is_second),
        }

    def encode_captions(self, captions: Sequence[str]) -> Conditioning:
        """See Family."""
        encoder = self.pipeline.text_encoder
        ids = tokens(self.pipeline.tokenizer, captions, encoder.device)
        return {"hidden": encoder(ids).last_hidden_state}

    def predict(self, noisy: Tensor, timesteps: Tensor, text: Mapping[str, Tensor], sizes: Tensor) -> Tensor:
        """See Family."""
        predicted: Tensor = self.pipeline.unet(noisy, timesteps, text["hidden"], return_dict=False)[0]
        return predicted

    def original_weights(self) -> dict[str, Tensor]:
        """See Family."""
        unet, vae = self.pipeline.unet, self.pipeline.vae
        weights = _original_unet(unet.state_dict(), int(unet.config.layers_per_block))
        weights |= original_vae(vae.state_dict(), len(vae.config.block_out_channels))
        return weights | self._original_text()

    def _original_text(self) -> dict[str, Tensor]:
        encoder = self.pipeline.text_encoder
        if self.is_second:
            return original_open_clip(encoder.state_dict(), "cond_stage_model.model.")
        return original_clip(encoder.state_dict(), "cond_stage_model.transformer.")


Weights = Mapping[str, Tensor]
Renaming = Sequence[tuple[str, str]]

VAE: Final = "first_stage_model."

_RESNET: Final[Renaming] = (
    ("norm1.", "in_layers.0."),
    ("conv1.", "in_layers.2."),
    ("time_emb_proj.", "emb_layers.1."),
    ("norm2.", "out_layers.0."),
    ("conv2.", "out_layers.3."),
    ("conv_shortcut.", "skip_connection."),
)
_UNET_ENDS: Final[Mapping[str, str]] = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.attentions.0": "middle_block.1",
}
_VAE_ATTENTION: Final[Renaming] = (
    ("group_norm.", "norm."),
    ("to_q.", "q."),
    ("to_k.", "k."),
    ("to_v.", "v."),
    ("to_out.0.", "proj_out."),
)
_OPEN_CLIP: Final[Renaming] = (
    ("embeddings.token_embedding.weight", "token_embedding.weight"),
    ("embeddings.position_embedding.weight", "positional_embedding"),
    ("final_layer_norm.", "ln_final."),
    ("encoder.layers.", "transformer.resblocks."),
    ("layer_norm1.", "ln_1."),
    ("layer_norm2.", "ln_2."),
    ("mlp.fc1.", "mlp.c_fc."),
    ("mlp.fc2.", "mlp.c_proj."),
    ("self_attn.", "attn."),
)


def _original_unet(weights: Weights, resnets_per_block: int) -> dict[str, Tensor]:
    """Return a UNet's weights under their original names; blocks are numbered through there."""
    return {
        DIFFUSION_MODEL + unet_name(name, resnets_per_block, weights): weight
        for name, weight in weights.items()
    }


def unet_name(name: str, resnets_per_block: int, weights: Collection[str]) -> str:
    """Return the original name, below `model.diffusion_model.`, of one weight of a UNet."""
    for end, original in _UNET_ENDS.items():
        if name.startswith(f"{end}."):
            return original + name.removeprefix(end)
    middle = re.fullmatch(r"mid_block\.resnets\.(\d)\.(.+)", name)
    if middle:
        return f"middle_block.{2 * int(middle[1])}.{_renamed(middle[2], _RESNET)}"
    found = re.fullmatch(
        r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)", name
    )
    if found is None:
        raise KeyError(name)
    way, part, rest = found[1], found[3], found[5]
    block, layer = int(found[2]), int(found[4])
    if part == "downsamplers":
        return f"input_blocks.{(block + 1) * (resnets_per_block + 1)}.0.{rest.replace('conv.', 'op.')}"
    if part == "upsamplers":
        # It is the last module of its block, after the attention if there is one.
        attends = any(key.startswith(f"up_blocks.{block}.attentions.") for key in weights)
        return f"output_blocks.{(block + 1) * (resnets_per_block + 1) - 1}.{2 if attends else 1}.{rest}"
    first = 1 if way == "down" else 0
    number = first + block * (resnets_per_block + 1) + layer
    place = f"{'input' if way == 'down' else 'output'}_blocks.{number}"
    return f"{place}.0.{_renamed(rest, _RESNET)}" if part == "resnets" else f"{place}.1.{rest}"


def original_vae(weights: Weights, blocks: int, prefix: str = VAE) -> dict[str, Tensor]:
    """Return a VAE's weights under their original names; its decoder counts `blocks` backwards there."""
    return {
        prefix + vae_name(name, blocks): _as_convolution(name, weight) for name, weight in weights.items()
    }


def vae_name(name: str, blocks: int) -> str:
    """Return the original name, below `first_stage_model.`, of one weight of a VAE."""
    name = name.replace("conv_shortcut.", "nin_shortcut.").replace("conv_norm_out.", "norm_out.")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
    if "mid_block.attentions.0." in name:
        return _renamed(name.replace("mid_block.attentions.0.", "mid.attn_1."), _VAE_ATTENTION)
    name = re.sub(r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block.", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0\.", r"down.\1.downsample.", name)
    name = re.sub(
        r"up_blocks\.(\d+)\.resnets\.", lambda found: f"up.{blocks - 1 - int(found[1])}.block.", name
    )
    return re.sub(
        r"up_blocks\.(\d+)\.upsamplers\.0\.", lambda found: f"up.{blocks - 1 - int(found[1])}.upsample.", name
    )


def original_clip(weights: Weights, prefix: str) -> dict[str, Tensor]:
    """Return a CLIP text model's weights under `prefix`, named as transformers 4 did."""
    return {
        f"{prefix}text_model.{name.removeprefix('text_model.')}": weight for name, weight in weights.items()
    }


def original_t5(weights: Weights, prefix: str) -> dict[str, Tensor]:
    """Return a T5's weights under `prefix`; its two tables of tokens, which are one, as published files have them."""
    table = "encoder.embed_tokens.weight"
    return {
        f"{prefix}{name}": weight.clone() if name == table else weight for name, weight in weights.items()
    }


def original_open_clip(weights: Weights, prefix: str) -> dict[str, Tensor]:
    """Return a CLIP text model's weights as open_clip has them: one matrix for query, key and value."""
    return {prefix + name: weight for name, weight in _open_clip(weights)}


def _open_clip(weights: Weights) -> Iterator[tuple[str, Tensor]]:
    for name, weight in weights.items():
        if name == "text_projection.weight":
            yield "text_projection", weight.T.contiguous()
            continue
        head, query, kind = name.partition(".q_proj.")
        if query:
            parts = [weights[f"{head}.{part}_proj.{kind}"] for part in "qkv"]
            yield f"{_open_clip_name(head + '.')}in_proj_{kind}", torch.cat(parts)
        elif ".k_proj." not in name and ".v_proj." not in name:
            yield _open_clip_name(name), weight


def _open_clip_name(name: str) -> str:
    return _renamed(name.removeprefix("text_model."), _OPEN_CLIP)


def _as_convolution(name: str, weight: Tensor) -> Tensor:
    """Return attention matrices of the VAE as 1x1 convolutions, which they are there."""
    matrix = weight.ndim == 2 and "attentions." in name
    return weight[:, :, None, None] if matrix else weight


def _renamed(name: str, renaming: Renaming) -> str:
    for before, after in renaming:
        name = name.replace(before, after)
    return name
