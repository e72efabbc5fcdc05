"""The toy base: a latent text-to-image model of about 2.4 million parameters, trained from scratch in minutes.

Saved as an ordinary diffusers pipeline: a CLIP text model with the real CLIP vocabulary, a UNet, a VAE. What it knows
are the plain shapes of :mod:`turbo_fetch.dreambooth.toy.shapes`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere in this field
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from turbo_fetch.dreambooth.families.clip_vocabulary import clip_tokenizer
from turbo_fetch.dreambooth.toy.shapes import COLOURS, PATTERNS, SIDE, caption, draw, random_figure

Progress = Callable[[str, int, int], None]
"""Takes a phase of the training, the steps done and the steps of the phase."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a base is trained; the same recipe gives the same base on the same machine."""

    vae_steps: int = 1600
    vae_batch: int = 16
    steps: int = 2000
    batch: int = 32
    pictures: int = 6000
    """Images that the base learns from; so called in the recipes by which bases that are there already are known."""
    learning_rate: float = 2e-3
    seed: int = 0


def train_base(folder: Path, recipe: Recipe, progress: Progress = lambda *_: None) -> None:
    """Train a base and save it as a diffusers pipeline in `folder`; about five minutes on one core.

    Raises MissingExtra when the package that carries CLIP's vocabulary is not installed.
    """
    with _seeded(recipe.seed):
        random = np.random.default_rng(recipe.seed)
        tokenizer = clip_tokenizer(folder / "tokenizer")
        vae = _train_vae(recipe, random, progress)
        text_encoder, unet = _new_text_encoder(), _new_unet()
        examples = _examples(recipe, random, vae, tokenizer)
        _train_denoiser(text_encoder, unet, examples, recipe, progress)
        give_words_meanings(text_encoder, tokenizer, examples.tokens.unique())
    pipeline: Any = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=_new_scheduler(DDIMScheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)


def _new_text_encoder() -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=49_408,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=32,
        max_position_embeddings=77,
        bos_token_id=49_406,
        eos_token_id=49_407,
        pad_token_id=49_407,
    )
    return CLIPTextModel(config)


def _new_vae() -> Any:
    return AutoencoderKL(
        sample_size=SIDE,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(16, 32),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
    )


def _new_unet() -> Any:
    return UNet2DConditionModel(
        sample_size=SIDE // 2,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(32, 64),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=2,
        norm_num_groups=8,
    )


def _new_scheduler(kind: type[Any]) -> Any:
    """Return a scheduler with the noise schedule of Stable Diffusion."""
    steps = {"steps_offset": 1, "set_alpha_to_one": False} if kind is DDIMScheduler else {}
    return kind(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, **steps)


def _train_vae(recipe: Recipe, random: np.random.Generator, progress: Progress) -> Any:
    """Train the autoencoder on patterns too, as a real one knows more of the world than one model's subjects."""
    vae = _new_vae()
    figures = [random_figure(random, PATTERNS) for _ in range(2048)]
    pixels = _pixels(np.stack([draw(figure) for figure in figures]))
    optimiser = torch.optim.AdamW(vae.parameters(), lr=2e-3, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, recipe.vae_steps)
    for step in range(recipe.vae_steps):
        batch = pixels[torch.randint(len(pixels), (recipe.vae_batch,))]
        posterior = vae.encode(batch).latent_dist
        restored = vae.decode(posterior.sample()).sample
        loss = F.l1_loss(restored, batch) + F.mse_loss(restored, batch) + 1e-4 * posterior.kl().mean() / 256
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        progress("autoencoder", step + 1, recipe.vae_steps)
    vae.requires_grad_(False)
    with torch.no_grad():
        spread = vae.encode(pixels[:512]).latent_dist.sample().std()
    vae.register_to_config(scaling_factor=1 / float(spread))
    return vae


@dataclass(frozen=True, slots=True)
class _Examples:
    latents: Tensor
    tokens: Tensor
    no_words: Tensor

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        """Return random latents and their tokens, which are empty for one in ten, as guidance needs it."""
        chosen = torch.randint(len(self.latents), (size,))
        dropped = torch.rand(size, 1) < 0.1
        return self.latents[chosen], torch.where(dropped, self.no_words, self.tokens[chosen])


@torch.no_grad()
def _examples(recipe: Recipe, random: np.random.Generator, vae: Any, tokenizer: CLIPTokenizer) -> _Examples:
    figures = [random_figure(random) for _ in range(recipe.pictures)]
    pixels: Any = _pixels(np.stack([draw(figure) for figure in figures]))
    latents = torch.cat([vae.encode(part).latent_dist.sample() for part in pixels.split(64)])
    words = [caption(figure, random) for figure in figures]
    tokens = tokenizer([*words, ""], padding="max_length", return_tensors="pt").input_ids
    return _Examples(latents * vae.config.scaling_factor, tokens[:-1], tokens[-1])


def _train_denoiser(
    text_encoder: CLIPTextModel,
    unet: Any,
    examples: _Examples,
    recipe: Recipe,
    progress: Progress,
) -> None:
    noise_schedule = _new_scheduler(DDPMScheduler)
    snr = noise_schedule.alphas_cumprod / (1 - noise_schedule.alphas_cumprod)
    # Min-SNR weighting (arXiv 2303.09556), which learns several times faster than equal weights.
    weights = snr.clamp(max=5) / snr
    parameters = [*text_encoder.parameters(), *unet.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.learning_rate, recipe.steps, pct_start=0.05
    )
    for step in range(recipe.steps):
        latents, tokens = examples.batch(recipe.batch)
        noise = torch.randn_like(latents)
        times = torch.randint(1000, (len(latents),))
        noisy = noise_schedule.add_noise(latents, noise, times)
        predicted = unet(noisy, times, text_encoder(tokens).last_hidden_state).sample
        loss = (weights[times] * (predicted - noise).square().mean(dim=(1, 2, 3))).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        progress("text-to-image model", step + 1, recipe.steps)


@torch.no_grad()
def give_words_meanings(text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, learned: Tensor) -> None:
    """Let every word that was not `learned` (token numbers) mean a random mix of colours.

    In a large model no word is without a meaning of sorts; noise that nothing was learned from would be a place from
    which an identifier hardly moves, as the model does not attend to it.
    """
    table: Tensor = text_encoder.get_input_embeddings().weight  # type: ignore[assignment]
    names = [tokenizer(name, add_special_tokens=False).input_ids[0] for name in COLOURS]
    shares = torch.rand(len(table), len(names)).pow(3)
    mixes = (shares / shares.sum(dim=1, keepdim=True)) @ table[names]
    strength = table[names].norm(dim=1).mean() / mixes.norm(dim=1, keepdim=True)
    kept = table[learned].clone()
    table.copy_(mixes * strength)
    table[learned] = kept


def _pixels(images: np.ndarray[Any, Any]) -> Tensor:
    """Return images (N, height, width, 3) in 0…1 as a tensor (N, 3, height, width) in -1…1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous() * 2 - 1


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        yield


def recipe_text(recipe: Recipe) -> str:
    """Return the recipe as text, by which a saved base is known again."""
    return json.dumps(asdict(recipe), sort_keys=True)
