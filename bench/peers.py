"""img2dataset, the peer: its environment and the command line for a job."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
from pathlib import Path
from typing import Final

from bench.job import Job

VERSION: Final = "1.47.0"
PROCESSES: Final = 2
THREADS: Final = 32
ENVIRONMENT: Final = {"NO_ALBUMENTATIONS_UPDATE": "1", "WANDB_MODE": "disabled"}
_NAMES: Final = ("img2dataset", "albumentations", "opencv-python-headless", "numpy", "pyarrow", "webdataset")


def ensure_peer(cache: Path, python: str | None = None) -> Path:
    """Return the peer's command, installing it into an environment of its own below `cache` at first."""
    folder = cache / (f"peer-{python}" if python else "peer")
    command = folder / "bin" / "img2dataset"
    installed = folder / f"installed-{VERSION}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "peer.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not installed.is_file():
            uv = str(Path(sys.executable).with_name("uv"))
            subprocess.run(
                [uv, "venv", "--quiet", "--clear", "--python", python or _python(), str(folder)], check=True
            )
            install = [
                uv,
                "pip",
                "install",
                "--quiet",
                "--compile-bytecode",
                "--python",
                str(folder / "bin" / "python"),
            ]
            subprocess.run([*install, f"img2dataset=={VERSION}"], check=True)
            installed.touch()
    return command


def _python() -> str:
    """Return a Python that the peer runs on: it imports `imghdr`, which Python 3.13 dropped."""
    return sys.executable if sys.version_info < (3, 13) else "3.12"


def peer_versions(command: Path) -> dict[str, str]:
    """Return the versions of the peer, its Python, and the packages that do its work."""
    code = (
        "import importlib.metadata as m, json, platform;"
        f"versions = {{name: m.version(name) for name in {_NAMES!r}}};"
        "print(json.dumps({'python': platform.python_version(), **versions}))"
    )
    answer = subprocess.run(
        [str(command.parent / "python"), "-c", code], check=True, capture_output=True, text=True
    )
    versions: dict[str, str] = json.loads(answer.stdout)
    return versions


def peer_command(command: Path, job: Job) -> list[str]:
    """Return the command line that does `job` with 2 processes of 32 threads."""
    options: dict[str, str | int | bool] = {
        "url_list": str(job.urls),
        "input_format": "parquet",
        "url_col": "url",
        "caption_col": "caption",
        "output_folder": str(job.output),
        "output_format": "webdataset",
        "processes_count": PROCESSES,
        "thread_count": THREADS,
        "number_sample_per_shard": job.samples_per_shard,
        "image_size": 256,
        "resize_mode": "border",
        "encode_quality": 95,
        "timeout": job.timeout_s,
        "retries": job.retries,
    }
    if not job.reencode:
        options["disable_all_reencoding"] = True
    return [str(command), *[f"--{name}={value}" for name, value in options.items()]]


def peer_environment(job: Job) -> dict[str, str]:
    """Return the variables that the peer's command needs."""
    trust = {} if job.authorities is None else {"SSL_CERT_FILE": str(job.authorities.resolve())}
    return ENVIRONMENT | trust
