"""What saves memory changes what is promised in nothing: runs resume exactly, and models are exported."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fake_cuda import fake_cuda
from tiny_models import tiny_flux2, tiny_qwen_image, tiny_sd, tiny_sd3, tiny_sdxl
from training import assert_equal_bits, fit, history, learned, stopped_after, training_spec
from turbo_fetch.dreambooth import families
from turbo_fetch.dreambooth.export.files import save_single_file
from turbo_fetch.dreambooth.families.quantised import PACKAGES, bytes_saved, quantise
from turbo_fetch.dreambooth.run_folder import DIFFUSERS_LORA
from turbo_fetch.dreambooth.training.estimate import estimate
from turbo_fetch.dreambooth.training.optimisers import make_optimiser, step_in_backward
from turbo_fetch.errors import Interrupted, SpecError
from turbo_fetch.spec.specfile import parse_spec
from turbo_fetch.spec.train_tables import OptimiserSpec

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    makers: dict[str, Callable[[Path], Path]] = {
        "sd": tiny_sd,
        "sdxl": tiny_sdxl,
        "sd3": tiny_sd3,
        "flux2": tiny_flux2,
        "qwen-image": tiny_qwen_image,
    }
    return {name: make(folder / name) for name, make in makers.items()}


@pytest.mark.parametrize(("family", "kind"), [("sd3", "int8"), ("sdxl", "nf4"), ("sd", "fp8")])
def test_a_lora_on_a_quantised_base_resumes_to_the_bit(
    bases: dict[str, Path], tmp_path: Path, family: str, kind: str
) -> None:
    keys: dict[str, Any] = {"method": "lora", "base_precision": kind, "steps": 4, "checkpoint_every": 2}
    whole, stopped = (training_spec(bases[family], tmp_path / name, **keys) for name in ("whole", "stopped"))
    fit(whole)
    with pytest.raises(Interrupted):
        stopped_after(stopped, 2)
    fit(stopped)
    first, second = (load_file(tmp_path / name / "model" / DIFFUSERS_LORA) for name in ("whole", "stopped"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(value.abs().max() > 0 for name, value in first.items() if "lora_B" in name)


@pytest.mark.parametrize(("kind", "error"), [("int8", 0.01), ("fp8", 0.04), ("nf4", 0.12)])
def test_quantised_matrices_are_near_and_take_the_bytes_that_are_estimated(kind: str, error: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.ModuleList([nn.Linear(256, 128)]), nn.Linear(128, 8)).requires_grad_(False)
    model = model.to(torch.bfloat16)
    given = torch.randn(64, 256, dtype=torch.bfloat16)
    before = model[0][0](given)  # type: ignore[index]
    saved = sum(bytes_saved(model, kind).values())  # type: ignore[arg-type]
    quantise(model, kind, CPU)  # type: ignore[arg-type]
    after = model[0][0](given)  # type: ignore[index]
    assert type(model[1].weight) is nn.Parameter
    assert (after - before).float().norm() < error * before.float().norm()
    assert 256 * 128 * (1.4 if kind == "nf4" else 0.9) < saved < 256 * 128 * (1.5 if kind == "nf4" else 1)


@pytest.mark.parametrize("kind", ["int8", "fp8", "nf4"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_quantised_matrices_compute_as_autocast_says_and_keep_few_bits_for_the_way_back(
    kind: str, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(4096, 64)
    model = nn.Sequential(nn.ModuleList([layer])).requires_grad_(False).to(dtype)
    # As after a norm, and large enough that sums of bytes by them are beyond fp16.
    given = (torch.randn(8, 4096) * 100).requires_grad_()
    weight = torch.randn(8, 64)
    expected = (given @ layer.weight.float().T + layer.bias.float()).detach()
    expected_gradient = weight @ layer.weight.float()
    quantise(model, kind, CPU)  # type: ignore[arg-type]
    quantised = cast("nn.ModuleList", model[0])[0]
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", dtype):
        made = quantised(given)
    assert made.dtype == dtype
    assert not any(type(each) is torch.Tensor and each.numel() == 4096 * 64 for each in kept)
    made.backward(weight.to(dtype))
    assert given.grad is not None
    for found, right in ((made, expected), (given.grad, expected_gradient)):
        assert (found.float() - right).norm() < 0.12 * right.norm()
    assert quantised(given.detach().to(dtype)).dtype == dtype


def test_samples_are_the_same_when_the_text_encoders_are_freed(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    keys = {"method": "lora", "steps": 1, "sample_every": 5, "samples": {"images": 1, "steps": 2}}
    grids = []
    for cache in (True, False):
        folder = tmp_path / str(cache)
        fit(training_spec(bases["sd3"], folder, prior=False, cache=cache, **keys))
        grids.append((folder / "model" / "samples" / "step-000000.png").read_bytes())
    assert grids[0] == grids[1]


@pytest.mark.parametrize("sample_every", [0, 1])
def test_what_was_freed_is_in_the_model_that_is_exported(
    bases: dict[str, Path], tmp_path: Path, sample_every: int
) -> None:
    samples = {"samples": {"images": 1, "steps": 1}} if sample_every else {}
    keys = {"steps": 1, "clip_skip": 1, "sample_every": sample_every}
    fit(training_spec(bases["sd"], tmp_path, prior=False, **keys, **samples))
    before, after = families.load(str(bases["sd"])), families.load(str(tmp_path / "model"))
    assert after.facts.clip_skip == 1
    for family in (before, after):
        family.make_whole()
    weights = after.pipeline.text_encoder.state_dict()
    assert all(
        torch.equal(value, weights[name]) for name, value in before.pipeline.text_encoder.state_dict().items()
    )


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_the_denoiser_comes_to_a_gpu_when_the_text_encoders_have_left(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    keys = {
        "method": "lora",
        "base_precision": "int8",
        "precision": "bf16",
        "steps": 1,
        "resolution": 96,
        "vae_tiling": True,
    }
    samples = {"sample_every": 1, "samples": {"images": 1, "steps": 1}}
    with fake_cuda() as gpu:
        fit(training_spec(bases["sdxl"], tmp_path, prior=False, **keys, **samples))
    assert {device for _, device in gpu.computed["UNet2DConditionModel"]} == {"cuda"}
    assert set(gpu.computed["CLIPTextModel"]) == {(torch.bfloat16, "cuda")}
    assert {*gpu.computed["Encoder"], *gpu.computed["Decoder"]} == {(torch.float32, "cuda")}


def test_a_single_file_is_estimated_as_the_folder_that_it_was(bases: dict[str, Path], tmp_path: Path) -> None:
    save_single_file(families.load(str(bases["sdxl"])), tmp_path / "model.safetensors", {})
    peaks = []
    for base in (bases["sdxl"], tmp_path / "model.safetensors"):
        for kind in ("auto", "nf4"):
            train = training_spec(base, tmp_path, method="lora", base_precision=kind, sample_every=1).train
            assert train is not None
            peaks.append(estimate(train, "bf16", with_prior=False).peaks)
    assert peaks[0] == peaks[2]
    assert peaks[1] == peaks[3]
    assert all(peaks[1][part] < peaks[0][part] for part in ("step", "sample"))


@pytest.mark.parametrize("name", ["sd", "flux2", "qwen-image"])
def test_a_batch_that_is_decoded_image_by_image_gives_the_same_images(
    bases: dict[str, Path], name: str
) -> None:
    family = families.load(str(bases[name]))
    latents = torch.randn(3, *family.latent_shape(64, 64), generator=torch.Generator().manual_seed(0))
    sizes: list[int] = []
    hook = family.vae.decoder.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    with torch.no_grad():
        sliced = family.decode(latents)
        assert set(sizes) == {1}
        hook.remove()
        family.vae.disable_slicing()
        assert (family.decode(latents) - sliced).abs().max() < 1 / 255


@pytest.mark.parametrize("name", ["sd", "flux2", "qwen-image"])
def test_large_images_alone_go_through_the_autoencoder_in_tiles(bases: dict[str, Path], name: str) -> None:
    family = families.load(str(bases[name]))
    side = 320 if name == "qwen-image" else 96
    pixels = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = family.encode_images(pixels).mean
    assert not family.vae.use_tiling
    assert not family.tiles(1024, 2048)
    assert family.tiles(1032, 2048)
    family.tile_vae(True)
    tiled = family.encode_images(pixels).mean
    assert family.vae.use_tiling
    assert tiled.shape == latents.shape == (1, *family.latent_shape(side, side))
    assert not torch.equal(tiled, latents)
    with torch.no_grad():
        images = family.decode(latents)
    assert images.shape == pixels.shape
    family.tile_vae(False)
    assert torch.equal(family.encode_images(pixels).mean, latents)


def test_an_autoencoder_without_tiles_is_told(bases: dict[str, Path]) -> None:
    family = families.load(str(bases["sd"]))
    del family.vae.use_tiling
    family.tile_vae("auto")
    with pytest.raises(SpecError, match=r"train\.vae_tiling = true, but a AutoencoderKL has no tiles"):
        family.tile_vae(True, "train.vae_tiling")


def test_latents_of_tiles_are_cached_apart(bases: dict[str, Path], tmp_path: Path) -> None:
    keys = {"method": "lora", "steps": 1, "resolution": 96}
    model, kept = tmp_path / "model", tmp_path / "kept"
    for tiling, count in ((False, 1), ("auto", 1), (True, 2)):
        if model.exists():
            (model / "cache").rename(kept)
            shutil.rmtree(model)
            model.mkdir()
            kept.rename(model / "cache")
        fit(training_spec(bases["sd"], tmp_path, prior=False, vae_tiling=tiling, **keys))
        assert len(list((model / "cache").glob("latents-*"))) == count


FUSED = {
    "adamw": {
        "method": "full+token",
        "text_encoder": True,
        "ema": {"decay": 0.9},
        "schedule": {"kind": "cosine", "warmup_steps": 1},
    },
    "adamw8bit": {"method": "full", "gradient_checkpointing": True, "precision": "bf16"},
    "adafactor": {"method": "lora", "batch_size": 2},
    "lion": {"method": "full", "pictures": {"buckets": True}},
}


@pytest.mark.parametrize(("kind", "keys"), FUSED.items(), ids=FUSED)
def test_a_step_that_is_fused_into_backward_is_the_same_to_the_bit_and_resumes(
    bases: dict[str, Path], tmp_path: Path, kind: str, keys: dict[str, Any]
) -> None:
    keys = {**keys, "identifier": "<sks>", "steps": 4, "checkpoint_every": 2}
    plain = {"kind": kind, "clip": 0}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    fit(training_spec(bases["sd"], tmp_path, optimiser=plain, output=str(whole), **keys))
    fused = training_spec(
        bases["sd"], tmp_path, optimiser={**plain, "fused_backward": True}, output=str(parts), **keys
    )
    with pytest.raises(Interrupted):
        stopped_after(fused, 2)
    fit(fused)
    assert history(parts) == history(whole)
    assert_equal_bits(learned(parts), learned(whole))


def test_no_two_gradients_are_there_at_once_when_the_step_is_fused() -> None:
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)))
    optimiser = make_optimiser(OptimiserSpec(), [{"params": list(model.parameters()), "lr": 0.1}])
    before = [parameter.detach().clone() for parameter in model.parameters()]
    held = []
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(
            lambda _: held.append(sum(each.grad is not None for each in model.parameters()))
        )
    step_in_backward(optimiser)
    model(torch.ones(2, 4)).square().sum().backward()
    assert held == [1] * len(before)
    assert all(each.grad is None for each in model.parameters())
    assert not any(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def test_the_estimate_of_a_fused_step_is_without_the_gradients(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    peaks = []
    for fused in (False, True):
        keys: dict[str, Any] = {"resolution": 32, "optimiser": {"clip": 0, "fused_backward": fused}}
        train = training_spec(bases["sd3"], tmp_path, gradient_checkpointing=True, **keys).train
        assert train is not None
        peaks.append(estimate(train, "bf16", with_prior=False).peaks)
    weights = sum(each.numel() for each in families.load(str(bases["sd3"])).denoiser.parameters())
    assert peaks[0]["step"] - peaks[1]["step"] > weights
    assert peaks[0]["encode"] == peaks[1]["encode"]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_fused_step_on_a_gpu_is_without_the_scaler_of_fp16(bases: dict[str, Path], tmp_path: Path) -> None:
    fused = {"optimiser": {"clip": 0, "fused_backward": True}, "steps": 2, "method": "full+token"}
    spec = training_spec(bases["sd"], tmp_path, prior=False, identifier="<sks>", **fused)
    with (
        fake_cuda(capability=(7, 5)),
        pytest.raises(SpecError, match=r'expected train\.precision = "fp32", or false'),
    ):
        fit(spec)
    with fake_cuda() as gpu:
        fit(spec)
    assert set(gpu.computed["UNet2DConditionModel"]) == {(torch.bfloat16, "cuda")}
    assert len(history(tmp_path / "model")) == 2


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"optimiser": {"clip": 1.0}}, "expected optimiser.clip = 0"),
        ({"accumulation": 2}, "expected accumulation = 1"),
        ({"optimiser": {"kind": "prodigy"}}, "finds its rate by all gradients"),
        ({"optimiser": {"kind": "prodigy_schedulefree"}}, "finds its rate by all gradients"),
        ({"precision": "fp16"}, 'expected "bf16" or "fp32"'),
        ({"devices": 2}, "is for one device"),
    ],
)
def test_what_needs_all_gradients_at_once_is_refused_beside_a_fused_step(
    tmp_path: Path, keys: dict[str, Any], expected: str
) -> None:
    optimiser = {"clip": 0, "fused_backward": True, **keys.get("optimiser", {})}
    with pytest.raises(SpecError, match=expected) as told:
        training_spec(tmp_path / "base", tmp_path, **{**keys, "optimiser": optimiser})
    assert str(told.value).count("optimiser.fused_backward = true") == 1


def test_a_fused_step_is_refused_on_workers_that_join_their_gradients(tmp_path: Path) -> None:
    spec = training_spec(tmp_path, tmp_path, optimiser={"clip": 0, "fused_backward": True})
    tables = spec.model_dump(by_alias=True, exclude_unset=True)
    with pytest.raises(SpecError, match=r'engine\.kind = "ray" joins the gradients'):
        parse_spec({**tables, "engine": {"kind": "ray"}})


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"method": "full"}, 'method = "lora"'),
        ({"method": "lora+token"}, 'method = "lora"'),
        ({"method": "lora", "lora": {"dora": True}}, "one of the two"),
        ({"method": "lora", "compile": True}, "compile = false"),
        ({"method": "lora", "devices": 2}, "one device"),
    ],
)
def test_what_would_change_or_save_a_quantised_base_is_refused(
    tmp_path: Path, keys: dict[str, Any], expected: str
) -> None:
    for kind in PACKAGES:
        with pytest.raises(SpecError, match=expected):
            training_spec(tmp_path / "base", tmp_path, base_precision=kind, identifier="<sks>", **keys)
