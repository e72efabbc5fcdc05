"""Training and images on a Ray cluster: the same as on one machine, also when workers are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

import processes
from processes import files_below, finished, kill, lines_of, wait_until
from ray_nodes import ray_cluster, working
from tiny_models import tiny_dino, tiny_sd

pytestmark = [pytest.mark.timeout(900), pytest.mark.cluster]

STEPS = 24
LONG_S = 500.0
"""That a run on a cluster may take, of which each process imports all that the others do."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of one node, for all tests but those of several."""
    with ray_cluster(nodes=1) as cluster:
        yield cluster


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
    return processes.start(
        [sys.executable, "-m", "turbo_fetch", "run", str(spec)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def _steps(output: Path) -> int:
    return len(lines_of(output / "history.jsonl"))


def _workers_after(process: subprocess.Popen[str], output: Path, steps: int) -> list[psutil.Process]:
    """Return the training workers when so many steps are in the history."""
    return wait_until(
        f"{steps} steps", lambda: working("RayTrainWorker") if _steps(output) >= steps else [], process
    )


def test_workers_that_are_killed_again_and_again_and_go_on_as_one_learn_what_one_process_would(
    tmp_path: Path,
) -> None:
    """More often than one worker may be lost without a step, and then on another number of workers."""
    tiny_sd(tmp_path / "base")
    _images(tmp_path / "subject", 4, seed=0)
    _images(tmp_path / "class", 6, seed=1)
    together = tmp_path / "together"
    alone = _start(_write_spec(tmp_path, "alone", "", accumulation=2))
    with ray_cluster(nodes=2) as cluster:
        engine = '[engine]\nkind = "ray"\nworkers = {}\naddress = "' + cluster.address + '"\n'
        process = _start(_write_spec(tmp_path, "together", engine.format(2)))
        for steps in (2, 4):
            kill(_workers_after(process, together, steps)[0])
        _workers_after(process, together, 6)
        os.kill(process.pid, signal.SIGINT)
        _, err = finished(process, LONG_S)
        assert process.returncode == 130, err
        assert "Traceback" not in err
        last = _start(_write_spec(tmp_path, "together", engine.format(1)))
        out, err = finished(last, LONG_S)
    assert finished(alone, LONG_S) is not None
    assert last.returncode == 0, err
    assert "begun on 2 devices, goes on on 1" in " ".join(err.split())
    assert f"step {STEPS} of {STEPS}" in out
    np.testing.assert_allclose(_losses(together), _losses(tmp_path / "alone"), rtol=1e-4)
    assert (together / "model_index.json").is_file()


PICTURES = """
[prior]
images = 3
prompt = "a dog"
steps = 2
output = "{folder}/class"
[train]
base = "{base}"
subject = "{folder}/subject"
class = "dog"
resolution = 64
steps = 1
sample_every = 0
text_encoder = false
output = "{folder}/model"
[generate]
prompts = ["a dog", "a cat"]
images = 2
steps = {steps}
output = "{folder}/pictures"
"""


def _pictures(folder: Path) -> dict[str, bytes]:
    """Return the pixels of all images below a folder; that they name their model's place is none of theirs."""
    return {
        path.relative_to(folder).as_posix(): Image.open(path).tobytes()
        for name in ("class", "pictures")
        for path in sorted((folder / name).glob("*.png"))
    }


def _picture_spec(folder: Path, base: Path, engine: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    if not (folder / "subject").exists():
        _images(folder / "subject", 4, seed=0)
    path = folder / "job.toml"
    path.write_text(PICTURES.format(folder=folder, base=base, steps=2) + engine)
    return path


def test_images_are_made_on_a_node_as_on_one_machine_whoever_is_killed(cluster: Any, tmp_path: Path) -> None:
    base = tmp_path / "base"
    tiny_sd(base)
    here = _start(_picture_spec(tmp_path / "here", base))
    there = tmp_path / "there"
    engine = f'[engine]\nkind = "ray"\naddress = "{cluster.address}"\n'
    process = _start(_picture_spec(there, base, engine))
    kill(wait_until("images of the class", lambda: working("turbo-fetch prior"), process)[0])
    wait_until("images", lambda: working("turbo-fetch generate"), process)
    out, err = finished(process, LONG_S)
    assert finished(here, LONG_S) is not None
    assert process.returncode == 0, err
    assert "its worker was lost" in " ".join(err.split())
    assert "3 class images, of which 3 were made in this run" in out
    assert _pictures(there) == _pictures(tmp_path / "here")
    assert len(_pictures(there)) == 3 + 4 + 1

    wrong = tmp_path / "wrong.toml"
    wrong.write_text(
        f'[generate]\nmodel = "{tmp_path}/nowhere"\nprompts = ["a"]\noutput = "{there}/x"\n{engine}'
    )
    failed = _start(wrong)
    _, err = finished(failed, LONG_S)
    here = _start(_without_engine(wrong))
    _, expected = finished(here, LONG_S)
    assert failed.returncode == here.returncode == 2
    assert all(line in err for line in expected.splitlines())


TRAINED = """
[train]
base = "{folder}/base"
subject = "{folder}/subject"
class = "dog"
resolution = 64
steps = {steps}
checkpoint_every = 200
sample_every = 0
text_encoder = false
output = "{folder}/model"
"""
MADE_OF_BASE = """
[{stage}]
prompts = ["a dog"]
images = 4
steps = 150
batch_size = 1
"""
STOPPED: dict[str, tuple[str, str, dict[str, int | str]]] = {
    "prior": (
        '[prior]\nimages = 4\nsteps = 150\nbatch_size = 1\noutput = "{folder}/made"' + TRAINED,
        "made/*.png",
        {"steps": 1},
    ),
    "train": (TRAINED, "model/history.jsonl", {"steps": 200}),
    "generate": (
        MADE_OF_BASE + 'model = "{folder}/base"\noutput = "{folder}/made"',
        "made/0*.png",
        {"stage": "generate"},
    ),
    "evaluate": (
        MADE_OF_BASE
        + 'models = ["{folder}/base"]\nsubject = "{folder}/subject"\nclass = "dog"\nidentifier = "sks"\n'
        'metrics = ["dino"]\ndino = "{folder}/dino"\noutput = "{folder}/made"',
        "made/pictures/*/*.png",
        {"stage": "evaluate"},
    ),
}
"""What is asked of each stage, what tells that it is amid its work, and the rest of the former."""


@pytest.mark.parametrize("stage", STOPPED)
def test_ctrl_c_ends_a_stage_amid_its_work_and_the_next_run_goes_on(
    cluster: Any, stage: str, tmp_path: Path
) -> None:
    _images(tmp_path / "subject", 3, seed=0)
    tiny_sd(tmp_path / "base")
    tiny_dino(tmp_path / "dino")
    tables, made, rest = STOPPED[stage]
    spec = tmp_path / "job.toml"

    def done() -> int:
        return _steps(tmp_path / "model") if stage == "train" else len(files_below(tmp_path, made))

    engine = f'\n[engine]\nkind = "ray"\naddress = "{cluster.address}"\n'
    spec.write_text(tables.format(folder=tmp_path, **rest) + engine)
    process = _start(spec)
    wait_until("the first of its work", done, process)
    os.kill(process.pid, signal.SIGINT)
    out, err = finished(process, LONG_S)
    assert process.returncode == 130, (out, err)
    assert "Traceback" not in err
    assert 0 < done() < (200 if stage == "train" else 4)
    last = _start(spec)
    out, err = finished(last, LONG_S)
    assert last.returncode == 0, err
    assert done() == (200 if stage == "train" else 4)


def _without_engine(spec: Path) -> Path:
    path = spec.with_name("here.toml")
    path.write_text(spec.read_text().partition("[engine]")[0])
    return path
