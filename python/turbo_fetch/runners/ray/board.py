"""What a stage on another machine and the driver tell each other: the stage how it is, the driver whether to stop."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.stop import StopRequest

ASK_EVERY_S: Final = 0.5


class Board:
    """An actor on which the workers write how they are and the driver whether to stop."""

    def __init__(self) -> None:
        self._stop = False
        self._failure: tuple[str, str] | None = None
        self._news: list[tuple[str, tuple[Any, ...]]] = []

    def ask_to_stop(self) -> None:
        """Have the workers save and end."""
        self._stop = True

    def is_stopping(self) -> bool:
        """Whether the workers are to save and end."""
        return self._stop

    def tell(self, event: str, *facts: Any) -> None:
        """Take what happened: the name of a method of ProgressListener, or `begun`, and its arguments."""
        self._news.append((event, facts))

    def fail(self, kind: str, message: str) -> None:
        """Take an error that ends the run; `kind` names a class of :mod:`turbo_fetch.errors`."""
        self._failure = self._failure or (kind, message)

    def failure(self) -> tuple[str, str] | None:
        """Return the error that ended the run."""
        return self._failure

    def news(self) -> list[tuple[str, tuple[Any, ...]]]:
        """Return what happened since the last call, in order."""
        news, self._news = self._news, []
        return news


def new_board() -> Any:
    """Return a handle of a board on the node of this process, which outlives what works elsewhere."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Board).options(num_cpus=0, scheduling_strategy=here).remote()


class RemoteListener(ProgressListener):
    """Passes on to the board."""

    def __init__(self, board: Any) -> None:
        self._board = board

    def note(self, text: str) -> None:
        """See ProgressListener."""
        self._board.tell.remote("note", text)

    def step(self, done: int, total: int, unit: str, values: Mapping[str, float]) -> None:
        """See ProgressListener."""
        self._board.tell.remote("step", done, total, unit, dict(values))

    def phase(self, done: int, total: int, unit: str) -> None:
        """See ProgressListener."""
        self._board.tell.remote("phase", done, total, unit)

    def picture(self, name: str, path: Path, step: int) -> None:
        """See ProgressListener."""
        self._board.tell.remote("picture", name, path, step)


class FarStop(StopRequest):
    """Asks the board now and then whether to stop."""

    def __init__(self, board: Any) -> None:
        super().__init__()
        self._board = board
        self._asked_s = 0.0

    def __bool__(self) -> bool:
        if not self.count and time.monotonic() - self._asked_s >= ASK_EVERY_S:
            self._asked_s = time.monotonic()
            self.count = int(ray.get(self._board.is_stopping.remote()))
        return self.count > 0


class Relay:
    """The driver's side: passes on what the board has, and to it a request to stop."""

    def __init__(self, board: Any, listener: ProgressListener, stop: StopRequest) -> None:
        self.has_begun = False
        """Whether a worker has said that it works."""
        self.furthest = 0
        """The furthest step that one has told of."""
        self.asked_to_stop_s: float | None = None
        self._board = board
        self._listener = listener
        self._stop = stop

    def pass_on(self) -> None:
        """Pass on what is new; to be called every `ASK_EVERY_S`."""
        if self._stop and self.asked_to_stop_s is None:
            self.asked_to_stop_s = time.monotonic()
            self._board.ask_to_stop.remote()
        for event, facts in ray.get(self._board.news.remote()):
            if event == "begun":
                self.has_begun = True
                continue
            if event == "step":
                self.furthest = max(self.furthest, facts[0])
            getattr(self._listener, event)(*facts)
        self._listener.refresh()
