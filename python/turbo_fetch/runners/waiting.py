"""Waiting for a cluster: it is told what is waited for, and a request to stop ends it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic
from typing import Final

from turbo_fetch.errors import Interrupted
from turbo_fetch.stop import StopRequest

TOLD_AFTER_S: Final = 5.0
TOLD_AGAIN_S: Final = 60.0
LOOK_EVERY_S: Final = 0.25


class Waiting:
    """Tells what is waited for when that has taken TOLD_AFTER_S, when it changes, and once a minute."""

    def __init__(self, tell: Callable[[str], None], stop: StopRequest) -> None:
        self._tell = tell
        self._stop = stop
        self._since_s: float | None = None
        self._told: tuple[str, float] | None = None

    def wait(self, what: str) -> None:
        """As `tell`; raises Interrupted if asked to stop."""
        if self._stop:
            raise Interrupted(f"stopped while waiting for {what}")
        self.tell(what)

    def tell(self, what: str) -> None:
        """Say that `what` is waited for, if it has been for long enough."""
        now_s = monotonic()
        self._since_s = now_s if self._since_s is None else self._since_s
        is_news = self._told is None or self._told[0] != what or now_s - self._told[1] >= TOLD_AGAIN_S
        if now_s - self._since_s >= TOLD_AFTER_S and is_news:
            self._told = (what, now_s)
            self._tell(f"waiting for {what} (Ctrl-C ends it)")

    def over(self) -> None:
        """Take note that nothing is waited for any more."""
        self._since_s = self._told = None

    def run(self, work: Callable[[], object], what: str, limit_s: float) -> None:
        """Do what may take long and cannot be ended, in a thread that is left behind after `limit_s`.

        Raises what it raises, TimeoutError after the limit, Interrupted if asked to stop.
        """
        errors: list[BaseException] = []

        def attempt() -> None:
            try:
                work()
            # Whatever it is, it is raised again.
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=attempt, name=what, daemon=True)
        thread.start()
        ends_s = monotonic() + limit_s
        while thread.is_alive():
            thread.join(LOOK_EVERY_S)
            if thread.is_alive():
                self.wait(what)
                if monotonic() >= ends_s:
                    raise TimeoutError(f"no answer within {limit_s:.0f} s")
        self.over()
        if errors:
            raise errors[0]
