"""Families of flow matching that read prompts with a language model: what is learned, made and exported.

It is what diffusers' pipelines and recipes say.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from safetensors.torch import load_file, save_file
from torch import Tensor

from tiny_models import TINY_FLOW_MODELS
from training import assert_equal_bits, fit, history, learned, stopped_after, training_spec
from turbo_fetch.dreambooth import families
from turbo_fetch.dreambooth.data.cache import Captions, cached_captions
from turbo_fetch.dreambooth.data.examples import Batch, Examples
from turbo_fetch.dreambooth.families.trainable import configure_trainable
from turbo_fetch.dreambooth.run_folder import DIFFUSERS_LORA
from turbo_fetch.dreambooth.sampling.sampler import SampleRequest, add_lora, make_images, open_model
from turbo_fetch.dreambooth.training.machine import use_xformers
from turbo_fetch.dreambooth.training.module import DreamBooth, Setup
from turbo_fetch.errors import Interrupted, SpecError
from turbo_fetch.spec.dreambooth import SamplingTable

OF_ANY_LENGTH = ("qwen-image", "z-image")
"""Families that are told of a caption as many tokens as it has."""
CAPTIONS = ("a sks dog", "a dog that sleeps on a red sofa", "")
SIDE = 32


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name: make(folder / name) for name, make in TINY_FLOW_MODELS.items()}


@pytest.fixture(params=TINY_FLOW_MODELS)
def base(request: pytest.FixtureRequest, bases: dict[str, Path]) -> Path:
    return bases[request.param]


def _spec(base: Path, folder: Path, **keys: Any) -> Any:
    quick = {"resolution": SIDE, "steps": 3, "pictures": {"workers": 0}, **keys}
    return training_spec(base, folder, **quick)


def _told(pipeline: Any, captions: tuple[str, ...]) -> list[Tensor]:
    """Return what the pipeline itself tells the denoiser of captions, without padding."""
    hidden, mask = pipeline.encode_prompt(list(captions), device=torch.device("cpu"))
    if isinstance(hidden, list):
        return hidden
    lengths = [hidden.shape[1]] * len(captions) if mask is None else mask.sum(1).tolist()
    return [row[:length] for row, length in zip(hidden, lengths, strict=True)]


@torch.no_grad()
@pytest.mark.parametrize("name", OF_ANY_LENGTH)
def test_the_denoiser_is_told_of_captions_as_by_the_pipeline(
    bases: dict[str, Path], name: str, tmp_path: Path
) -> None:
    family = families.load(str(bases[name]))
    cached = cached_captions(family, CAPTIONS, tmp_path, print, lambda _done, _total: None)
    expected = _told(family.pipeline, CAPTIONS)
    for text in (family.encode_captions(CAPTIONS), cached.encode(CAPTIONS, torch.device("cpu"))):
        lengths = text["lengths"].int().tolist()
        assert lengths == [len(each) for each in expected]
        for hidden, length, each in zip(text["hidden"], lengths, expected, strict=True):
            torch.testing.assert_close(hidden[:length], each)


def _qwen_loss(
    pipeline: Any, pixels: Tensor, captions: tuple[str, ...], draw: Callable[..., Tensor]
) -> Tensor:
    """As examples/dreambooth/train_dreambooth_lora_qwen_image.py of diffusers; noise levels as in the pipeline."""
    vae = pipeline.vae
    posterior = vae.encode(pixels.unsqueeze(2)).latent_dist
    mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1)
    deviation = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
    shape = posterior.mean.squeeze(2).shape
    latents = (posterior.mean + posterior.std * draw(shape).unsqueeze(2) - mean) / deviation
    place = (torch.sigmoid(draw((len(pixels),))) * 1000).long().clamp(max=999)
    noise = draw(shape).unsqueeze(2)
    height, width = shape[-2:]
    mu = 0.5 + (0.9 - 0.5) * (height * width / 4 - 256) / (8192 - 256)
    levels = torch.linspace(1, 0.001, 1000, dtype=torch.float64)
    levels = math.exp(mu) / (math.exp(mu) + 1 / levels - 1)
    levels = 1 - (1 - levels) * (1 - 0.02) / (1 - levels[-1])
    sigma = levels[place].float().view(-1, 1, 1, 1, 1)
    noisy = (1 - sigma) * latents + sigma * noise
    hidden, mask = pipeline.encode_prompt(list(captions), device=torch.device("cpu"))
    predicted = pipeline.transformer(
        hidden_states=pipeline._pack_latents(
            noisy.permute(0, 2, 1, 3, 4), len(noisy), shape[1], height, width
        ),
        encoder_hidden_states=hidden,
        encoder_hidden_states_mask=mask,
        timestep=sigma.flatten(),
        img_shapes=[[(1, height // 2, width // 2)]] * len(noisy),
        return_dict=False,
    )[0]
    predicted = pipeline._unpack_latents(predicted, 2 * height, 2 * width, 2)
    return (predicted - (noise - latents)).square().mean()  # type: ignore[no-any-return]


def _z_loss(pipeline: Any, pixels: Tensor, captions: tuple[str, ...], draw: Callable[..., Tensor]) -> Tensor:
    """As examples/dreambooth/train_dreambooth_lora_z_image.py of diffusers."""
    vae = pipeline.vae
    posterior = vae.encode(pixels).latent_dist
    latents = posterior.mean + posterior.std * draw(posterior.mean.shape)
    latents = (latents - vae.config.shift_factor) * vae.config.scaling_factor
    place = (torch.sigmoid(draw((len(pixels),))) * 1000).long().clamp(max=999)
    noise = draw(latents.shape)
    levels = torch.linspace(1, 0.001, 1000)
    levels = 3 * levels / (1 + 2 * levels)
    sigma = levels[place].view(-1, 1, 1, 1)
    noisy = (1 - sigma) * latents + sigma * noise
    hidden, _ = pipeline.encode_prompt(list(captions), device=torch.device("cpu"))
    predicted = pipeline.transformer(
        list(noisy.unsqueeze(2).unbind(0)), 1 - sigma.flatten(), hidden, return_dict=False
    )[0]
    return (-torch.stack(predicted).squeeze(2) - (noise - latents)).square().mean()  # type: ignore[no-any-return]


def _noisy(latents: Tensor, mu: float, draw: Callable[..., Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return noisy latents, noise level and target by the noise levels that a pipeline samples 1,000 steps with."""
    place = (torch.sigmoid(draw((len(latents),))) * 1000).long().clamp(max=999)
    noise = draw(latents.shape)
    levels = torch.linspace(1, 0.001, 1000, dtype=torch.float64)
    levels = math.exp(mu) / (math.exp(mu) + 1 / levels - 1)
    sigma = levels[place].float().view(-1, 1, 1, 1)
    return (1 - sigma) * latents + sigma * noise, sigma.flatten(), noise - latents


