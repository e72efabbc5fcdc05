"""Base models as people have them: variants, single files, pickles; and a base that must not be lost or swapped."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import pytorch_lightning
import torch
import transformers
from accelerate import init_empty_weights
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_model_export import image, unequal_sdxl

from hub import hub_of
from processes import PATIENCE_S
from tiny_models import TINY_FLOW_MODELS, TINY_MODELS, tiny_sd, tiny_sd3
from training import Listener, fit, training_spec
from turbo_fetch import stages
from turbo_fetch.dreambooth import families
from turbo_fetch.dreambooth.export.files import save_single_file
from turbo_fetch.dreambooth.families import FAMILIES, Family, single_file
from turbo_fetch.dreambooth.families.architectures import ARCHITECTURES
from turbo_fetch.dreambooth.families.loading import variant_of
from turbo_fetch.dreambooth.sampling.sampler import check_sampling
from turbo_fetch.errors import ModelError, OutputExists, SpecError
from turbo_fetch.spec import GenerateSpec
from turbo_fetch.spec.specfile import parse_spec
from turbo_fetch.stop import StopRequest

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "sd": tiny_sd(folder / "sd"),
        "sdxl": unequal_sdxl(folder / "sdxl"),
        "sd3": tiny_sd3(folder / "sd3"),
    }


@pytest.fixture(scope="module")
def files(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The models as single files of ours."""
    folder = tmp_path_factory.mktemp("files")
    for name in ("sd", "sdxl"):
        save_single_file(families.load(str(models[name])), folder / f"{name}.safetensors", {})
    return {name: folder / f"{name}.safetensors" for name in ("sd", "sdxl")}


def in_half(folder: Path) -> Path:
    """Have all weights of a diffusers folder in fp16, under names that say so."""
    for path in folder.rglob("*.safetensors"):
        weights = {name: weight.half() for name, weight in load_file(path).items()}
        path.unlink()
        save_file(weights, path.with_name(f"{path.stem}.fp16.safetensors"), metadata={"format": "pt"})
    return folder


def test_the_header_of_a_single_file_is_read_once(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copy(files["sd"], tmp_path / "model.safetensors"))
    read: list[Any] = []

    def opened(*given: Any) -> Any:
        read.append(given)
        return safe_open(*given)

    monkeypatch.setattr(single_file, "safe_open", opened)
    families.family_of(str(path))
    families.sides_of(str(path))
    families.load(str(path))
    assert len(read) == 1
    os.utime(path, ns=(1, 1))
    families.family_of(str(path))
    assert len(read) == 2


_LOADED_FROM_A_HUB = """
import sys
from turbo_fetch.dreambooth import families
family = families.load(sys.argv[1])
print(type(family).__name__, family.denoiser.dtype, float(next(family.denoiser.parameters()).sum()))
"""


def test_a_hub_id_with_one_variant_only_is_loaded(models: dict[str, Path], tmp_path: Path) -> None:
    folder = in_half(shutil.copytree(models["sd"], tmp_path / "half"))
    with hub_of({"someone/half": folder}) as address:
        environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hub")}
        command = [sys.executable, "-c", _LOADED_FROM_A_HUB, "someone/half"]
        loaded = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    assert loaded.returncode == 0, loaded.stderr
    kind, dtype, total = loaded.stdout.split()
    first = next(families.load(str(models["sd"])).denoiser.parameters()).detach()
    assert (kind, dtype) == ("StableDiffusion", "torch.float32")
    assert float(total) == pytest.approx(float(first.half().float().sum()))


