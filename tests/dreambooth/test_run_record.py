"""What binds a run that resumes: from when on, which keys, how many steps."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from safetensors.torch import load, load_file

from tiny_models import TINY_MODELS, tiny_sd
from training import Listener, assert_equal_bits, fit, history, learned, stopped_after, training_spec
from turbo_fetch.dreambooth import families
from turbo_fetch.dreambooth.run_folder import checkpoints, steps_done, tidy
from turbo_fetch.errors import Interrupted, ModelError, OutputError, OutputExists, SpecError, TrainingFailed
from turbo_fetch.spec.resume import BINDING, FREE, binding
from turbo_fetch.spec.specfile import tables_of
from turbo_fetch.spec.train import TrainSpec


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def made(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a complete run of four steps."""
    folder = tmp_path_factory.mktemp("made")
    fit(training_spec(base, folder, steps=4, checkpoints_kept=9, checkpoint_every=2))
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """Return a copy of it."""
    return Path(shutil.copytree(made, tmp_path / "run"))


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        inner = next(tables_of(field.annotation), None)
        key = f"{prefix}{field.alias or name}"
        yield from [key] if inner is None else _keys(inner, f"{key}.")


def test_every_key_of_train_says_whether_it_binds() -> None:
    assert sorted(BINDING | FREE) == sorted(_keys(TrainSpec))
    assert not BINDING & FREE


def test_only_keys_that_bind_are_compared() -> None:
    whole = {
        "ema": {"decay": 0.5},
        "validation": {},
        "lora": {"rank": 3},
        "method": "lora",
        "subjects": [{"images": "s", "class": "dog", "identifier": "sks", "validation": "there"}],
    }
    train = TrainSpec.model_validate({"base": "b", **whole})
    found = binding(train.model_dump(mode="json", by_alias=True))

    def leaves(table: dict[str, Any], prefix: str = "") -> Iterator[str]:
        for name, value in table.items():
            if f"{prefix}{name}" in BINDING:
                yield f"{prefix}{name}"
                continue
            inner = value[0] if isinstance(value, list) and value and isinstance(value[0], dict) else value
            yield from leaves(inner, f"{prefix}{name}.") if isinstance(inner, dict) else [f"{prefix}{name}"]

    assert set(leaves(found)) == BINDING
    none = train.model_copy(update={"ema": None, "validation": None}).model_dump(mode="json", by_alias=True)
    assert {"ema"} <= binding(none).keys()
    assert "validation" not in binding(none)


def test_what_changes_no_number_may_change_when_a_run_resumes(base: Path, tmp_path: Path) -> None:
    keys: dict[str, Any] = {"steps": 6, "cache": False}
    fit(training_spec(base, tmp_path, output=str(tmp_path / "whole"), **keys))
    with pytest.raises(Interrupted):
        stopped_after(training_spec(base, tmp_path, output=str(tmp_path / "parts"), **keys), 3)
    moved = (tmp_path / "parts").rename(tmp_path / "moved")
    (tmp_path / "subject").rename(tmp_path / "photos")
    changed: dict[str, Any] = {
        "gradient_checkpointing": True,
        "pictures": {"workers": 1},
        "checkpoint_every": 2,
        "checkpoints_kept": 2,
        "log_every": 3,
        "sample_every": 3,
        "samples": {"images": 1, "steps": 1},
        "validation": {"pictures": str(tmp_path / "class"), "every": 3, "draws": 1, "keep_best": False},
        "accelerator": "cpu",
        "precision": "fp32",
        "subject": str(tmp_path / "photos"),
    }
    fit(training_spec(base, tmp_path, output=str(moved), **keys, **changed))
    assert history(moved) == history(tmp_path / "whole")
    state = learned(moved)
    assert_equal_bits(state, learned(tmp_path / "whole"))
    samples = sorted(path.name for path in (moved / "samples").iterdir())
    assert samples == ["step-000003.png", "step-000006.png"]
    assert list(checkpoints(moved)) == [4, 6]


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"seed": 7}, r"train\.seed was 0, is now 7"),
        ({"resolution": 32}, r"train\.resolution was 64, is now 32"),
        ({"compile": True}, r"train\.compile was False, is now True"),
        ({"ema": {"decay": 0.5}}, r"train\.ema was None, is now"),
        ({"loss": {"snr_gamma": 5}}, r"train\.loss\.snr_gamma was None, is now 5"),
        ({"precision": "bf16"}, r"(?s)another kind of machine.*train\.precision was 'fp32', is now 'bf16'"),
    ],
)
def test_what_changes_numbers_is_refused_with_both_values(
    base: Path, run: Path, keys: dict[str, Any], told: str
) -> None:
    with pytest.raises(OutputExists, match=told):
        fit(training_spec(base, run, **{"steps": 6, **keys}))


