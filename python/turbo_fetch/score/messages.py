"""What passes between a worker and the process that runs the function."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from turbo_fetch.user_code import UserCode, split_member

if TYPE_CHECKING:
    from turbo_fetch.spec import ScoreSpec


@dataclass(frozen=True, slots=True)
class ScoreJob:
    """What a function computes, and its code; it can be pickled, and has all that another machine needs."""

    spec: ScoreSpec
    code: UserCode
    digest: str
    """What tells its scores from those of others, and of another text of the code."""
    place: str = field(default_factory=lambda: os.urandom(8).hex())
    """Names the place where workers of one machine find the processes of the job."""

    @classmethod
    def of(cls, spec: ScoreSpec) -> ScoreJob:
        """Return the job of a spec. Raises SpecError if there is no such code."""
        code = UserCode.read(split_member(spec.function)[0], "fetch.score.function")
        said = spec.model_dump_json(include={"columns", "where", "arguments", "version"})
        name = split_member(spec.function)[1]
        return cls(spec, code, sha256(f"{code.digest} {name} {said}".encode()).hexdigest()[:16])

    @property
    def name(self) -> str:
        """What the function is called, in its code."""
        return split_member(self.spec.function)[1]


SCORED_BY: Final = "scored_by"
"""In a commit record: which function its scores are from, as `ScoreJob.digest` says."""


class Suspended(Exception):
    """The run is being stopped: there will be no answer."""


@dataclass(frozen=True, slots=True)
class ProcessJob:
    """Worker → process, through its standard input: what it runs."""

    code: UserCode
    name: str
    arguments: Mapping[str, Any]
    columns: Mapping[str, str]
    number: int
    path: str
    """Where its socket is."""


@dataclass(frozen=True, slots=True)
class Ready:
    """Process → worker, once the function is there."""

    pid: int


@dataclass(frozen=True, slots=True)
class NotReady:
    """Process → worker: the function cannot be made; `error` names a class of :mod:`turbo_fetch.errors`."""

    error: str
    message: str


@dataclass(frozen=True, slots=True)
class YourTurn:
    """Process → worker, in answer to the worker's wish: it takes the batch now, as one Arrow IPC stream in bytes."""


@dataclass(frozen=True, slots=True)
class Scored:
    """Process → worker: the columns for all rows of the batch, as an Arrow IPC stream."""

    columns: bytes


@dataclass(frozen=True, slots=True)
class Raised:
    """Process → worker: the function raised, or returned something else than it should."""

    what: str
    """As one sentence."""
    trace: str
    """The end of the traceback; empty for what it returned."""


FromProcess = Ready | NotReady | YourTurn | Scored | Raised