_NOT_HAD = """
import sys
import time
from turbo_fetch.dreambooth.families import family_of
from turbo_fetch.dreambooth.families.models import check_named
from turbo_fetch.dreambooth.scoring.encoders import open_encoder
from turbo_fetch.errors import ModelError
for had in (
    family_of,
    lambda name: open_encoder(name, "evaluate.dino", "cpu"),
    lambda name: check_named(name, "generate.lora", "lora"),
):
    # Nothing else takes long; how long it takes here says more of the machine.
    waits_s = []
    time.sleep = waits_s.append
    try:
        had(sys.argv[1])
    except ModelError as error:
        assert sum(waits_s) < 5, error
        print(error)
"""


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"HF_ENDPOINT": "http://127.0.0.1:1"}, "the hub cannot be reached: ConnectError"),
        ({"HF_HUB_OFFLINE": "1"}, "the hub cannot be reached: HF_HUB_OFFLINE is set"),
        ({}, "no such folder, and the hub has no such model"),
    ],
    ids=["unreachable", "offline", "missing"],
)
def test_a_model_that_nobody_has_is_refused_soon_and_in_a_sentence(
    tmp_path: Path, environment: dict[str, str], expected: str
) -> None:
    with hub_of({}) as address:
        places = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path)}
        command = [sys.executable, "-c", _NOT_HAD, "someone/nothing"]
        done = subprocess.run(
            command, env=os.environ | places | environment, capture_output=True, text=True, timeout=PATIENCE_S
        )
    model, encoder, lora = done.stdout.splitlines()
    assert model.startswith("someone/nothing: ")
    assert encoder.startswith("evaluate.dino: someone/nothing: ")
    assert lora.startswith("generate.lora: someone/nothing: ")
    assert all(expected in said for said in (model, encoder, lora))
    assert "Retrying" not in done.stderr


_LORA_SOUGHT = """
from huggingface_hub import hf_hub_download
from turbo_fetch.dreambooth.families.models import check_named
check_named("someone/style", "generate.lora", "lora")
hf_hub_download("someone/style", "style.safetensors")
"""


def test_a_lora_of_the_hub_is_found_whatever_its_file_is_called_and_later_without_a_network(
    tmp_path: Path,
) -> None:
    (tmp_path / "style").mkdir()
    (tmp_path / "style" / "style.safetensors").write_bytes(b"weights")
    home = {"HF_HOME": str(tmp_path / "hub")}
    with hub_of({"someone/style": tmp_path / "style"}) as address:
        there = os.environ | home | {"HF_ENDPOINT": address}
        subprocess.run([sys.executable, "-c", _LORA_SOUGHT], env=there, check=True, timeout=PATIENCE_S)
    for nowhere in ({"HF_ENDPOINT": "http://127.0.0.1:1"}, {"HF_HUB_OFFLINE": "1"}):
        code = _LORA_SOUGHT.partition("hf_hub_download(")[0]
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | home | nowhere, check=True, timeout=PATIENCE_S
        )


@pytest.mark.parametrize(
    ("parts", "suffix"),
    [(("unet", "vae", "text_encoder"), "safetensors"), (("unet",), "bin")],
    ids=["all", "mixed"],
)
def test_a_folder_with_one_variant_only_is_loaded(
    models: dict[str, Path], tmp_path: Path, parts: tuple[str, ...], suffix: str
) -> None:
    folder = tmp_path / "half"
    shutil.copytree(models["sd"], folder)
    for part in parts:
        (path,) = (folder / part).glob("*.safetensors")
        weights = {name: weight.half() for name, weight in load_file(path).items()}
        path.unlink()
        stem = "pytorch_model" if suffix == "bin" and part == "text_encoder" else path.stem
        target = path.with_name(f"{stem}.fp16.{suffix}")
        if suffix == "bin":
            torch.save(weights, target)
        else:
            save_file(weights, target, metadata={"format": "pt"})
    found, expected = families.load(str(folder)), families.load(str(models["sd"]))
    assert found.denoiser.dtype == torch.float32
    for (name, one), (_, other) in zip(found.modules(), expected.modules(), strict=True):
        for weight, wanted in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(weight, wanted.half().float() if name in parts else wanted)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["model.safetensors"], None),
        (["model.safetensors", "model.fp16.safetensors"], None),
        (["model.fp16.safetensors"], "fp16"),
        (["model-00001-of-00002.fp16.safetensors", "model-00002-of-00002.fp16.safetensors"], "fp16"),
        (["diffusion_pytorch_model.fp16-00001-of-00002.safetensors"], "fp16"),
        (["diffusion_pytorch_model-00001-of-00002.safetensors"], None),
        (["model.non_ema.safetensors", "model.fp16.bin"], "fp16"),
        (["config.json"], None),
    ],
)
def test_the_variant_of_weights_is_read_from_their_names(
    tmp_path: Path, names: list[str], expected: str | None
) -> None:
    (tmp_path / "unet").mkdir()
    for name in names:
        (tmp_path / "unet" / name).touch()
    assert variant_of(tmp_path, {"unet": ["diffusers", "UNet2DConditionModel"]}) == expected


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_a_single_file_of_ours_makes_the_same_image_without_a_hub(
    models: dict[str, Path], files: dict[str, Path], name: str
) -> None:
    found = families.load(str(files[name]))
    expected = image(families.load(str(models[name])).pipeline)
    # Weights are aligned otherwise in another file, by which they are summed in another order.
    assert np.abs(image(found.pipeline) - expected).max() < 1e-5


