"""Ctrl-C while a run does something else than steps: answered at once, and made up for when it resumes."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tiny_models import tiny_dino, tiny_sd
from training import Listener, assert_equal_bits, fit, history, learned, training_spec, write_images
from turbo_fetch import stages
from turbo_fetch.dreambooth.run_folder import best_checkpoint, read_checkpoint
from turbo_fetch.errors import Interrupted
from turbo_fetch.spec.specfile import parse_spec
from turbo_fetch.stop import StopRequest, stop_on_signals


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd(tmp_path_factory.mktemp("base"))


class Stopping(Listener):
    """Asks to stop when it is given the chance to redraw for the n-th time after a step, or hears of a phase."""

    def __init__(self, after_step: int, redraws: int = 1, phase: str = "") -> None:
        super().__init__()
        self.stop = StopRequest()
        self.ask = self.stop.ask
        self._after_step, self._redraws, self._phase = after_step, redraws, phase
        self._step = 0

    def step(self, done: int, total: int, unit: str, values: Mapping[str, float]) -> None:
        self._step = done

    def phase(self, done: int, total: int, unit: str) -> None:
        if self._phase and unit.startswith(self._phase) and done >= 2:
            self.stop.ask()

    def refresh(self) -> None:
        if not self._phase and self._step == self._after_step:
            self._redraws -= 1
            if self._redraws == 0:
                self.ask()
            assert self._redraws > -8, "went on as if nothing had been said"


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.parent.name != "lease")


@pytest.mark.parametrize(
    ("what", "told"), [("images", "while encoding images"), ("captions", "before a step")]
)
def test_stopped_while_encoding_a_run_leaves_nothing_and_binds_nobody(
    base: Path, tmp_path: Path, what: str, told: str
) -> None:
    stopping = Stopping(0, phase=what)
    with pytest.raises(Interrupted, match=f"interrupted {told}"):
        fit(training_spec(base, tmp_path), stopping, stopping.stop)
    assert not [name for name in _files(tmp_path / "model") if "unfinished" in name or "train.json" in name]
    fit(training_spec(base, tmp_path, steps=1, seed=3))


def test_terminated_in_its_first_samples_a_run_makes_no_step(base: Path, tmp_path: Path) -> None:
    keys: dict[str, Any] = {"steps": 2, "sample_every": 9, "samples": {"images": 1, "steps": 900}}
    stopping = Stopping(0)
    stopping.ask = lambda: os.kill(os.getpid(), signal.SIGTERM)
    with (
        stop_on_signals(stopping.note) as stop,
        pytest.raises(Interrupted, match="interrupted before a step"),
    ):
        fit(training_spec(base, tmp_path, **keys), stopping, stop)
    assert "train: the samples of step 0 are given up" in stopping.notes
    keys["samples"] = {"images": 1, "steps": 1}
    fit(training_spec(base, tmp_path, **keys))
    assert [path.name for path in (tmp_path / "model" / "samples").iterdir()] == ["step-000000.png"]


def test_stopped_in_samples_and_validations_a_run_makes_up_for_them(base: Path, tmp_path: Path) -> None:
    held_out = write_images(tmp_path / "held out", 3, seed=5)
    keys: dict[str, Any] = {
        "steps": 5,
        "checkpoint_every": 9,
        "checkpoints_kept": 1,
        "learning_rate": 1e-2,
        "sample_every": 4,
        "samples": {"images": 2, "steps": 3},
        "validation": {"pictures": str(held_out), "every": 2, "draws": 1},
    }
    fit(training_spec(base, tmp_path, output=str(tmp_path / "whole"), **keys))
    spec = training_spec(base, tmp_path, output=str(tmp_path / "parts"), **keys)
    # In the validation after step 2, then in the samples after step 4, whose validation refreshes three times.
    for step, redraws in ((2, 1), (4, 5)):
        stopping = Stopping(step, redraws)
        with pytest.raises(Interrupted, match=f"after step {step} of 5, which is saved"):
            fit(spec, stopping, stopping.stop)
    assert "train: the samples of step 4 are given up" in stopping.notes
    fit(spec)
    assert history(tmp_path / "parts") == history(tmp_path / "whole")
    assert_equal_bits(learned(tmp_path / "parts"), learned(tmp_path / "whole"))
    assert _files(tmp_path / "parts") == _files(tmp_path / "whole")
    whole, parts = (read_checkpoint(best_checkpoint(tmp_path / name)) for name in ("whole", "parts"))
    assert (parts["global_step"], parts["validation"]) == (whole["global_step"], whole["validation"])


def test_stopped_while_scoring_all_images_stay(base: Path, tmp_path: Path) -> None:
    table = {
        "models": [str(base)],
        "subject": str(write_images(tmp_path / "photos", 2)),
        "prompts": ["a dog"],
        "metrics": ["dino"],
        "dino": str(tiny_dino(tmp_path / "dino")),
        "images": 2,
        "batch_size": 2,
        "steps": 1,
        "width": 16,
        "height": 16,
        "output": str(tmp_path / "scores"),
    }
    stopping = Stopping(2, redraws=2)
    spec = parse_spec({"evaluate": table})
    with pytest.raises(
        Interrupted, match="stopped while scoring; the same command resumes, all images are there"
    ):
        stages.run(spec, stopping, stopping.stop)
    assert "; 0 images were made in this run" in stages.run(spec).text()
