"""Runs the commands of docs/tutorial.md, each with the output that follows it in the page."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from processes import PATIENCE_S, free_port

PAGE = Path(__file__).resolve().parents[1] / "docs" / "tutorial.md"
PORT = "8765"
HOME = "/home/me"
_BLOCK = re.compile(r"```sh\n(.*?)```\n(?:\n```text\n(.*?)```\n)?", re.DOTALL)
_VARYING = [(re.compile(r"\d+(\.\d+)? s, \d[\d,]* rows/s"), "T s"), (re.compile(r"\d+\.\d kB"), "N kB")]
"""What differs from run to run, or with versions of libraries."""


def blocks() -> list[tuple[str, str]]:
    """Return the page's commands and the output that it shows after each, maybe none."""
    return _BLOCK.findall(PAGE.read_text())


def outputs(folder: Path) -> list[str]:
    """Run the commands in one shell in `folder`; return what each prints."""
    port = str(free_port())
    mark = "== next =="
    script = f"\necho '{mark}'\n".join(command for command, _ in blocks()).replace(PORT, port)
    wait = (
        f"until python -c \"import socket; socket.create_connection(('127.0.0.1', {port}))\" 2>&-"
        "; do sleep 0.05; done"
    )
    script = script.replace("server.log 2>&1 &\n", f"server.log 2>&1 &\n{wait}\n")
    done = subprocess.run(
        ["bash", "-c", f"trap 'kill $(jobs -p)' EXIT\n{script}"],
        cwd=folder,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    text = done.stdout.replace(port, PORT).replace(str(folder), HOME)
    return text.split(f"{mark}\n")


def steady(text: str) -> str:
    """Return text without what differs from run to run."""
    for pattern, example in _VARYING:
        text = pattern.sub(example, text)
    return text
