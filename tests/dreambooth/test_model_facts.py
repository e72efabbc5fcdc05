"""What is true of a model beside its weights holds in training, in samples, in `[generate]` and in what is exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, PNDMScheduler
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from tiny_models import tiny_sd, tiny_sd3, tiny_sdxl
from turbo_fetch import stages
from turbo_fetch.dreambooth import families
from turbo_fetch.dreambooth.export.files import save_folder, save_single_file
from turbo_fetch.dreambooth.export.model import export_model
from turbo_fetch.dreambooth.families.facts import settle
from turbo_fetch.dreambooth.families.trainable import configure_trainable
from turbo_fetch.dreambooth.sampling.sampler import SAMPLERS, SampleRequest, make_images, scheduler_for
from turbo_fetch.errors import SpecError
from turbo_fetch.spec.dreambooth import SamplingTable
from turbo_fetch.spec.specfile import parse_spec

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
PUBLISHED: dict[str, tuple[Any, dict[str, Any]]] = {
    "sd 1.5": (
        PNDMScheduler,
        {**BETAS, "clip_sample": False, "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1},
    ),
    "xl 1.0": (
        EulerDiscreteScheduler,
        {
            **BETAS,
            "clip_sample": False,
            "set_alpha_to_one": False,
            "skip_prk_steps": True,
            "steps_offset": 1,
            "timestep_spacing": "leading",
            "use_karras_sigmas": False,
            "interpolation_type": "linear",
        },
    ),
}
"""The settings of `scheduler/scheduler_config.json` of the published models."""
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": False}),
    "plms": ("PNDMScheduler", {"skip_prk_steps": True}),
    "lms": ("LMSDiscreteScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpm++2m": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "dpm++2m_karras": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True},
    ),
    "unipc": ("UniPCMultistepScheduler", {}),
}
"""What diffusers' documentation names each sampler, and the options that make it one."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd(tmp_path_factory.mktemp("model") / "sd")


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sdxl(tmp_path_factory.mktemp("model") / "sdxl")


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd3(tmp_path_factory.mktemp("model") / "sd3")


def image(pipeline: Any) -> np.ndarray[Any, Any]:
    generator = torch.Generator().manual_seed(3)
    made = pipeline("a dog", generator=generator, num_inference_steps=5, height=16, width=16)
    return np.asarray(made.images[0], dtype=int)


def test_every_sampler_is_compared() -> None:
    assert KINDS.keys() == SAMPLERS.keys()


@pytest.mark.parametrize("published", PUBLISHED)
def test_every_sampler_makes_the_image_that_diffusers_makes(model: Path, published: str) -> None:
    family = families.load(str(model))
    kind, settings = PUBLISHED[published]
    own = kind.from_config(settings)
    for name, (theirs, options) in KINDS.items():
        family.pipeline.scheduler = own
        ours = scheduler_for(name, family)  # type: ignore[arg-type]
        family.pipeline.scheduler = getattr(diffusers, theirs).from_config(own.config, **options)
        wanted = image(family.pipeline)
        family.pipeline.scheduler = ours
        assert np.abs(image(family.pipeline) - wanted).max() <= 1, name


def zero_snr(model: Path) -> families.Family:
    family = families.load(str(model))
    settle(
        family.pipeline,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )
    return family


def test_a_sampler_that_cannot_begin_at_pure_noise_is_refused(model: Path) -> None:
    with pytest.raises(SpecError, match=r"'dpm\+\+2m_karras', but this model begins at pure noise"):
        scheduler_for("dpm++2m_karras", zero_snr(model))


@pytest.mark.parametrize("name", sorted(KINDS.keys() - {"dpm++2m_karras"}))
def test_every_sampler_begins_a_zero_snr_model_at_pure_noise(model: Path, name: Any) -> None:
    """Of data with a mean and a deviation, the best denoiser is known: what is sampled has them too."""
    family = zero_snr(model)
    scheduler = scheduler_for(name, family)
    scheduler.set_timesteps(100)
    alphas_bar = family.process().alphas_bar.double()  # type: ignore[attr-defined]
    mean, deviation = 1.5, 0.5
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(1, 1, 64, 64, generator=generator).double() * scheduler.init_noise_sigma
    for time in scheduler.timesteps:
        seen = scheduler.scale_model_input(sample, time)
        low = alphas_bar[int(time)] if float(time).is_integer() else _between(alphas_bar, float(time))
        signal, noise = low.sqrt(), (1 - low).sqrt()
        clean = mean + deviation**2 * signal / (deviation**2 * low + 1 - low) * (seen - signal * mean)
        epsilon = (seen - signal * clean) / noise
        velocity = signal * epsilon - noise * clean
        options = {"generator": generator} if name in {"ddpm", "euler_a"} else {}
        sample = scheduler.step(velocity, time, sample, **options).prev_sample
    assert abs(float(sample.mean()) - mean) < 0.05
    assert abs(float(sample.std()) - deviation) < 0.05


