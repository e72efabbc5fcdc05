"""What a training run keeps in its output folder: the names of its files, its checkpoints, and its record.

The record, `train.json`, says what a run was begun with, so that it resumes only as what it was. It binds as soon as
there is something to lose: a checkpoint, or a model.
"""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from turbo_fetch.errors import ModelError, OutputError, OutputExists, SpecError
from turbo_fetch.spec import Spec, TrainSpec
from turbo_fetch.spec.resume import binding
from turbo_fetch.spec.specfile import differences
from turbo_fetch.spec.train_tables import word_in_name
from turbo_fetch.storage.disk import replace_with
from turbo_fetch.storage.failures import explained

RECORD: Final = "train.json"
HISTORY: Final = "history.jsonl"
SAMPLES: Final = "samples"
CACHE: Final = "cache"
CHECKPOINTS: Final = "checkpoints"
BEST: Final = "best"
SUFFIX: Final = ".ckpt"
PARTIAL: Final = ".partial"
UNREADABLE: Final = ".unreadable"
"""At the end of the name of a checkpoint that could not be resumed from."""
FORMAT: Final = 1
"""Of checkpoints. A later version of turbo-fetch that keeps something else in them counts up."""
MODEL_INDEX: Final = "model_index.json"
DIFFUSERS_LORA: Final = "pytorch_lora_weights.safetensors"
KOHYA_LORA: Final = "kohya_lora.safetensors"
"""Of a LoKr or LoHa, which diffusers does not read, the only one."""
EMBEDDINGS: Final = "learned_embeds.safetensors"

_NAME: Final = re.compile(r"step-(\d{6,})\.ckpt")


def embeddings_name(identifier: str = "") -> str:
    """Return the name of the file of a learned word; of several, each has its identifier in it."""
    word = word_in_name(identifier)
    return EMBEDDINGS if not word else EMBEDDINGS.replace(".", f"-{word}.", 1)


def checkpoint_name(step: int) -> str:
    """Return the file name of a checkpoint."""
    return f"step-{step:06d}{SUFFIX}"


def best_checkpoint(output: Path) -> Path:
    """Return where the checkpoint of the lowest validation loss is, if there is one."""
    return output / CHECKPOINTS / f"{BEST}{SUFFIX}"


def is_checkpoint(model: str) -> bool:
    """Return whether a model is a checkpoint of a training run, by its name; others end in `.ckpt` too."""
    name = Path(model).name
    return bool(_NAME.fullmatch(name)) or name == f"{BEST}{SUFFIX}"


def checkpoints(output: Path) -> dict[int, Path]:
    """Return the checkpoints of an output folder by step, oldest first."""
    folder = output / CHECKPOINTS
    found = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _NAME.fullmatch(path.name)
        if match:
            found[int(match[1])] = path
    return dict(sorted(found.items()))


