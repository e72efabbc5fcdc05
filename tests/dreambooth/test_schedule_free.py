"""A schedule-free optimiser trains some weights and means others: which are used where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from prodigyplus import ProdigyPlusScheduleFree

from tiny_models import tiny_sd
from training import assert_equal_bits, fit, history, learned, stopped_after, training_spec
from turbo_fetch.dreambooth import families
from turbo_fetch.dreambooth.families.models import restore
from turbo_fetch.dreambooth.run_folder import checkpoints, read_checkpoint
from turbo_fetch.dreambooth.training.optimisers import ScheduleFree
from turbo_fetch.errors import Interrupted, SpecError

KEYS: dict[str, Any] = {"optimiser": {"kind": "prodigy_schedulefree"}, "learning_rate": "auto", "steps": 6}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd(tmp_path_factory.mktemp("base"))


def test_the_mean_is_that_of_the_optimiser_and_looking_at_it_changes_nothing() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(8, 8)
    optimiser = ProdigyPlusScheduleFree(layer.parameters(), d0=1e-2, split_groups=False)
    for _ in range(5):
        layer(torch.randn(4, 8)).square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()
    trained = layer.weight.detach().clone()
    mean = ScheduleFree(layer.parameters(), optimiser)
    means: Any = mean.state_dict()["means"]
    kept: torch.Tensor = means[0]
    assert len(means) == 2
    with mean.in_place():
        assert torch.equal(layer.weight, kept)
    assert torch.equal(layer.weight, trained)
    optimiser.eval()
    assert torch.equal(layer.weight, kept)
    assert not torch.allclose(kept, trained, atol=1e-7)


def test_a_run_resumes_exactly_whether_it_makes_samples_or_not(base: Path, tmp_path: Path) -> None:
    samples: dict[str, Any] = {"sample_every": 2, "samples": {"images": 1, "steps": 1}}
    whole = training_spec(base, tmp_path, output=str(tmp_path / "whole"), **KEYS, **samples)
    parts = training_spec(base, tmp_path, output=str(tmp_path / "parts"), **KEYS)
    fit(whole)
    with pytest.raises(Interrupted):
        stopped_after(parts, 3)
    fit(parts)
    assert history(tmp_path / "parts") == history(tmp_path / "whole")
    assert_equal_bits(learned(tmp_path / "parts"), learned(tmp_path / "whole"))
    # What is exported, and what a checkpoint is, is the mean, and not what was trained.
    exported = families.load(str(tmp_path / "whole")).denoiser.state_dict()
    newest = checkpoints(tmp_path / "whole")[6]
    assert_equal_bits(restore(newest).denoiser.state_dict(), exported)
    trained = read_checkpoint(newest)["state_dict"]
    assert any(not torch.equal(trained[f"parts.unet.{name}"], value) for name, value in exported.items())


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"schedule": {"kind": "cosine"}}, "needs no schedule; expected"),
        ({"ema": {"decay": 0.9}}, "averages the weights itself"),
        (
            {"optimiser": {"kind": "prodigy_schedulefree", "betas": [0.0, 0.9]}},
            r"optimiser\.betas begins with 0",
        ),
        ({"learning_rate": 1.0, "text_encoder": True, "text_encoder_learning_rate": 0.5}, "but 2 are given"),
    ],
)
def test_what_it_does_itself_is_refused(tmp_path: Path, keys: dict[str, Any], expected: str) -> None:
    with pytest.raises(SpecError, match=expected):
        training_spec(tmp_path, tmp_path, **{**KEYS, **keys})
