"""img2dataset itself, in an environment of its own, for tests that compare with it."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.peers import ENVIRONMENT, ensure_peer

ROOT = Path(__file__).resolve().parents[1]


def run_peer(tasks: Sequence[dict[str, Any]], folder: Path) -> list[Any]:
    """Do tasks, as `peer_driver` takes them, in one process of the peer; return its answers in their order."""
    command = ensure_peer(ROOT / ".cache")
    answers = folder / "answers.pickle"
    done = subprocess.run(
        [str(command.parent / "python"), str(ROOT / "tests" / "peer_driver.py"), str(answers)],
        input=json.dumps(list(tasks)),
        env={**os.environ, **ENVIRONMENT, "OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"the peer failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    found: list[Any] = pickle.loads(answers.read_bytes())
    return found