def _flux_loss(
    pipeline: Any, pixels: Tensor, captions: tuple[str, ...], draw: Callable[..., Tensor]
) -> Tensor:
    """As examples/dreambooth/train_dreambooth_lora_flux.py of diffusers; noise levels as in the pipeline."""
    vae, transformer = pipeline.vae.config, pipeline.transformer
    posterior = pipeline.vae.encode(pixels).latent_dist
    latents = posterior.mean + posterior.std * draw(posterior.mean.shape)
    latents = (latents - vae.shift_factor) * vae.scaling_factor
    batch, channels, height, width = latents.shape
    mu = 0.5 + (1.15 - 0.5) * (height * width / 4 - 256) / (4096 - 256)
    noisy, sigma, target = _noisy(latents, mu, draw)
    hidden, pooled, text_ids = pipeline.encode_prompt(list(captions), device=torch.device("cpu"))
    predicted = transformer(
        hidden_states=pipeline._pack_latents(noisy, batch, channels, height, width),
        timestep=sigma,
        guidance=torch.ones(batch),
        pooled_projections=pooled,
        encoder_hidden_states=hidden,
        txt_ids=text_ids,
        img_ids=pipeline._prepare_latent_image_ids(
            batch, height // 2, width // 2, torch.device("cpu"), torch.float32
        ),
        return_dict=False,
    )[0]
    return (pipeline._unpack_latents(predicted, 2 * height, 2 * width, 2) - target).square().mean()  # type: ignore[no-any-return]


