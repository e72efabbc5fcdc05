"""What a later stage would fail for is said before an earlier one has made anything, naming the key."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from origin import Origin
from processes import PATIENCE_S
from tiny_models import tiny_dino, tiny_sd
from training import Listener, history, training_spec, write_images
from turbo_fetch import stages
from turbo_fetch.dreambooth.data import folder
from turbo_fetch.dreambooth.data.images import ImageFile, inspect
from turbo_fetch.errors import ModelError, OutputExists, SpecError, TurboFetchError
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


def all_stages(base: Path, dino: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """Return a quick spec of all stages that run a model, which write into a folder."""
    train = training_spec(base, folder, prior=False, steps=1).model_dump(by_alias=True, exclude_none=True)
    return {
        "train": train["train"],
        "prior": {"images": 1, "steps": 1, "output": str(folder / "made")},
        "generate": {"prompts": ["a dog"], "images": 1, "steps": 1, "output": str(folder / "images")},
        "evaluate": {
            "metrics": ["dino"],
            "prompts": ["a dog"],
            "images": 1,
            "steps": 1,
            "dino": str(dino),
            "output": str(folder / "scores"),
        },
    }


def test_what_a_fetch_would_not_make_is_said_before_it(base: Path, tmp_path: Path) -> None:
    train = training_spec(base, tmp_path, prior=False, subject="fetch").train
    assert train is not None
    fetch = {"input": {"urls": "list.txt"}, "output": {"path": str(tmp_path / "data"), "format": "dummy"}}
    spec = parse_spec({"train": train.model_dump(by_alias=True, exclude_none=True), "fetch": fetch})
    with pytest.raises(
        SpecError, match=r'train\.subject = "fetch", but fetch\.output\.format = "dummy" keeps no'
    ):
        stages.run(spec, Listener(), StopRequest())
    assert not (tmp_path / "data").exists()


def test_a_part_of_no_fetch_is_refused(base: Path, tmp_path: Path) -> None:
    spec = training_spec(base, tmp_path)
    parted = spec.model_copy(update={"engine": spec.engine.model_copy(update={"shards": "0/2"})})
    with pytest.raises(SpecError, match=r"engine\.shards = .*but the spec has no \[fetch\]"):
        stages.run(parted, Listener(), StopRequest())


@pytest.mark.parametrize(
    ("stage", "keys", "expected"),
    [
        ("prior", {"source": "empty", "steps": 3}, "steps given beside source = "),
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
        ("generate", {"embedding": "some/word"}, r"generate\.embedding = .*: no such file"),
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
        ("train", {"accelerator": "mps"}, r'train\.accelerator = "mps": this machine has none'),
        ("train", {"resolution": 61}, r"train\.resolution = 61: sides of this model's images are multiples"),
        ("train", {"method": "lora", "lora": {"targets": ["to_z"]}}, r"train\.lora\.targets = \['to_z'\]"),
        ("train", {"clip_skip": 9}, r"train\.clip_skip = 9"),
        ("train", {"method": "token", "identifier": "dog"}, r"train\.identifier = 'dog' is a token"),
        (
            "train",
            {"method": "lora", "lora": {"targets": ["norm1"]}},
            r"\['norm1'\]: a module of such a name is none",
        ),
        ("prior", {"output": "file/made"}, r"/file: this is a file"),
        ("prior", {"source": "empty", "images": 1}, r"(?s)prior\.source: .*empty: no images of the class"),
    ],
)
def test_what_a_later_stage_would_fail_for_is_said_before_anything_is_made(
    base: Path, dino: Path, tmp_path: Path, stage: str, keys: dict[str, Any], expected: str
) -> None:
    broken(tmp_path)
    places = {"prompts", "lora", "embedding", "model", "output", "subject", "dino", "base", "source"}
    own: dict[str, Any] = {
        key: str(tmp_path / value) if key in places and isinstance(value, str) else value
        for key, value in keys.items()
    }
    if "models" in keys:
        own["models"] = [str(tmp_path / name) for name in keys["models"]]
    if "validation" in keys:
        own["validation"] = {"pictures": str(tmp_path / keys["validation"]["pictures"]), "every": 1}
    tables = all_stages(base, dino, tmp_path)
    # Images that are there are not made.
    tables[stage] = own if "source" in keys else tables[stage] | own
    with pytest.raises(TurboFetchError, match=expected):
        stages.run(parse_spec(tables), Listener(), StopRequest())
    assert not any((tmp_path / name).exists() for name in ("made", "model", "images", "scores"))


def test_the_list_of_a_spec_is_not_fetched_for_a_model_that_is_not_there(
    base: Path, dino: Path, tmp_path: Path
) -> None:
    (tmp_path / "list.txt").write_text("http://127.0.0.1:9/a.jpg\n")
    tables = all_stages(base, dino, tmp_path)
    fetched = {"input": {"urls": str(tmp_path / "list.txt")}, "output": {"path": str(tmp_path / "fetched")}}
    for place in ("fetch", str(tmp_path / "fetched")):
        tables["train"] |= {"subject": place, "base": str(tmp_path / "nowhere" / "at" / "all")}
        with pytest.raises(ModelError, match="nowhere/at/all: no such folder"):
            stages.run(parse_spec({"fetch": fetched, **tables}), Listener(), StopRequest())
        assert not (tmp_path / "fetched").exists()
        # Images that are yet to be fetched are none that are missing.
        tables["train"] |= {"base": str(base), "output": str(tmp_path / "list.txt" / "model")}
        with pytest.raises(TurboFetchError, match=r"list\.txt"):
            stages.run(parse_spec({"fetch": fetched, **tables}), Listener(), StopRequest())
        assert not (tmp_path / "fetched").exists()


def test_a_fetch_begins_before_what_only_a_model_shows_is_checked_and_stops_for_it(
    base: Path, dino: Path, tmp_path: Path
) -> None:
    tables = all_stages(base, dino, tmp_path)
    tables["train"] |= {"subject": "fetch", "method": "lora", "lora": {"targets": ["to_z"]}}
    http = {"allow_private_addresses": True, "robots": "ignore", "timeout_s": 100, "stall_timeout_s": 100}
    with Origin({"cat.jpg": b"half of which comes"}) as origin:
        # The rest would come with a second request, which there is none.
        (tmp_path / "list.txt").write_text(origin.url("cat.jpg", "held", until=2))
        fetch = {
            "input": {"urls": str(tmp_path / "list.txt")},
            "output": {"path": str(tmp_path / "fetched")},
            "http": http,
        }
        with pytest.raises(TurboFetchError, match=r"train\.lora\.targets = \['to_z'\]"):
            stages.run(parse_spec({"fetch": fetch, **tables}), Listener(), StopRequest())
        assert sum(origin.hits.values()) == 1
    assert (tmp_path / "fetched").exists()


def test_what_is_checked_first_imports_no_library_of_models() -> None:
    script = (
        "import sys, turbo_fetch.dreambooth.ahead, turbo_fetch.stages.checks\n"
        "print(sorted({'torch', 'diffusers', 'transformers', 'huggingface_hub'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.stdout == "[]\n", done.stderr


def test_images_of_another_model_or_of_somebody_else_are_told_of_before_a_model_is_trained(
    base: Path, dino: Path, tmp_path: Path
) -> None:
    tables = all_stages(base, dino, tmp_path)
    del tables["prior"]
    stages.run(parse_spec(tables), Listener(), StopRequest())
    tables["train"]["steps"] = 2

    def refuses(expected: str) -> None:
        with pytest.raises(OutputExists, match=expected):
            stages.run(parse_spec(tables), Listener(), StopRequest())
        assert len(history(tmp_path / "model")) == 1

    refuses(r"images: 00000-000\.png was made with other settings \(model_hash was .* yet to be trained")
    photo = write_images(tmp_path / "own", 1) / "0.png"
    photo.rename(tmp_path / "own" / "00000-000.png")
    tables["generate"]["output"] = str(tmp_path / "own")
    refuses(r"own: not as turbo-fetch made them, and so not written over: 00000-000\.png")
    tables["generate"]["output"] = str(tmp_path / "new")
    scored = tmp_path / "scores" / "pictures"
    (scored / "step-000001").rename(scored / "step-000002")
    refuses(r"step-000002: 00000-000\.png was made with other settings")
    (scored / "step-000002").rename(scored / "step-000001")
    stages.run(parse_spec(tables), Listener(), StopRequest())
    assert len(history(tmp_path / "model")) == 2


def test_the_run_of_another_spec_is_told_of_before_class_images_are_made(
    base: Path, dino: Path, tmp_path: Path
) -> None:
    tables = all_stages(base, dino, tmp_path)
    stages.run(parse_spec(tables), Listener(), StopRequest(), names=("prior", "train"))
    tables["prior"]["output"] = str(tmp_path / "others")
    for steps in (1, 2):
        tables["train"] |= {"seed": 1, "steps": steps}
        with pytest.raises(OutputExists, match=r"train\.seed"):
            stages.run(parse_spec(tables), Listener(), StopRequest())
    assert not (tmp_path / "others").exists()


def test_what_is_refused_of_scores_leaves_nothing_behind(base: Path, dino: Path, tmp_path: Path) -> None:
    broken(tmp_path)
    for keys, expected in (
        ({"dino": str(tmp_path / "empty")}, r"evaluate\.dino"),
        ({"subject": str(tmp_path / "photos")}, r"(?s)evaluate\.subject: .*one\.png"),
        ({"models": [str(tmp_path / "lora.safetensors")]}, r"lora\.safetensors: not a whole file"),
    ):
        own = {
            "models": [str(base)],
            "base": str(base),
            "identifier": "sks",
            "class": "dog",
            "subject": str(write_images(tmp_path / "subject", 3)),
        }
        tables = {"evaluate": all_stages(base, dino, tmp_path)["evaluate"] | own | keys}
        with pytest.raises(TurboFetchError, match=expected):
            stages.run(parse_spec(tables), Listener(), StopRequest())
        assert not (tmp_path / "scores").exists()


def test_a_folder_that_is_as_it_was_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = write_images(tmp_path / "photos", 3)
    read: list[str] = []

    def inspected(path: Path, *given: Any) -> ImageFile:
        read.append(path.name)
        return inspect(path, *given)

    monkeypatch.setattr(folder, "inspect", inspected)
    notes: list[str] = []
    (photos / "notes.md").write_text("")
    first, again = (folder.read_folder(photos, "subject", notes.append) for _ in range(2))
    assert first == again
    assert read == ["0.png", "1.png", "2.png"]
    assert [note.partition(": ")[2] for note in notes] == ["left out, not images: notes.md"] * 2
    (photos / "1.txt").write_text("a caption")
    changed = folder.read_folder(photos, "subject", notes.append)
    assert [image.caption for image in changed] == [None, "a caption", None]
