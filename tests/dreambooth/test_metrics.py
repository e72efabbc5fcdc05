"""Scores over features."""

from __future__ import annotations

import pytest
import torch

from turbo_fetch.dreambooth.metrics import likeness, mean_distance


def test_likeness_is_the_mean_cosine_of_all_pairs_whatever_their_length() -> None:
    one, other = torch.tensor([[2.0, 0.0], [0.0, 5.0]]), torch.tensor([[3.0, 0.0]])
    assert likeness(one, other) == pytest.approx(0.5)


def test_distance_leaves_out_each_row_with_itself() -> None:
    assert mean_distance(torch.tensor([[0.0, 0.0], [3.0, 4.0]])) == pytest.approx(5.0)
