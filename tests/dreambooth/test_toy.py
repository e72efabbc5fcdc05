"""The toy world: its judge, and its demonstration from the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from turbo_fetch.cli.commands import app
from turbo_fetch.dreambooth.toy.demo import Lesson, spec_of, write_spec
from turbo_fetch.dreambooth.toy.judge import Judge
from turbo_fetch.dreambooth.toy.shapes import SUBJECTS, Figure, draw, placed
from turbo_fetch.spec.specfile import load_spec


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge()


def _drawn(figure: Figure, count: int = 50) -> list[Image.Image]:
    random = np.random.default_rng(7)
    return [
        Image.fromarray((draw(placed(figure, random)) * 255).round().astype(np.uint8)) for _ in range(count)
    ]


def test_the_judge_knows_each_subject_and_takes_none_for_another(judge: Judge) -> None:
    for name, figure in SUBJECTS.items():
        for asked in SUBJECTS:
            mean = np.mean(judge.probabilities(_drawn(figure), asked))
            assert mean > 0.9 if asked == name else mean < 0.05, (name, asked)


def test_the_judge_is_not_fooled_by_a_plain_shape_of_the_same_colour(judge: Judge) -> None:
    assert np.mean(judge.probabilities(_drawn(Figure("circle", ("yellow", "blue"))), "target circle")) < 0.1


def test_the_demo_leaves_a_spec_of_what_it_did_that_can_be_edited_and_moved(tmp_path: Path) -> None:
    lesson = Lesson(tmp_path / "base", "target circle", tmp_path / "lesson")
    lesson.folder.mkdir()
    written = write_spec(lesson)
    spec, done = load_spec(written), spec_of(lesson)
    assert (spec.prior, spec.train) == (done.prior, done.train)
    assert spec.generate is not None
    assert spec.generate.output == str(lesson.folder / "images")
    moved = load_spec(written.rename(tmp_path / "edited.toml"), ["train.steps=600"])
    assert moved.train is not None
    assert (moved.train.steps, moved.train.output) == (600, str(tmp_path / "model"))


def test_demo_alone_lists_what_there_is() -> None:
    result = CliRunner().invoke(app, ["demo"])
    assert result.exit_code == 0
    assert "demo dreambooth" in result.output


def test_an_unknown_subject_is_refused_with_those_there_are() -> None:
    result = CliRunner().invoke(app, ["demo", "dreambooth", "--subject", "dog"])
    assert result.exit_code == 2
    assert "'dog'" in result.output
    assert "'target circle'" in result.output
