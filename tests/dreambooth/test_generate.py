"""Images are functions of their settings, which they carry; what is there already is not made again."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.loaders.textual_inversion import TextualInversionLoaderMixin
from peft import LoraConfig
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save_file
from typer.testing import CliRunner

from tiny_models import TINY_FLOW_MODELS, tiny_sd, tiny_sd3
from training import Listener
from turbo_fetch import stages
from turbo_fetch.cli.commands import app
from turbo_fetch.dreambooth import families
from turbo_fetch.dreambooth.data.sources import class_images_place
from turbo_fetch.dreambooth.export.lora import save_lora
from turbo_fetch.dreambooth.run_folder import KOHYA_LORA
from turbo_fetch.dreambooth.sampling import prior
from turbo_fetch.dreambooth.sampling.image_folder import Settings, settings_in
from turbo_fetch.dreambooth.sampling.sampler import SAMPLERS, SampleRequest, add_lora, make_images, open_model
from turbo_fetch.errors import InputError, Interrupted, ModelError, OutputExists, SpecError
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.spec.dreambooth import SamplingTable
from turbo_fetch.spec.specfile import parse_spec
from turbo_fetch.stop import StopRequest

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
QUICK: dict[str, Any] = {"steps": 2, "width": 16, "height": 16}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd(tmp_path_factory.mktemp("model") / "sd")


@pytest.fixture
def stop() -> Iterator[StopRequest]:
    request = StopRequest()
    yield request
    request.close()


def generate(base: Path, output: Path, **changes: Any) -> Any:
    """Return a spec that makes two images of each of two prompts."""
    table = {
        "model": str(base),
        "prompts": ["a dog", "ein Hündchen"],
        "images": 2,
        "output": str(output),
        **QUICK,
    }
    return parse_spec({"generate": {**table, **changes}})


def pixels(path: Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), dtype=int)


def test_a_image_carries_the_settings_that_make_it_again(model: Path, tmp_path: Path) -> None:
    stages.run(generate(model, tmp_path / "one", seed=7, negative="blurry"))
    made = tmp_path / "one" / "00001-001.png"
    settings = settings_in(made.read_bytes(), made.name)
    assert (settings.prompt, settings.seed, settings.negative) == ("ein Hündchen", 10, "blurry")
    with Image.open(made) as image:
        words, negative, facts = image.info["parameters"].split("\n")
    assert (words, negative) == ("ein Hündchen", "Negative prompt: blurry")
    assert facts.startswith("Steps: 2, Sampler: DDIM, CFG scale: 7.5, Seed: 10, Size: 16x16, Model hash: ")

    done = CliRunner().invoke(app, ["generate", "--from", str(made), "-o", str(tmp_path / "two"), "--quiet"])
    assert done.exit_code == 0, done.output
    # It was one of a batch, and some processors round the products of a batch otherwise than those of one.
    assert np.abs(pixels(made).astype(int) - pixels(tmp_path / "two" / "00000-000.png")).max() <= 1


def test_a_image_does_not_depend_on_the_batch_that_it_is_made_in(model: Path) -> None:
    requests = [SampleRequest(str(number), "a dog", number) for number in range(3)]
    # Euler a draws noise in every step, which must come from each image's own generator.
    alone, together = (SamplingTable(scheduler="euler_a", batch_size=size, **QUICK) for size in (1, 3))
    family = open_model(str(model), alone)
    one = [np.asarray(image, dtype=int) for _, image in make_images(family, alone, requests)]
    many = [np.asarray(image, dtype=int) for _, image in make_images(family, together, requests)]
    assert np.abs(np.subtract(one, many)).max() <= 1
    assert np.abs(one[0] - one[1]).max() > 10


@pytest.mark.parametrize("name", [*SAMPLERS, "auto"])
def test_every_sampler_makes_a_image(model: Path, name: Any) -> None:
    sampling = SamplingTable(scheduler=name, steps=4, width=16, height=16)
    family = open_model(str(model), sampling)
    ((_, image),) = make_images(family, sampling, [SampleRequest("one", "a dog", 0)])
    assert np.asarray(image).std() > 5


def test_only_missing_and_broken_images_are_made(model: Path, tmp_path: Path) -> None:
    spec = generate(model, tmp_path)
    assert stages.run(spec).reports["generate"].text().endswith("4, of which 4 were made in this run")
    before = {path.name: path.read_bytes() for path in tmp_path.glob("0*.png")}
    (tmp_path / "00000-001.png").unlink()
    (tmp_path / "00001-000.png").write_bytes(before["00001-000.png"][:300])
    assert stages.run(spec).reports["generate"].text().endswith("4, of which 2 were made in this run")
    assert {path.name: path.read_bytes() for path in tmp_path.glob("0*.png")} == before
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.width == 2 * 16 + 4
        # Two rows, each under its prompt, which takes as many lines as it needs.
        assert grid.height >= 2 * (16 + 4 + 16) - 4


def test_images_of_other_settings_are_not_replaced(model: Path, tmp_path: Path) -> None:
    stages.run(generate(model, tmp_path, prompts=["a dog"], images=1))
    before = (tmp_path / "00000-000.png").read_bytes()
    with pytest.raises(
        OutputExists, match=r"00000-000.png was made with other settings \(steps was 2, is now 3\)"
    ):
        stages.run(generate(model, tmp_path, prompts=["a dog"], images=1, steps=3))
    assert (tmp_path / "00000-000.png").read_bytes() == before


def test_a_image_of_somebody_else_is_never_written_over(model: Path, tmp_path: Path) -> None:
    spec = generate(model, tmp_path, prompts=["a dog"])
    Image.new("RGB", (16, 16)).save(tmp_path / "00000-001.png")
    before = (tmp_path / "00000-001.png").read_bytes()
    with pytest.raises(OutputExists, match=r"not as turbo-fetch made them.*: 00000-001\.png"):
        stages.run(spec)
    assert (tmp_path / "00000-001.png").read_bytes() == before
    assert not (tmp_path / "00000-000.png").exists()


@pytest.mark.parametrize("keeps_texts", [True, False])
def test_a_retouched_image_stays_as_it_is(model: Path, tmp_path: Path, keeps_texts: bool) -> None:
    spec = generate(model, tmp_path, prompts=["a dog"])
    stages.run(spec)
    path = tmp_path / "00000-000.png"
    with Image.open(path) as image:
        texts = PngInfo()
        for name, text in image.info.items():
            texts.add_itxt(name, text)  # type: ignore[arg-type]
        image.putpixel((0, 0), (1, 2, 3))
        image.save(path, pnginfo=texts if keeps_texts else None)
    (tmp_path / "grid.png").write_bytes(path.read_bytes())
    (tmp_path / "00000-001.png").unlink()
    before, listener = path.read_bytes(), Listener()
    if keeps_texts:
        stages.run(spec, listener)
        told = "\n".join(listener.notes)
        assert "changed since they were made, and left as they are: 00000-000.png" in told
        assert "grid.png is not one that turbo-fetch made, and left as it is" in told
    else:
        with pytest.raises(OutputExists, match=r"00000-000\.png"):
            stages.run(spec)
    assert path.read_bytes() == (tmp_path / "grid.png").read_bytes() == before


def test_a_stopped_run_goes_on_with_what_is_missing(model: Path, tmp_path: Path, stop: StopRequest) -> None:
    class StopAtTwo(ProgressListener):
        def step(self, done: int, *_: object) -> None:
            if done == 2:
                stop.ask()

    spec = generate(model, tmp_path, batch_size=1)
    with pytest.raises(Interrupted):
        stages.run(spec, StopAtTwo(), stop)
    assert len(list(tmp_path.glob("0*.png"))) == 2
    assert stages.run(spec).reports["generate"].text().endswith("4, of which 2 were made in this run")


def test_fixed_code_begins_every_prompt_with_the_same_noise(model: Path, tmp_path: Path) -> None:
    stages.run(generate(model, tmp_path, fixed_code=True, prompts=["a dog", "a dog"], images=1))
    assert np.array_equal(pixels(tmp_path / "00000-000.png"), pixels(tmp_path / "00001-000.png"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": "missing.txt"}, r"generate.prompts = 'missing.txt': no such file"),
        ({"prompts": ["a {identifier} dog"]}, r"speaks of the subject, but the spec has no \[train\]"),
        ({"model": None}, r"generate.model is missing, and the spec has no \[train\]"),
    ],
)
def test_what_cannot_be_generated_is_said_clearly(
    model: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises((InputError, SpecError), match=message):
        stages.run(generate(model, tmp_path, **changes))


def test_a_image_without_settings_is_no_source() -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    with pytest.raises(InputError, match=r"x.png: holds no settings of turbo-fetch"):
        settings_in(file.getvalue(), "x.png")


def class_spec(model: Path, output: Path, **changes: Any) -> Any:
    train = {"base": str(model), "subject": "photos", "class": "dog", "output": str(output)}
    quick = {} if "source" in changes else QUICK
    return parse_spec({"prior": {"images": 3, **quick, **changes}, "train": train})


def made(spec: Any, stop: StopRequest) -> int:
    prior.check(spec)
    return prior.run(spec, ProgressListener(), stop).made


def test_class_images_are_used_again_only_when_nothing_changed(
    model: Path, tmp_path: Path, stop: StopRequest
) -> None:
    spec = class_spec(model, tmp_path / "model")
    assert made(spec, stop) == 3
    folder = Path(str(class_images_place(spec)))
    assert folder == tmp_path / "model-class"
    first = settings_in((folder / "00000.png").read_bytes(), "first")
    assert (first.prompt, first.seed) == ("a photo of a dog", 0)
    assert made(spec, stop) == 0

    (folder / "00001.png").unlink()
    assert made(spec, stop) == 1
    assert made(class_spec(model, tmp_path / "model", guidance=3.0), stop) == 3
    assert json.loads((folder / "prior.json").read_text())["made_with"]["guidance"] == 3.0


def test_class_images_are_made_anew_for_other_weights(tmp_path: Path, stop: StopRequest) -> None:
    model = tiny_sd(tmp_path / "base", seed=0)
    spec = class_spec(model, tmp_path / "model", images=1)
    assert made(spec, stop) == 1
    before = pixels(tmp_path / "model-class" / "00000.png")
    tiny_sd(tmp_path / "base", seed=1)
    assert made(spec, stop) == 1
    assert np.abs(before - pixels(tmp_path / "model-class" / "00000.png")).max() > 10


def test_fewer_class_images_leave_no_old_ones(model: Path, tmp_path: Path, stop: StopRequest) -> None:
    made(class_spec(model, tmp_path / "model"), stop)
    (tmp_path / "model-class" / "mine.png").write_bytes(b"mine")
    assert made(class_spec(model, tmp_path / "model", images=1), stop) == 0
    assert sorted(path.name for path in (tmp_path / "model-class").glob("*.png")) == ["00000.png", "mine.png"]


def test_class_images_of_somebody_else_are_never_written_over_nor_deleted(
    model: Path, tmp_path: Path, stop: StopRequest
) -> None:
    folder = tmp_path / "model-class"
    made(class_spec(model, tmp_path / "model"), stop)
    names = sorted(path.name for path in folder.glob("*.png"))
    with Image.open(folder / names[-1]) as image:
        texts = PngInfo()
        texts.add_itxt("turbo-fetch", image.info["turbo-fetch"])
        Image.new("RGB", image.size, "red").save(folder / names[-1], pnginfo=texts)
    retouched = (folder / names[-1]).read_bytes()
    with pytest.raises(OutputExists, match=rf"not as turbo-fetch made them.*{names[-1]}"):
        made(class_spec(model, tmp_path / "model", steps=3), stop)
    made(class_spec(model, tmp_path / "model", images=1), stop)
    assert (folder / names[-1]).read_bytes() == retouched
    Image.new("RGB", (16, 16)).save(folder / names[0])
    with pytest.raises(OutputExists, match=rf"not as turbo-fetch made them.*{names[0]}"):
        made(class_spec(model, tmp_path / "model", images=1), stop)


def test_a_missing_source_of_class_images_is_named(model: Path, tmp_path: Path, stop: StopRequest) -> None:
    with pytest.raises(InputError, match=r"prior.source = 'dogs': no such folder"):
        made(class_spec(model, tmp_path, source="dogs"), stop)


def test_settings_that_make_no_difference_are_not_compared() -> None:
    one = Settings("a", "", 0, "ddim", 5, 1.0, None, None, "here", "hash")
    assert one.differences(Settings("a", "", 0, "ddim", 5, 1.0, None, None, "there", "hash")) == []


def lora_for(model: Path, folder: Path) -> Path:
    """Write a LoRA on the UNet that changes what the model makes."""
    family = families.load(str(model))
    pipeline = family.pipeline
    torch.manual_seed(1)
    pipeline.unet.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_v"]))
    for name, weight in pipeline.unet.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.3)
    save_lora(family, folder, {})
    return folder


@pytest.mark.parametrize("file", [KOHYA_LORA, ""])
def test_a_lora_changes_images_by_its_scale(model: Path, tmp_path: Path, file: str) -> None:
    lora = lora_for(model, tmp_path / "lora") / file
    one: dict[str, Any] = {"prompts": ["a dog"], "images": 1}
    stages.run(generate(model, tmp_path / "base", **one))
    for scale in (0.0, 0.5, 1.0):
        stages.run(generate(model, tmp_path / str(scale), lora=str(lora), lora_scale=scale, **one))
    base, none, half, whole = (
        pixels(tmp_path / folder / "00000-000.png") for folder in ("base", "0.0", "0.5", "1.0")
    )
    assert np.abs(base - none).max() <= 1
    assert np.abs(base - half).max() > 3
    assert np.abs(half - whole).max() > 3

    settings = settings_in((tmp_path / "0.5" / "00000-000.png").read_bytes(), "half")
    assert (settings.lora, settings.lora_scale) == (str(lora), 0.5)
    with pytest.raises(OutputExists, match=r"lora_scale was 0.5, is now 0.7"):
        stages.run(generate(model, tmp_path / "0.5", lora=str(lora), lora_scale=0.7, **one))


def test_a_lora_that_is_none_is_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "lora.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"lora.safetensors: not a whole file of weights"):
        stages.run(generate(model, tmp_path / "out", lora=str(tmp_path / "lora.safetensors")))
    with pytest.raises(ModelError, match=r"/nowhere/model: no such folder, and no hub id"):
        stages.run(generate(Path("/nowhere/model"), tmp_path / "out"))


def test_weights_that_are_no_numbers_make_no_black_image(tmp_path: Path) -> None:
    base = tiny_sd(tmp_path / "sd")
    unet: Any = families.load(str(base)).denoiser
    unet.conv_out.weight.data[0, 0, 0, 0] = float("nan")
    unet.save_pretrained(base / "unet")
    with pytest.raises(ModelError, match=r"no image but NaN.*expected other weights, or precision"):
        stages.run(generate(base, tmp_path / "out"))
    assert not list((tmp_path / "out").glob("*.png"))


@pytest.mark.parametrize("style", ["diffusers", "kohya"])
@pytest.mark.parametrize("make", [tiny_sd, tiny_sd3, *TINY_FLOW_MODELS.values()])
def test_a_lora_that_fits_a_model_only_in_part_is_refused(
    make: Callable[[Path], Path], style: str, tmp_path: Path
) -> None:
    family = families.load(str(make(tmp_path / "model")))
    name = family.denoiser_name
    there = next(
        module for module, _ in family.denoiser.named_modules() if module.endswith(("attn1.to_q", ".to_q"))
    )
    layer: Any = family.denoiser.get_submodule(there)
    rows = layer.weight.shape[0]
    weights: dict[str, torch.Tensor] = {}
    for module in (there, re.sub(r"\d+", "7", there)):
        ends = ("lora_A.weight", "lora_B.weight")
        place = f"{name}.{module}"
        if style == "kohya":
            ends, place = ("lora_down.weight", "lora_up.weight"), family.lora_names(name, module)[0]
        weights |= {f"{place}.{ends[0]}": torch.ones(2, rows), f"{place}.{ends[1]}": torch.ones(rows, 2)}
    save_file(weights, tmp_path / "lora.safetensors")
    with pytest.raises(ModelError, match=rf"does not fit this {family.name} model: it has no module"):
        add_lora(family, str(tmp_path / "lora.safetensors"), 1.0)


@pytest.mark.parametrize("make", [tiny_sd, tiny_sd3])
def test_all_tokens_of_a_new_word_are_read_once(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    family = families.load(str(make(tmp_path / "model")))
    pipeline = family.pipeline
    pipeline.tokenizer.add_tokens(["<sks>", "<sks>_1"])
    (prompt,) = family.whole_prompts(["a <sks> dog"])
    if isinstance(pipeline, TextualInversionLoaderMixin):
        # What the pipeline does with it.
        prompt = pipeline.maybe_convert_prompt(prompt, pipeline.tokenizer)  # type: ignore[attr-defined]
    assert prompt == "a <sks> <sks>_1 dog"
