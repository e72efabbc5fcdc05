"""turbo-fetch as a benchmark runs it: a spec file for a job, and the command line."""

from __future__ import annotations

import compileall
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import tomli_w

from bench.job import Job

_PACKAGE: Final = Path(__file__).resolve().parents[1] / "python" / "turbo_fetch"


def our_executable() -> Path:
    """Return the command of the environment that runs the benchmark, relative to the working folder."""
    command = Path(sys.executable).parent / "turbo-fetch"
    if not command.is_file():
        raise FileNotFoundError(f"{command} is missing; build the package first: maturin develop --release")
    return command.relative_to(Path.cwd()) if command.is_relative_to(Path.cwd()) else command


def write_spec(path: Path, job: Job, changes: dict[str, dict[str, Any]] | None = None) -> Path:
    """Write the spec of `job`, its tables of `[fetch]` updated by `changes`.

    Limits that would make the comparison unfair are off: all URLs are of one host, on loopback. The rest
    is at its defaults. Paths in a spec are relative to it.
    """
    fetch: dict[str, dict[str, Any]] = {
        "input": {"urls": os.path.relpath(job.urls, path.parent), "caption_column": "caption"},
        "http": {
            "per_domain": 0,
            "allow_private_addresses": True,
            # The peer does not ask for robots.txt either.
            "robots": "ignore",
            "timeout_s": job.timeout_s,
            "retries": job.retries,
        },
        "image": {
            "size": 256,
            "mode": "border",
            "encode": "jpg" if job.reencode else "original",
            "quality": 95,
        },
        "output": {
            "path": os.path.relpath(job.output, path.parent),
            "samples_per_shard": job.samples_per_shard,
        },
    }
    if job.timeout_s > 10:
        fetch["http"]["stall_timeout_s"] = job.timeout_s
    if job.authorities is not None:
        fetch["http"]["ca_file"] = os.path.relpath(job.authorities, path.parent)
    for table, keys in (changes or {}).items():
        fetch.setdefault(table, {}).update(keys)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(tomli_w.dumps({"fetch": fetch}))
    return path


def ensure_ours(cache: Path, version: str) -> Path:
    """Return another Python with all that turbo-fetch needs, which takes the package itself from this checkout."""
    folder = cache / f"ours-{version}"
    python = folder / "bin" / "python"
    if not (folder / "installed").is_file():
        uv = str(Path(sys.executable).with_name("uv"))
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", version, str(folder)], check=True)
        install = [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", str(python)]
        subprocess.run([*install, "--requirements", "pyproject.toml"], check=True)
        (folder / "installed").touch()
    return python


def our_command(spec: Path) -> list[str]:
    """Return the command line that runs a spec file, once all of the package is compiled, as an installed one is."""
    # In an environment with PYTHONDONTWRITEBYTECODE, every process would compile the checkout anew.
    compileall.compile_dir(_PACKAGE, quiet=1)
    return [str(our_executable()), "run", str(spec)]