def test_a_pickle_of_old_is_read_past_what_its_trainer_left_in_it(
    files: dict[str, Path], tmp_path: Path
) -> None:
    # As the first Stable Diffusion was published: with the trainer's state, and objects of its packages.
    state = {pytorch_lightning.callbacks.ModelCheckpoint: {"best": np.float64(0.1)}}
    torch.save(
        {"state_dict": load_file(files["sd"]), "callbacks": state, "global_step": 5}, tmp_path / "sd.ckpt"
    )
    assert families.family_of(str(tmp_path / "sd.ckpt")).name == "sd"
    # The tiny model's weights do not fit the published one, which a file without our header is taken for.
    with pytest.raises(ModelError, match=r"cannot be loaded as a sd model"):
        families.load(str(tmp_path / "sd.ckpt"))


def test_what_a_model_is_beside_its_weights_survives_a_single_file(
    models: dict[str, Path], tmp_path: Path
) -> None:
    family = families.load(str(models["sd"]))
    scheduler = EulerDiscreteScheduler.from_config(
        family.pipeline.scheduler.config, prediction_type="v_prediction", rescale_betas_zero_snr=True
    )
    family.pipeline.scheduler = scheduler
    save_single_file(family, tmp_path / "v.safetensors", {})
    found = families.load(str(tmp_path / "v.safetensors")).pipeline
    assert type(found.scheduler) is EulerDiscreteScheduler
    assert dict(found.scheduler.config) == dict(scheduler.config)  # type: ignore[attr-defined]


def test_a_single_file_is_a_base_like_any_other(files: dict[str, Path], tmp_path: Path) -> None:
    spec = training_spec(files["sd"], tmp_path, steps=1)
    fit(spec)
    assert spec.train is not None
    assert families.family_of(spec.train.output).name == "sd"


class _Program:
    """What a pickle does that is no weights."""

    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/run-by-a-pickle",)


def test_a_pickle_that_could_run_a_program_is_refused_and_does_not(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "extra": _Program()}, path)
    with pytest.raises(ModelError, match=r"holds more than weights \(posix\.system\).*\.safetensors"):
        families.load(str(path))
    assert not Path("/tmp/run-by-a-pickle").exists()


def _halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def _renamed(path: Path, name: str) -> None:
    """Have a file without a weight of this name."""
    save_file({f"{key}x" if key == name else key: weight for key, weight in load_file(path).items()}, path)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (
            lambda folder: _renamed(
                folder / "unet" / "diffusion_pytorch_model.safetensors", "conv_in.weight"
            ),
            r"its unet has no conv_in\.weight",
        ),
        (
            lambda folder: _renamed(folder / "text_encoder" / "model.safetensors", "final_layer_norm.weight"),
            r"its text_encoder has no .*final_layer_norm\.weight",
        ),
        (
            lambda folder: shutil.rmtree(folder / "text_encoder"),
            r"its text_encoder has no weights; .*\bmodel\.",
        ),
        (
            lambda folder: (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink(),
            r"its unet has no weights; expected diffusion_pytorch_model\.safetensors in the folder unet",
        ),
        (
            lambda folder: (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(
                folder / "unet" / "model.safetensors"
            ),
            r"its unet has no weights; expected diffusion_pytorch_model\.safetensors in the folder unet",
        ),
        (
            lambda folder: (folder / "text_encoder" / "config.json").unlink(),
            r"its text_encoder has no config\.json; expected it in the folder text_encoder",
        ),
        (lambda folder: shutil.rmtree(folder / "tokenizer"), "its tokenizer has no vocabulary"),
        (lambda folder: _halved(folder / "tokenizer" / "vocab.json"), "Error while initializing BPE"),
        (
            lambda folder: (folder / "tokenizer" / "tokenizer.json").write_text('{"model": {"vocab": {'),
            "JSONDecodeError",
        ),
        (lambda folder: _halved(folder / "text_encoder" / "model.safetensors"), "SafetensorError"),
        (lambda folder: _halved(folder / "vae" / "diffusion_pytorch_model.safetensors"), "OSError"),
        (lambda folder: shutil.rmtree(folder / "scheduler"), "no file named scheduler_config.json"),
    ],
    ids=[
        "a weight is missing",
        "one of an encoder is missing",
        "no text encoder",
        "no UNet",
        "renamed",
        "no config",
        "no tokenizer",
        "half a vocabulary",
        "half a tokenizer",
        "half a text encoder",
        "half a VAE",
        "no scheduler",
    ],
)
def test_a_folder_with_a_damaged_part_is_told(
    models: dict[str, Path], tmp_path: Path, damage: Callable[[Path], object], expected: str
) -> None:
    folder = shutil.copytree(models["sd"], tmp_path / "base")
    damage(folder)
    with pytest.raises(ModelError, match=rf"base: cannot be loaded as a sd model: .*{expected}"):
        families.load(str(folder))


