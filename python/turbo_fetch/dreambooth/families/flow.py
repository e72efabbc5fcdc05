"""What the families of transformers that learn by flow matching have in common (arXiv 2210.02747, 2403.03206)."""

from __future__ import annotations

import json
import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers.loaders.textual_inversion import TextualInversionLoaderMixin
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from torch import Tensor, nn

from turbo_fetch.dreambooth.families.family import Family
from turbo_fetch.dreambooth.families.latent_space import Sides
from turbo_fetch.dreambooth.families.layout import Layout
from turbo_fetch.dreambooth.families.noise import Flow
from turbo_fetch.dreambooth.families.single_file import WORDS_KEY, new_words
from turbo_fetch.errors import ModelError, SpecError
from turbo_fetch.spec.train import TrainSpec


class FlowFamily(Family):
    """See the module."""

    denoiser_name = "transformer"
    usual_sampler = "auto"
    patch: ClassVar[int] = 2
    """Latents along a side of what the transformer takes for one token."""
    layout: ClassVar[Layout] = Layout()
    """How single files name the transformer's weights."""
    marks: ClassVar[tuple[str, ...]]
    """Weights by whose original names a file is known to hold a transformer of the family."""
    parts_in_files: ClassVar[Mapping[str, str]] = {}
    """Components that files may hold beside the transformer, with what the names of their weights begin with there."""

    @classmethod
    @abstractmethod
    def published(cls, weights: Mapping[str, Tensor]) -> str:
        """Return the hub id of the published model that a transformer of these weights is of, for the rest of it."""

    @classmethod
    def layout_of(cls, denoiser: Mapping[str, Any]) -> Layout:
        """Return `layout` of a model whose transformer has this config."""
        return cls.layout

    def original_weights(self) -> dict[str, Tensor]:
        """See Family: the transformer alone, as nothing else of most of these models is trained."""
        transformer = self.pipeline.transformer
        return self.layout_of(transformer.config).original(transformer.state_dict())

    @classmethod
    def patch_of(cls, denoiser: Mapping[str, Any]) -> int:
        """Return `patch` of a model whose transformer has this config."""
        return cls.patch

    @classmethod
    def sides(cls, denoiser: Mapping[str, Any], vae: Mapping[str, Any]) -> Sides:
        """See Family: whole tokens."""
        return Sides(cls.scale_of(vae) * cls.patch_of(denoiser))

    @property
    def size_multiple(self) -> int:
        """See Family."""
        return self.own_sides.multiple

    @property
    def image_side(self) -> int:
        """See Family: most of these transformers have no size of their own."""
        return super().image_side if "sample_size" in self.pipeline.transformer.config else self.resolution

    @classmethod
    def check_options(cls, train: TrainSpec) -> None:
        """See Family: its loss is of one kind and not weighed."""
        super().check_options(train)
        if train.loss.snr_gamma is not None:
            raise SpecError(
                f"train.loss.snr_gamma = {train.loss.snr_gamma}: a {cls.name} model learns by flow matching, whose "
                "loss is not weighed so; expected none"
            )
        if train.loss.kind != "auto":
            raise SpecError(
                f"train.loss.kind = {train.loss.kind!r}, but a {cls.name} model learns by flow matching; "
                'expected "auto"'
            )

    def matrices_in_files(self) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
        """See Family: as kohya's scripts, ComfyUI, ai-toolkit and LyCORIS have them."""
        transformer = self.pipeline.transformer
        layout = self.layout_of(transformer.config)
        names = [
            f"{name}.weight" for name, layer in transformer.named_modules() if isinstance(layer, nn.Linear)
        ]
        for original, parts in layout.parts(names).items():
            module, modules = (
                original.removesuffix(".weight"),
                tuple(part.removesuffix(".weight") for part in parts),
            )
            flat = module.replace(".", "_")
            if not layout.swapped.intersection(modules):
                yield (f"lora_unet_{flat}", f"diffusion_model.{module}", module, f"lycoris_{flat}"), modules

    def single_file_header(self) -> dict[str, str]:
        """See Family: the rest of the model says what it is, but for the new words of its encoders."""
        words = {
            name.replace("text_encoder", "tokenizer"): new_words(tokenizer)
            for name, tokenizer in self.tokenizers.items()
        }
        return {WORDS_KEY: json.dumps(words)} if any(words.values()) else {}

    def settle_prediction(self, kind: str) -> None:
        """See Family: it is always flow matching."""

    def process(self) -> Flow:
        """See Family: the noise levels of the model's own scheduler, for images of each size where it has such."""
        scheduler = self.pipeline.scheduler
        if not type(scheduler).__name__.startswith("FlowMatch"):
            raise ModelError(
                f"train.base: its scheduler is a {type(scheduler).__name__}; expected one of flow matching, by which a "
                f"{self.name} model learns"
            )
        fresh = type(scheduler).from_config(scheduler.config)
        count = len(fresh.timesteps)
        shifted = self._shifted if fresh.config.get("use_dynamic_shifting") else None
        return Flow(fresh.sigmas[:count], fresh.timesteps, shifted)

    def _shifted(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Return noise levels and times for latents of a size, as the scheduler makes them of as many steps."""
        scheduler = self.pipeline.scheduler
        fresh = type(scheduler).from_config(scheduler.config)
        count = len(fresh.timesteps)
        patch = self.patch_of(self.pipeline.transformer.config)
        mu = self.shift_exponent((height // patch) * (width // patch))
        fresh.set_timesteps(sigmas=np.linspace(1.0, 1 / count, count).tolist(), mu=mu)
        return fresh.sigmas[:count], fresh.timesteps

    def shift_exponent(self, tokens: int) -> float:
        """Return μ, the logarithm of the factor by which noise prevails over images of so many tokens."""
        config = self.pipeline.scheduler.config
        names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
        return float(calculate_shift(tokens, *(config[name] for name in names)))


def packed(latents: Tensor, patch: int = 2) -> Tensor:
    """Return latents [B, C, h, w] as tokens [B, hw / patch², C patch²], line by line."""
    batch, channels, height, width = latents.shape
    cut = latents.reshape(batch, channels, height // patch, patch, width // patch, patch)
    return cut.permute(0, 2, 4, 1, 3, 5).flatten(1, 2).flatten(2)


def unpacked(tokens: Tensor, height: int, width: int, patch: int = 2) -> Tensor:
    """Return latents [B, C, height, width] of tokens that `packed` made."""
    batch, _, numbers = tokens.shape
    shape = (batch, height // patch, width // patch, numbers // patch**2, patch, patch)
    return tokens.reshape(shape).permute(0, 3, 1, 4, 2, 5).reshape(batch, -1, height, width)


def places(*lengths: int, device: torch.device | str) -> Tensor:
    """Return the coordinates [product of lengths, number of lengths] of a grid, the last counting fastest."""
    axes = [torch.arange(length, device=device, dtype=torch.float32) for length in lengths]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    return grid.reshape(math.prod(lengths), len(lengths))


def language_tokens(
    tokenizer: Any, texts: Sequence[str], length: int, device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """Return token ids and attention mask [B, length] of texts, padded and cut to that length."""
    encoded = tokenizer(
        list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    )
    return encoded.input_ids.to(device), encoded.attention_mask.to(device)


def with_every_token(prompts: list[str], tokenizer: Any) -> list[str]:
    """Return prompts in which all tokens of a new word of the tokenizer stand where its first does."""
    whole: list[str] = TextualInversionLoaderMixin().maybe_convert_prompt(prompts, tokenizer)
    return whole


def chats(tokenizer: Any, captions: Sequence[str], **options: Any) -> list[str]:
    """Return captions as a person says them to a language model, by the template of its tokenizer."""
    return [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": caption}], tokenize=False, add_generation_prompt=True, **options
        )
        for caption in captions
    ]


def padded_tokens(
    tokenizer: Any, texts: Sequence[str], most: int, device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """Return token ids [B, longest] of texts, each cut to `most`, and in main memory their lengths [B].

    A language model looks back only: what is padded behind a text changes nothing before it, and needs no mask.
    """
    encoded = tokenizer(
        list(texts), padding=True, padding_side="right", max_length=most, truncation=True, return_tensors="pt"
    )
    return encoded.input_ids.to(device), encoded.attention_mask.sum(1)


def before_each(length: int, device: torch.device | str) -> Tensor:
    """Return which tokens [length, length] a language model sees of each: itself and those before it.

    It is given this, as transformers would look into a mask of its own, which has no content where memory is estimated.
    """
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


def generic_lora_names(component: str, module: str) -> tuple[str, ...]:
    """Return the names that a module of a transformer has in LoRA files, where others call it as diffusers does.

    As diffusers writes them, then musubi-tuner, ai-toolkit, DiffSynth and SimpleTuner.
    """
    flat = module.replace(".", "_")
    return (
        f"{component}.{module}",
        f"lora_unet_{flat}",
        f"diffusion_model.{module}",
        module,
        f"lycoris_{flat}",
    )