def test_fewer_steps_than_are_done_are_refused_and_nothing_is_touched(base: Path, run: Path) -> None:
    files = (path for path in (run / "model").rglob("*") if path.is_file() and path.parent.name != "lease")
    before = {path: path.stat().st_mtime_ns for path in files}
    with pytest.raises(
        OutputExists, match=r"train\.steps = 2, but 4 steps are done.*export-model .*step-000002\.ckpt"
    ):
        fit(training_spec(base, run, steps=2))
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_fewer_steps_than_an_unfinished_run_has_done_are_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        stopped_after(training_spec(base, tmp_path, steps=9), 3)
    with pytest.raises(OutputExists, match="but 3 steps are done; expected 3 or more"):
        fit(training_spec(base, tmp_path, steps=2))
    assert fit(training_spec(base, tmp_path, steps=3)).text().count("step 3 of 3") == 1
    assert steps_done(tmp_path / "model") == 3


def test_more_steps_repeat_none(base: Path, run: Path, made: Path) -> None:
    told = Listener()
    fit(training_spec(base, run, steps=5), told)
    assert "train: resumes after step 4" in told.notes
    fit(training_spec(base, made, steps=5, output=str(run / "whole")))
    assert history(run / "model") == history(run / "whole")
    assert_equal_bits(learned(run / "model"), learned(run / "whole"))


@pytest.mark.parametrize(
    "damage", [Path.unlink, lambda path: path.write_bytes(b"x")], ids=["gone", "cut off"]
)
@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_damaged_export_is_made_again_from_the_checkpoint(
    base: Path, tmp_path: Path, damage: Callable[[Path], object], method: str
) -> None:
    spec = training_spec(base, tmp_path, prior=False, steps=1, method=method)
    fit(spec)
    output = tmp_path / "model"
    path = next(output.glob("unet/*.safetensors" if method == "full" else "kohya_lora.safetensors"))
    # Not mapped from the file, which is cut off.
    whole = load(path.read_bytes())
    damage(path)
    told = Listener()
    fit(spec, told)
    assert f"train: {path} is not as it was exported; the model is exported again" in told.notes
    assert_equal_bits(load_file(path), whole)
    assert len(history(output)) == 1
    assert "complete already" in fit(spec).text()
    damage(path)
    shutil.rmtree(output / "checkpoints")
    with pytest.raises(
        OutputError, match=f"{path.name}: not as it was exported, and no checkpoint of step 1 is left"
    ):
        fit(spec)


