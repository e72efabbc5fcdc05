"""Training from a spec to a model: what learns, from what, and what is told when it cannot."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tiny_models import TINY_MODELS
from training import Listener, fit, history, learned, stopped_after, training_spec, write_images
from turbo_fetch.dreambooth import families
from turbo_fetch.dreambooth.data.training_data import make_concepts, read_training_data
from turbo_fetch.dreambooth.run_folder import CACHE
from turbo_fetch.dreambooth.training.machine import precision_of, set_attention
from turbo_fetch.dreambooth.training.memory_advice import memory_explained
from turbo_fetch.dreambooth.training.module import DreamBooth
from turbo_fetch.errors import (
    InputError,
    Interrupted,
    MissingExtra,
    ModelError,
    OutputExists,
    OutputHeld,
    PicturesError,
    SpecError,
    TrainingFailed,
)

GOLDEN = Path(__file__).parent / "golden_losses.txt"


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in TINY_MODELS.items()}


@pytest.fixture(scope="module")
def base(bases: dict[str, Path]) -> Path:
    return bases["sd"]


def _weights(folder: Path, part: str) -> dict[str, torch.Tensor]:
    stored = load_file(next((folder / part).glob("*.safetensors")))
    return {name.removeprefix("text_model."): weight for name, weight in stored.items()}


def _changed(before: Path, after: Path, part: str) -> bool:
    first, second = _weights(before, part), _weights(after, part)
    return any(not torch.equal(value, second[name]) for name, value in first.items())


def _losses(spec: Any) -> list[float]:
    return [entry["loss"] for entry in history(spec.train.output)]


@pytest.mark.parametrize("name", TINY_MODELS)
def test_every_family_learns_with_the_same_trainer(bases: dict[str, Path], tmp_path: Path, name: str) -> None:
    spec = training_spec(bases[name], tmp_path, steps=12, batch_size=2)
    fit(spec)
    output = tmp_path / "model"
    denoiser = families.load(str(output)).denoiser_name
    assert _changed(bases[name], output, denoiser)
    assert not _changed(bases[name], output, "vae")
    assert not _changed(bases[name], output, "text_encoder")
    assert all({"subject_loss", "prior_loss"} <= entry.keys() for entry in history(output))


def test_a_model_learns_its_images_by_heart(base: Path, tmp_path: Path) -> None:
    spec = training_spec(base, tmp_path, prior=False, steps=60, batch_size=4)
    fit(spec)
    losses = _losses(spec)
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


def test_the_text_encoder_learns_where_asked(base: Path, tmp_path: Path) -> None:
    fit(training_spec(base, tmp_path, steps=2, text_encoder=True))
    assert _changed(base, tmp_path / "model", "text_encoder")
    assert not _changed(base, tmp_path / "model", "vae")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_token_alone_leaves_every_old_weight_as_it_was(base: Path, tmp_path: Path, precision: str) -> None:
    fit(training_spec(base, tmp_path, steps=2, method="token", identifier="<sks>", precision=precision))
    output = tmp_path / "model"
    assert not _changed(base, output, "unet")
    before, after = _weights(base, "text_encoder"), _weights(output, "text_encoder")
    (table,) = (name for name in before if "token_embedding" in name)
    assert torch.equal(after[table][:-1], before[table])
    assert not torch.equal(after[table][-1], before[table][1929])
    tokenizer = families.load(str(output)).pipeline.tokenizer
    assert tokenizer("a <sks> dog", add_special_tokens=False).input_ids == [320, 49408, 1929]
    embeddings = load_file(output / "learned_embeds.safetensors")
    assert torch.equal(embeddings["<sks>"][0], after[table][-1])


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_a_lora_is_read_by_diffusers_and_changes_the_image(base: Path, tmp_path: Path, dora: bool) -> None:
    lora = {"rank": 2, "dora": dora}
    fit(
        training_spec(
            base, tmp_path, steps=4, method="lora", text_encoder=True, lora=lora, learning_rate=0.05
        )
    )
    pipeline = families.load(str(base)).pipeline

    def image() -> torch.Tensor:
        random = torch.Generator().manual_seed(0)
        made = pipeline("sks", num_inference_steps=2, height=64, width=64, generator=random, output_type="pt")
        pixels: torch.Tensor = made.images
        return pixels

    plain = image()
    pipeline.load_lora_weights(tmp_path / "model")
    assert not torch.allclose(image(), plain, atol=1e-3)


def test_caches_change_nothing_but_the_speed(base: Path, tmp_path: Path) -> None:
    images = {"flip": True, "crop": "random", "caption_dropout": 0.3, "workers": 0}
    cached = training_spec(base, tmp_path, output=str(tmp_path / "cached"), pictures=images)
    plain = training_spec(base, tmp_path, output=str(tmp_path / "plain"), pictures=images, cache=False)
    fit(cached)
    fit(plain)
    assert _losses(cached) == pytest.approx(_losses(plain), rel=1e-5)


def test_a_cache_is_not_used_for_another_image(base: Path, tmp_path: Path) -> None:
    first = training_spec(base, tmp_path, steps=2)
    fit(first)
    cache = tmp_path / "model" / CACHE
    before = {path.name for path in cache.iterdir()}
    write_images(tmp_path / "subject", 4, seed=9)
    kept = cache.rename(tmp_path / "cache")
    shutil.rmtree(tmp_path / "model")
    (tmp_path / "model").mkdir()
    kept.rename(cache)
    fit(first)
    assert {path.name for path in cache.iterdir()} > before


def _zeroed(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:128] + bytes(len(content) - 128))


@pytest.mark.parametrize(
    "damage",
    [
        _zeroed,
        lambda path: path.write_bytes(path.read_bytes()[:500]),
        lambda path: path.write_bytes(b""),
        lambda path: path.unlink(),
        lambda path: path.with_name("sha256.json").write_text("[]"),
    ],
    ids=["zeros", "cut off", "empty", "not there", "digests"],
)
def test_a_damaged_cache_is_told_and_made_again(
    base: Path, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    spec = training_spec(base, tmp_path, prior=False, steps=2)
    fit(spec)
    losses = _losses(spec)
    cache = (tmp_path / "model" / CACHE).rename(tmp_path / "cache")
    for kind in ("latents", "captions"):
        damage(next(cache.glob(f"{kind}-*/*.npy")))
    shutil.rmtree(tmp_path / "model")
    (tmp_path / "model").mkdir()
    cache.rename(tmp_path / "model" / CACHE)
    told = Listener()
    fit(spec, told)
    assert _losses(spec) == losses
    damaged = [line for line in told.notes if "a damaged cache, which is made again" in line]
    assert [Path(line.split(":")[0]).name.split("-")[0] for line in damaged] == ["latents", "captions"]


def test_accumulated_passes_are_one_step(base: Path, tmp_path: Path) -> None:
    spec = training_spec(base, tmp_path, steps=3, accumulation=4)
    fit(spec)
    assert [entry["step"] for entry in history(tmp_path / "model")] == [1, 2, 3]


def test_gradients_take_no_room_beside_the_activations_of_the_next_pass(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []
    losses = DreamBooth.losses

    def watched(module: DreamBooth, *given: Any) -> Any:
        kept.append(sum(parameter.grad is not None for parameter in module.parameters()))
        return losses(module, *given)

    monkeypatch.setattr(DreamBooth, "losses", watched)
    fit(training_spec(base, tmp_path, steps=3, accumulation=2))
    assert [count > 0 for count in kept] == [False, True] * 3


def test_the_learning_rate_follows_its_schedule(base: Path, tmp_path: Path) -> None:
    schedule = {"kind": "linear", "warmup_steps": 2}
    fit(training_spec(base, tmp_path, steps=4, learning_rate=1e-3, schedule=schedule))
    rates = [entry["learning_rate"] for entry in history(tmp_path / "model")]
    assert rates == pytest.approx([0, 5e-4, 1e-3, 5e-4])


@pytest.mark.parametrize("kind", ["adamw8bit", "adafactor", "lion", "prodigy"])
def test_every_optimiser_learns(base: Path, tmp_path: Path, kind: str) -> None:
    spec = training_spec(base, tmp_path, steps=2, learning_rate="auto", optimiser={"kind": kind})
    fit(spec)
    assert _changed(base, tmp_path / "model", "unet")


def test_half_precision_rounds_no_weight_that_does_not_learn(base: Path, tmp_path: Path) -> None:
    fit(training_spec(base, tmp_path, steps=2, precision="bf16"))
    assert not _changed(base, tmp_path / "model", "text_encoder")
    assert _weights(tmp_path / "model", "unet")["conv_in.weight"].dtype == torch.float32


def test_bf16_and_checkpointed_gradients_give_nearly_the_same_losses(base: Path, tmp_path: Path) -> None:
    plain = training_spec(base, tmp_path, output=str(tmp_path / "plain"), steps=4)
    lean = training_spec(
        base,
        tmp_path,
        output=str(tmp_path / "lean"),
        steps=4,
        precision="bf16",
        gradient_checkpointing=True,
    )
    fit(plain)
    fit(lean)
    assert _losses(lean) == pytest.approx(_losses(plain), rel=0.05)
    assert _losses(lean) != _losses(plain)


def test_the_best_weights_by_validation_are_kept(base: Path, tmp_path: Path) -> None:
    images = write_images(tmp_path / "held out", 2, seed=1)
    validation = {"pictures": str(images), "every": 2}
    listener = Listener()
    spec = training_spec(base, tmp_path, steps=6, validation=validation, learning_rate=0.01)
    fit(spec, listener)
    best = torch.load(tmp_path / "model" / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["global_step"] == 2
    assert any("weights of step 2" in note for note in listener.notes)
    exported = _weights(tmp_path / "model", "unet")
    assert torch.equal(exported["conv_in.bias"], best["state_dict"]["parts.unet.conv_in.bias"])


def test_samples_are_made_at_step_0_and_do_not_disturb(base: Path, tmp_path: Path) -> None:
    samples = {"images": 2, "steps": 2, "prompts": ["a {class}", "{identifier}"]}
    with_samples = training_spec(
        base, tmp_path, output=str(tmp_path / "with"), steps=4, sample_every=2, samples=samples
    )
    without = training_spec(base, tmp_path, output=str(tmp_path / "without"), steps=4)
    fit(with_samples)
    fit(without)
    grids = sorted((tmp_path / "with" / "samples").iterdir())
    assert [path.name for path in grids] == ["step-000000.png", "step-000002.png", "step-000004.png"]
    for path in grids:
        with Image.open(path) as grid:
            assert grid.size == (128, 128)
    assert _losses(with_samples) == _losses(without)


def test_the_mean_weights_are_exported(base: Path, tmp_path: Path) -> None:
    fit(training_spec(base, tmp_path, steps=4, checkpoint_every=4, ema={"decay": 0.5}))
    exported = _weights(tmp_path / "model", "unet")
    checkpoint = learned(tmp_path / "model")
    assert torch.equal(exported["conv_in.weight"], checkpoint["/ema/means/0"])
    assert not torch.equal(exported["conv_in.weight"], checkpoint["/state_dict/parts.unet.conv_in.weight"])


def test_the_loss_curve_is_the_golden_one(base: Path, tmp_path: Path) -> None:
    spec = training_spec(
        base,
        tmp_path,
        steps=8,
        batch_size=2,
        text_encoder=True,
        pictures={"flip": True, "caption_dropout": 0.2},
        loss={"snr_gamma": 5.0, "noise_offset": 0.05},
    )
    fit(spec)
    found = [
        [entry["loss"], entry["subject_loss"], entry["prior_loss"]] for entry in history(tmp_path / "model")
    ]
    expected = [[float(value) for value in line.split()] for line in GOLDEN.read_text().splitlines()]
    assert found == [pytest.approx(losses, abs=1e-4) for losses in expected]


def test_captions_come_from_sidecars_and_the_template(base: Path, tmp_path: Path) -> None:
    spec = training_spec(base, tmp_path)
    (tmp_path / "subject" / "1.txt").write_text("{identifier} asleep\n on a sofa")
    assert spec.train is not None
    read = read_training_data(spec, spec.train, lambda line: None)
    (examples,) = make_concepts(spec.train, families.load(str(base)), read, lambda line: None)
    assert examples.subject.image_set.captions == (
        "a photo of sks dog",
        "sks asleep on a sofa",
        "a photo of sks dog",
        "a photo of sks dog",
    )
    assert examples.prior is not None
    assert set(examples.prior.image_set.captions) == {"a photo of a dog"}


def test_what_looks_wrong_is_said_before_training(base: Path, tmp_path: Path) -> None:
    subject = write_images(tmp_path / "subject", 2, size=(32, 48))
    (subject / "notes.docx").write_bytes(b"x")
    listener = Listener()
    fit(training_spec(base, tmp_path, steps=1, identifier="photograph", prompt="a {identifier}"), listener)
    told = "\n".join(listener.notes)
    assert "left out, not images: notes.docx" in told
    assert "2 image(s) of the subject; three to five" in told
    assert "2 of 2 images are smaller than resolution = 64 and are enlarged up to 2.0 times" in told
    assert "lack the class 'dog'" in told
    assert "'photograph' is a common word" in told


def test_an_identifier_of_several_tokens_is_told(base: Path, tmp_path: Path) -> None:
    listener = Listener()
    fit(training_spec(base, tmp_path, steps=1, identifier="zwxqvk"), listener)
    assert any("'zwxqvk' is" in note and "tokens" in note for note in listener.notes)


def test_broken_images_are_all_named(base: Path, tmp_path: Path) -> None:
    spec = training_spec(base, tmp_path)
    whole = (tmp_path / "subject" / "0.png").read_bytes()
    (tmp_path / "subject" / "half.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "subject" / "text.jpg").write_text("no image")
    with pytest.raises(PicturesError, match=r"(?s)2 broken file.*half\.png.*text\.jpg: not an image"):
        fit(spec)


def test_a_image_that_breaks_while_training_is_named(base: Path, tmp_path: Path) -> None:
    spec = training_spec(base, tmp_path, cache=False, pictures={"workers": 1}, steps=50)

    class Vandal(Listener):
        """Breaks the images once they have been checked."""

        def note(self, text: str) -> None:
            if text.startswith("attention"):
                for path in (tmp_path / "subject").iterdir():
                    path.write_bytes(b"gone")

    with pytest.raises(PicturesError, match=r"subject/\d\.png: not an image of a known format"):
        fit(spec, Vandal())


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"method": "full+lora"}, "full already trains the weights"),
        ({"method": "lore"}, "expected full, lora, token"),
        ({"lora": {"rank": 4}}, "has no lora"),
        ({"token": {"initial": "cat"}}, "has no token"),
        ({"text_encoder_learning_rate": 1e-6}, "the text encoder is not trained"),
        ({"schedule": {"warmup_steps": 5}}, "has no warm-up"),
        ({"prompt": "a {name}"}, "unknown or broken field"),
        ({"pictures": {"random_crops": 9}}, 'crop is "center"'),
        ({"learning_rate": math.inf}, "learning_rate = inf: input should be a finite number"),
        ({"prior_weight": math.nan}, "prior_weight = nan: input should be a finite number"),
        ({"optimiser": {"epsilon": math.inf}}, "epsilon = inf: input should be a finite number"),
        (
            {"method": "lora", "lora": {"blocks": {"mid": math.inf}}},
            "mid = inf: input should be a finite number",
        ),
        ({"method": "token", "text_encoder": True}, "text_encoder = true, but method = 'token'"),
        (
            {"learning_rate": 1e-8, "schedule": {"kind": "polynomial"}},
            "falls to 1e-07, but begins at 1e-08; expected more",
        ),
        ({"seed": 2**63}, f"train.seed = {2**63}: input should be less than"),
        ({"resolution": 100_000}, "resolution = 100000: input should be less than or equal to 8192"),
        ({"samples": {"steps": 1001}}, "samples.steps = 1001: input should be less than or equal to 1000"),
        ({"output": "é" * 150}, "train.output: has a name of 300 bytes in it; expected at most 255"),
        ({"steps": True}, "train.steps = True: input should be a valid integer"),
        ({"steps": "10"}, "train.steps = '10': input should be a valid integer"),
        ({"cache": "yes"}, "train.cache = 'yes': input should be a valid boolean"),
        ({"prior_weight": True}, "train.prior_weight = True: input should be a valid number"),
    ],
)
def test_nonsense_is_refused_with_the_reason(tmp_path: Path, keys: dict[str, Any], expected: str) -> None:
    with pytest.raises(SpecError, match=expected):
        training_spec(tmp_path, tmp_path, **keys)


@pytest.mark.parametrize(
    ("keys", "error", "expected"),
    [
        ({"base": "nowhere/at/all"}, ModelError, "no such folder, and no hub id"),
        ({"resolution": 66}, SpecError, "multiples of 4"),
        ({"precision": "fp16"}, SpecError, "does not run on processors"),
        ({"attention": "xformers"}, SpecError, "it has no operator for processors"),
        ({"method": "lora", "lora": {"targets": ["nothing"]}}, SpecError, "train.lora.targets"),
        ({"method": "token", "identifier": "dog"}, SpecError, "is a token of the model already"),
        ({"subject": "fetch"}, SpecError, r"has no \[fetch\]"),
        ({"subject": "missing"}, InputError, r"train\.subject = 'missing': no such folder"),
        ({"learning_rate": 1e30, "steps": 20}, TrainingFailed, "the loss of step"),
        (
            {"learning_rate": 1e39, "steps": 1},
            TrainingFailed,
            r"step 1 made parts\.unet\..* infinite or no number",
        ),
        ({"learning_rate": 1e39, "checkpoint_every": 1}, TrainingFailed, "step 1 made parts"),
    ],
)
def test_what_cannot_be_trained_is_told(
    base: Path, tmp_path: Path, keys: dict[str, Any], error: type[Exception], expected: str
) -> None:
    spec = training_spec(Path(keys.pop("base", base)), tmp_path, **keys)
    with pytest.raises(error, match=expected):
        fit(spec)
    assert not list((tmp_path / "model").rglob("*.ckpt"))
    assert not (tmp_path / "model" / "model_index.json").exists()


def test_a_model_of_no_known_family_is_told(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "KandinskyPipeline"}')
    with pytest.raises(ModelError, match="a KandinskyPipeline, which is of no known family"):
        families.load(str(tmp_path))


def test_a_model_with_a_broken_part_is_told(base: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(base, broken)
    next((broken / "unet").glob("*.safetensors")).write_bytes(b"broken")
    with pytest.raises(ModelError, match="cannot be loaded as a sd model"):
        families.load(str(broken))


def test_two_runs_into_one_folder_do_not_mix(base: Path, tmp_path: Path) -> None:
    spec = training_spec(base, tmp_path, steps=2)

    class Second(Listener):
        """Starts the same run again while the first is under way."""

        def note(self, text: str) -> None:
            with pytest.raises(OutputHeld, match="another run"):
                fit(spec)
            self.notes.append(text)

    second = Second()
    fit(spec, second)
    assert second.notes


def test_two_devices_learn_what_one_does_in_two_passes(base: Path, tmp_path: Path) -> None:
    one = training_spec(base, tmp_path, output=str(tmp_path / "one"), steps=4, accumulation=2)
    two = training_spec(base, tmp_path, output=str(tmp_path / "two"), steps=4, devices=2)
    fit(one)
    fit(two)
    assert not torch.distributed.is_initialized()
    assert _losses(two) == pytest.approx(_losses(one), rel=1e-5)
    first, second = _weights(tmp_path / "one", "unet"), _weights(tmp_path / "two", "unet")
    for name, value in first.items():
        # Gradients are summed in another order, and Adam divides by their size.
        torch.testing.assert_close(value, second[name], rtol=0, atol=1e-3)


@pytest.mark.timeout(300)
def test_a_run_goes_on_on_another_number_of_devices_with_the_same_batches(base: Path, tmp_path: Path) -> None:
    """Bit for bit it would be another sum; a step of other batches would be far off."""
    fit(training_spec(base, tmp_path, output=str(tmp_path / "one"), steps=6, accumulation=2))
    changing: dict[str, Any] = {"output": str(tmp_path / "changing"), "steps": 6}
    with pytest.raises(Interrupted):
        stopped_after(training_spec(base, tmp_path, **changing, devices=2), 3)
    listener = Listener()
    fit(training_spec(base, tmp_path, **changing), listener)
    one, changed = history(tmp_path / "one"), history(tmp_path / "changing")
    assert [entry["step"] for entry in changed] == list(range(1, 7))
    assert [entry["loss"] for entry in changed] == pytest.approx([entry["loss"] for entry in one], rel=1e-4)
    assert any("begun on 2 devices, goes on on 1" in note for note in listener.notes)


def test_devices_that_a_step_cannot_be_divided_by_are_one_sentence(base: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        stopped_after(training_spec(base, tmp_path, steps=8, accumulation=3), 2)
    with pytest.raises(
        OutputExists, match=r"whose step is of 3 batches; expected 1 or 3 devices or workers, not 2"
    ):
        fit(training_spec(base, tmp_path, steps=8, accumulation=3, devices=2))


def test_a_lack_of_memory_says_what_to_change(base: Path, tmp_path: Path) -> None:
    spec = training_spec(base, tmp_path, batch_size=4)
    assert spec.train is not None
    with (
        pytest.raises(TrainingFailed, match=r"batch_size = 1 with accumulation = 4, gradient_checkpointing"),
        memory_explained(spec.train),
    ):
        torch.empty(1 << 60)


def test_attention_falls_back_with_one_line(base: Path) -> None:
    line = set_attention(families.load(str(base)), "auto", torch.device("cpu"))
    assert line.startswith("attention: PyTorch's scaled dot product attention; not xformers, for")
    assert "\n" not in line


def test_a_missing_optimiser_package_names_the_extra(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "prodigyopt", None)
    with pytest.raises(MissingExtra, match=r"pip install 'turbo-fetch\[optimisers\]'"):
        fit(training_spec(base, tmp_path, optimiser={"kind": "prodigy"}))


def test_precision_is_what_the_device_can_do(base: Path, tmp_path: Path) -> None:
    spec = training_spec(base, tmp_path)
    assert spec.train is not None
    assert precision_of(spec.train, torch.device("cpu")) == "fp32"
