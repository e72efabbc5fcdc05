"""Models are scored by what their images show; what cannot be measured is refused before any is made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
import torchmetrics
import torchvision
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from browser import browse
from tiny_models import TINY_MODELS, tiny_clip, tiny_dino, tiny_sd
from training import Listener, fit, training_spec, write_images
from turbo_fetch import stages
from turbo_fetch.cli.commands import app
from turbo_fetch.dreambooth.run_folder import trained_model
from turbo_fetch.dreambooth.sampling.sampler import SampleRequest, make_images, open_model
from turbo_fetch.dreambooth.scoring.encoders import open_encoder
from turbo_fetch.errors import (
    InputError,
    Interrupted,
    ModelError,
    OutputExists,
    SpecError,
    TurboFetchError,
)
from turbo_fetch.spec import Spec
from turbo_fetch.spec.dreambooth import SamplingTable
from turbo_fetch.spec.specfile import dump_spec, parse_spec
from turbo_fetch.stop import StopRequest

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
QUICK = {"steps": 2, "width": 16, "height": 16, "images": 2, "class_images": 2}
PROMPTS = ["a {identifier} {class} in the snow", "a red {identifier} {class}"]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "base": tiny_sd(folder / "base"),
        "other": tiny_sd(folder / "other", seed=1),
        "clip": tiny_clip(folder / "clip"),
        "dino": tiny_dino(folder / "dino"),
        "photos": write_images(folder / "photos", 3, seed=5),
    }


@pytest.fixture
def stop() -> Iterator[StopRequest]:
    request = StopRequest()
    yield request
    request.close()


def scored(places: dict[str, Path], output: Path, **changes: Any) -> Spec:
    """Return a spec that scores the model `other` against `base` with both tiny encoders."""
    table = {
        "models": [str(places["other"])],
        "base": str(places["base"]),
        "subject": str(places["photos"]),
        "identifier": "sks",
        "class": "cat",
        "prompts": PROMPTS,
        "dino": str(places["dino"]),
        "clip": str(places["clip"]),
        "output": str(output),
        **QUICK,
    }
    return parse_spec({"evaluate": {**table, **changes}})


def scores_in(output: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((output / "scores.json").read_text())
    return content


def test_models_are_scored_per_prompt_and_as_a_whole(places: dict[str, Path], tmp_path: Path) -> None:
    text = stages.run(scored(places, tmp_path)).text()
    assert "2 models; best is other" in text
    assert text.endswith("12 images were made in this run")
    content = scores_in(tmp_path)
    base, other = content["models"]
    assert (base["name"], base["step"], other["name"], other["step"]) == ("base", 0, "other", None)
    assert [each["prompt"] for each in other["prompts"]] == ["a sks cat in the snow", "a red sks cat"]
    assert set(other["scores"]) == {"dino", "clip_i", "clip_t", "pres", "div", "class_div"}
    for metric in ("dino", "clip_i", "clip_t", "div"):
        each = [prompt["scores"][metric] for prompt in other["prompts"]]
        assert other["scores"][metric] == pytest.approx(np.mean(each))
        assert other["scores"][metric] != base["scores"][metric]

    # The same figures, from the images that were kept.
    dino = open_encoder(str(places["dino"]), "dino", "cpu")
    made = [Image.open(tmp_path / "pictures" / "other" / f"class-00{n}.png") for n in range(2)]
    real = [Image.open(path) for path in sorted(places["photos"].glob("*.png"))]
    one, two = (torch.nn.functional.normalize(dino.images(each), dim=1) for each in (made, real))
    assert other["scores"]["pres"] == pytest.approx(float((one @ two.T).mean()), abs=1e-5)
    among = torch.stack([two[0] @ two[1], two[0] @ two[2], two[1] @ two[2]])
    assert content["real"]["dino"] == pytest.approx(float(among.mean()), abs=1e-5)
    assert other["scores"]["class_div"] == pytest.approx(float(1 - one[0] @ one[1]), abs=1e-5)


@pytest.fixture
def alexnet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    """Return an AlexNet of random weights, which is where torchvision looks for the trained one."""
    torch.manual_seed(0)
    network = torchvision.models.alexnet(weights=None)
    # Only its convolutions are used: what follows takes no room in the file.
    weights = {
        name: value if name.startswith("features") else torch.zeros(1).expand(value.shape)
        for name, value in network.state_dict().items()
    }
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(weights, folder / torchvision.models.AlexNet_Weights.DEFAULT.url.rpartition("/")[2])
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    features: nn.Module = network.features.eval()
    return features


def _lpips(features: torch.nn.Module, one: Image.Image, other: Image.Image) -> float:
    """Return LPIPS by its formula: equation 1 of arXiv 1801.03924."""
    stored = Path(torchmetrics.functional.image.lpips.__file__).parent / "lpips_models" / "alex.pth"  # type: ignore[attr-defined]
    heads = torch.load(stored, map_location="cpu")
    mean, deviation = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    sides = [image.resize((64, 64), Image.Resampling.BICUBIC) for image in (one, other)]
    pixels = torch.stack([torch.from_numpy(np.array(side)).float() / 127.5 - 1 for side in sides])
    seen = ((pixels - mean) / deviation).permute(0, 3, 1, 2)
    total, layer = 0.0, 0
    for module in features:  # type: ignore[attr-defined]
        seen = module(seen)
        if isinstance(module, torch.nn.ReLU):
            unit = torch.nn.functional.normalize(seen, dim=1)
            difference = (unit[0] - unit[1]).square() * heads[f"lin{layer}.model.1.weight"][0]
            total += float(difference.sum(dim=0).mean())
            layer += 1
    return total


def test_diversity_may_be_measured_as_in_the_paper(
    places: dict[str, Path], tmp_path: Path, alexnet: torch.nn.Module
) -> None:
    spec = scored(places, tmp_path, metrics=["lpips"], images=3)
    stages.run(spec)
    model = scores_in(tmp_path)["models"][1]
    assert set(model["scores"]) == {"lpips"}
    made = [Image.open(tmp_path / "pictures" / "other" / f"00001-00{n}.png").convert("RGB") for n in range(3)]
    with torch.no_grad():
        expected = np.mean([_lpips(alexnet, made[a], made[b]) for a, b in ((0, 1), (0, 2), (1, 2))])
    assert model["prompts"][1]["scores"]["lpips"] == pytest.approx(expected, rel=1e-3)


def test_what_is_complete_is_not_scored_again(places: dict[str, Path], tmp_path: Path) -> None:
    changes: dict[str, Any] = {"metrics": ["pres"], "models": [str(places["other"])]}
    stages.run(scored(places, tmp_path, **changes))
    before = (tmp_path / "report.html").stat().st_mtime_ns
    assert stages.run(scored(places, tmp_path, **changes)).text().endswith("0 images were made in this run")
    assert (tmp_path / "report.html").stat().st_mtime_ns == before

    (tmp_path / "pictures" / "base" / "class-001.png").unlink()
    assert stages.run(scored(places, tmp_path, **changes)).text().endswith("1 images were made in this run")
    assert (tmp_path / "report.html").stat().st_mtime_ns > before


def test_scores_may_be_in_an_object_store(places: dict[str, Path], tmp_path: Path) -> None:
    changes: dict[str, Any] = {"metrics": ["pres"], "models": [str(places["other"])]}
    spec = scored(places, tmp_path, **changes).model_dump(mode="json", by_alias=True, exclude_unset=True)
    spec["evaluate"]["output"] = "memory://scores"
    for made in (4, 0):
        assert stages.run(parse_spec(spec)).text().endswith(f"{made} images were made in this run")
    files = fsspec.filesystem("memory")
    assert json.loads(files.cat("/scores/scores.json"))["models"][1]["name"] == "other"
    assert len(files.glob("/scores/pictures/*/class-*.png")) == 4
    assert b"other" in files.cat("/scores/report.html")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"models": []}, SpecError, r"evaluate.models is missing, and the spec has no \[train\]"),
        ({"models": ["nowhere/*.ckpt"]}, InputError, r"nothing matches 'nowhere/\*.ckpt'"),
        ({"models": ["nowhere/at/all"]}, ModelError, "nowhere/at/all: no such folder"),
        (
            {"subject": "nowhere"},
            InputError,
            r"evaluate\.subject = 'nowhere': no such folder",
        ),
        ({"subject": None}, SpecError, "evaluate.subject is missing"),
        ({"prompts": "nowhere.txt"}, InputError, "evaluate.prompts = 'nowhere.txt': no such file"),
        ({"class": None}, InputError, r"evaluate.prompts: .* speaks of the subject"),
        ({"clip": "/nowhere/clip"}, ModelError, r"evaluate.clip: /nowhere/clip: no such folder"),
        ({"dino": "/nowhere/dino"}, ModelError, r"evaluate.dino: /nowhere/dino: .* 'efficientnet-lite0'"),
    ],
)
def test_what_is_missing_is_said_before_an_image_is_made(
    places: dict[str, Path],
    tmp_path: Path,
    changes: dict[str, Any],
    error: type[TurboFetchError],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        stages.run(scored(places, tmp_path, **changes))
    assert not list(tmp_path.rglob("*.png"))


def test_an_encoder_that_reads_no_text_is_refused(places: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"a ViTModel, which reads no text"):
        open_encoder(str(places["dino"]), "evaluate.clip", "cpu", reads=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clip": "efficientnet-lite0"}, r"does not read text, but metrics has 'clip_t'"),
        ({"prompts": []}, r"evaluate.prompts"),
        ({"images": 1}, r"images is 1, but metrics has 'div'"),
        ({"images": 1, "metrics": ["lpips"]}, r"images is 1, but metrics has 'lpips'"),
        ({"metrics": ["fid"]}, r"evaluate.metrics"),
    ],
)
def test_what_makes_no_sense_is_a_bad_spec(
    places: dict[str, Path], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        scored(places, tmp_path, **changes)


def trained(places: dict[str, Path], folder: Path, **changes: Any) -> Spec:
    """Train a LoRA for four steps with a checkpoint every two; return the spec, with `[evaluate]`."""
    keys: dict[str, Any] = {"method": "lora", "steps": 4, "checkpoint_every": 2, "checkpoints_kept": 3}
    spec = training_spec(places["base"], folder, prior=False, **{**keys, **changes})
    fit(spec)
    table = {"prompts": PROMPTS[:1], "metrics": ["dino", "pres"], "dino": str(places["dino"]), **QUICK}
    tables = spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    return parse_spec({"train": tables["train"], "evaluate": {**table, "output": str(folder / "scores")}})


TOKEN = {"method": "lora+token", "identifier": "<cat>", "token": {"vectors": 2}}


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("sd", {"method": "full", "text_encoder": True}),
        ("sd", {**TOKEN, "ema": {"decay": 0.5}}),
        ("sdxl", {"method": "lora", "text_encoder": True}),
        ("sdxl", TOKEN),
        ("sd3", {"method": "full"}),
        ("sd3", {"method": "lora"}),
    ],
)
def test_a_checkpoint_makes_the_images_of_the_model_that_was_kept(
    places: dict[str, Path], tmp_path: Path, family: str, changes: dict[str, Any]
) -> None:
    base = TINY_MODELS[family](tmp_path / "base")
    spec = trained({**places, "base": base}, tmp_path, learning_rate=1e-2, **changes)
    assert spec.train is not None
    requests = [SampleRequest("one", spec.train.caption(), 0)]
    sampling = SamplingTable(steps=2, width=16, height=16, scheduler="auto")
    model, lora = trained_model(spec, None, None, "model")
    models = [open_model(model, sampling, lora), open_model(str(base), sampling)]
    steps = (2, 4)
    models += [open_model(f"{tmp_path}/model/checkpoints/step-00000{n}.ckpt", sampling) for n in steps]
    kept, untrained, early, last = (
        np.asarray(next(iter(make_images(each, sampling, requests)))[1], dtype=int) for each in models
    )
    assert np.abs(kept - last).max() <= 1
    assert min(np.abs(kept - untrained).max(), np.abs(kept - early).max()) > 3


@pytest.fixture(scope="module")
def run(places: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Spec:
    return trained(places, tmp_path_factory.mktemp("run"))


def test_the_checkpoints_of_a_run_give_curves_and_a_best_step(run: Spec, tmp_path: Path) -> None:
    path = tmp_path / "spec.toml"
    path.write_text(dump_spec(run))
    arguments = ["evaluate", str(path), "-s", "class_images=3", "-o", str(tmp_path / "scores"), "--quiet"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    content = scores_in(tmp_path / "scores")
    assert [(model["name"], model["step"]) for model in content["models"]] == [
        ("base", 0),
        ("step-000002", 2),
        ("step-000004", 4),
    ]
    assert len(list((tmp_path / "scores" / "pictures" / "base").glob("class-*.png"))) == 3
    margins = content["best"]["margins"]
    assert content["best"]["best"] == max(list(margins)[1:], key=margins.__getitem__)


def test_a_spec_that_only_trains_can_be_scored(places: dict[str, Path], run: Spec, tmp_path: Path) -> None:
    path = tmp_path / "spec.toml"
    path.write_text(dump_spec(run.model_copy(update={"evaluate": None})))
    keys = {"steps": 2, "width": 16, "height": 16, "metrics": '["pres"]', "dino": places["dino"]}
    settings = [argument for key, value in keys.items() for argument in ("-s", f"{key}={value}")]
    done = CliRunner().invoke(app, ["evaluate", str(path), *settings, "-o", str(tmp_path / "scores"), "-q"])
    assert done.exit_code == 0, done.output
    assert scores_in(tmp_path / "scores")["made_with"]["class_prompt"] == "a photo of a dog"


def test_a_spec_whose_fetch_stage_takes_secrets_from_the_environment_can_be_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "spec.toml"
    path.write_text(
        '[fetch.input]\nurls = "list.txt"\n[fetch.http.headers]\nAuthorization = "${OF_THIS_TEST}"\n'
        '[fetch.output]\npath = "out"\n[evaluate]\nmetrics = ["pres"]\nclass = "cat"\nprompts = ["a cat"]\n'
    )
    monkeypatch.setenv("OF_THIS_TEST", "Bearer t")
    done = CliRunner().invoke(app, ["evaluate", str(path)])
    assert done.exit_code == 2
    assert "evaluate.subject is missing" in done.stderr


def test_a_lora_is_put_onto_the_base(places: dict[str, Path], run: Spec, tmp_path: Path) -> None:
    assert run.train is not None
    lora = Path(run.train.output) / "pytorch_lora_weights.safetensors"
    stages.run(scored(places, tmp_path, models=[str(lora)], metrics=["dino"], prompts=PROMPTS[:1]))
    base, with_lora = scores_in(tmp_path)["models"]
    assert (with_lora["name"], with_lora["lora"]) == ("pytorch_lora_weights", str(lora))
    assert with_lora["scores"]["dino"] != base["scores"]["dino"]


def test_a_checkpoint_without_its_record_is_refused(places: dict[str, Path], tmp_path: Path) -> None:
    checkpoint = tmp_path / "model" / "checkpoints" / "step-000002.ckpt"
    with pytest.raises(ModelError, match=r"step-000002.ckpt: no such checkpoint"):
        stages.run(scored(places, tmp_path / "scores", models=[str(checkpoint)]))
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    with pytest.raises(ModelError, match=r"step-000002.ckpt: no train.json in .*model"):
        stages.run(scored(places, tmp_path / "scores", models=[str(checkpoint)]))


def test_a_stopped_run_says_so(places: dict[str, Path], tmp_path: Path, stop: StopRequest) -> None:
    class StopAtThree(Listener):
        def step(self, done: int, *_: object) -> None:
            if done == 3:
                stop.ask()

    spec = scored(places, tmp_path, batch_size=1)
    with pytest.raises(Interrupted, match="the same command resumes"):
        stages.run(spec, StopAtThree(), stop)
    assert len(list(tmp_path.rglob("*.png"))) == 3


def test_images_of_other_settings_are_not_replaced(places: dict[str, Path], tmp_path: Path) -> None:
    stages.run(scored(places, tmp_path, metrics=["pres"]))
    with pytest.raises(OutputExists, match=r"class-000.png was made with other settings \(guidance was 7.5"):
        stages.run(scored(places, tmp_path, metrics=["pres"], guidance=3.0))


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 400)])
def test_the_page_shows_all_without_a_network(
    places: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, scheme: str, width: int
) -> None:
    output = tmp_path_factory.getbasetemp() / "shared-scores"
    stages.run(scored(places, output, **{"class": "<b>cat</b>"}))
    with browse((output / "report.html").as_uri(), scheme, width) as tab:
        page = tab.page
        page.wait_for_selector("#plot-drift .scatterlayer")
        assert page.locator(".js-plotly-plot").count() == 3
        line = page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--line').trim()")
        axes = page.evaluate(
            "[...document.querySelectorAll('.js-plotly-plot')].flatMap(plot => "
            "[plot._fullLayout.xaxis.gridcolor, plot._fullLayout.yaxis.gridcolor])"
        )
        assert axes == [line] * 6
        assert page.locator("[data-model]:visible img").count() == 6
        assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
        page.select_option("#model", "base")
        assert page.locator("[data-model]:visible").get_attribute("data-model") == "base"
        assert page.get_by_text("a photo of a <b>cat</b>", exact=True).count() == 2
        assert page.locator("tr.best td").first.inner_text() == "other ★"
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.errors == []
    assert len(tab.requests) == 1