def test_a_run_that_failed_before_anything_was_saved_binds_nobody(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        fit(training_spec(tmp_path / "no such model", tmp_path, steps=2))
    with pytest.raises(SpecError):
        fit(training_spec(base, tmp_path, steps=2, method="lora", lora={"targets": ["nothing"]}))
    with pytest.raises(TrainingFailed):
        fit(training_spec(base, tmp_path, steps=20, learning_rate=1e30))
    fit(training_spec(base, tmp_path, steps=2))
    assert [entry["step"] for entry in history(tmp_path / "model")] == [1, 2]


def test_checkpoints_without_their_record_are_not_trained_over(base: Path, run: Path) -> None:
    record = run / "model" / "train.json"
    content = record.read_text()
    for damaged in (content[:50], "[]", "{}", '{"essentials": {"train": {"steps": []}, "pictures": {}}}'):
        record.write_text(damaged)
        with pytest.raises(OutputExists, match="damaged"):
            fit(training_spec(base, run, steps=6))
    record.unlink()
    with pytest.raises(OutputExists, match=r"holds checkpoints or a model, but no train\.json"):
        fit(training_spec(base, run, steps=6))


def test_a_record_of_fewer_keys_is_one_of_their_defaults(base: Path, run: Path) -> None:
    path = run / "model" / "train.json"
    record = json.loads(path.read_text())
    for key in ("gradient_checkpointing", "prior_weight", "compile"):
        record["essentials"]["train"].pop(key, None)
    path.write_text(json.dumps(record))
    lines = run / "model" / "history.jsonl"
    lines.write_text("".join(lines.read_text().splitlines(keepends=True)[:3]))
    told = Listener()
    fit(training_spec(base, run, steps=5), told)
    assert "train: history.jsonl lacks 1 of the 4 steps that are done" in told.notes
    with pytest.raises(OutputExists, match=r"train\.prior_weight was 1\.0, is now 2\.0"):
        fit(training_spec(base, run, steps=6, prior_weight=2))


def test_a_complete_run_whose_model_is_gone_is_written_again(base: Path, run: Path) -> None:
    (run / "model" / "model_index.json").unlink()
    shutil.rmtree(run / "model" / "unet")
    fit(training_spec(base, run, steps=4))
    assert (run / "model" / "unet" / "diffusion_pytorch_model.safetensors").is_file()


def test_a_complete_run_has_no_need_of_its_base(base: Path, run: Path) -> None:
    spec = training_spec(base, run, steps=4)
    away = base.rename(base.with_name("away"))
    try:
        assert "complete already" in fit(spec).text()
    finally:
        away.rename(base)


def _spec(**keys: Any) -> TrainSpec:
    return TrainSpec.model_validate({"base": "b", "subject": "s", "class": "dog", **keys})


@pytest.mark.parametrize(
    ("family", "keys", "expected"),
    [
        ("StableDiffusionPipeline", {}, (512, True, 1e-6)),
        ("StableDiffusionPipeline", {"method": "lora"}, (512, False, 1e-4)),
        ("StableDiffusionXLPipeline", {}, (1024, False, 4e-7)),
        ("StableDiffusionXLPipeline", {"method": "lora+token"}, (1024, False, 1e-4)),
        ("StableDiffusion3Pipeline", {}, (1024, False, 1e-6)),
        ("StableDiffusion3Pipeline", {"method": "lora", "text_encoder": True}, (1024, True, 1e-4)),
        ("StableDiffusionXLPipeline", {"resolution": 768, "learning_rate": 3e-6}, (768, False, 3e-6)),
        ("StableDiffusionPipeline", {"optimiser": {"kind": "prodigy"}}, (512, True, 1.0)),
    ],
)
def test_what_is_left_out_is_what_is_usual_for_the_family(
    family: str, keys: dict[str, Any], expected: tuple[int, bool, float]
) -> None:
    filled = families.FAMILIES[family].with_defaults(_spec(**keys))
    assert (filled.resolution, filled.trains_text_encoder, filled.rates["denoiser"]) == expected
    assert families.FAMILIES[family].with_defaults(filled) == filled


def test_a_token_alone_keeps_its_own_rate() -> None:
    filled = families.FAMILIES["StableDiffusionXLPipeline"].with_defaults(_spec(method="token"))
    assert filled.rates["token"] == 5e-4


def test_a_rate_for_text_encoders_that_are_not_trained_is_refused() -> None:
    with pytest.raises(SpecError, match="expected text_encoder = true too"):
        families.FAMILIES["StableDiffusionXLPipeline"].with_defaults(_spec(text_encoder_learning_rate=1e-6))


@pytest.mark.parametrize("name", TINY_MODELS)
def test_lora_targets_of_the_denoiser_leave_a_text_encoder_its_own(
    name: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    base = TINY_MODELS[name](tmp_path_factory.mktemp(name))
    target: dict[str, Any] = {
        "method": "lora",
        "text_encoder": True,
        "lora": {"rank": 2, "targets": ["to_q"]},
    }
    fit(training_spec(base, tmp_path, steps=1, **target))
    names = {key for key in learned(tmp_path / "model") if key.startswith("/state_dict/") and "lora_A" in key}
    denoiser = families.family_of(str(base)).denoiser_name
    assert {key.rpartition(".lora_A")[0].rpartition(".")[2] for key in names if f".{denoiser}." in key} == {
        "to_q"
    }
    assert {key.rpartition(".lora_A")[0].rpartition(".")[2] for key in names if "text_encoder" in key} == {
        "q_proj",
        "k_proj",
        "v_proj",
        "out_proj",
    }


def test_what_killed_runs_left_is_deleted_and_nothing_else(tmp_path: Path) -> None:
    output = tmp_path / "model"
    leftovers = (
        "model/checkpoints/step-000004.ckpt.partial",
        "model/cache/latents-ab.77.unfinished/64x64.npy",
        "model/.train.json.77.tmp",
        "model/samples/.step-000002.png.77.tmp",
        ".model.77.tmp/unet/config.json",
    )
    others = (
        "model/notes.tmp",
        ".model.b.77.tmp/unet/config.json",
        ".model.tmp",
        "model/cache/latents-ab/64x64.npy",
    )
    for name in (*leftovers, *others):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    tidy(output)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == set(others)
