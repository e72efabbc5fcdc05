"""The whole spec: all stages of a job."""

from __future__ import annotations

from pydantic import Field, model_validator

from turbo_fetch.spec.dreambooth import EvaluateSpec, GenerateSpec, PriorSpec
from turbo_fetch.spec.engine import EngineSpec
from turbo_fetch.spec.fetch import FetchSpec
from turbo_fetch.spec.places import collisions
from turbo_fetch.spec.table import Table
from turbo_fetch.spec.track import TrackSpec
from turbo_fetch.spec.train import TrainSpec

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
    def _keeps_places_apart(self) -> Spec:
        if problems := list(collisions(self)):
            raise ValueError("; ".join(problems))
        return self

    @property
    def trains(self) -> bool:
        """Whether a stage needs the packages of the extra `train`."""
        return any(getattr(self, stage) is not None for stage in STAGES if stage != "fetch")
