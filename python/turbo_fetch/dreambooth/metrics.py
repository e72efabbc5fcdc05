"""Scores over features of pictures, as pure functions (arXiv 2208.12242, section 4)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize


def likeness(one: Tensor, other: Tensor) -> float:
    """Return the mean cosine similarity of all pairs of features [N, D] and [M, D]."""
    return float((normalize(one, dim=1) @ normalize(other, dim=1).T).mean())


def prompt_likeness(pictures: Tensor, text: Tensor) -> float:
    """Return the mean cosine similarity of pictures [N, D] with the text [D] that they were made from."""
    return float(cosine_similarity(pictures, text[None], dim=1).mean())


def diversity(features: Tensor) -> float:
    """Return the mean cosine distance, 0 to 2, of all pairs of different rows of features [N, D], N at least 2.

    1 - cosine, so that it says something about any encoder, whatever the length of its features.
    """
    first, second = torch.triu_indices(len(features), len(features), offset=1)
    return float(1 - cosine_similarity(features[first], features[second], dim=1).mean())


def mean_distance(features: Tensor) -> float:
    """Return the mean Euclidean distance of all pairs of different rows of features [N, D], N at least 2."""
    return float(torch.pdist(features).mean())


def drift(pres: float, pres_before: float) -> float:
    """Return how much more the class looks like the subject than before training, at least 0.

    A class that looks less like it has not drifted towards the subject; without the bound a model that makes
    noise of every class would be praised for it.
    """
    return max(0.0, pres - pres_before)


def margin(fidelity: float, drifted: float) -> float:
    """Return what decides which step is best: subject fidelity less drift, both cosines of the same encoder."""
    return fidelity - drifted
