"""What a run would take of a GPU is told before it runs, near to what others measured, with what to change."""

from __future__ import annotations

import json
import math
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from fake_cuda import fake_cuda
from tiny_models import TINY_FLOW_MODELS, TINY_MODELS, clip_tokenizer, tiny_sd
from training import training_spec
from turbo_fetch.cli.commands import app
from turbo_fetch.dreambooth.training.estimate import CONTEXT_BYTES, estimate
from turbo_fetch.dreambooth.training.memory_advice import memory_explained
from turbo_fetch.dreambooth.training.requirements import MARGIN, training_findings, what_fits
from turbo_fetch.errors import TrainingFailed
from turbo_fetch.spec import TrainSpec
from turbo_fetch.spec.specfile import dump_spec, parse_spec
from turbo_fetch.spec.train_tables import OptimiserSpec

EIGHT_BIT = {"optimiser": {"kind": "adamw8bit"}}
CHECKPOINTED = {"gradient_checkpointing": True}


@pytest.fixture(scope="module")
def sd15(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the configuration of Stable Diffusion 1.5, and no weights."""
    folder = tmp_path_factory.mktemp("sd15")
    tiny_sd(folder)
    for weights in folder.rglob("*.safetensors"):
        weights.unlink()
    unet = {"_class_name": "UNet2DConditionModel", "sample_size": 64, "cross_attention_dim": 768}
    vae = {
        "_class_name": "AutoencoderKL",
        "block_out_channels": [128, 256, 512, 512],
        "layers_per_block": 2,
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "latent_channels": 4,
    }
    text = json.loads((folder / "text_encoder" / "config.json").read_text())
    text |= {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
    }
    for name, config in (("unet", unet), ("vae", vae), ("text_encoder", text)):
        (folder / name / "config.json").write_text(json.dumps(config))
    clip_tokenizer(folder / "vocabulary").save_pretrained(folder / "tokenizer")
    return folder


def _train(base: Path, **keys: Any) -> TrainSpec:
    table = {"base": str(base), "subject": "photos", "class": "dog", "text_encoder": False, **keys}
    train = parse_spec({"train": table}).train
    assert train is not None
    return train


@pytest.mark.parametrize(
    ("keys", "measured_gb"),
    [
        (EIGHT_BIT, 11.17),
        (CHECKPOINTED, 15.79),
    ],
    ids=["8-bit", "checkpointed"],
)
def test_an_estimate_is_near_what_others_measured_on_a_t4(
    sd15: Path, keys: dict[str, Any], measured_gb: float
) -> None:
    """Figures: ShivamShrirao/diffusers, README of its DreamBooth example, fp16, 512 pixels, with class images."""
    needed = estimate(_train(sd15, **keys), "fp16", with_prior=True)
    assert needed.peak_bytes / 1e9 == pytest.approx(measured_gb, rel=0.12)


@pytest.mark.parametrize(
    ("name", "method"),
    [
        *product(TINY_MODELS, ["full", "lora+token"]),
        *zip(TINY_FLOW_MODELS, ["lora+token", "full", "lora", "lora", "lora"], strict=True),
    ],
)
def test_every_family_is_estimated_without_its_weights(tmp_path: Path, name: str, method: str) -> None:
    base = (TINY_MODELS | TINY_FLOW_MODELS)[name](tmp_path)
    for weights in base.rglob("*.safetensors"):
        weights.unlink()
    small = estimate(_train(base, method=method, identifier="<sks>", resolution=64), "bf16", with_prior=False)
    large = estimate(_train(base, method=method, identifier="<sks>", resolution=128), "bf16", with_prior=True)
    assert small.peaks.keys() == {"encode", "step", "sample"}
    assert all(0 < small.peaks[part] <= large.peaks[part] for part in small.peaks)


def test_what_does_not_fit_comes_with_what_does(tmp_path: Path) -> None:
    # Encoding, which is in the step so, would need more than the step of so small a model.
    spec = training_spec(tiny_sd(tmp_path / "base"), tmp_path, prior=False, cache=False)
    assert spec.train is not None
    enough = estimate(
        spec.train.model_copy(update=CHECKPOINTED | {"optimiser": OptimiserSpec(kind="adamw8bit")}),
        "fp16",
        with_prior=False,
    )
    with fake_cuda(capability=(7, 5), memory_bytes=math.ceil(enough.peak_bytes * MARGIN)):
        found = {finding.name: finding for finding in training_findings(spec)}
    assert found["precision"].found == "fp16, on compute capability 7.5"
    assert found["memory"].grade == "bad"
    assert "are free" in found["memory"].found
    changes = 'gradient_checkpointing = true, optimiser.kind = "adamw8bit"'
    assert found["memory"].advice.startswith(f"in [train] set {changes}: about")
    needed = estimate(_fused(spec.train), "bf16", with_prior=False)
    with fake_cuda(capability=(8, 0), memory_bytes=math.ceil(needed.peak_bytes * MARGIN)):
        found = {finding.name: finding for finding in training_findings(spec)}
    fused = "optimiser.fused_backward = true with optimiser.clip = 0"
    assert found["memory"].advice.startswith(f"in [train] set {changes}, {fused}: about")
    with fake_cuda(capability=(7, 5), memory_bytes=1_000_000):
        found = {finding.name: finding for finding in training_findings(spec)}
    assert found["memory"].advice.startswith("even ")
    assert found["memory"].advice.endswith("expected a GPU with more memory")


@pytest.mark.parametrize(
    ("keys", "advised"),
    [
        ({}, {"base_precision", "blocks_to_swap"}),
        ({"lora": {"kind": "lokr"}}, {"blocks_to_swap"}),
        ({"devices": 2}, set()),
    ],
)
def test_only_what_the_spec_allows_is_advised(
    tmp_path: Path, keys: dict[str, Any], advised: set[str]
) -> None:
    train = _train(tiny_sd(tmp_path / "base"), method="lora", resolution=64, **keys)
    with pytest.raises(TrainingFailed) as failed, memory_explained(train):
        raise torch.OutOfMemoryError
    for text in (what_fits(train, "bf16", False, 1), str(failed.value)):
        assert {key for key in ("base_precision", "blocks_to_swap") if key in text} == advised


def test_captions_that_are_cached_take_nothing_of_a_step(tmp_path: Path) -> None:
    base = tiny_sd(tmp_path / "base")
    config = base / "text_encoder" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"intermediate_size": 1 << 20}))
    keys = {"method": "lora", "resolution": 64, "sample_every": 5}
    cached, each_time = (
        estimate(_train(base, cache=cache, **keys), "bf16", with_prior=False) for cache in (True, False)
    )
    words = 77 * (1 << 20) * 2
    assert cached.peaks["encode"] > words
    for part in ("step", "sample"):
        assert cached.peaks[part] < CONTEXT_BYTES + words < each_time.peaks[part]


def _fused(train: TrainSpec) -> TrainSpec:
    optimiser = {"kind": "adamw8bit", "fused_backward": True, "clip": 0}
    return TrainSpec.model_validate(
        train.model_dump(by_alias=True, exclude_unset=True) | CHECKPOINTED | {"optimiser": optimiser}
    )


def test_emulated_bf16_is_told(tmp_path: Path) -> None:
    spec = training_spec(tiny_sd(tmp_path / "base"), tmp_path, precision="bf16")
    with fake_cuda(capability=(7, 5)):
        found = {finding.name: finding for finding in training_findings(spec)}
    assert "which has no bf16 and emulates it" in found["precision"].found
    assert found["precision"].advice == 'set train.precision = "fp16"'
    assert found["memory"].grade == "good"
    assert "its kernels are for PyTorch" in found["attention"].found


def test_the_command_tells_of_a_spec_before_anything_is_there(tmp_path: Path) -> None:
    spec = training_spec(tiny_sd(tmp_path / "base"), tmp_path)
    (tmp_path / "spec.toml").write_text(dump_spec(spec))
    result = CliRunner().invoke(app, ["doctor", "--train", str(tmp_path / "spec.toml"), "--json"])
    assert result.exit_code == 0, result.output
    names = [finding["name"] for finding in json.loads(result.stdout)["findings"]]
    assert names == ["device", "precision", "attention", "memory"]
    command = ["doctor", "--train", str(tmp_path / "spec.toml"), "--set", "train.attention=sdpa", "--json"]
    changed = json.loads(CliRunner().invoke(app, command).stdout)["findings"]
    assert "as asked" in next(finding["found"] for finding in changed if finding["name"] == "attention")
    nothing = CliRunner().invoke(app, ["doctor", "--set", "train.attention=sdpa"])
    assert (nothing.exit_code, "--set changes a key of a spec" in nothing.output) == (2, True)
    missing = CliRunner().invoke(app, ["doctor", "--train"])
    assert missing.exit_code == 2
    assert "expected one" in missing.output
