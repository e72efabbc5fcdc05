"""Pixels of the images of a batch, for functions that want no files: decoded side by side."""

from __future__ import annotations

import io
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from turbo_fetch.score.check import IMAGE

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa


def pixels(batch: pa.RecordBatch) -> list[npt.NDArray[np.uint8]]:
    """Return the images of a batch of `[fetch.score]`, upright, as RGB arrays of shape (height, width, 3)."""
    files = batch.column(IMAGE).to_pylist()
    with ThreadPoolExecutor(min(len(files), os.cpu_count() or 1)) as threads:
        return list(threads.map(_decoded, files))


def _decoded(file: bytes) -> npt.NDArray[np.uint8]:
    with Image.open(io.BytesIO(file)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
