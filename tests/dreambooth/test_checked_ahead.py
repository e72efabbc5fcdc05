"""What a later stage would fail for is said before an earlier one has made anything, naming the key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tiny_models import tiny_dino, tiny_sd
from training import Listener, training_spec
from turbo_fetch import stages
from turbo_fetch.errors import TurboFetchError
from turbo_fetch.spec.specfile import parse_spec
from turbo_fetch.stop import StopRequest


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_dino(tmp_path_factory.mktemp("dino"))


def broken(folder: Path) -> None:
    """Put into the folder of a test what the cases below name."""
    (folder / "empty").mkdir()
    (folder / "empty.txt").write_text("\n# nothing\n")
    (folder / "file").write_text("")
    (folder / "photos").mkdir()
    (folder / "photos" / "one.png").write_bytes(b"\x89PNG broken")
    (folder / "lora.safetensors").write_bytes(b"broken")


@pytest.mark.parametrize(
    ("stage", "keys", "expected"),
    [
        ("generate", {"prompts": "missing.txt"}, r"generate\.prompts = .*missing\.txt': no such file"),
        ("generate", {"prompts": "empty.txt"}, r"generate\.prompts = .*empty\.txt': holds no prompt"),
        (
            "generate",
            {"lora": "missing.safetensors"},
            r"generate\.lora = .*missing\.safetensors': no such file",
        ),
        ("generate", {"lora": "lora.safetensors"}, r"generate\.lora: .*lora\.safetensors: not a whole file"),
        ("generate", {"embedding": "lora.safetensors"}, r"generate\.embedding: .*: not a whole file"),
        ("generate", {"embedding": "word.safetensors"}, r"generate\.embedding = .*: no such file"),
        ("generate", {"model": "empty"}, r"generate\.model: .*empty: a folder without model_index\.json"),
        ("generate", {"output": "file/images"}, r"/file: this is a file"),
        ("evaluate", {"prompts": "missing.txt"}, r"evaluate\.prompts = .*missing\.txt': no such file"),
        ("evaluate", {"subject": "missing"}, r"evaluate\.subject = .*missing': no such folder"),
        ("evaluate", {"subject": "empty"}, r"evaluate\.subject: .*empty"),
        ("evaluate", {"subject": "photos"}, r"(?s)evaluate\.subject: .*one\.png"),
        ("evaluate", {"models": ["empty"], "base": "missing/model/x"}, r"evaluate\.base: .*missing/model/x"),
        ("evaluate", {"dino": "empty"}, r"evaluate\.dino"),
        ("evaluate", {"output": "file/scores"}, r"/file: this is a file"),
        ("train", {"subject": "missing"}, r"train\.subject = .*missing': no such folder"),
        ("train", {"subject": "photos"}, r"(?s)train\.subject: .*one\.png"),
        (
            "train",
            {"validation": {"pictures": "missing"}},
            r"train\.validation\.pictures = .*missing': no such folder",
        ),
        ("train", {"output": "file/model"}, r"/file: this is a file"),
    ],
)
def test_what_a_later_stage_would_fail_for_is_said_before_anything_is_made(
    base: Path, dino: Path, tmp_path: Path, stage: str, keys: dict[str, Any], expected: str
) -> None:
    broken(tmp_path)
    places = {"prompts", "lora", "embedding", "model", "output", "subject", "dino", "base"}
    own: dict[str, Any] = {
        key: str(tmp_path / value) if key in places and isinstance(value, str) else value
        for key, value in keys.items()
    }
    if "models" in keys:
        own["models"] = [str(tmp_path / name) for name in keys["models"]]
    if "validation" in keys:
        own["validation"] = {"pictures": str(tmp_path / keys["validation"]["pictures"]), "every": 1}
    tables: dict[str, dict[str, Any]] = {
        "train": training_spec(base, tmp_path, prior=False, steps=1).model_dump(
            by_alias=True, exclude_none=True
        )["train"],
        "prior": {"images": 1, "steps": 1, "output": str(tmp_path / "made")},
        "generate": {"prompts": ["a dog"], "steps": 1, "output": str(tmp_path / "images")},
        "evaluate": {"metrics": ["dino"], "dino": str(dino), "output": str(tmp_path / "scores")},
    }
    tables[stage] |= own
    with pytest.raises(TurboFetchError, match=expected):
        stages.run(parse_spec(tables), Listener(), StopRequest())
    assert not any((tmp_path / name).exists() for name in ("made", "model", "images", "scores"))
