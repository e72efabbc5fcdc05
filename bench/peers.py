"""img2dataset, the peer: its environment and the command line for a job."""

from __future__ import annotations

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


def ensure_peer(cache: Path) -> Path:
    """Return the peer's command, installing it into an environment of its own below `cache` at first."""
    folder = cache / "peer"
    command = folder / "bin" / "img2dataset"
    if not command.is_file():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, f"img2dataset=={VERSION}"], check=True)
    return command


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
