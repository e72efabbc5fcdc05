"""The toy world: its judge, and its demonstration from the command line."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from turbo_fetch.cli.commands import app
from turbo_fetch.dreambooth.toy.judge import Judge
from turbo_fetch.dreambooth.toy.shapes import SUBJECTS, Figure, draw, placed


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


def test_demo_alone_lists_what_there_is() -> None:
    result = CliRunner().invoke(app, ["demo"])
    assert result.exit_code == 0
    assert "demo dreambooth" in result.output


def test_an_unknown_subject_is_refused_with_those_there_are() -> None:
    result = CliRunner().invoke(app, ["demo", "dreambooth", "--subject", "dog"])
    assert result.exit_code == 2
    assert "'dog'" in result.output
    assert "'target circle'" in result.output
