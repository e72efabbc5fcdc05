"""What later stages would fail for, looked for while a fetch has begun: the libraries of models take seconds to import.

In a process of its own, so that a fetch has neither their memory nor their time. It says no more than whether there
is something: what it is, the run finds itself once the fetch has stopped.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Final

from turbo_fetch.errors import Interrupted, TurboFetchError
from turbo_fetch.spec import Spec
from turbo_fetch.spec.specfile import dump_spec, load_text
from turbo_fetch.stop import StopRequest, leave_signals_to_parent

_REFUSED: Final = 3
_PATIENCE: Final = 10
"""How much later than the fetch's its turn comes, as `nice` counts."""


class ChecksBeside:
    """Checks of the stages `homes`, in a process that `end` ends; what they refuse stops the run."""

    def __init__(self, spec: Spec, homes: Sequence[str], stop: StopRequest) -> None:
        self._spec = dump_spec(spec).encode()
        self._stop = stop
        command = [sys.executable, "-m", __name__, *homes]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._watcher = threading.Thread(target=self._watch, name="checks beside", daemon=True)
        self._watcher.start()

    def _watch(self) -> None:
        self._process.communicate(self._spec)
        if self._process.returncode == _REFUSED:
            self._stop.ask()

    def end(self) -> int:
        """End it, and return how it ended: with 0 if nothing is wrong."""
        self._process.kill()
        self._watcher.join()
        return self._process.returncode


@contextmanager
def checked_beside(
    spec: Spec, homes: Sequence[str], stop: StopRequest, check: Callable[[], None]
) -> Iterator[None]:
    """Check stages, by their modules, while the context lasts; what has not passed then, `check` sees and raises."""
    beside = ChecksBeside(spec, homes, stop)
    try:
        yield
    except Interrupted:
        if beside.end() == _REFUSED:
            check()
        raise
    finally:
        code = beside.end()
    if code != 0:
        check()


def _main(homes: Sequence[str]) -> None:
    leave_signals_to_parent()
    spec = load_text(sys.stdin.buffer.read(), "spec")
    try:
        for home in homes:
            import_module(home).check(spec)
    except TurboFetchError:
        sys.exit(_REFUSED)


if __name__ == "__main__":
    os.nice(_PATIENCE)
    _main(sys.argv[1:])
