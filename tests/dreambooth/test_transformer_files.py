"""Transformers in files of their own, as their authors and ComfyUI keep them: written for others, and read."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.loaders.single_file_utils import (
    convert_flux_transformer_checkpoint_to_diffusers,
    create_diffusers_clip_model_from_ldm,
    create_diffusers_t5_model_from_checkpoint,
)
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextModel, T5EncoderModel

from tiny_models import TINY_FLOW_MODELS, tiny_flux, tiny_sd3
from training import Listener, fit, training_spec
from turbo_fetch.dreambooth import families
from turbo_fetch.dreambooth.export.files import save_single_file
from turbo_fetch.dreambooth.export.model import convert
from turbo_fetch.dreambooth.families.flux import Flux
from turbo_fetch.dreambooth.families.models import weights_there
from turbo_fetch.dreambooth.sampling.sampler import SampleRequest, add_lora, make_images
from turbo_fetch.errors import ModelError, OutputExists, SpecError
from turbo_fetch.spec.dreambooth import SamplingTable

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

QUICK = SamplingTable(steps=2, width=32, height=32)
MAKERS = {**TINY_FLOW_MODELS, "sd3": lambda folder: tiny_sd3(folder, with_t5=True)}
FLUX = "model.diffusion_model.double_blocks.0.img_attn.qkv.weight"


def image(family: families.Family) -> np.ndarray[Any, Any]:
    ((_, made),) = make_images(family, QUICK, [SampleRequest("one", "a sks dog", 3)])
    return np.asarray(made, dtype=int)


@pytest.fixture(scope="module", params=MAKERS)
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[families.Family, Path]:
    """A model whose transformer is not as published, and the file of it in the folder of the one that is."""
    base = MAKERS[request.param](tmp_path_factory.mktemp("models") / request.param)  # type: ignore[no-untyped-call]
    family = families.load(str(base))
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in family.denoiser.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    save_single_file(family, base / "trained.safetensors", {"ss_base_model": "tiny"})
    return family, base


def test_a_file_in_the_folder_of_its_model_makes_the_same_image(
    trained: tuple[families.Family, Path],
) -> None:
    family, base = trained
    file = str(base / "trained.safetensors")
    again = families.load(file)
    assert type(again) is type(family)
    # Sums are rounded otherwise where weights are mapped from a file that does not align them.
    assert np.abs(image(again) - image(family)).max() <= 1
    assert np.abs(image(family) - image(families.load(str(base)))).max() > 3
    assert families.sides_of(file) == families.sides_of(str(base))
    shapes = [weight.shape for weight in families.skeleton(file).denoiser.parameters()]
    assert shapes == [weight.shape for weight in family.denoiser.parameters()]
    assert "what else the model has is from" in again.notes[0]


def test_diffusers_reads_the_transformer_of_the_file(trained: tuple[families.Family, Path]) -> None:
    family, base = trained
    if family.name == "flux":
        # diffusers splits Flux at the widths of the published model: see below.
        return
    kind: Any = type(family.denoiser)
    theirs = kind.from_single_file(
        str(base / "trained.safetensors"), config=str(base), subfolder="transformer"
    )
    ours = family.denoiser.state_dict()
    assert theirs.state_dict().keys() == ours.keys()
    assert all(torch.equal(weight, ours[name]) for name, weight in theirs.state_dict().items())


def test_flux_has_the_names_and_rows_that_diffusers_reads(tmp_path: Path) -> None:
    rows = dict.fromkeys(("attn.to_q", "attn.to_k", "attn.to_v"), 3072) | {"proj_mlp": 4 * 3072}
    names = families.load(str(tiny_flux(tmp_path / "flux"))).denoiser.state_dict()
    weights = {}
    for name in names:
        inner = name.rpartition(".")[0].split(".", 2)[-1]
        count = rows.get(inner, 6) if name.startswith("single_transformer_blocks.") else 6
        weights[name] = torch.randn(count, 1)
    read = convert_flux_transformer_checkpoint_to_diffusers(Flux.layout.original(weights))
    assert read.keys() == weights.keys()
    assert all(torch.equal(weight, weights[name]) for name, weight in read.items())


def test_a_checkpoint_of_flux_holds_all_that_comfyui_loads_and_diffusers_reads_it(tmp_path: Path) -> None:
    """ComfyUI: comfy/supported_models.py, `Flux`: prefixes of VAE and text encoders."""
    base = str(tiny_flux(tmp_path / "flux"))
    family = families.load(base)
    save_single_file(family, tmp_path / "flux.safetensors", {})
    file = load_file(tmp_path / "flux.safetensors")
    prefixes = (
        "model.diffusion_model.double_blocks.",
        "vae.decoder.mid.attn_1.q.",
        "text_encoders.clip_l.transformer.text_model.encoder.layers.",
        "text_encoders.t5xxl.transformer.encoder.block.",
    )
    assert all(any(name.startswith(prefix) for name in file) for prefix in prefixes)
    vae = AutoencoderKL.from_single_file(str(tmp_path / "flux.safetensors"), config=base, subfolder="vae")
    clip = create_diffusers_clip_model_from_ldm(CLIPTextModel, file, subfolder="text_encoder", config=base)
    t5 = create_diffusers_t5_model_from_checkpoint(
        T5EncoderModel, file, subfolder="text_encoder_2", config=base
    )
    for name, theirs in {"vae": vae, "text_encoder": clip, "text_encoder_2": t5}.items():
        ours = getattr(family.pipeline, name).state_dict()
        assert all(torch.equal(weight, ours[key]) for key, weight in theirs.state_dict().items()), name


def scaled(file: dict[str, Tensor], end: str, by_row: bool) -> dict[str, Tensor]:
    """Return matrices as ComfyUI stores them in fp8: by their largest number, or that of each row."""
    stored: dict[str, Tensor] = {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}
    for name, weight in file.items():
        if weight.ndim == 2 and name.endswith(".weight"):
            largest = weight.abs().amax(1) if by_row else weight.abs().amax()
            scale = largest / 448
            stored[name] = (weight / (scale[:, None] if by_row else scale)).to(torch.float8_e4m3fn)
            stored[f"{name.removesuffix('.weight')}.{end}"] = scale
        else:
            stored[name] = weight
    return stored


@pytest.mark.parametrize(
    ("store", "tolerance"),
    [
        (lambda file: {name: weight.to(torch.float8_e4m3fn) for name, weight in file.items()}, 0.07),
        (lambda file: {name: weight.bfloat16() for name, weight in file.items()}, 0.005),
        (lambda file: scaled(file, "scale_weight", by_row=False), 0.07),
        (lambda file: scaled(file, "weight_scale", by_row=True), 0.07),
        (
            lambda file: {
                name.removeprefix("model.diffusion_model."): weight for name, weight in file.items()
            },
            0.0,
        ),
        (lambda file: {name.removeprefix("model."): weight for name, weight in file.items()}, 0.0),
    ],
    ids=["fp8", "bf16", "scaled fp8", "fp8 scaled by rows", "bare names", "another prefix"],
)
def test_files_of_others_are_read(
    tmp_path: Path, store: Callable[[dict[str, Tensor]], dict[str, Tensor]], tolerance: float
) -> None:
    base = tiny_flux(tmp_path / "flux")
    family = families.load(str(base))
    save_single_file(family, tmp_path / "whole.safetensors", {})
    kept = ("model.diffusion_model.",)
    file = {
        name: weight
        for name, weight in load_file(tmp_path / "whole.safetensors").items()
        if name.startswith(kept)
    }
    save_file(store(file), base / "theirs.safetensors")
    read = families.load(str(base / "theirs.safetensors"), torch.float32).denoiser.state_dict()
    for name, weight in family.denoiser.state_dict().items():
        # The smallest numbers of fp8 are steps of 2⁻⁹.
        assert torch.allclose(read[name], weight, rtol=tolerance, atol=2**-9 if tolerance else 0), name


def without(file: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight for name, weight in file.items() if ".txt_in." not in name}


def wider(file: dict[str, Tensor]) -> dict[str, Tensor]:
    return file | {"model.diffusion_model.img_in.weight": torch.zeros(32, 24)}


def in_nf4(file: dict[str, Tensor]) -> dict[str, Tensor]:
    return file | {FLUX: torch.zeros(64, 1, dtype=torch.uint8), f"{FLUX}.absmax": torch.zeros(4)}


@pytest.mark.parametrize(
    ("store", "expected"),
    [
        (without, r"it has no model\.diffusion_model\.txt_in\.weight"),
        (wider, r"img_in\.weight is \(32, 24\), expected \(32, 16\)"),
        (in_nf4, r"img_attn\.qkv\.weight is quantised as uint8; expected fp32, fp16, bf16 or fp8"),
    ],
    ids=["a weight is missing", "another width", "nf4"],
)
def test_what_cannot_be_read_is_named(
    tmp_path: Path, store: Callable[[dict[str, Tensor]], dict[str, Tensor]], expected: str
) -> None:
    base = tiny_flux(tmp_path / "flux")
    save_single_file(families.load(str(base)), base / "file.safetensors", {})
    save_file(store(load_file(base / "file.safetensors")), base / "file.safetensors")
    with pytest.raises(
        ModelError, match=rf"file\.safetensors: cannot be loaded as a flux model: .*{expected}"
    ):
        families.load(str(base / "file.safetensors"))


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_layers", 1), ("n_layers", 1), ("num_single_layers", 1), ("guidance_embeds", False)],
)
def test_a_file_of_a_larger_model_is_not_cut_to_that_of_its_folder(
    trained: tuple[families.Family, Path], key: str, value: Any, tmp_path: Path
) -> None:
    family, base = trained
    config: Any = family.denoiser.config
    if not config.get(key) or config[key] == value:
        return
    folder = tmp_path / "smaller"
    shutil.copytree(base, folder)
    place = folder / "transformer" / "config.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), key: value}))
    with pytest.raises(
        ModelError, match=r"it has \S+, of [\d,]+ weights that the transformer of \S+ has not"
    ):
        families.load(str(folder / "trained.safetensors"))


def test_where_the_rest_of_the_model_is_looked_for_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    base = tiny_flux(tmp_path / "flux")
    save_single_file(families.load(str(base)), tmp_path / "alone.safetensors", {})
    with pytest.raises(
        ModelError, match=r"alone\.safetensors: the transformer of a flux model; the rest of it is"
    ) as told:
        families.family_of(str(tmp_path / "alone.safetensors"))
    assert "black-forest-labs/FLUX.1-dev" in str(told.value)


def test_a_new_word_of_flux_is_in_its_file(tmp_path: Path) -> None:
    base = tiny_flux(tmp_path / "flux")
    fit(training_spec(base, tmp_path, steps=2, method="token", identifier="<sks>", learning_rate=0.1))
    convert(str(tmp_path / "model"), base / "word.safetensors", "fp32", None, 1.0)
    folder, file = (families.load(str(place)) for place in (tmp_path / "model", base / "word.safetensors"))
    for family in (folder, file):
        assert family.pipeline.tokenizer.convert_tokens_to_ids("<sks>") == 49408
    requests = [SampleRequest("one", "a photo of <sks>", 3)]
    ((_, one),), ((_, other),) = (make_images(family, QUICK, requests) for family in (folder, file))
    assert np.array_equal(one, other)  # type: ignore[arg-type]


def test_a_run_begins_from_such_a_file_and_is_bound_to_all_of_it(tmp_path: Path) -> None:
    base = tiny_flux(tmp_path / "flux")
    file = base / "mine.safetensors"
    save_single_file(families.load(str(base)), file, {})
    listener = Listener()
    keys: dict[str, Any] = {"method": "lora", "lora": {"rank": 2}}
    fit(training_spec(file, tmp_path, steps=1, **keys), listener)
    assert any("mine.safetensors: transformer, vae" in note for note in listener.notes)
    before = weights_there(str(file))
    config = base / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "shift": 2.0}))
    assert weights_there(str(file)) != before
    with pytest.raises(OutputExists, match=r"train\.base: .*mine\.safetensors holds other weights"):
        fit(training_spec(file, tmp_path, steps=2, **keys))
    with pytest.raises(SpecError, match=r"where train\.base lies"):
        training_spec(file, tmp_path, output=str(base))


def test_a_file_in_the_folder_of_another_model_is_not_put_into_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    base = tiny_flux(tmp_path / "flux")
    save_single_file(families.load(str(base)), base / "mine.safetensors", {})
    other = tmp_path / "other"
    shutil.copytree(base, other)
    index = json.loads((other / "model_index.json").read_text())
    (other / "model_index.json").write_text(json.dumps({**index, "_class_name": "StableDiffusionPipeline"}))
    with pytest.raises(ModelError, match=r"FLUX\.1-dev"):
        families.family_of(str(other / "mine.safetensors"))


STYLES: dict[str, Callable[[str], str]] = {
    "kohya": lambda name: f"lora_unet_{name.replace('.', '_')}",
    "ai-toolkit": lambda name: f"diffusion_model.{name}",
}


@pytest.mark.parametrize(("kind", "style"), [("lora", "kohya"), ("loha", "ai-toolkit")])
def test_a_lora_on_matrices_of_the_original_model_is_read(
    trained: tuple[families.Family, Path], kind: str, style: str, tmp_path: Path
) -> None:
    """ComfyUI: comfy/lora.py, `model_lora_keys_unet`: each weight of the original model, with underscores or dots."""
    _, base = trained
    family = families.load(str(base))
    theirs: dict[str, Any] = {}
    transformer: Any = family.denoiser
    layout = family.layout_of(transformer.config)  # type: ignore[attr-defined]
    original = layout.original(transformer.state_dict())
    torch.manual_seed(2)
    for name, weight in original.items():
        if (
            not name.endswith(".weight")
            or weight.ndim != 2
            or not re.search(r"(blocks|layers)\.0\.", name)
            or "adaLN" in name
        ):
            continue
        place, (rows, columns) = STYLES[style](name.removesuffix(".weight")), weight.shape
        down, up = torch.randn(2, columns) * 0.3, torch.randn(rows, 2) * 0.3
        if kind == "lora":
            own = {"lora_down.weight": down, "lora_up.weight": up}
            change = up @ down
        else:
            own = {"hada_w1_a": up, "hada_w1_b": down, "hada_w2_a": up.flip(0), "hada_w2_b": down.clone()}
            change = (up @ down) * (up.flip(0) @ down)
        theirs |= {f"{place}.{part}": value.contiguous() for part, value in own.items()}
        theirs[f"{place}.alpha"] = torch.tensor(1.0)
        original[name] = weight + 0.5 * change
    save_file(theirs, tmp_path / "theirs.safetensors")
    add_lora(family, str(tmp_path / "theirs.safetensors"), 1.0)
    if kind == "lora":
        family.merge_lora()
    shapes = {name: weight.shape for name, weight in transformer.state_dict().items()}
    changed = 0
    before = families.load(str(base)).denoiser.state_dict()
    for name, weight in layout.read(shapes, original.__getitem__):
        assert torch.allclose(transformer.state_dict()[name], weight, atol=1e-5), name
        changed += not torch.equal(before[name], weight)
    assert changed >= len(theirs) // 5
