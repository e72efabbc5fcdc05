"""Trackers get the metrics of a run; each is a module that needs the extra of its name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any, Final, Protocol

from turbo_fetch.errors import MissingExtra

PACKAGES: Final[Mapping[str, str]] = {
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "prometheus": "prometheus_client",
}

_LEFT_OUT: Final = frozenset({"kind", "time", "stage", "elapsed_s", "seconds", "sizes", "workers"})


class Tracker(Protocol):
    """Takes the lines of the metrics; a context manager's worth of state, closed once."""

    def take(self, line: Mapping[str, Any]) -> None:
        """Take a line of the kind `progress`, `step` or `picture`."""

    def close(self) -> None:
        """Write out everything; no line comes any more."""


def check(names: tuple[str, ...]) -> None:
    """Raise MissingExtra if the package of one of the trackers is not installed."""
    for name in names:
        if find_spec(PACKAGES[name]) is None:
            raise MissingExtra(PACKAGES[name], name, f'track.to = ["{name}"]')


def scalars(line: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the numbers of a line by their tags: `fetch/rows_per_s`, `fetch/outcomes/timeout`."""
    if line["kind"] == "step":
        yield from _numbers(line["stage"], line["values"])
        return
    yield from _numbers(line["stage"], {key: value for key, value in line.items() if key not in _LEFT_OUT})
    for worker in line.get("workers", ()):
        place = f"{line['stage']}/worker_{worker['worker']}"
        yield from _numbers(place, {key: worker[key] for key in ("cpu_s", "memory_bytes", "open_files")})


def step_of(line: Mapping[str, Any]) -> int:
    """Return the step under which trackers file a line: its own, or the whole seconds of the run."""
    return int(line["elapsed_s"] if line["kind"] == "progress" else line["step"])


def _numbers(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(f"{prefix}/{key}", value)
        elif isinstance(value, int | float):
            yield f"{prefix}/{key}", float(value)
