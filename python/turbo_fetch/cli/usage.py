"""Options that several commands share, and how their results are shown."""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional, Protocol, cast, get_args

import typer

from turbo_fetch.redaction import redact

if TYPE_CHECKING:
    from turbo_fetch.spec import EngineSpec, OutputFormat, Spec

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the result.")]
EngineOverrides = Annotated[
    Optional[list[str]],  # noqa: UP045 - typer reads it at run time
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Where the work runs: `--set engine.kind=ray`, and `engine.address`.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


class Shown(Protocol):
    """A result that a person can read; also a dataclass."""

    def text(self) -> str:
        """Return it as lines."""


def show(result: Shown, as_json: bool) -> None:
    """Print a result, a dataclass with a method `text`."""
    typer.echo(json.dumps(_plain(result), default=str) if as_json else redact(result.text()))


def _plain(value: Any) -> Any:
    """Return dataclasses, at any depth, as dictionaries, with secrets in texts masked."""
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return redact(value) if isinstance(value, str) else value


def checked_format(name: str) -> OutputFormat:
    """Return the output format of this name; raises SpecError that names the nearest one."""
    from turbo_fetch.spec.formats import OutputFormat

    return cast("OutputFormat", checked_choice("--format", name, get_args(OutputFormat)))


def checked_choice(option: str, value: str, known: Sequence[str]) -> str:
    """Return the value of an option if it is known; raises SpecError that names the nearest one."""
    from turbo_fetch.errors import SpecError

    if value in known:
        return value
    near = difflib.get_close_matches(value, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(known)}"
    raise SpecError(f"{option} {value!r}: unknown; {hint}")


def load_job(path: Path, overrides: Sequence[str] | None) -> Spec:
    """Return the spec in a file, as commands read it: with the variables of the environment. Raises SpecError."""
    from turbo_fetch.dataset.description import load_spec

    return load_spec(path, overrides or (), os.environ)


def load_engine(overrides: Sequence[str] | None, workers: int) -> EngineSpec:
    """Return the engine that options say: `--workers`, 0 for as many as there are cores, and `--set engine.kind=ray`.

    Raises SpecError, also for keys that mean nothing to a command that makes no request.
    """
    from turbo_fetch.errors import SpecError
    from turbo_fetch.spec import EngineSpec
    from turbo_fetch.spec.specfile import validated
    from turbo_fetch.spec.toml import overridden

    tables = overridden({}, overrides or ())
    given = tables.pop("engine", {})
    strange = [*tables, *(f"engine.{name}" for name in given if name in {"shards", "threads"})]
    if strange or not isinstance(given, dict):
        raise SpecError(
            f"--set {(strange or ['engine'])[0]}: means nothing here; expected engine.kind, engine.address or "
            "engine.workers"
        )
    if workers:
        given["workers"] = workers
    return validated(EngineSpec, given, "--set engine")


def load_dataset_spec(place: str, overrides: Sequence[str]) -> Spec:
    """Return the spec in a .toml file, or that of the dataset in a folder or at an fsspec URL.

    The spec of a dataset is as it was run, but for its output, which is where the dataset is now. Raises SpecError,
    and InputError if there is no dataset.
    """
    from turbo_fetch.dataset.description import read_spec
    from turbo_fetch.dataset.place import open_place
    from turbo_fetch.errors import InputError

    if place.endswith(".toml"):
        return load_job(Path(place), overrides)
    storage = open_place(place)
    spec = read_spec(storage, overrides, os.environ)
    if spec is None or spec.fetch is None:
        raise InputError(
            f"{storage.url}: there is no dataset with its spec; expected a dataset made by turbo-fetch, or a spec"
        )
    output = spec.fetch.output.model_copy(update={"path": place})
    return spec.model_copy(update={"fetch": spec.fetch.model_copy(update={"output": output})})
