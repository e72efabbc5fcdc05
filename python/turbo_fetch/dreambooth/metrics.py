"""Scores over features of pictures, as pure functions (arXiv 2208.12242, section 4)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize


def likeness(one: Tensor, other: Tensor) -> float:
    """Return the mean cosine similarity of all pairs of features [N, D] and [M, D]."""
    return float((normalize(one, dim=1) @ normalize(other, dim=1).T).mean())


def mean_distance(features: Tensor) -> float:
    """Return the mean Euclidean distance of all pairs of different rows of features [N, D], N at least 2."""
    return float(torch.pdist(features).mean())
