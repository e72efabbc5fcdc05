"""Which models are scored: what the spec names or trains, in the order of training, after the base."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import Final

from turbo_fetch.dreambooth.families.single_file import holds_model
from turbo_fetch.dreambooth.run_folder import (
    best_checkpoint,
    checkpoints,
    is_of_run,
    lora_in,
    read_checkpoint,
    steps_done,
    trained_model,
)
from turbo_fetch.errors import InputError, SpecError
from turbo_fetch.spec import EvaluateSpec, Spec, TrainSpec

BASE: Final = "base"
_STEP: Final = "step-"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model to score. `name` is unique, and fit for a folder."""

    name: str
    model: str
    lora: str | None = None
    step: int | None = None
    """Of its training, if that is known."""

    @property
    def is_base(self) -> bool:
        """Whether it is what the others were trained from."""
        return self.name == BASE


def candidates(spec: Spec, evaluate: EvaluateSpec) -> list[Candidate]:
    """Return the models to score, the base first if it is known.

    Raises SpecError if the spec names and trains none, InputError for a pattern that nothing matches, ModelError
    if nothing is trained yet.
    """
    base = evaluate.base or (spec.train.base if spec.train else None)
    if evaluate.models:
        found = _named(evaluate.models, base)
    elif spec.train is not None:
        found = _trained(spec, spec.train)
    else:
        raise SpecError("evaluate.models is missing, and the spec has no [train] whose models could be meant")
    return [Candidate(BASE, base, step=0), *found] if base is not None else found


def known_ahead(spec: Spec, evaluate: EvaluateSpec) -> list[Candidate]:
    """Return the models that are there already, before `[train]` has run; raises as `candidates`."""
    if any(has_magic(model) or is_of_run(spec, model) for model in evaluate.models):
        # The names of models depend on all of them.
        return []
    base = evaluate.base or (spec.train.base if spec.train else None)
    if evaluate.models or base is None:
        return candidates(spec, evaluate)
    return [Candidate(BASE, base, step=0)]


def to_come(evaluate: EvaluateSpec, train: TrainSpec) -> list[Candidate]:
    """Return the models that `[train]` has yet to make, by name and step; the rest of them is of its base."""
    if evaluate.models:
        return []
    every, there = train.checkpoint_every, checkpoints(Path(train.output))
    marks = range(train.steps - train.steps % every, 0, -every)[: train.checkpoints_kept]
    steps = sorted({train.steps, *marks})[-train.checkpoints_kept :]
    return [Candidate(f"{_STEP}{step:06d}", train.base, step=step) for step in steps if step not in there]


def _named(models: Sequence[str], base: str | None) -> list[Candidate]:
    places = [place for given in models for place in _matches(given)]
    names = _names(places)
    return [
        Candidate(name, *_with_base(place, base), step=_step_in(place))
        for name, place in zip(names, places, strict=True)
    ]


def _matches(given: str) -> list[str]:
    if not has_magic(given):
        return [given]
    found = sorted(glob(given))  # noqa: PTH207 - pathlib globs below a folder, this is a whole path
    if not found:
        raise InputError(f"evaluate.models: nothing matches {given!r}; expected models, checkpoints or LoRA")
    return found


def _with_base(place: str, base: str | None) -> tuple[str, str | None]:
    """Return model and LoRA of a place."""
    path = Path(place)
    is_lora = path.suffix == ".safetensors" and not (path.is_file() and holds_model(path))
    if is_lora or lora_in(path) is not None:
        if base is None:
            raise SpecError(f"evaluate.models: {place!r} is a LoRA, but evaluate.base is missing")
        return base, place
    return place, None


def _names(places: Sequence[str]) -> list[str]:
    """Return a name for each place: the last parts of its path, as many as tell all of them apart."""
    parts = [
        place.rstrip("/").removesuffix(".ckpt").removesuffix(".safetensors").split("/") for place in places
    ]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["-".join(each[-count:]).lstrip(".-") or "model" for each in parts]
        if len(set(names)) == len(names) and BASE not in names:
            return names
    return [f"{number:03d}-{each[-1]}" for number, each in enumerate(parts, start=1)]


def _step_in(place: str) -> int | None:
    """Return the step in a name such as `step-000100.ckpt` or `checkpoint-100`."""
    digits = Path(place.rstrip("/")).stem.rpartition("-")[2]
    return int(digits) if digits.isdecimal() and "-" in Path(place).stem else None


def _trained(spec: Spec, train: TrainSpec) -> list[Candidate]:
    """Return the checkpoints of a run that are there, and what it kept if that is none of them."""
    output = Path(train.output)
    found: dict[int, tuple[str, str | None]] = {
        step: (str(path), None) for step, path in checkpoints(output).items()
    }
    best = best_checkpoint(output)
    kept_step = steps_done(output)
    if best.is_file():
        best_step = int(read_checkpoint(best)["global_step"])
        found.setdefault(best_step, (str(best), None))
        if train.validation is not None and train.validation.keep_best:
            kept_step = best_step
    # A checkpoint is the same model as what is kept at its step, and stays the same when training continues.
    if not found or (kept_step is not None and kept_step not in found):
        found[kept_step or train.steps] = trained_model(spec, None, None, "evaluate.models")
    return list(_by_step(found))


def _by_step(found: Mapping[int, tuple[str, str | None]]) -> Iterator[Candidate]:
    for step, (model, lora) in sorted(found.items()):
        yield Candidate(f"{_STEP}{step:06d}", model, lora, step)
