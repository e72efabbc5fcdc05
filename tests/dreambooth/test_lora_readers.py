"""Every LoRA file that is exported means to each program that reads it what was trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from lora_readers import (
    ARCHITECTURES,
    KOHYA_VERSIONS,
    READERS,
    TRANSFORMERS,
    automatic_version,
    equal,
    forge_version,
)
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tiny_models import TINY_FLOW_MODELS, tiny_sd, tiny_sd3, tiny_sdxl
from turbo_fetch.dreambooth import families
from turbo_fetch.dreambooth.export.lora import save_lora
from turbo_fetch.dreambooth.families.facts import CLIP_SKIP_KEY, PREDICTION_KEY
from turbo_fetch.dreambooth.families.sd import unet_name
from turbo_fetch.dreambooth.run_folder import DIFFUSERS_LORA, KOHYA_LORA
from turbo_fetch.dreambooth.sampling.sampler import SampleRequest, add_lora, make_images, open_model
from turbo_fetch.errors import ModelError
from turbo_fetch.spec.dreambooth import SamplingTable

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

QUICK = SamplingTable(steps=2, width=32, height=32)
FAMILIES = ("sd1", "sd2", "sdxl", "sd3", *TINY_FLOW_MODELS)


def with_activation(folder: Path, activation: str) -> Path:
    """Give the text encoder the activation by which Stable Diffusion 1 and 2 are told apart."""
    config = folder / "text_encoder" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "hidden_act": activation}))
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "sd1": with_activation(tiny_sd(folder / "sd1"), "quick_gelu"),
        "sd2": tiny_sd(folder / "sd2", "v_prediction"),
        "sdxl": tiny_sdxl(folder / "sdxl"),
        "sd3": tiny_sd3(folder / "sd3"),
        **{name: make(folder / name) for name, make in TINY_FLOW_MODELS.items()},
    }


def with_lora(model: Path, dora: bool) -> families.Family:
    """Return a model with a LoRA on denoiser and text encoders that changes what it makes; alpha is not the rank."""
    family = families.load(str(model))
    torch.manual_seed(1)
    for component in family.trained_names:
        usual = family.lora_targets if component == family.denoiser_name else family.text_lora_targets
        module: Any = getattr(family.pipeline, component)
        module.add_adapter(LoraConfig(r=4, lora_alpha=2, target_modules=list(usual), use_dora=dora))
        for name, weight in module.named_parameters():
            if "lora_magnitude" in name:
                weight.data *= 1 + 0.2 * torch.randn_like(weight)
            elif "lora_" in name:
                nn.init.normal_(weight, std=0.3)
    return family


def weights_of(family: families.Family) -> dict[str, Tensor]:
    """Return the weights of all layers by component and path."""
    return {
        f"{component}.{path.removeprefix('text_model.')}": layer.weight.detach().clone()
        for component in family.trained_names
        for path, layer in getattr(family.pipeline, component).named_modules()
        if isinstance(layer, nn.Linear)
    }


def original_name(family: families.Family) -> Callable[[str], str]:
    unet = getattr(family.pipeline, "unet", None)
    return lambda path: (
        path if unet is None else unet_name(f"{path}.", 1, list(unet.state_dict())).rstrip(".")
    )


def image(family: families.Family) -> np.ndarray[Any, Any]:
    ((_, made),) = make_images(family, QUICK, [SampleRequest("one", "a sks dog", 3)])
    return np.asarray(made, dtype=int)


@dataclass(frozen=True)
class Exported:
    """A LoRA that was trained and saved, and its base to read it onto."""

    name: str
    dora: bool
    folder: Path
    base: families.Family
    before: dict[str, Tensor]
    trained: dict[str, Tensor]
    wanted: np.ndarray[Any, Any]

    def read(self, load: Callable[[families.Family], object]) -> np.ndarray[Any, Any]:
        """Return the image of the base with the LoRA that `load` puts on it."""
        load(self.base)
        made = image(self.base)
        self.base.pipeline.unload_lora_weights()
        return made


@pytest.fixture(scope="module", params=[(name, dora) for name in FAMILIES for dora in (False, True)], ids=str)
def exported(
    request: pytest.FixtureRequest, models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Exported:
    name, dora = request.param
    folder = tmp_path_factory.mktemp("lora")
    base, family = families.load(str(models[name])), with_lora(models[name], dora)
    save_lora(family, folder, {"ss_output_name": "my-dog"})
    wanted = image(family)
    family.merge_lora()
    return Exported(name, dora, folder, base, weights_of(base), weights_of(family), wanted)


def test_each_program_makes_of_the_file_what_was_trained(exported: Exported) -> None:
    name, before, trained = exported.name, exported.before, exported.trained
    file = load_file(exported.folder / KOHYA_LORA)
    # What each does not know at all is told in docs/dreambooth/export.md.
    unknown = {
        "Forge": name == "sd3" or name in TRANSFORMERS - {"flux"},
        "AUTOMATIC1111": exported.dora or name == "sd3" or name in TRANSFORMERS,
        "sd-scripts": exported.dora or name == "sd3" or name in TRANSFORMERS,
    }
    for program, reader in READERS.items():
        if not unknown.get(program):
            read = reader.merged(file, name, before, original_name(exported.base))
            assert all(equal(read[path], trained[path]) for path in trained), program
    changed = [path for path in trained if not equal(before[path], trained[path])]
    assert len(changed) == len([key for key in file if key.endswith((".lora_down.weight", ".lora_A.weight"))])
    if name == "sd3" and not exported.dora:
        parts = {key: value for key, value in file.items() if key.startswith("transformer.")}
        read = READERS["AUTOMATIC1111"].merged(parts, name, before, str)
        assert all(equal(read[path], trained[path]) for path in trained if path.startswith("transformer."))


def test_the_header_says_for_which_models_it_is(exported: Exported) -> None:
    name = exported.name
    with safe_open(exported.folder / KOHYA_LORA, "pt") as opened:
        header = opened.metadata()
    shown = {"sd1": "SD1", "sd2": "SD2", "sdxl": "SDXL"}
    assert automatic_version(header) == shown.get(name, "SD1")
    assert forge_version(header) == shown.get(name, "Unknown")
    assert header["ss_base_model_version"] == KOHYA_VERSIONS[name]
    assert header["modelspec.architecture"] == f"{ARCHITECTURES[name]}/lora"
    assert (header["ss_network_dim"], header["ss_network_alpha"]) == ("4", "2")
    assert header["ss_output_name"] == "my-dog"
    assert len(header["sshs_model_hash"]) == 64


def test_we_read_both_files_back_as_what_was_trained(exported: Exported) -> None:
    assert np.abs(image(exported.base) - exported.wanted).max() > 1
    for file in (DIFFUSERS_LORA, KOHYA_LORA):
        path = str(exported.folder / file)
        made = exported.read(lambda base, path=path: add_lora(base, path, 1.0))  # type: ignore[misc]
        assert np.abs(made - exported.wanted).max() <= 1, file


def test_diffusers_makes_the_same_image_with_it(exported: Exported) -> None:
    for file in (DIFFUSERS_LORA,) if exported.dora else (DIFFUSERS_LORA, KOHYA_LORA):
        made = exported.read(
            lambda base, file=file: base.pipeline.load_lora_weights(exported.folder, weight_name=file)  # type: ignore[misc]
        )
        assert np.abs(made - exported.wanted).max() <= 1, file


def test_sd3_files_of_other_trainers_are_read(models: dict[str, Path], tmp_path: Path) -> None:
    family = with_lora(models["sd3"], dora=False)
    save_lora(family, tmp_path, {})
    theirs = {}
    for key, weight in load_file(tmp_path / KOHYA_LORA).items():
        if key.startswith("transformer."):
            module, part = key.removeprefix("transformer.").rsplit(".lora_", 1)
            name = f"lora_transformer_{module.replace('.', '_')}"
            theirs[f"{name}.lora_{'down' if part[0] == 'A' else 'up'}.weight"] = weight
    save_file(theirs, tmp_path / "theirs.safetensors")
    again = families.load(str(models["sd3"]))
    add_lora(again, str(tmp_path / "theirs.safetensors"), 1.0)
    again.merge_lora()
    family.merge_lora()
    read, trained = weights_of(again), weights_of(family)
    assert all(equal(read[path], trained[path]) for path in trained if path.startswith("transformer."))


def test_a_dora_that_diffusers_cannot_apply_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    save_lora(with_lora(models["sd1"], dora=True), tmp_path, {})
    by_inputs = {
        key: weight.new_ones(1, 32) if key.endswith("dora_scale") else weight
        for key, weight in load_file(tmp_path / KOHYA_LORA).items()
    }
    save_file(by_inputs, tmp_path / "by_inputs.safetensors")
    with pytest.raises(ModelError, match="a factor for each input of a layer"):
        add_lora(families.load(str(models["sd1"])), str(tmp_path / "by_inputs.safetensors"), 1.0)
    with pytest.raises(ModelError, match=r"does not fit this sd3 model: it has no module lora_te"):
        add_lora(families.load(str(models["sd3"])), str(tmp_path / KOHYA_LORA), 1.0)


def test_a_lora_says_what_it_was_trained_to_predict(models: dict[str, Path], tmp_path: Path) -> None:
    said = {PREDICTION_KEY: "v_prediction", CLIP_SKIP_KEY: "1"}
    save_lora(with_lora(models["sd1"], dora=False), tmp_path, said)
    family = open_model(str(models["sd1"]), QUICK, str(tmp_path))
    assert family.facts.clip_skip == 1
    assert isinstance(family.pipeline.scheduler, DDIMScheduler)
    assert family.pipeline.scheduler.config.prediction_type == "v_prediction"  # type: ignore[attr-defined]
