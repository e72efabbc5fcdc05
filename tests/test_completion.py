"""Shell completion, in the shells that people type in."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import pytest

from processes import PATIENCE_S
from turbo_fetch.cli.completion import spec_keys

SHELLS: Final = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], ""),
    "zsh": (["zsh", "-f", "-i"], "autoload -Uz compinit; compinit -u -D; "),
}


class Terminal:
    """A shell in a terminal of its own, into which a user types."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self._process, self._terminal = pty.fork()
        if self._process == 0:
            os.chdir(folder)
            environment = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "TERM": "dumb"}
            os.execvpe(command[0], command, {**environment, "PS1": "$ ", "COLUMNS": "200"})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.kill(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)
        os.close(self._terminal)

    def type(self, text: str, until: str) -> str:
        """Type something, and return what the terminal shows as soon as it has what matches `until`."""
        os.write(self._terminal, text.encode())
        shown, stop_s = "", time.monotonic() + PATIENCE_S
        while time.monotonic() < stop_s:
            if select.select([self._terminal], [], [], 0.1)[0]:
                shown += os.read(self._terminal, 4096).decode(errors="replace")
                if re.search(until, shown, re.DOTALL):
                    return shown
        raise AssertionError(f"expected {until!r}, found {shown!r}")


@pytest.fixture(params=SHELLS)
def terminal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Terminal]:
    command, before = SHELLS[request.param]
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    script = tmp_path / "bin" / "turbo-fetch"
    script.parent.mkdir()
    script.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path[:0] = {sys.path!r}\n"
        "from turbo_fetch.cli import main\nsys.exit(main())\n"
    )
    script.chmod(0o755)
    (tmp_path / "speedy.toml").touch()
    with Terminal(command, tmp_path) as opened:
        # What is waited for is not what is typed.
        opened.type(
            f'{before}eval "$(turbo-fetch --show-completion {request.param})"; echo re""ady\n', r"\bready\r"
        )
        yield opened


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("turbo-fetch exp\t", r"turbo-fetch exp.{0,40}ort"),
        ("turbo-fetch run spee\t", r"speedy\.toml"),
        ("turbo-fetch run speedy.toml --qu\t", "--quiet"),
        ("turbo-fetch run speedy.toml --set fetch.image.qu\t", r"fetch\.image\.quality="),
        ("turbo-fetch export a b --format webd\t", "webdataset"),
        ("turbo-fetch ledger out --outcome http-4\t", "http-4xx"),
        ("turbo-fetch re\t\t", "refresh.*report.*retry"),
    ],
)
def test_what_is_begun_is_completed(terminal: Terminal, typed: str, completed: str) -> None:
    terminal.type(typed, completed)


def test_every_key_of_the_spec_is_completed_and_no_other() -> None:
    keys = [key.removesuffix("=") for key in spec_keys("")]
    assert len(keys) == len(set(keys))
    assert {"fetch.input.urls", "fetch.input.warc.prefix", "fetch.http.domains", "train.lora.rank"} <= {*keys}
    assert "fetch.http.domains.concurrency" not in keys
    assert spec_keys("fetch.image.q") == ["fetch.image.quality="]
