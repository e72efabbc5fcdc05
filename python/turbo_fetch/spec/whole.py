"""The whole spec: all stages of a job."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import Field, model_validator

from turbo_fetch.spec.dreambooth import EvaluateSpec, GenerateSpec, PriorSpec
from turbo_fetch.spec.engine import EngineSpec
from turbo_fetch.spec.fetch import FetchSpec
from turbo_fetch.spec.table import Table
from turbo_fetch.spec.track import TrackSpec
from turbo_fetch.spec.train import TrainSpec
from turbo_fetch.storage.filesystems import path_of

STAGES = ("fetch", "prior", "train", "generate", "evaluate")
"""The stages of a job, in the order in which they run; a spec names at least one."""


class Spec(Table):
    """A whole spec file.

    Relative paths are relative to its folder, those of `--set` and of the Python API to the current folder; `~` is the
    home folder. A model that is not found as a path is taken as a hub id.
    """

    fetch: FetchSpec | None = None
    """From a URL list to a dataset."""
    prior: PriorSpec | None = None
    """Images of the subject's class, which keep the model from forgetting it."""
    train: TrainSpec | None = None
    """From a few images of a subject to a personalised model."""
    generate: GenerateSpec | None = None
    """From prompts to images."""
    evaluate: EvaluateSpec | None = None
    """From models to scores."""
    engine: EngineSpec = Field(default_factory=EngineSpec)
    """Where the work runs."""
    track: TrackSpec = Field(default_factory=TrackSpec)
    """Where progress is recorded."""

    @model_validator(mode="after")
    def _does_something(self) -> Spec:
        if all(getattr(self, stage) is None for stage in STAGES):
            raise ValueError(f"no stage; expected at least one of the tables {', '.join(STAGES)}")
        return self

    @model_validator(mode="after")
    def _weighs_what_is_there(self) -> Spec:
        train = self.train
        usual = TrainSpec.model_fields["prior_weight"].default
        if train is not None and self.prior is None and train.prior_weight != usual:
            raise ValueError(
                f"train.prior_weight = {train.prior_weight:g} is given, but there is no table [prior], from which "
                "class images come"
            )
        return self

    @model_validator(mode="after")
    def _scores_one_subject(self) -> Spec:
        train, evaluate = self.train, self.evaluate
        if train is None or evaluate is None or len(train.subjects) < 2:
            return self
        words = [each.identifier for each in train.subjects]
        is_described = None not in (evaluate.subject, evaluate.identifier, evaluate.class_)
        if evaluate.identifier not in words and not is_described:
            raise ValueError(
                f"evaluate.identifier = {evaluate.identifier!r}: [train] has several subjects; expected one of "
                f"{', '.join(words)}"
            )
        return self

    @model_validator(mode="after")
    def _steps_alone(self) -> Spec:
        if self.train is None or self.engine.kind != "ray":
            return self
        if self.train.optimiser.fused_backward:
            raise ValueError(
                'train.optimiser.fused_backward = true is for one device, but engine.kind = "ray" joins the gradients '
                "of all workers"
            )
        if self.train.blocks_to_swap:
            raise ValueError(
                f'train.blocks_to_swap = {self.train.blocks_to_swap} is for one device, but engine.kind = "ray" '
                "gives all workers the same weights; expected 0"
            )
        return self

    @model_validator(mode="after")
    def _commits_from_one_machine(self) -> Spec:
        if (
            self.fetch is not None
            and self.engine.kind != "local"
            and self.fetch.output.path.startswith("hf://")
        ):
            raise ValueError(
                f'fetch.output.path = {self.fetch.output.path!r} with engine.kind = "{self.engine.kind}": every worker '
                "of a cluster publishes by itself, and the Hub takes few commits; expected an object store or a shared "
                "folder, and then `turbo-fetch push`"
            )
        return self

    @model_validator(mode="after")
    def _keeps_places_apart(self) -> Spec:
        if problems := list(collisions(self)):
            raise ValueError("; ".join(problems))
        return self

    @property
    def trains(self) -> bool:
        """Whether a stage needs the packages of the extra `train`."""
        return any(getattr(self, stage) is not None for stage in STAGES if stage != "fetch")


def collisions(spec: Spec) -> Iterator[str]:
    """Yield each pair of places that must not be the same, as a sentence; symbolic links count as what they lead to."""
    train = spec.train
    written, images = _written(spec), _images(spec)
    for key, folder in written.items():
        for other, read in images.items():
            if folder == read and other != key:
                yield (
                    f"{key} and {other} are both {folder}: what is written would be learned from as an image; "
                    f"expected another {key}"
                )
    base = None if train is None else _local(train.base)
    output = written.get("train.output")
    if base is not None and output is not None and _overlap(base, output):
        yield (
            f"train.output is {output}, where train.base lies ({base}): the base would be replaced; "
            "expected another train.output"
        )


def _overlap(base: Path, output: Path) -> bool:
    """Whether a model, a folder or a single file, would be touched by what is written to a folder."""
    if base.is_file() and (base.parent / "model_index.json").is_file():
        # What a file lacks may be from the folder that it lies in.
        base = base.parent
    if not (base / "model_index.json").is_file():
        return base == output and base.exists()
    return output.is_relative_to(base) or base.is_relative_to(output)


def _written(spec: Spec) -> dict[str, Path]:
    """Return the folders that stages write, by key."""
    prior = spec.prior
    named = {
        "train.output": spec.train and spec.train.output,
        "prior.output": prior and prior.source == "generate" and _class_images(spec),
        "generate.output": spec.generate and spec.generate.output,
        "evaluate.output": spec.evaluate and spec.evaluate.output,
    }
    return _resolved(named)


def _images(spec: Spec) -> dict[str, Path]:
    """Return the folders of images that stages read, by key."""
    train, prior, evaluate = spec.train, spec.prior, spec.evaluate
    generates = prior is not None and prior.source == "generate"
    named = {
        **(_of_subjects(train) if train else {}),
        "evaluate.subject": evaluate and evaluate.subject != "fetch" and evaluate.subject,
        "prior.source": prior and not generates and prior.source,
        "prior.output": generates and _class_images(spec),
        "fetch.output.path": spec.fetch and spec.fetch.output.path,
    }
    return _resolved(named)


def _of_subjects(train: TrainSpec) -> dict[str, object]:
    """Return where images of subjects are, by key."""
    if not train.subjects:
        return {
            "train.subject": train.subject != "fetch" and train.subject,
            "train.validation.pictures": train.validation and train.validation.pictures,
        }
    named: dict[str, object] = {}
    for number, each in enumerate(train.subjects):
        named[f"train.subjects.{number}.images"] = each.images != "fetch" and each.images
        named[f"train.subjects.{number}.validation"] = each.validation
    return named


def _class_images(spec: Spec) -> str | None:
    if spec.prior is not None and spec.prior.output is not None:
        return spec.prior.output
    return None if spec.train is None else f"{spec.train.output.rstrip('/')}-class"


def _resolved(named: Mapping[str, object]) -> dict[str, Path]:
    found = {key: _local(place) for key, place in named.items() if isinstance(place, str) and place}
    return {key: path for key, path in found.items() if path is not None}


def _local(place: str) -> Path | None:
    """Return the folder of a place on this machine, symbolic links followed; None for a URL."""
    path = path_of(place)
    return None if path is None else Path(path).resolve()
