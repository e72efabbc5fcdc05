"""Stable Diffusion 3.5 in both sizes: normalised queries and keys, and in medium a second attention of the image."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPTextModelWithProjection

from tiny_models import SD35, tiny_sd3
from training import assert_equal_bits, fit, learned, stopped_after, training_spec
from turbo_fetch.dreambooth import families
from turbo_fetch.dreambooth.data.cache import Captions
from turbo_fetch.dreambooth.data.examples import Batch, Examples
from turbo_fetch.dreambooth.export.files import save_single_file
from turbo_fetch.dreambooth.families.trainable import configure_trainable
from turbo_fetch.dreambooth.run_folder import KOHYA_LORA
from turbo_fetch.dreambooth.sampling.sampler import SampleRequest, add_lora, make_images
from turbo_fetch.dreambooth.training.module import DreamBooth, Setup
from turbo_fetch.errors import Interrupted
from turbo_fetch.spec.dreambooth import SamplingTable

CAPTIONS = ("a sks dog", "a dog on a red sofa")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {size: _base(tmp_path_factory.mktemp(size), **keys) for size, keys in SD35.items()}


def _theirs(folder: Path) -> Any:
    """Return a model as diffusers loads it."""
    return StableDiffusion3Pipeline.from_pretrained(folder, text_encoder_3=None, tokenizer_3=None)


@pytest.fixture(params=SD35)
def size(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def _base(folder: Path, **transformer: Any) -> Path:
    """Save a model whose norms are not all the same, and whose text encoders differ in width."""
    pipeline = families.load(str(tiny_sd3(folder, **transformer))).pipeline
    for name, module in pipeline.transformer.named_modules():
        if name.rpartition(".")[2] in {"norm_q", "norm_k", "norm_added_q", "norm_added_k"}:
            nn.init.uniform_(module.weight, 0.5, 1.5)
    for name, width in (("", 24), ("_2", 40)):
        config = getattr(pipeline, f"text_encoder{name}").config
        config.hidden_size = config.projection_dim = width
        setattr(pipeline, f"text_encoder{name}", CLIPTextModelWithProjection(config).eval())
    # The first encoder of the published models projects nothing, which diffusers takes for granted.
    pipeline.text_encoder.text_projection.weight.data = torch.eye(24)
    pipeline.save_pretrained(folder)
    return folder


def _image(pipeline: Any, guidance: float = 3.0) -> np.ndarray[Any, Any]:
    pipeline.set_progress_bar_config(disable=True)
    size = {"width": 32, "height": 32, "num_inference_steps": 2, "guidance_scale": guidance}
    (made,) = pipeline("a sks dog", generator=torch.Generator().manual_seed(3), **size).images
    return np.asarray(made, dtype=int)


@torch.no_grad()
def test_the_loss_of_a_step_is_that_of_diffusers_own_recipe(
    bases: dict[str, Path], size: str, tmp_path: Path
) -> None:
    train = training_spec(bases[size], tmp_path, prior=False, method="lora").train
    assert train is not None
    family = families.load(str(bases[size]))
    module = DreamBooth(
        Setup(train, family, configure_trainable(family, train), Captions(family), cast("Any", None))
    )
    pixels = torch.rand(2, 3, 48, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    batch = Batch(0, Examples(CAPTIONS, torch.zeros(2, 6), pixels=pixels), None)
    ours = module.losses(batch, torch.Generator().manual_seed(7)).total
    # As examples/dreambooth/train_dreambooth_lora_sd3.py.
    random, pipeline = torch.Generator().manual_seed(7), _theirs(bases[size])
    vae = pipeline.vae
    posterior = vae.encode(pixels).latent_dist
    latents = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=random)
    latents = (latents - vae.config.shift_factor) * vae.config.scaling_factor
    place = (torch.sigmoid(torch.randn(2, generator=random)) * 1000).long().clamp(max=999)
    noise = torch.randn(latents.shape, generator=random)
    levels = torch.linspace(1, 0.001, 1000)
    sigma = (3 * levels / (1 + 2 * levels))[place].view(-1, 1, 1, 1)
    # The recipe reads 77 tokens of a T5, which are zeros where there is none.
    hidden, _, pooled, _ = pipeline.encode_prompt(
        list(CAPTIONS), None, None, do_classifier_free_guidance=False, max_sequence_length=77
    )
    predicted = pipeline.transformer(
        hidden_states=(1 - sigma) * latents + sigma * noise,
        timestep=1000 * sigma.flatten(),
        encoder_hidden_states=hidden,
        pooled_projections=pooled,
        return_dict=False,
    )[0]
    expected = (predicted - (noise - latents)).square().mean()
    assert ours.item() == pytest.approx(expected.item(), rel=1e-4)


def test_a_lora_reaches_all_attention_resumes_and_is_read_by_diffusers(
    bases: dict[str, Path], size: str, tmp_path: Path
) -> None:
    keys: dict[str, Any] = {
        "method": "lora",
        "lora": {"rank": 2},
        "learning_rate": 0.05,
        "resolution": 32,
        "steps": 3,
    }
    whole = training_spec(bases[size], tmp_path, output=str(tmp_path / "whole"), **keys)
    parts = training_spec(bases[size], tmp_path, output=str(tmp_path / "parts"), **keys)
    fit(whole)
    with pytest.raises(Interrupted):
        stopped_after(parts, 2)
    fit(parts)
    assert_equal_bits(learned(tmp_path / "parts"), learned(tmp_path / "whole"))
    names = load_file(tmp_path / "whole" / KOHYA_LORA).keys()
    assert any(".attn2.to_q." in name for name in names) == (size == "medium")
    with safe_open(tmp_path / "whole" / KOHYA_LORA, "pt") as opened:
        assert opened.metadata()["modelspec.architecture"] == f"stable-diffusion-3-5-{size}/lora"
    family = families.load(str(bases[size]))
    add_lora(family, str(tmp_path / "whole"), 1.0)
    sampling = SamplingTable(steps=2, width=32, height=32, guidance=3.0)
    ((_, ours),) = make_images(family, sampling, [SampleRequest("one", "a sks dog", 3)])
    theirs = _theirs(bases[size])
    plain = _image(theirs)
    theirs.load_lora_weights(tmp_path / "whole")
    assert np.abs(_image(theirs) - np.asarray(ours, dtype=int)).max() <= 1
    assert np.abs(_image(theirs) - plain).max() > 3


def test_all_weights_are_exported_and_read_from_a_folder_and_one_file(
    bases: dict[str, Path], size: str, tmp_path: Path
) -> None:
    fit(training_spec(bases[size], tmp_path, learning_rate=0.01, resolution=32, steps=2))
    trained = _theirs(tmp_path / "model")
    wanted = _image(trained)
    assert np.abs(wanted - _image(_theirs(bases[size]))).max() > 3
    file = tmp_path / "model.safetensors"
    save_single_file(families.load(str(tmp_path / "model")), file, {})
    again = StableDiffusion3Pipeline.from_single_file(
        file, config=str(tmp_path / "model"), local_files_only=True, text_encoder_3=None, tokenizer_3=None
    )
    for theirs in (again, families.load(str(file)).pipeline):
        assert np.abs(_image(theirs) - wanted).max() <= 1
