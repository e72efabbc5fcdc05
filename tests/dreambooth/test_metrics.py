"""Scores over features."""

from __future__ import annotations

from typing import cast

import pytest
import skimage.data
import torch
from PIL import Image

from turbo_fetch.dreambooth.scoring.encoders import offline_features, open_offline
from turbo_fetch.dreambooth.scoring.scores import (
    ModelScores,
    Scores,
    diversity,
    drift,
    judge,
    prompt_similarity,
    similarity,
)


def test_similarity_is_the_mean_cosine_of_all_pairs_whatever_their_length() -> None:
    one, other = torch.tensor([[2.0, 0.0], [0.0, 5.0]]), torch.tensor([[3.0, 0.0]])
    assert similarity(one, other) == pytest.approx(0.5)


def test_prompt_similarity_is_the_mean_cosine_of_each_image_with_the_text() -> None:
    images, text = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]]), torch.tensor([4.0, 0.0])
    assert prompt_similarity(images, text) == pytest.approx((1 + 0 - 1) / 3)


def test_diversity_is_the_mean_cosine_distance_of_different_images() -> None:
    # Distances 0 (same direction), 1 (right angle) and 1.
    features = torch.tensor([[1.0, 0.0], [5.0, 0.0], [0.0, 2.0]])
    assert diversity(features) == pytest.approx(2 / 3)
    assert diversity(torch.ones(2, 3)) == pytest.approx(0, abs=1e-6)


def test_a_class_that_looks_less_like_the_subject_has_not_drifted() -> None:
    assert drift(0.5, 0.3) == pytest.approx(0.2)
    assert drift(0.2, 0.3) == 0


def scored(name: str, **scores: float) -> ModelScores:
    return ModelScores(name, None, name, None, cast("Scores", scores))


def test_the_best_step_has_the_most_fidelity_less_drift() -> None:
    models = [
        scored("base", dino=0.3, pres=0.2),
        scored("early", dino=0.5, pres=0.25),
        scored("middle", dino=0.7, pres=0.3),
        scored("late", dino=0.8, pres=0.6),
    ]
    verdict = judge(models, "base")
    assert verdict is not None
    assert verdict.best == "middle"
    assert verdict.margins == pytest.approx({"base": 0.3, "early": 0.45, "middle": 0.6, "late": 0.4})
    assert verdict.rule == "largest DINO less the rise of PRES above that of base"


def test_the_base_is_never_the_best_but_it_is_said_when_nothing_is_better() -> None:
    models = [scored("base", dino=0.6, pres=0.2), scored("trained", dino=0.5, pres=0.2)]
    verdict = judge(models, "base")
    assert verdict is not None
    assert verdict.text() == "best is trained, but it is no better than base"


def test_without_pres_or_dino_fidelity_alone_decides() -> None:
    verdict = judge([scored("one", clip_i=0.5, pres=0.1), scored("two", clip_i=0.6, pres=0.9)], None)
    assert verdict is not None
    assert (verdict.best, verdict.rule) == ("two", "largest CLIP-I")
    assert judge([scored("one", clip_t=0.3)], None) is None


@pytest.mark.parametrize(("name", "label"), [("chelsea", 285), ("coffee", 967)])
def test_the_encoder_without_a_hub_sees_photographs_as_it_learned_them(name: str, label: int) -> None:
    # An Egyptian cat and an espresso; with pixels in another range it is less sure, or sees something else.
    encoder = open_offline()
    photo = Image.fromarray(getattr(skimage.data, name)())
    with torch.inference_mode():
        sure = encoder._fc(offline_features(encoder, [photo])).softmax(1)[0]
    assert int(sure.argmax()) == label
    assert float(sure[label]) > (0.75 if name == "chelsea" else 0.85)
