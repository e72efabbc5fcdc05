"""Training on a Ray cluster: two workers learn what one would, also when one of them is killed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from ray_nodes import ray_cluster
from tiny_models import tiny_sd

pytestmark = [pytest.mark.timeout(600), pytest.mark.cluster]

STEPS = 12


def _images(folder: Path, count: int, seed: int) -> Path:
    folder.mkdir()
    random = np.random.default_rng(seed)
    for number in range(count):
        coarse = Image.fromarray(random.integers(0, 255, (8, 8, 3), dtype=np.uint8))
        coarse.resize((64, 64)).save(folder / f"{number}.png")
    return folder


def _write_spec(folder: Path, name: str, engine: str, **train: Any) -> Path:
    keys = "\n".join(f"{key} = {json.dumps(value)}" for key, value in train.items())
    path = folder / f"{name}.toml"
    path.write_text(
        f'[prior]\nsource = "{folder / "class"}"\n[train]\nbase = "{folder / "base"}"\n'
        f'subject = "{folder / "subject"}"\nclass = "dog"\nresolution = 64\nsteps = {STEPS}\nsample_every = 0\n'
        f'checkpoint_every = 2\nlearning_rate = 1e-4\noutput = "{folder / name}"\n{keys}\n{engine}'
    )
    return path


def _losses(folder: Path) -> list[float]:
    lines = (folder / "history.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def _start(spec: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "turbo_fetch", "run", str(spec)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _kill_a_worker_after(process: subprocess.Popen[str], history: Path, steps: int) -> bool:
    """Kill a training worker when so many steps are in the history; return whether there was one."""
    while process.poll() is None:
        if history.is_file() and len(history.read_text().splitlines()) >= steps:
            for each in psutil.process_iter(["cmdline"]):
                if (each.info["cmdline"] or [""])[0].startswith("ray::RayTrainWorker"):
                    each.kill()
                    return True
        try:
            process.wait(timeout=0.05)
        except subprocess.TimeoutExpired:
            continue
    return False


def test_two_workers_of_which_one_is_killed_learn_what_one_process_would(tmp_path: Path) -> None:
    tiny_sd(tmp_path / "base")
    _images(tmp_path / "subject", 4, seed=0)
    _images(tmp_path / "class", 6, seed=1)
    alone = _start(_write_spec(tmp_path, "alone", "", accumulation=2))
    with ray_cluster(nodes=2) as cluster:
        engine = f'[engine]\nkind = "ray"\nworkers = 2\naddress = "{cluster.address}"\n'
        together = _start(_write_spec(tmp_path, "together", engine))
        was_killed = _kill_a_worker_after(together, tmp_path / "together" / "history.jsonl", 3)
        out, err = together.communicate(timeout=500)
    assert alone.communicate(timeout=300) is not None
    assert together.returncode == 0, err
    assert was_killed
    assert f"step {STEPS} of {STEPS}" in out
    np.testing.assert_allclose(_losses(tmp_path / "together"), _losses(tmp_path / "alone"), rtol=1e-4)
    assert (tmp_path / "together" / "model_index.json").is_file()