def _between(alphas_bar: torch.Tensor, time: float) -> torch.Tensor:
    place = int(time)
    sigmas = ((1 - alphas_bar) / alphas_bar.clamp(min=2.0**-24)).sqrt().log()
    log_sigma = sigmas[place] + (time - place) * (sigmas[min(place + 1, len(sigmas) - 1)] - sigmas[place])
    return 1 / (1 + (2 * log_sigma).exp())


def train_spec(base: Path, output: Path, **changes: Any) -> Any:
    train = {"base": str(base), "subject": "photos", "class": "dog", "output": str(output), **changes}
    return parse_spec({"train": train})


def test_a_model_trained_to_predict_v_is_exported_as_one(model: Path, tmp_path: Path) -> None:
    spec = train_spec(model, tmp_path, loss={"kind": "v_prediction"})
    family = families.load(str(model))
    assert family.facts.prediction == "epsilon"
    configure_trainable(family, spec.train)
    save_folder(family.pipeline, tmp_path / "folder")
    again = families.load(str(tmp_path / "folder"))
    assert again.facts.prediction == again.process().prediction == "v_prediction"  # type: ignore[attr-defined]
    assert (
        DDIMScheduler.from_pretrained(tmp_path / "folder" / "scheduler").config.prediction_type
        == "v_prediction"
    )


