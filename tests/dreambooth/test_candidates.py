"""Which models are scored, in which order and under which names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from turbo_fetch.dreambooth.scoring.candidates import Candidate, candidates
from turbo_fetch.errors import InputError, ModelError, SpecError
from turbo_fetch.spec.specfile import parse_spec


def found(tables: dict[str, Any]) -> list[Candidate]:
    spec = parse_spec(tables)
    assert spec.evaluate is not None
    return candidates(spec, spec.evaluate)


def trained(output: Path, **train: Any) -> dict[str, Any]:
    """Return a spec whose training wrote to `output`."""
    table = {"base": "base", "subject": "photos", "class": "dog", "steps": 5, "output": str(output), **train}
    return {"train": table, "evaluate": {}}


def leave(output: Path, *steps: int, steps_done: int | None = 5) -> None:
    """Leave behind what a run of five steps does: checkpoints, a record, a LoRA."""
    (output / "checkpoints").mkdir(parents=True)
    for step in steps:
        (output / "checkpoints" / f"step-{step:06d}.ckpt").touch()
    (output / "train.json").write_text(json.dumps({"steps_done": steps_done}))
    (output / "pytorch_lora_weights.safetensors").touch()


def test_checkpoints_come_by_step_after_the_base_and_before_what_was_kept(tmp_path: Path) -> None:
    leave(tmp_path, 4, 2)
    base, *others = found(trained(tmp_path))
    assert (base.name, base.model, base.step, base.is_base) == ("base", "base", 0, True)
    assert [(each.name, each.step) for each in others] == [
        ("step-000002", 2),
        ("step-000004", 4),
        ("step-000005", 5),
    ]
    assert others[0].model.endswith("step-000002.ckpt")
    assert (others[2].model, others[2].lora) == ("base", str(tmp_path / "pytorch_lora_weights.safetensors"))


def test_a_checkpoint_of_the_last_step_stands_for_what_was_kept(tmp_path: Path) -> None:
    leave(tmp_path, 5)
    assert [each.model for each in found(trained(tmp_path))[1:]] == [
        str(tmp_path / "checkpoints" / "step-000005.ckpt")
    ]


def test_the_checkpoint_of_the_best_validation_is_scored_at_its_step(tmp_path: Path) -> None:
    leave(tmp_path, 5)
    torch.save({"global_step": 3}, tmp_path / "checkpoints" / "best.ckpt")
    validation = {"pictures": "held-out", "every": 1}
    names = [each.name for each in found(trained(tmp_path, validation=validation))]
    assert names == ["base", "step-000003", "step-000005"]


def test_a_run_in_progress_is_scored_as_far_as_it_is(tmp_path: Path) -> None:
    leave(tmp_path, 2, steps_done=None)
    assert [each.name for each in found(trained(tmp_path))] == ["base", "step-000002"]


def test_what_was_not_trained_yet_cannot_be_scored(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no trained model yet"):
        found(trained(tmp_path))


def test_named_models_keep_their_order_and_get_names_of_their_own(tmp_path: Path) -> None:
    for run in ("b", "a"):
        leave(tmp_path / run, 10, 2)
    models = [
        str(tmp_path / "b" / "checkpoints" / "*.ckpt"),
        str(tmp_path / "a" / "checkpoints" / "step-000010.ckpt"),
    ]
    assert [(each.name, each.step) for each in found({"evaluate": {"models": models}})] == [
        ("b-checkpoints-step-000002", 2),
        ("b-checkpoints-step-000010", 10),
        ("a-checkpoints-step-000010", 10),
    ]
    models = ["somebody/model", "other/base"]
    names = [each.name for each in found({"evaluate": {"models": models, "base": "one"}})]
    assert names == ["base", "somebody-model", "other-base"]


def test_a_lora_goes_onto_the_base(tmp_path: Path) -> None:
    leave(tmp_path / "run")
    models = [str(tmp_path / "run"), str(tmp_path / "run" / "pytorch_lora_weights.safetensors")]
    _, folder, file = found({"evaluate": {"models": models, "base": "one"}})
    assert [(each.model, each.lora) for each in (folder, file)] == [("one", models[0]), ("one", models[1])]
    with pytest.raises(SpecError, match=r"is a LoRA, but evaluate.base is missing"):
        found({"evaluate": {"models": models}})


def test_what_is_not_named_or_not_there_is_said() -> None:
    with pytest.raises(SpecError, match=r"evaluate.models is missing, and the spec has no \[train\]"):
        found({"evaluate": {}})
    with pytest.raises(InputError, match=r"nothing matches 'nowhere/\*.ckpt'"):
        found({"evaluate": {"models": ["nowhere/*.ckpt"]}})