def newest_checkpoint(output: Path, note: Callable[[str], None]) -> tuple[Path | None, int]:
    """Return the newest checkpoint that is not damaged, and its step; says which ones are.

    None and 0 if there are none. Raises OutputError if all are damaged: starting over is for the user to decide.
    """
    damage: OutputError | None = None
    for step, path in reversed(checkpoints(output).items()):
        try:
            held = read_checkpoint(path).get("global_step")
            if held != step:
                raise OutputError(f"{path}: holds the weights of step {held}; expected those of step {step}")
        except OutputError as error:
            note(f"train: {error}")
            damage = error
        else:
            note(f"train: resumes after step {step:,}")
            return path, step
    if damage is not None:
        raise OutputError(f"{damage}; no other is left. Delete it to train from the beginning")
    return None, 0


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return what a checkpoint holds, its tensors mapped from the file.

    Raises OutputError if it is damaged, or from a later version.
    """
    try:
        # PyTorch's reader compares no checksums, so that changed bytes would pass for weights.
        with zipfile.ZipFile(path) as archive:
            changed = archive.testzip()
        if changed is not None:
            raise zipfile.BadZipFile(f"{changed} does not match its checksum")
        loaded: dict[str, Any] = import_module("torch").load(
            path, map_location="cpu", weights_only=True, mmap=True
        )
        version = int(loaded.get("format", FORMAT))
    except Exception as error:
        raise OutputError(f"{path}: a damaged checkpoint ({type(error).__name__}: {error})") from error
    if version > FORMAT:
        raise OutputError(f"{path}: written by a later version of turbo-fetch, which can read it")
    return loaded


def set_aside(output: Path, step: int) -> None:
    """Rename the checkpoints of later steps than the one that a run resumes after: they could not be read.

    They would count among those that are kept.
    """
    for later, path in checkpoints(output).items():
        if later > step:
            path.rename(path.with_name(f"{path.name}{UNREADABLE}"))


def prune(output: Path, kept: int) -> None:
    """Delete all but the newest `kept` checkpoints."""
    for path in list(checkpoints(output).values())[:-kept]:
        path.unlink(missing_ok=True)


def tidy(output: Path) -> None:
    """Delete what killed runs left unfinished. Nobody else may be at work in the folder."""
    leftovers = [
        *(output / CHECKPOINTS).glob(f"*{PARTIAL}"),
        *(output / CACHE).glob("*.unfinished"),
        *(output / CACHE).glob(f"*{PARTIAL}"),
        *(path for folder in (output, output / SAMPLES) for path in folder.glob(".*.tmp")),
        # A model is put together beside its place. Folders of other runs may begin with the same name.
        *(path for path in output.parent.glob(".*.tmp") if _is_of(path.name, output.name)),
    ]
    for path in leftovers:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _is_of(temporary: str, name: str) -> bool:
    return re.fullmatch(rf"\.{re.escape(name)}\.\d+\.tmp", temporary) is not None


def essentials(train: TrainSpec, images: Mapping[str, list[str]], base: str | None = None) -> dict[str, Any]:
    """Return all that the weights depend on; `images` are digests of images and captions, `base` that of the model."""
    return {"train": _binding(train), "pictures": dict(images), "base": base}


def _binding(train: TrainSpec) -> dict[str, Any]:
    table = binding(train.model_dump(mode="json", by_alias=True))
    if train.schedule.kind in {"constant", "constant_with_warmup"}:
        # These do not know how long the run is, so that a longer one is the same run.
        table.pop("steps")
    return table


def has_model(output: Path) -> bool:
    """Return whether a folder holds a model that other programs read."""
    return (output / MODEL_INDEX).is_file() or lora_in(output) is not None


def lora_in(folder: Path) -> Path | None:
    """Return the file of the LoRA in a folder; None if there is none."""
    paths = (folder / DIFFUSERS_LORA, folder / KOHYA_LORA)
    return next((path for path in paths if path.is_file()), None)


def is_complete(output: Path, steps: int) -> bool:
    """Return whether a run has made its model of so many steps, which is still whole. Raises as `read_record`."""
    if not has_model(output):
        return False
    record = read_record(output)
    return record.get("steps_done") == steps and damaged_file(output, record) is None


def exported_files(output: Path) -> dict[str, int]:
    """Return the files of the model in a folder by their path in it, with their sizes in bytes."""
    index = output / MODEL_INDEX
    parts = json.loads(index.read_bytes()) if index.is_file() else {}
    folders = [output / name for name, kind in parts.items() if isinstance(kind, list)]
    embeddings = output.glob(EMBEDDINGS.replace(".", "*."))
    files = [index, output / DIFFUSERS_LORA, output / KOHYA_LORA, *embeddings]
    files += [file for folder in folders for file in folder.glob("*")]
    return {file.relative_to(output).as_posix(): file.stat().st_size for file in files if file.is_file()}


def damaged_file(output: Path, record: Mapping[str, Any]) -> str | None:
    """Return a file of the model that is not there, or not as long as it was written; None if there is none."""
    written: Mapping[str, int] = record.get("exported", {})
    return next((name for name, size in written.items() if not _is_of_size(output / name, size)), None)


def check_export(output: Path, record: Mapping[str, Any], note: Callable[[str], None]) -> None:
    """Say that a damaged model is exported again. Raises OutputError if it cannot be, without its checkpoint."""
    damaged = damaged_file(output, record)
    if damaged is None:
        return
    if record["steps_done"] not in checkpoints(output):
        raise OutputError(
            f"{output / damaged}: not as it was exported, and no checkpoint of step {record['steps_done']:,} is left "
            "to export it from; expected that file back, or another train.output"
        )
    note(f"train: {output / damaged} is not as it was exported; the model is exported again")


def _is_of_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def read_record(output: Path) -> dict[str, Any]:
    """Return what `train.json` says; empty if nothing came of the run that wrote it, which then binds nobody.

    Raises OutputExists if there are checkpoints or a model, but no record, or a damaged one.
    """
    path = output / RECORD
    if not (checkpoints(output) or best_checkpoint(output).is_file() or has_model(output)):
        return {}
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        _recorded(record["essentials"]["train"])
        dict(record["essentials"]["pictures"])
    except FileNotFoundError:
        raise OutputExists(
            f"{output}: holds checkpoints or a model, but no {RECORD}, which says what they came from; "
            "expected another train.output"
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError, ValidationError) as error:
        raise OutputExists(
            f"{path}: damaged ({type(error).__name__}: {error}); expected the record of a run. Use another output"
        ) from error
    return record


def check_record(output: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise OutputExists with what differs if `now`, the essentials of a run, are not those of the record `before`."""
    changed = list(_changes(before["essentials"], now))
    if changed:
        listed = "\n".join(f"  {line}" for line in changed)
        raise OutputExists(
            f"{output}: holds a run of another spec; resume that one, or use another train.output:\n{listed}"
        )


