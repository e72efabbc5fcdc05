"""The spec: everything a user can say about a job, validated, with a JSON Schema.

Each model is one table of the TOML file and lives in the module of its stage, which is imported on first use: a worker
that fetches has no use for the tables of training. Models are frozen; unknown keys are errors. Parts of the engine
receive the table they need, never the whole spec.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from turbo_fetch.spec.dreambooth import EvaluateSpec, GenerateSpec, PriorSpec
    from turbo_fetch.spec.engine import EngineSpec
    from turbo_fetch.spec.fetch import (
        BoxesUse,
        DenySpec,
        Digest,
        DomainSpec,
        DuplicatesSpec,
        Encoding,
        FetchSpec,
        Filter,
        HashKind,
        HttpSpec,
        IfExists,
        ImageSpec,
        InputFormat,
        InputSpec,
        Order,
        OutputSpec,
        Quoting,
        ResizeMode,
    )
    from turbo_fetch.spec.formats import OutputFormat
    from turbo_fetch.spec.score import ScoreSpec
    from turbo_fetch.spec.sources import SourcesSpec, WarcSpec
    from turbo_fetch.spec.table import Place, Table
    from turbo_fetch.spec.track import TrackSpec
    from turbo_fetch.spec.train import TrainSpec
    from turbo_fetch.spec.whole import STAGES, Spec

__all__ = [
    "STAGES",
    "BoxesUse",
    "DenySpec",
    "Digest",
    "DomainSpec",
    "DuplicatesSpec",
    "Encoding",
    "EngineSpec",
    "EvaluateSpec",
    "FetchSpec",
    "Filter",
    "GenerateSpec",
    "HashKind",
    "HttpSpec",
    "IfExists",
    "ImageSpec",
    "InputFormat",
    "InputSpec",
    "Order",
    "OutputFormat",
    "OutputSpec",
    "Place",
    "PriorSpec",
    "Quoting",
    "ResizeMode",
    "ScoreSpec",
    "SourcesSpec",
    "Spec",
    "Table",
    "TrackSpec",
    "TrainSpec",
    "WarcSpec",
]

_MODULES = ("table", "fetch", "engine", "track", "dreambooth", "train", "whole")
"""In which a name is looked for in this order, so that few are imported."""


def __getattr__(name: str) -> Any:
    if name in __all__:
        modules = (import_module(f"{__name__}.{module}") for module in _MODULES)
        return next(getattr(module, name) for module in modules if hasattr(module, name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
