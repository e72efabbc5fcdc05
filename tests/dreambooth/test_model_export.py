"""What is exported is read again by other readers, and makes the same image from the same seed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from typer.testing import CliRunner

from tiny_models import tiny_sd, tiny_sd3, tiny_sdxl
from turbo_fetch.cli.commands import app
from turbo_fetch.dreambooth import families
from turbo_fetch.dreambooth.export.files import save_folder, save_single_file
from turbo_fetch.dreambooth.export.lora import save_lora
from turbo_fetch.errors import OutputError

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
"""What diffusers does with NumPy 2."""

METADATA = {"ss_base_model": "tiny"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {"sd": tiny_sd(folder / "sd"), "sdxl": unequal_sdxl(folder / "sdxl")}


def unequal_sdxl(folder: Path) -> Path:
    """Save an SDXL whose text encoders differ in width, by which diffusers tells them apart in a single file."""
    pipeline = families.load(str(tiny_sdxl(folder))).pipeline
    for name, kind, width in (("", CLIPTextModel, 24), ("_2", CLIPTextModelWithProjection, 40)):
        config = getattr(pipeline, f"text_encoder{name}").config
        config.hidden_size = width
        setattr(pipeline, f"text_encoder{name}", kind(config))
    pipeline.save_pretrained(folder)
    return folder


def image(pipeline: Any) -> np.ndarray[Any, Any]:
    """Return one image, float32, from a fixed seed in three steps."""
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    made = pipeline(
        "a sks dog", generator=generator, num_inference_steps=3, output_type="np", height=32, width=32
    )
    return np.asarray(made.images[0])


def with_lora(model: Path) -> families.Family:
    """Return a model with a LoRA on UNet and text encoders that changes what it makes."""
    family = families.load(str(model))
    torch.manual_seed(1)
    text = list(families.Family.text_lora_targets)
    targets = {"unet": ["to_q", "to_v"], "text_encoder": text, "text_encoder_2": text}
    for component, names in targets.items():
        module = getattr(family.pipeline, component, None)
        if module is not None:
            module.add_adapter(LoraConfig(r=4, lora_alpha=2, target_modules=names))
            for name, weight in module.named_parameters():
                if "lora_" in name:
                    torch.nn.init.normal_(weight, std=0.3)
    return family


def test_a_saved_folder_has_the_vocabulary_that_older_readers_want(
    models: dict[str, Path], tmp_path: Path
) -> None:
    pipeline = families.load(str(models["sd"])).pipeline
    pipeline.tokenizer.add_tokens(["<my-dog>"])
    save_folder(pipeline, tmp_path / "model")

    saved = tmp_path / "model" / "tokenizer"
    vocabulary = json.loads((saved / "vocab.json").read_text(encoding="utf-8"))
    assert len(vocabulary) == 49_408
    assert json.loads((saved / "added_tokens.json").read_text()) == {"<my-dog>": 49_408}
    (saved / "tokenizer.json").unlink()
    slow = CLIPTokenizer(str(saved / "vocab.json"), str(saved / "merges.txt"))
    assert slow("a photo of sks dog").input_ids == [49406, 320, 1125, 539, 48136, 1929, 49407]


def test_a_saved_folder_makes_the_same_image(models: dict[str, Path], tmp_path: Path) -> None:
    pipeline = families.load(str(models["sd"])).pipeline
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "notes.txt").write_text("mine")
    save_folder(pipeline, tmp_path / "model")
    again = StableDiffusionPipeline.from_pretrained(tmp_path / "model")
    assert np.array_equal(image(pipeline), image(again))
    assert (tmp_path / "model" / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("name", "kind", "activation"),
    [
        ("sd", StableDiffusionPipeline, "quick_gelu"),
        # The exact GELU marks Stable Diffusion 2, whose text model has another layout.
        ("sd", StableDiffusionPipeline, "gelu"),
        ("sdxl", StableDiffusionXLPipeline, "quick_gelu"),
    ],
)
def test_a_single_file_makes_the_same_image(
    models: dict[str, Path], tmp_path: Path, name: str, kind: Any, activation: str
) -> None:
    config_file = models[name] / "text_encoder" / "config.json"
    config = json.loads(config_file.read_text())
    config_file.write_text(json.dumps({**config, "hidden_act": activation}))
    family = families.load(str(models[name]))
    save_single_file(family, tmp_path / "model.safetensors", METADATA)

    again = kind.from_single_file(
        tmp_path / "model.safetensors", config=str(models[name]), local_files_only=True
    )
    assert np.allclose(image(family.pipeline), image(again), atol=1e-5)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata()["ss_base_model"] == "tiny"
        assert "model.diffusion_model.input_blocks.0.0.weight" in set(file.keys())


def test_single_files_name_weights_as_the_first_checkpoint_did(
    models: dict[str, Path], tmp_path: Path
) -> None:
    family = families.load(str(models["sd"]))
    save_single_file(family, tmp_path / "model.safetensors", METADATA, torch.float16)
    weights = load_file(tmp_path / "model.safetensors")
    for name in (
        "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight",
        "model.diffusion_model.input_blocks.2.0.op.weight",
        "model.diffusion_model.output_blocks.1.2.conv.weight",
        "first_stage_model.decoder.up.1.upsample.conv.weight",
        "first_stage_model.encoder.mid.attn_1.q.weight",
        "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight",
    ):
        assert weights[name].dtype == torch.float16
    assert weights["first_stage_model.encoder.mid.attn_1.q.weight"].ndim == 4


def test_a_single_file_of_sd3_makes_the_same_image(tmp_path: Path) -> None:
    pipeline = families.load(str(tiny_sd3(tmp_path / "sd3"))).pipeline
    for name, width in (("", 24), ("_2", 40)):
        config = getattr(pipeline, f"text_encoder{name}").config
        config.hidden_size = config.projection_dim = width
        setattr(pipeline, f"text_encoder{name}", CLIPTextModelWithProjection(config))
    # The first encoder of the published models projects nothing, which diffusers takes for granted.
    pipeline.text_encoder.text_projection.weight.data = torch.eye(24)
    pipeline.save_pretrained(tmp_path / "sd3")
    save_single_file(families.load(str(tmp_path / "sd3")), tmp_path / "model.safetensors", METADATA)
    again = StableDiffusion3Pipeline.from_single_file(
        tmp_path / "model.safetensors",
        config=str(tmp_path / "sd3"),
        local_files_only=True,
        text_encoder_3=None,
        tokenizer_3=None,
    )
    assert np.allclose(image(pipeline), image(again), atol=1e-5)
    names = load_file(tmp_path / "model.safetensors").keys()
    assert "model.diffusion_model.joint_blocks.1.context_block.attn.qkv.weight" in names
    assert "text_encoders.clip_g.transformer.text_model.encoder.layers.0.mlp.fc1.weight" in names


def test_a_place_that_cannot_be_written_is_named(models: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    family = families.load(str(models["sd"]))
    with pytest.raises(OutputError, match="file"):
        save_folder(family.pipeline, tmp_path / "file" / "model")
    with pytest.raises(OutputError, match="file"):
        save_single_file(family, tmp_path / "file" / "model.safetensors", METADATA)


def export(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["export-model", *map(str, arguments)])


def test_the_command_merges_a_lora_into_one_file(models: dict[str, Path], tmp_path: Path) -> None:
    family = with_lora(models["sd"])
    save_lora(family, tmp_path / "lora", METADATA)
    target = tmp_path / "out" / "merged.safetensors"
    done = export(models["sd"], target, "--lora", tmp_path / "lora", "--precision", "fp32")
    assert (done.exit_code, done.output) == (0, f"exported  {target}\n")
    again = StableDiffusionPipeline.from_single_file(target, config=str(models["sd"]), local_files_only=True)
    assert np.allclose(image(family.pipeline), image(again), atol=1e-5)
    assert target.stat().st_mode & 0o777 == 0o666 & ~umask()

    half = tmp_path / "half.safetensors"
    assert export(models["sd"], half, "--lora", tmp_path / "lora", "--lora-scale", "0.5").exit_code == 0
    name = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q.weight"
    base = dict(families.load(str(models["sd"])).pipeline.unet.state_dict())
    start = base["mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"]
    changes = [load_file(file)[name].float() - start for file in (half, target)]
    assert load_file(half)[name].dtype == torch.float16
    assert torch.allclose(2 * changes[0], changes[1], atol=2e-3)


def test_the_command_writes_a_folder_in_the_precision_that_is_wanted(
    models: dict[str, Path], tmp_path: Path
) -> None:
    target = tmp_path / "folder"
    assert export(models["sd"], target, "--precision", "bf16").exit_code == 0
    again = StableDiffusionPipeline.from_pretrained(target, dtype=torch.bfloat16)
    assert again.unet.dtype == torch.bfloat16
    weights = target / "unet" / "diffusion_pytorch_model.safetensors"
    assert weights.stat().st_mode & 0o777 == 0o666 & ~umask()


def test_the_command_replaces_nothing_and_names_what_is_missing(
    models: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    there = export(models["sd"], tmp_path / "there")
    assert (there.exit_code, "is there already" in there.output) == (2, True)
    missing = export("nowhere/at/all", tmp_path / "new")
    assert (missing.exit_code, "nowhere/at/all: no such folder" in missing.output) == (2, True)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["model.ckpt", "model.SAFETENSORS", "model.gguf"])
def test_no_folder_is_made_with_the_name_of_a_file(
    models: dict[str, Path], tmp_path: Path, name: str
) -> None:
    made = export(models["sd"], tmp_path / name)
    assert (made.exit_code, "expected one that ends in .safetensors" in made.output) == (2, True)
    assert not (tmp_path / name).exists()


def umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
