"""Stages that make images, killed in the middle: what was published is whole and stays, the rest is made."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiny_models import tiny_dino, tiny_sd
from training import kill_midway, write_images
from turbo_fetch import stages
from turbo_fetch.dreambooth.sampling.image_folder import settings_in
from turbo_fetch.spec.specfile import parse_spec

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def test_killed_stages_resume_with_the_images_that_are_missing(tmp_path: Path) -> None:
    quick = {"steps": 2, "width": 16, "height": 16, "batch_size": 1}
    base, photos = str(tiny_sd(tmp_path / "base")), str(write_images(tmp_path / "photos", 2))
    folders = {stage: tmp_path / stage for stage in ("prior", "generate", "evaluate")}
    train = {"base": base, "subject": photos, "class": "dog", "output": str(folders["prior"] / "model")}
    dino = {
        "metrics": ["dino"],
        "dino": str(tiny_dino(tmp_path / "dino")),
        "models": [base],
        "subject": photos,
    }
    specs = {
        "prior": parse_spec({"prior": {**quick, "images": 20}, "train": train}),
        "generate": parse_spec(
            {
                "generate": {
                    **quick,
                    "images": 20,
                    "model": base,
                    "prompts": ["a dog"],
                    "output": str(folders["generate"] / "out"),
                }
            }
        ),
        "evaluate": parse_spec(
            {
                "evaluate": {
                    **quick,
                    **dino,
                    "images": 20,
                    "prompts": ["a dog"],
                    "output": str(folders["evaluate"] / "out"),
                }
            }
        ),
    }
    kill_midway(*((specs[stage], stage, folders[stage], "**/0*.png", 3) for stage in specs))
    for stage, spec in specs.items():
        before = {path: path.read_bytes() for path in folders[stage].rglob("0*.png")}
        assert 3 <= len(before) < 20
        for path, content in before.items():
            settings_in(content, path.name)
        assert not list(folders[stage].rglob("scores.json"))

        text = stages.run(spec, names=(stage,)).text()
        assert f"{20 - len(before)} " in text
        assert "made in this run" in text
        assert {path: path.read_bytes() for path in before} == before
        assert len(list(folders[stage].rglob("0*.png"))) == 20
