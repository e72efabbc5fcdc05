"""What a step is to whoever does it, and who looks on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from turbo_fetch import __version__
from turbo_fetch.errors import Interrupted, TurboFetchError
from turbo_fetch.runners.messages import JobError
from turbo_fetch.stop import StopRequest

TICK_S: Final = 0.25
AHEAD: Final = 2
"""Steps handed to each process in advance."""


class Onlooker(Protocol):
    """Who looks on."""

    def refresh(self) -> None:
        """Take the chance to redraw, a few times a second."""

    def note(self, text: str) -> None:
        """Take a line that a person should see."""


class Progress(Onlooker, Protocol):
    """Who looks on at a command that is all steps."""

    def advance(self, rows: int) -> None:
        """Take note that this many rows are done."""


@dataclass(frozen=True, slots=True)
class RemoteWork:
    """Work as a machine of a cluster does it. It can be pickled."""

    work: Callable[[Any], Any]
    version: str = __version__

    def __call__(self, step: Any) -> Any:
        """Return what the work on a step returns, or a JobError."""
        if self.version != __version__:
            return JobError(
                "ClusterError",
                f"a machine of the cluster has turbo-fetch {__version__}, this one has {self.version}; expected the "
                "same everywhere",
            )
        try:
            return self.work(step)
        except TurboFetchError as error:
            return JobError(type(error).__name__, str(error))


def check(stop: StopRequest) -> None:
    """Raise Interrupted if asked to stop."""
    if stop:
        raise Interrupted("interrupted; what was finished is kept. Run the same command again to resume")