def test_a_model_that_does_not_say_its_size_is_told(models: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(models["sd"], tmp_path / "base")
    (folder / "unet" / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"config\.json of the model's unet has sample_size = None"):
        fit(training_spec(folder, tmp_path))


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        (
            "sd",
            {"prediction_type": "sample"},
            "the model predicts 'sample'.*expected epsilon or v_prediction",
        ),
        ("sd", {"prediction_type": "flow_prediction"}, "the model predicts 'flow_prediction'"),
        ("sdxl", {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "the model predicts 'flow'"),
        ("sd3", {"_class_name": "DDIMScheduler"}, "is a DDIMScheduler; expected one of flow"),
    ],
)
def test_a_model_that_predicts_what_is_not_trained_here_is_refused(
    models: dict[str, Path], tmp_path: Path, name: str, settings: dict[str, str], expected: str
) -> None:
    folder = shutil.copytree(models[name], tmp_path / "base")
    config = folder / "scheduler" / "scheduler_config.json"
    written = json.loads(config.read_text()) | settings
    if "_class_name" in settings:
        del written["beta_start" if name == "sdxl" else "shift"]
        written.pop("prediction_type", None)
        index = folder / "model_index.json"
        parts = json.loads(index.read_text()) | {"scheduler": ["diffusers", settings["_class_name"]]}
        index.write_text(json.dumps(parts))
    config.write_text(json.dumps(written))
    with pytest.raises(ModelError, match=f"train.base: its scheduler .*{expected}"):
        fit(training_spec(folder, tmp_path, prior=False))
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"_class_name": "StableDiffusionXLPipeline"},
            "cannot be loaded as a sdxl model: TypeError: StableDiffusionXLPipeline",
        ),
        ({"unet": [None, None]}, r"cannot be loaded as a sd model: .*its model_index\.json has no unet"),
        ({"vae": [None, None]}, r"its model_index\.json has no vae"),
        ({"text_encoder": ["transformers", "NoSuchModel"]}, "NoSuchModel"),
    ],
)
def test_an_index_that_does_not_fit_is_told(
    models: dict[str, Path], tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    folder = shutil.copytree(models["sd"], tmp_path / "base")
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | changes))
    with pytest.raises(ModelError, match=f"base: .*{expected}"):
        fit(training_spec(folder, tmp_path, prior=False))


def test_what_the_spec_says_of_a_prediction_is_believed(models: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(models["sd"], tmp_path / "base")
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "prediction_type": "sample"}))
    fit(training_spec(folder, tmp_path, prior=False, steps=1, loss={"kind": "epsilon"}))
    exported = json.loads((tmp_path / "model" / "scheduler" / "scheduler_config.json").read_text())
    assert exported["prediction_type"] == "epsilon"