def test_single_files_carry_the_markers_of_their_prediction(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    family = families.load(str(model))
    save_single_file(family, path, {})
    assert not {"v_pred", "ztsnr"} & load_file(path).keys()
    settle(family.pipeline, prediction_type="v_prediction", rescale_betas_zero_snr=True)
    save_single_file(family, path, {}, torch.float16)
    assert {"v_pred", "ztsnr"} <= load_file(path).keys()
    with safe_open(path, "pt") as file:
        assert file.metadata()["modelspec.architecture"] == "stable-diffusion-v2-768-v"
        assert file.metadata()["modelspec.prediction_type"] == "v"


def test_no_prompt_is_the_same_in_training_samples_and_generate(sdxl: Path) -> None:
    family = families.load(str(sdxl))
    pipeline = family.pipeline
    _, without, _, pooled = pipeline.encode_prompt("a dog", do_classifier_free_guidance=True)
    text = family.encode_captions(["", "a dog"])
    assert without.abs().max() == 0
    assert torch.equal(text["hidden"][:1], without)
    assert torch.equal(text["pooled"][:1], pooled)
    assert text["hidden"][1].abs().max() > 0

    sampling = SamplingTable(steps=5, width=16, height=16, guidance=5.0)
    ((_, made),) = make_images(family, sampling, [SampleRequest("one", "a dog", 3)])
    generator = [torch.Generator().manual_seed(3)]
    samples = pipeline(
        ["a dog"], generator=generator, num_inference_steps=5, guidance_scale=5.0, height=16, width=16
    )
    assert np.array_equal(np.asarray(made), np.asarray(samples.images[0]))

    pipeline.register_to_config(force_zeros_for_empty_prompt=False)
    assert family.encode_captions([""])["hidden"].abs().max() > 0


def test_sd3_makes_images_with_the_sampler_of_a_spec_that_names_none(sd3: Path, tmp_path: Path) -> None:
    table = {"model": str(sd3), "prompts": ["a dog"], "images": 1, "steps": 2, "width": 32, "height": 32}
    done = stages.run(parse_spec({"generate": {**table, "output": str(tmp_path)}}))
    assert done.reports["generate"].text().endswith("1, of which 1 were made in this run")


def _photos(folder: Path) -> None:
    folder.mkdir()
    Image.new("RGB", (96, 80), "brown").save(folder / "dog.png")


@pytest.mark.parametrize("stage", ["prior", "generate", "evaluate"])
def test_a_sampler_that_the_base_cannot_have_is_refused_before_training(
    sd3: Path, tmp_path: Path, stage: str
) -> None:
    table = {"scheduler": "ddim", **({"prompts": ["a dog"]} if stage == "generate" else {})}
    _photos(tmp_path / "photos")
    spec = parse_spec(
        {
            "train": {
                "base": str(sd3),
                "subject": str(tmp_path / "photos"),
                "class": "dog",
                "resolution": 64,
                "output": str(tmp_path / "model"),
            },
            stage: table,
        }
    )
    with pytest.raises(
        SpecError, match=rf"{stage}.scheduler = 'ddim', but a sd3 model has a sampler of its own"
    ):
        stages.run(spec)
    assert not (tmp_path / "model").exists()


def test_a_sampler_without_pure_noise_is_refused_before_training(model: Path, tmp_path: Path) -> None:
    zero_snr(model).pipeline.save_pretrained(tmp_path / "base")
    _photos(tmp_path / "photos")
    train = {
        "base": str(tmp_path / "base"),
        "subject": str(tmp_path / "photos"),
        "class": "dog",
        "resolution": 64,
        "output": str(tmp_path / "m"),
    }
    generate = {"prompts": ["a dog"], "scheduler": "dpm++2m_karras"}
    with pytest.raises(SpecError, match=r"generate.scheduler = .* begins at pure noise"):
        stages.run(parse_spec({"train": train, "generate": generate}))


def test_what_flow_matching_cannot_predict_is_refused(sd3: Path, tmp_path: Path) -> None:
    spec = train_spec(sd3, tmp_path, loss={"kind": "v_prediction"})
    with pytest.raises(SpecError, match=r"train.loss.kind = 'v_prediction', but a sd3 model learns by flow"):
        configure_trainable(families.load(str(sd3)), spec.train)


def test_saved_text_encoders_have_the_names_that_every_transformers_reads(
    model: Path, sdxl: Path, tmp_path: Path
) -> None:
    for base in (model, sdxl):
        family = families.load(str(base))
        save_folder(family.pipeline, tmp_path / base.name)
        for file in (tmp_path / base.name).glob("text_encoder*/*.safetensors"):
            names = load_file(file).keys() - {"text_projection.weight"}
            assert all(name.startswith("text_model.") for name in names)
            assert file.stat().st_mode == (tmp_path / base.name / "model_index.json").stat().st_mode
        again = families.load(str(tmp_path / base.name))
        for name, encoder in family.text_encoders.items():
            other = again.text_encoders[name].state_dict()
            assert all(torch.equal(weight, other[key]) for key, weight in encoder.state_dict().items())


def test_clip_skip_holds_in_training_samples_and_what_is_saved(
    model: Path, sdxl: Path, tmp_path: Path
) -> None:
    base = families.load(str(model))
    ids = base.pipeline.tokenizer("a dog", padding="max_length", return_tensors="pt").input_ids
    whole = base.pipeline.text_encoder
    inner = getattr(whole, "text_model", whole)
    # What diffusers and the web UIs take: an earlier layer, with the norm of the last.
    wanted = inner.final_layer_norm(whole(ids, output_hidden_states=True).hidden_states[-2])
    weights = {name: weight.clone() for name, weight in whole.state_dict().items()}

    spec = train_spec(model, tmp_path / "model", clip_skip=1, method="full")
    trainable = configure_trainable(base, spec.train)
    torch.testing.assert_close(base.encode_captions(["a dog"])["hidden"], wanted)
    torch.testing.assert_close(base.pipeline.encode_prompt("a dog", "cpu", 1, False)[0], wanted)
    export_model(spec.train, base, trainable, tmp_path / "model")

    again = families.load(str(tmp_path / "model"))
    assert again.facts.clip_skip == 1
    torch.testing.assert_close(again.encode_captions(["a dog"])["hidden"], wanted)
    saved = load_file(tmp_path / "model" / "text_encoder" / "model.safetensors")
    assert {name.removeprefix("text_model.") for name in saved} == {
        name.removeprefix("text_model.") for name in weights
    }
    with pytest.raises(SpecError, match=r"train.clip_skip = 2, but the text encoder has only 2 layers"):
        configure_trainable(again, train_spec(model, tmp_path, clip_skip=2).train)
    with pytest.raises(SpecError, match=r"train.clip_skip = 1, but a sdxl model always reads"):
        configure_trainable(families.load(str(sdxl)), train_spec(sdxl, tmp_path, clip_skip=1).train)


def test_zero_terminal_snr_is_trained_as_diffusers_has_it(model: Path) -> None:
    family = families.load(str(model))
    settle(family.pipeline, rescale_betas_zero_snr=True)
    assert family.facts.zero_terminal_snr
    theirs = DDPMScheduler(**BETAS, rescale_betas_zero_snr=True)
    torch.testing.assert_close(family.process().alphas_bar, theirs.alphas_cumprod)  # type: ignore[attr-defined]