def check_machine(output: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise OutputExists with what differs if a run would resume on a machine that computes otherwise.

    How many devices train may change, see `with_same_step`.
    """
    then = {**before.get("ran_on", now), "devices": now["devices"]}
    changed = list(differences(then, now, "train."))
    if changed:
        listed = "\n".join(f"  {line}" for line in changed)
        raise OutputExists(
            f"{output}: holds a run on another kind of machine, which this one would not continue bit for bit; "
            f"resume it there, or use another train.output:\n{listed}"
        )


def passes_of_step(output: Path, train: TrainSpec) -> int | None:
    """Return how many batches make a step of the run in a folder, on all devices together; None if there is none."""
    devices = read_record(output).get("ran_on", {}).get("devices")
    return None if devices is None else int(devices) * train.accumulation


def with_same_step(output: Path, train: TrainSpec, began_on: int, devices: int) -> TrainSpec:
    """Return the spec with which `devices` learn from the same batches in a step as those that the run began on.

    Raises OutputExists if they cannot.
    """
    passes = began_on * train.accumulation
    if devices == began_on:
        return train
    if passes % devices or train.strategy.startswith("deepspeed"):
        numbers = [str(n) for n in range(1, passes + 1) if passes % n == 0]
        fitting = [str(began_on)] if train.strategy.startswith("deepspeed") else numbers
        raise OutputExists(
            f"{output}: holds a run of {began_on} devices, whose step is of {passes} batches; expected "
            f"{' or '.join(fitting)} devices or workers, not {devices}, or another train.output"
        )
    return train.model_copy(update={"accumulation": passes // devices})


def check_steps(output: Path, done: int, train: TrainSpec) -> None:
    """Raise OutputExists if more steps are done than are wanted: the weights have gone on."""
    if done <= train.steps:
        return
    kept = checkpoints(output).get(train.steps)
    way = (
        ""
        if kept is None
        else f". `turbo-fetch export-model {kept} …` writes the model after {train.steps:,}"
    )
    raise OutputExists(
        f"{output}: train.steps = {train.steps}, but {done:,} steps are done; expected {done} or more, or another "
        f"train.output{way}"
    )


def _recorded(table: Mapping[str, Any]) -> TrainSpec:
    """Return the `[train]` of a record; what it leaves out has no influence on the weights."""
    free = {"steps": 2**31, **table}
    if not free.get("subjects"):
        return TrainSpec.model_validate({"subject": ".", **free})
    subjects = [{"images": ".", **each} for each in free["subjects"]]
    return TrainSpec.model_validate({**free, "subjects": subjects})


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    # An earlier version may have written keys that no longer bind, and did not know those that came since.
    known = _binding(_recorded(before["train"]))
    if "steps" not in now["train"]:
        known.pop("steps", None)
    yield from differences(known, now["train"], "train.")
    # An earlier version did not write it, and a complete run has no need of its base any more.
    if None not in (before.get("base"), now["base"]) and before["base"] != now["base"]:
        yield f"train.base: {now['train']['base']} holds other weights than it did"
    for concept, images in now["pictures"].items():
        old = before["pictures"].get(concept, [])
        if len(images) != len(old):
            yield f"images of the {concept}: were {len(old):,}, are now {len(images):,}"
        elif changed := sum(new != known for new, known in zip(images, old, strict=True)):
            yield f"images of the {concept}: {changed:,} of {len(old):,} have another content, caption or place"


def write_record(output: Path, content: Mapping[str, Any]) -> None:
    """Publish `train.json`. Raises OutputError."""
    path = output / RECORD
    with explained(str(path)):
        output.mkdir(parents=True, exist_ok=True)
        replace_with(path, json.dumps(content, indent=1, ensure_ascii=False).encode())


def steps_done(output: Path) -> int | None:
    """Return how many steps a complete run has; None if it is not complete."""
    try:
        done = json.loads((output / RECORD).read_text(encoding="utf-8"))["steps_done"]
    except (OSError, ValueError, KeyError):
        return None
    return None if done is None else int(done)


def training_of(checkpoint: Path) -> TrainSpec:
    """Return the `[train]` that made a checkpoint, as far as weights depend on it. Raises ModelError."""
    path = checkpoint.parent.parent / RECORD
    try:
        return _recorded(json.loads(path.read_text(encoding="utf-8"))["essentials"]["train"])
    except FileNotFoundError:
        if not checkpoint.is_file():
            raise ModelError(f"{checkpoint}: no such checkpoint") from None
        raise ModelError(
            f"{checkpoint}: no {RECORD} in {path.parent}, which says what it was trained from; "
            "expected a checkpoint in the output of [train]"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise ModelError(
            f"{checkpoint}: its record {path} cannot be read: {type(error).__name__}: {error}"
        ) from error


def is_of_run(spec: Spec, name: str) -> bool:
    """Return whether a model, by its path, lies in the output of `[train]`, where the run may put it."""
    return spec.train is not None and Path(name).absolute().is_relative_to(Path(spec.train.output).absolute())


def trained_model(spec: Spec, named: str | None, lora: str | None, key: str) -> tuple[str, str | None]:
    """Return the model of a stage and its LoRA, if any: the one it names, or what the spec trained.

    `key` is the spec's key that names a model. Raises SpecError if the spec neither names nor trains one, ModelError
    if it has not trained it yet.
    """
    if named is not None:
        return named, lora
    if spec.train is None:
        raise SpecError(f"{key} is missing, and the spec has no [train] whose model could be meant")
    folder = Path(spec.train.output)
    if (folder / MODEL_INDEX).is_file():
        return str(folder), lora
    if (trained := lora_in(folder)) is not None:
        return spec.train.base, lora or str(trained)
    raise ModelError(f"{folder}: holds no trained model yet; expected train.output after the stage [train]")