def test_a_tokenizer_that_does_not_say_its_length_reads_as_much_as_its_encoder(
    models: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(models["sd"], tmp_path / "base")
    (folder / "tokenizer" / "tokenizer_config.json").unlink()
    encoded = [
        families.load(str(base)).encode_captions(["a dog"])["hidden"] for base in (folder, models["sd"])
    ]
    assert torch.equal(*encoded)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("broken.safetensors", b"broken", "not a whole file of weights"),
        ("broken.ckpt", b"broken", "holds more than weights|not a whole file of weights"),
        ("empty.ckpt", b"", "not a whole file of weights"),
        ("photo.png", b"", "not a file of weights; expected a diffusers folder"),
        ("model.gguf", b"GGUF", "not a file of weights"),
    ],
)
def test_a_file_that_is_no_model_is_told(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=expected):
        families.load(str(tmp_path / name))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["lora_unet_down_blocks_0.lora_down.weight"], "a LoRA; expected a whole model here"),
        (["unet.down_blocks.0.attn1.to_q.lora_A.weight"], "a LoRA"),
        (
            ["model.diffusion_model.double_blocks.0.img_attn.norm.key_norm.scale"],
            "a model of the kind 'flux-schnell', of no known family; expected .* or the transformer of",
        ),
        (["model.diffusion_model.input_blocks.0.0.weight"], "no VAE and no text encoder"),
        (["first_stage_model.encoder.conv_in.weight"], "no UNet or transformer and no text encoder"),
        (["something.else"], "no whole model"),
    ],
)
def test_a_file_of_another_kind_says_of_which(tmp_path: Path, names: list[str], expected: str) -> None:
    path = tmp_path / "file.safetensors"
    save_file({name: torch.zeros(2, 2, 1, 1) for name in names}, path)
    with pytest.raises(ModelError, match=expected):
        families.load(str(path))


PARAMETERS = {
    "v1": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
    "v2": {"unet": 865_910_724, "text_encoder": 340_387_840},
    "xl_base": {"unet": 2_567_463_684, "vae": 83_653_863, "text_encoder_2": 694_659_840},
    "sd3": {"transformer": 2_028_328_000, "vae": 83_819_683},
}
"""Numbers of parameters of the published models, as their cards and papers give them."""


def _on_meta(kind: str) -> dict[str, Any]:
    """Return the components of a published model without values."""
    parts = {}
    for name, written in ARCHITECTURES[kind][1].items():
        config = json.loads(json.dumps(written))
        with init_empty_weights():
            if "architectures" in config:
                made = getattr(transformers, config["architectures"][0])
                parts[name] = made(made.config_class(**config))
            elif name in {"unet", "transformer", "vae"}:
                parts[name] = getattr(diffusers, config["_class_name"]).from_config(config)
    return parts


@pytest.mark.parametrize("kind", PARAMETERS)
def test_published_models_have_the_sizes_that_are_known_of_them(kind: str) -> None:
    parts = _on_meta(kind)
    counts = {name: sum(weight.numel() for weight in part.parameters()) for name, part in parts.items()}
    assert PARAMETERS[kind].items() <= counts.items()


def _published_file(path: Path, kind: str, extra: tuple[str, ...] = (), **header: str) -> Path:
    """Write a file with the names and shapes of a published model, and zeros that take no room."""
    family: Family = FAMILIES[ARCHITECTURES[kind][0]](
        SimpleNamespace(config={}, scheduler=DDIMScheduler(), **_on_meta(kind))  # type: ignore[arg-type]
    )
    shapes = {name: list(weight.shape) for name, weight in family.original_weights().items()}
    table: dict[str, Any] = {"__metadata__": header} if header else {}
    end = 0
    for name, shape in (shapes | {name: [0] for name in extra}).items():
        size = 2 * int(np.prod(shape))
        table[name] = {"dtype": "F16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    head = json.dumps(table).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        file.truncate(8 + len(head) + end)
    return path


@pytest.mark.parametrize(
    ("kind", "extra", "header", "yaml", "prediction"),
    [
        ("v1", (), {}, None, "epsilon"),
        ("v1", ("v_pred",), {}, None, "v_prediction"),
        ("v2", (), {}, None, "v_prediction"),
        ("v2", (), {"modelspec.prediction_type": "epsilon"}, None, "epsilon"),
        ("v2", (), {}, "model:\n  params:\n    linear_start: 0.00085\n", "epsilon"),
        ("v2", (), {}, 'model:\n  params:\n    parameterization: "v"\n', "v_prediction"),
        ("xl_base", (), {}, None, "epsilon"),
        ("xl_base", ("v_pred", "ztsnr"), {}, None, "v_prediction"),
    ],
)
def test_a_published_file_is_known_by_its_weights_and_the_marks_of_other_programs(
    tmp_path: Path,
    kind: str,
    extra: tuple[str, ...],
    header: dict[str, str],
    yaml: str | None,
    prediction: str,
) -> None:
    path = _published_file(tmp_path / "model.safetensors", kind, extra, **header)
    if yaml is not None:
        path.with_suffix(".yaml").write_text(yaml)
    configs = single_file.configs_of(path)
    assert configs["model_index"]["_class_name"] == ARCHITECTURES[kind][0]
    assert configs["scheduler"]["prediction_type"] == prediction
    assert configs["scheduler"].get("rescale_betas_zero_snr", False) == ("ztsnr" in extra)


def test_swapped_weights_of_the_base_are_noticed(tmp_path: Path) -> None:
    base = tiny_sd(tmp_path / "base", seed=0)
    fit(training_spec(base, tmp_path, steps=1))
    tiny_sd(base, seed=1)
    with pytest.raises(OutputExists, match=r"train\.base: .*base holds other weights than it did"):
        fit(training_spec(base, tmp_path, steps=2))


@pytest.mark.parametrize("place", ["base", "base/", "./base", "link", "base/inside", ".", "link/../base"])
def test_an_output_that_would_replace_the_base_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "model_index.json").write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "base")
    with pytest.raises(SpecError, match=r"train\.output is .*where train\.base lies"):
        training_spec(tmp_path / "base", tmp_path, output=f"{tmp_path}/{place}")


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        (
            {"generate": {"prompts": ["a"], "output": "photos"}},
            r"generate\.output and train\.subject are both",
        ),
        (
            {"generate": {"prompts": ["a"], "output": "model-class"}, "prior": {}},
            r"generate\.output and prior\.output",
        ),
        ({"prior": {"output": "photos/"}}, r"prior\.output and train\.subject are both"),
        ({"evaluate": {"output": "photos"}}, r"evaluate\.output and train\.subject are both"),
        (
            {"prior": {"source": "dogs"}, "generate": {"prompts": ["a"], "output": "dogs"}},
            r"generate\.output and prior\.source",
        ),
    ],
)
def test_what_a_stage_writes_is_not_what_another_learns_from(tables: dict[str, Any], expected: str) -> None:
    train = {"base": "some/model", "subject": "photos", "class": "dog", "output": "model"}
    with pytest.raises(SpecError, match=expected):
        parse_spec({"train": train, **tables})
    parse_spec({"train": train, "prior": {}, "generate": {"prompts": ["a"]}, "evaluate": {}})


