"""LoKr and LoHa: trained, resumed, sampled, and written as ComfyUI and AUTOMATIC1111's web UI read them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lora_readers import comfyui_names, equal, lycoris_change
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_lora_readers import image, original_name
from torch import Tensor, nn

from tiny_models import tiny_sd, tiny_sd3, tiny_sdxl
from training import assert_equal_bits, fit, history, learned, stopped_after, training_spec
from turbo_fetch.dreambooth import families
from turbo_fetch.dreambooth.export.lora import save_lora
from turbo_fetch.dreambooth.export.model import convert
from turbo_fetch.dreambooth.families.models import restore
from turbo_fetch.dreambooth.families.trainable import configure_trainable
from turbo_fetch.dreambooth.run_folder import DIFFUSERS_LORA, KOHYA_LORA, checkpoints, lora_in
from turbo_fetch.dreambooth.sampling.sampler import add_lora
from turbo_fetch.errors import Interrupted, ModelError, SpecError

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "lokr": ("sd1", {"kind": "lokr", "rank": 2, "alpha": 1.5}),
    "lokr of convolutions": ("sd1", {"kind": "lokr", "rank": 2, "targets": ["to_v", "conv1", "conv2"]}),
    "lokr, both factors whole": ("sdxl", {"kind": "lokr", "rank": 64, "alpha": 16, "factor": 8}),
    "loha": ("sdxl", {"kind": "loha", "rank": 4, "alpha": 2}),
    "loha of convolutions": ("sd1", {"kind": "loha", "rank": 2, "targets": ["conv1", "proj_in"]}),
    "lokr of a transformer": ("sd3", {"kind": "lokr", "rank": 2, "factor": 4}),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "sd1": tiny_sd(folder / "sd1"),
        "sdxl": tiny_sdxl(folder / "sdxl"),
        "sd3": tiny_sd3(folder / "sd3"),
    }


def weights_of(family: families.Family) -> dict[str, Tensor]:
    """Return the weights of all layers by component and path."""
    return {
        f"{component}.{path.removeprefix('text_model.')}": layer.weight.detach().clone()
        for component in family.trained_names
        for path, layer in getattr(family.pipeline, component).named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    }


@dataclass(frozen=True)
class Exported:
    """What was saved, and what it makes of its base."""

    family: str
    kind: str
    folder: Path
    base: Path
    trained: dict[str, Tensor]
    wanted: np.ndarray[Any, Any]


@pytest.fixture(scope="module", params=CASES)
def exported(
    request: pytest.FixtureRequest, models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Exported:
    name, lora = CASES[request.param]
    folder = tmp_path_factory.mktemp("lycoris")
    family = families.load(str(models[name]))
    train = training_spec(models[name], folder, method="lora", text_encoder=True, lora=lora).train
    assert train is not None
    torch.manual_seed(1)
    for _, weight in configure_trainable(family, train).named():
        nn.init.normal_(weight, std=0.3)
    save_lora(family, folder, {})
    family.merge_lora()
    return Exported(name, lora["kind"], folder, models[name], weights_of(family), image(family))


def test_other_programs_make_of_the_file_what_was_trained(exported: Exported) -> None:
    base = families.load(str(exported.base))
    before, original = weights_of(base), original_name(base)
    left = load_file(exported.folder / KOHYA_LORA)
    for path, weight in before.items():
        made = weight
        for name in comfyui_names(exported.family, path, original):
            change = lycoris_change(left, name, weight)
            made = made if change is None else made + change
        assert equal(made, exported.trained[path]), path
    assert not left
    assert any(not equal(weight, exported.trained[path]) for path, weight in before.items())


def test_the_file_says_what_it_is_and_is_the_only_one(exported: Exported) -> None:
    with safe_open(exported.folder / KOHYA_LORA, "pt") as file:
        header = file.metadata()
    assert header["ss_network_module"] == "lycoris.kohya"
    assert f'"algo": "{exported.kind}"' in header["ss_network_args"]
    assert not (exported.folder / DIFFUSERS_LORA).exists()
    assert lora_in(exported.folder) == exported.folder / KOHYA_LORA


def test_we_make_the_same_image_with_it(exported: Exported) -> None:
    base = families.load(str(exported.base))
    plain = image(base)
    add_lora(base, str(exported.folder), 1.0)
    assert np.abs(image(base) - exported.wanted).max() <= 1
    assert np.abs(plain - exported.wanted).max() > 3
    convert(str(exported.base), exported.folder / "merged", "fp32", str(exported.folder), 1.0)
    assert np.abs(image(families.load(str(exported.folder / "merged"))) - exported.wanted).max() <= 1
    half = families.load(str(exported.base))
    add_lora(half, str(exported.folder / KOHYA_LORA), 0.0)
    assert np.array_equal(image(half), plain)


@pytest.mark.parametrize("kind", ["lokr", "loha"])
def test_a_run_resumes_exactly_and_its_checkpoint_is_its_model(
    models: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    keys: dict[str, Any] = {"method": "lora", "lora": {"kind": kind, "rank": 2}, "steps": 4}
    whole = training_spec(models["sd1"], tmp_path, output=str(tmp_path / "whole"), **keys)
    parts = training_spec(models["sd1"], tmp_path, output=str(tmp_path / "parts"), **keys)
    fit(whole)
    with pytest.raises(Interrupted):
        stopped_after(parts, 2)
    fit(parts)
    assert history(tmp_path / "parts") == history(tmp_path / "whole")
    assert_equal_bits(learned(tmp_path / "parts"), learned(tmp_path / "whole"))
    base = families.load(str(models["sd1"]))
    before = weights_of(base)
    add_lora(base, str(tmp_path / "whole"), 1.0)
    restored = weights_of(restore(checkpoints(tmp_path / "whole")[4]))
    assert all(equal(weight, restored[path]) for path, weight in weights_of(base).items())
    assert any(not torch.equal(weight, restored[path]) for path, weight in before.items())


def test_kernels_by_tuckers_decomposition_are_read(models: dict[str, Path], tmp_path: Path) -> None:
    base = families.load(str(models["sd1"]))
    layer = base.pipeline.unet.down_blocks[0].resnets[0].conv1
    before, name = layer.weight.detach().clone(), "lora_unet_down_blocks_0_resnets_0_conv1"
    outputs, inputs = before.shape[:2]
    random = torch.Generator().manual_seed(0)
    core, left, right = (
        torch.randn(shape, generator=random) for shape in ((2, 2, 3, 3), (2, outputs), (2, inputs))
    )
    parts = {"hada_t1": core, "hada_w1_a": left, "hada_w1_b": right, "hada_t2": core}
    parts |= {"hada_w2_a": left, "hada_w2_b": right, "alpha": torch.tensor(1.0)}
    file = {f"{name}.{part}": weight.clone() for part, weight in parts.items()}
    save_file(file, tmp_path / "tucker.safetensors")
    add_lora(base, str(tmp_path / "tucker.safetensors"), 1.0)
    kernel = torch.einsum("ijkl,jr,ip->prkl", core, right, left)
    assert equal(layer.weight, before + 0.5 * kernel * kernel)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda file: file | {"lora_unet_nowhere.lokr_w1": torch.ones(2, 2)},
            "it has no module lora_unet_nowhere",
        ),
        (
            lambda file: {key: weight[:1] for key, weight in file.items() if weight.ndim},
            "do not make a weight of",
        ),
        (
            lambda file: file | {f"{next(iter(file)).rpartition('.')[0]}.dora_scale": torch.ones(1)},
            "has dora_scale; expected the parts of a LoKr or LoHa alone",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    models: dict[str, Path], tmp_path: Path, change: Any, expected: str
) -> None:
    family = families.load(str(models["sd1"]))
    train = training_spec(models["sd1"], tmp_path, method="lora", lora={"kind": "lokr", "rank": 2}).train
    assert train is not None
    configure_trainable(family, train)
    save_lora(family, tmp_path, {})
    path = tmp_path / "odd.safetensors"
    save_file({k: w.contiguous() for k, w in change(load_file(tmp_path / KOHYA_LORA)).items()}, path)
    with pytest.raises(ModelError, match=expected):
        add_lora(families.load(str(models["sd1"])), str(path), 1.0)


@pytest.mark.parametrize(
    ("lora", "expected"),
    [
        ({"kind": "lokr", "dora": True}, 'lora.dora is given, but lora.kind is "lokr"'),
        ({"kind": "loha", "dropout": 0.1}, 'lora.dropout is given, but lora.kind is "loha"'),
        ({"factor": 4}, 'lora.factor is given, but lora.kind is "lora"'),
    ],
)
def test_what_a_kind_has_not_is_refused(tmp_path: Path, lora: dict[str, Any], expected: str) -> None:
    with pytest.raises(SpecError, match=expected):
        training_spec(tmp_path, tmp_path, method="lora", lora=lora)
