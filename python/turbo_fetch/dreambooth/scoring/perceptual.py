"""LPIPS (Zhang and others, arXiv 1801.03924), with which the DreamBooth paper measures diversity: by AlexNet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from turbo_fetch.errors import ModelError

Distance = Callable[[Sequence[Image.Image]], float]
"""Returns the mean LPIPS of all pairs of pictures of one size, two at least."""

_SMALLEST: Final = 64
"""Pixels that AlexNet needs on a side; smaller pictures are enlarged."""
_PAIRS_AT_ONCE: Final = 8


def distance_weights() -> str:
    """Return which weights measure LPIPS."""
    return f"AlexNet of torchvision {version('torchvision')}, LPIPS of torchmetrics {version('torchmetrics')}"


def open_distance(device: str) -> Distance:
    """Load AlexNet, from the network if it is not there yet. Raises ModelError."""
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    try:
        lpips = LearnedPerceptualImagePatchSimilarity("alex", normalize=True).to(device)
    except (OSError, RuntimeError) as error:
        raise ModelError(
            "evaluate.metrics has 'lpips', but the weights of AlexNet cannot be had: "
            f"{str(error).strip().partition(chr(10))[0]}; expected download.pytorch.org within reach, or the file in "
            f"{torch.hub.get_dir()}/checkpoints, or metrics without 'lpips'"
        ) from error

    @torch.inference_mode()
    def distance(pictures: Sequence[Image.Image]) -> float:
        pixels = torch.stack([_pixels(picture) for picture in pictures])
        first, second = torch.triu_indices(len(pictures), len(pictures), offset=1)
        lpips.reset()
        for start in range(0, len(first), _PAIRS_AT_ONCE):
            pairs = slice(start, start + _PAIRS_AT_ONCE)
            lpips.update(pixels[first[pairs]].to(device), pixels[second[pairs]].to(device))
        return float(lpips.compute())

    return distance


def _pixels(picture: Image.Image) -> Tensor:
    """Return a picture as a tensor [3, H, W] in 0…1."""
    width, height = picture.size
    scale = max(1.0, _SMALLEST / min(width, height))
    if scale > 1:
        picture = picture.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(picture.convert("RGB"), np.float32) / 255).permute(2, 0, 1)