@pytest.mark.parametrize(
    ("name", "side", "expected"),
    [("sd", 65, None), ("sd3", 72, None), ("sd3", 66, "expected 68"), ("sd3", 400, "expected 128")],
)
def test_sizes_that_the_family_cannot_make_are_refused_with_the_nearest(
    models: dict[str, Path], name: str, side: int, expected: str | None
) -> None:
    sides = families.sides_of(str(models[name]))
    assert (sides.multiple, sides.largest) == {"sd": (2, None), "sd3": (4, 128)}[name]
    generate = GenerateSpec.model_validate({"prompts": ["a"], "width": 8 * side})
    nearest = sides.nearest(8 * side)
    if nearest == 8 * side:
        check_sampling(generate, "generate", str(models[name]))
    else:
        with pytest.raises(SpecError, match=rf"generate\.width = {8 * side}, expected {nearest}"):
            check_sampling(generate, "generate", str(models[name]))


@pytest.mark.parametrize("stage", ["prior", "generate", "evaluate"])
@pytest.mark.parametrize(
    ("family", "key", "value"),
    [("flux", "negative", "blurry"), ("qwen-image", "steps", 1), ("sd3", "scheduler", "ddim")],
)
def test_what_no_image_can_be_made_with_is_refused_before_anything_is_trained(
    tmp_path: Path, stage: str, family: str, key: str, value: Any
) -> None:
    base = (TINY_MODELS | TINY_FLOW_MODELS)[family](tmp_path / "base")
    train = training_spec(base, tmp_path).model_dump(by_alias=True, exclude_none=True)["train"]
    own = {"prompts": ["a"]} if stage == "generate" else {}
    spec = parse_spec({"train": train, stage: {key: value, **own}})
    with pytest.raises(SpecError, match=rf"{stage}\.{key} = {value!r}, but"):
        stages.run(spec, Listener(), StopRequest())
    assert not (tmp_path / "model").exists()


def test_a_resolution_far_from_that_of_the_model_is_told(models: dict[str, Path], tmp_path: Path) -> None:
    listener = Listener()
    fit(training_spec(models["sd"], tmp_path, steps=1, resolution=32), listener)
    assert any(
        "train.resolution = 32, but this model was made for images of 64" in note for note in listener.notes
    )
    with pytest.raises(SpecError, match=r"multiples of 4 pixels up to 128; expected 128"):
        fit(training_spec(models["sd3"], tmp_path / "sd3", resolution=256))
