"""Daft and litdata, in an environment of their own beside that of the tests: Daft wants an older pyarrow."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
PACKAGES: Final = (
    "daft==0.7.26",
    "litdata==0.2.76",
    "pyarrow>=25,<26",
    "tqdm>=4.67,<4.68",
    "obstore>=0.12,<0.13",
    "tifffile",
    "lightning-utilities",
    "zstd",
)


def other_counts(folders: Iterable[Path], answers: Path) -> dict[str, dict[str, int]]:
    """Return what each way of reading the datasets counts, by folder; `answers` is a file to be made."""
    done = subprocess.run(
        [
            str(_python()),
            str(ROOT / "tests" / "reader_driver.py"),
            str(answers),
            *map(str, folders),
        ],
        env={**os.environ, "DAFT_ANALYTICS_ENABLED": "0", "DO_NOT_TRACK": "1"},
        cwd=answers.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    found: dict[str, dict[str, int]] = json.loads(answers.read_text(encoding="utf-8"))
    return found


def _python() -> Path:
    """Return the Python of the environment, made at first; what it lacks, such as torch, it takes from this one."""
    folder = ROOT / ".cache" / "readers"
    folder.parent.mkdir(exist_ok=True)
    with (folder.parent / "readers.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        installed = folder / "installed"
        if not installed.is_file() or installed.read_text() != repr(PACKAGES):
            uv = str(Path(sys.executable).with_name("uv"))
            subprocess.run(
                [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)], check=True
            )
            python = str(folder / "bin" / "python")
            subprocess.run(
                [uv, "pip", "install", "--quiet", "--no-deps", "--python", python, *PACKAGES], check=True
            )
            (site,) = folder.glob("lib/python*/site-packages")
            (site / "tests.pth").write_text(sysconfig.get_path("purelib"))
            installed.write_text(repr(PACKAGES))
    return folder / "bin" / "python"