def _flux2_loss(
    pipeline: Any, pixels: Tensor, captions: tuple[str, ...], draw: Callable[..., Tensor]
) -> Tensor:
    """As examples/dreambooth/train_dreambooth_lora_flux2.py of diffusers and that of Klein; noise levels as sampled."""
    vae = pipeline.vae
    posterior = vae.encode(pixels).latent_dist
    latents = pipeline._patchify_latents(posterior.mean + posterior.std * draw(posterior.mean.shape))
    mean = vae.bn.running_mean.view(1, -1, 1, 1)
    latents = (latents - mean) / (vae.bn.running_var.view(1, -1, 1, 1) + vae.config.batch_norm_eps).sqrt()
    mu = compute_empirical_mu(latents.shape[2] * latents.shape[3], 50)
    plain = pipeline._unpatchify_latents(latents)
    noisy, sigma, target = (
        pipeline._patchify_latents(value) if value.ndim == 4 else value for value in _noisy(plain, mu, draw)
    )
    hidden, text_ids = pipeline.encode_prompt(list(captions), device=torch.device("cpu"))
    ids = pipeline._prepare_latent_ids(noisy)
    is_told = pipeline.transformer.config.guidance_embeds
    predicted = pipeline.transformer(
        hidden_states=pipeline._pack_latents(noisy),
        timestep=sigma,
        guidance=torch.ones(len(noisy)) if is_told else None,
        encoder_hidden_states=hidden,
        txt_ids=text_ids,
        img_ids=ids,
        return_dict=False,
    )[0]
    return (pipeline._unpack_latents_with_ids(predicted, ids) - target).square().mean()  # type: ignore[no-any-return]


RECIPES = {
    "flux": _flux_loss,
    "flux2": _flux2_loss,
    "flux2-dev": _flux2_loss,
    "qwen-image": _qwen_loss,
    "z-image": _z_loss,
}


