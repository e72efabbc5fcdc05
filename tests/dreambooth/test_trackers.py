"""Training with `[track]`: losses and samples reach every tracker, through the monitor as those of all stages do."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from processes import PATIENCE_S, free_port, wait_until
from tiny_models import TINY_MODELS
from training import Listener, history, training_spec
from turbo_fetch import stages
from turbo_fetch.errors import SpecError
from turbo_fetch.spec.track import TrackSpec
from turbo_fetch.stop import StopRequest


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TINY_MODELS["sd"](tmp_path_factory.mktemp("sd"))


class _Scraper(Listener):
    """Asks the Prometheus endpoint after the last step, while the run goes on."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.port = port
        self.text = ""

    def step(self, done: int, total: int, unit: str, values: Mapping[str, float]) -> None:
        """See ProgressListener."""
        if done == total:
            told = f'turbo_fetch_step{{stage="train"}} {total}.0'
            wait_until("the last step on the page", lambda: told in self._scraped())

    def _scraped(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=PATIENCE_S) as answer:
            self.text = answer.read().decode()
        return self.text


def test_all_trackers_get_the_figures_and_the_samples_of_training(base: Path, tmp_path: Path) -> None:
    samples = {"prompts": ["a photo of sks dog"], "images": 1, "steps": 1}
    spec = training_spec(base, tmp_path, steps=2, sample_every=1, samples=samples)
    port = free_port()
    track: dict[str, Any] = {
        "to": ("tensorboard", "wandb", "prometheus"),
        "wandb_mode": "offline",
        "port": port,
        "run": "mine",
    }
    scraper = _Scraper(port)
    stages.run(spec.model_copy(update={"track": TrackSpec(**track)}), scraper, StopRequest(), ["train"])
    assert not [note for note in scraper.notes if "track" in note]
    entries = history(tmp_path / "model")
    logs = tmp_path / "model" / ".turbo-fetch" / "logs"
    events = EventAccumulator(str(logs / "tensorboard" / "mine-train")).Reload()
    told = {event.step: event.value for event in events.Scalars("train/prior_loss")}
    assert told == pytest.approx({entry["step"]: entry["prior_loss"] for entry in entries})
    images = {event.step: event.encoded_image_string for event in events.Images("train/samples")}
    assert images == {
        step: (tmp_path / "model" / "samples" / f"step-{step:06d}.png").read_bytes() for step in (0, 1, 2)
    }
    (file,) = logs.glob("wandb/offline-run-*/run-*.wandb")
    assert b"train/prior_loss" in file.read_bytes()
    assert list(logs.glob("wandb/offline-run-*/files/media/images/train/samples_2_*.png"))
    families = {family.name: family for family in text_string_to_metric_families(scraper.text)}
    figures = {sample.labels["name"]: sample.value for sample in families["turbo_fetch_step_value"].samples}
    assert figures["loss"] == pytest.approx(entries[-1]["loss"])


def test_a_tracker_whose_port_is_taken_is_refused_before_anything_is_loaded(
    base: Path, tmp_path: Path
) -> None:
    spec = training_spec(base, tmp_path)
    assert spec.train is not None
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        track = TrackSpec(to=("prometheus",), port=taken.getsockname()[1])
        with pytest.raises(SpecError, match=r"track\.port"):
            stages.run(spec.model_copy(update={"track": track}), Listener(), StopRequest(), ["train"])
    assert not Path(spec.train.output, "train.json").exists()