@torch.no_grad()
def test_the_loss_of_a_step_is_that_of_diffusers_own_recipe(base: Path, tmp_path: Path) -> None:
    train = _spec(base, tmp_path, prior=False, method="lora").train
    family = families.load(str(base))
    module = DreamBooth(
        Setup(train, family, configure_trainable(family, train), Captions(family), cast("Any", None))
    )
    pixels = torch.rand(3, 3, 48, SIDE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    batch = Batch(0, Examples(CAPTIONS, torch.zeros(3, 6), pixels=pixels), None)
    ours = module.losses(batch, torch.Generator().manual_seed(7)).total
    random = torch.Generator().manual_seed(7)
    pipeline = DiffusionPipeline.from_pretrained(base)
    expected = RECIPES[family.name](
        pipeline, pixels, CAPTIONS, lambda shape: torch.randn(shape, generator=random)
    )
    assert ours.item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize(("guidance", "negative"), [(4.0, ""), (2.0, "a red sofa"), (0.0, "")])
def test_images_are_those_of_diffusers(base: Path, guidance: float, negative: str) -> None:
    has_negative = families.family_of(str(base)).has_negative_prompt
    negative = negative if has_negative else ""
    sampling = SamplingTable(steps=3, width=SIDE, height=48, guidance=guidance, negative=negative)
    requests = [SampleRequest(caption, caption, seed) for seed, caption in enumerate(CAPTIONS)]
    made = [image for _, image in make_images(open_model(str(base), sampling), sampling, requests)]
    pipeline = DiffusionPipeline.from_pretrained(base)
    pipeline.set_progress_bar_config(disable=True)
    if "Qwen" in type(pipeline).__name__:
        how = {"true_cfg_scale": guidance, "negative_prompt": (negative or " ") if guidance > 1 else None}
    else:
        how = {"guidance_scale": guidance}
    if negative:
        how["negative_prompt"] = negative
    for request, image in zip(requests, made, strict=True):
        random = torch.Generator().manual_seed(request.seed)
        size = {"width": SIDE, "height": 48, "num_inference_steps": 3}
        (expected,) = pipeline(prompt=request.prompt, generator=random, **size, **how).images
        assert np.abs(np.asarray(image, dtype=int) - np.asarray(expected, dtype=int)).max() <= 1


@pytest.mark.parametrize(
    "keys",
    [{"method": "lora", "batch_size": 2}, {"method": "full", "cache": False, "precision": "bf16"}],
    ids=["lora", "full"],
)
def test_a_run_that_was_stopped_learns_bit_for_bit_the_same(
    base: Path, tmp_path: Path, keys: dict[str, Any]
) -> None:
    whole = _spec(base, tmp_path, output=str(tmp_path / "whole"), **keys)
    fit(whole)
    parts = _spec(base, tmp_path, output=str(tmp_path / "parts"), **keys)
    with pytest.raises(Interrupted):
        stopped_after(parts, 2)
    fit(parts)
    assert history(tmp_path / "parts") == history(tmp_path / "whole")
    assert_equal_bits(learned(tmp_path / "parts"), learned(tmp_path / "whole"))


def _image(family: families.Family) -> np.ndarray[Any, Any]:
    sampling = SamplingTable(steps=2, width=SIDE, height=SIDE)
    ((_, made),) = make_images(family, sampling, [SampleRequest("one", "a sks dog", 3)])
    return np.asarray(made, dtype=int)


def test_a_whole_model_is_exported_as_a_folder_that_diffusers_and_we_read(base: Path, tmp_path: Path) -> None:
    captions = {"pictures": {"workers": 0, "caption_dropout": 0.5}}
    validation = {"pictures": str(tmp_path / "class"), "every": 3, "draws": 1}
    samples = {"sample_every": 3, "samples": {"images": 1, "steps": 2}}
    fit(_spec(base, tmp_path, learning_rate=0.01, validation=validation, **captions, **samples))
    output = tmp_path / "model"
    assert (output / "samples" / "step-000003.png").is_file()
    trained = families.load(str(output))
    assert np.abs(_image(trained) - _image(families.load(str(base)))).max() > 3
    theirs = DiffusionPipeline.from_pretrained(output)
    for name, weight in theirs.transformer.state_dict().items():
        assert torch.equal(weight, trained.denoiser.state_dict()[name])


@pytest.mark.parametrize("name", ["flux2", "flux2-dev", "qwen-image", "z-image"])
def test_a_lora_of_musubi_tuner_is_read(bases: dict[str, Path], name: str, tmp_path: Path) -> None:
    base = bases[name]
    lora = {"rank": 2, "alpha": 1.0}
    fit(_spec(base, tmp_path, method="lora", lora=lora, learning_rate=0.05))
    theirs: dict[str, Tensor] = {}
    for key, weight in load_file(tmp_path / "model" / DIFFUSERS_LORA).items():
        module, part = key.removeprefix("transformer.").split(".lora_")
        name = f"lora_unet_{module.replace('.', '_')}"
        theirs[f"{name}.lora_{'down' if part[0] == 'A' else 'up'}.weight"] = weight
        theirs[f"{name}.alpha"] = torch.tensor(1.0)
    save_file(theirs, tmp_path / "theirs.safetensors")
    made = []
    for path in (tmp_path / "model", tmp_path / "theirs.safetensors"):
        family = families.load(str(base))
        add_lora(family, str(path), 1.0)
        made.append(_image(family))
    assert np.abs(made[0] - made[1]).max() <= 1
    assert np.abs(made[0] - _image(families.load(str(base)))).max() > 3


@pytest.mark.parametrize("keys", [{"text_encoder": True}, {"method": "lora+token", "identifier": "<sks>"}])
@pytest.mark.parametrize("name", ["flux2", "flux2-dev", "qwen-image", "z-image"])
def test_a_language_model_is_not_trained(
    bases: dict[str, Path], name: str, tmp_path: Path, keys: dict[str, Any]
) -> None:
    base = bases[name]
    with pytest.raises(SpecError, match=r"language model|learns no new token"):
        fit(_spec(base, tmp_path, **keys))


def test_one_step_is_refused_where_the_scheduler_divides_by_zero(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    spec = _spec(bases["qwen-image"], tmp_path, sample_every=3, samples={"images": 1, "steps": 1})
    with pytest.raises(SpecError, match=r"train.samples.steps = 1, but the scheduler of a qwen-image model"):
        fit(spec)
    sampling = SamplingTable(steps=1, width=SIDE, height=SIDE)
    with pytest.raises(SpecError, match=r"steps = 1, .* no fewer than 2"):
        next(
            make_images(families.load(str(bases["qwen-image"])), sampling, [SampleRequest("one", "a dog", 1)])
        )


@pytest.mark.filterwarnings("ignore")
def test_xformers_leaves_what_attends_as_it_is(base: Path) -> None:
    denoiser = families.load(str(base)).denoiser
    before = [type(module.processor) for module in denoiser.modules() if hasattr(module, "processor")]
    use_xformers(denoiser)
    processors = [module.processor for module in denoiser.modules() if hasattr(module, "processor")]
    assert [type(processor) for processor in processors] == before
    assert {processor._attention_backend.value for processor in processors} == {"xformers"}  # type: ignore[union-attr]
    heads = torch.ones(1, 4, 1, 8)
    assert torch.equal(dispatch_attention_fn(heads, heads, heads), heads), "other models attend as they did"
