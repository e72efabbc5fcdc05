"""What programs other than Pillow see in a file: tifffile in TIFF, and imagecodecs in JPEG 2000."""

from __future__ import annotations

import io
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image

Pixels = npt.NDArray[np.uint8]


def tifffile_sees(body: bytes) -> Pixels | None:
    """Return the first page of a TIFF of grey, RGB, ink or palette, RGB on white; None for other kinds."""
    with tifffile.TiffFile(io.BytesIO(body)) as file:
        page = file.pages[0]
        assert isinstance(page, tifffile.TiffPage)
        if page.dtype not in (np.uint8, np.uint16) or page.bitspersample not in (8, 16):
            return None
        samples = page.asarray()
        if page.axes in {"SYX"}:
            samples = np.moveaxis(samples, 0, -1)
        if page.axes not in {"YX", "YXS", "SYX"}:
            return None
        unit = samples.astype(np.float64) / np.iinfo(page.dtype).max
        kind = tifffile.PHOTOMETRIC(page.photometric).name
        extra = [int(meaning) for meaning in page.extrasamples]
        colours = {"MINISBLACK": 1, "MINISWHITE": 1, "RGB": 3, "SEPARATED": 4, "PALETTE": 1}.get(kind)
        if colours is None:
            return None
        if kind == "PALETTE":
            assert page.colormap is not None
            return np.moveaxis(page.colormap[:, samples] >> 8, 0, -1).astype(np.uint8)
    return _on_white(unit.reshape(*unit.shape[:2], -1), kind, colours, extra)


def _on_white(unit: npt.NDArray[Any], kind: str, colours: int, extra: list[int]) -> Pixels:
    seen = unit[..., :colours]
    if kind == "MINISWHITE":
        seen = 1 - seen
    if kind == "SEPARATED":
        seen = (1 - seen[..., :3]) * (1 - seen[..., 3:])
    if extra and extra[0] in {1, 2}:
        alpha = unit[..., colours : colours + 1]
        seen = seen * (alpha if extra[0] == 2 else 1) + 1 - alpha
    return np.broadcast_to((seen * 255).round(), (*seen.shape[:2], 3)).astype(np.uint8)


def imagecodecs_sees(body: bytes) -> Pixels:
    """Return a JPEG 2000 of one or three components without sign, scaled to eight bits."""
    samples = imagecodecs.jpeg2k_decode(body)
    at = body.index(b"\xff\x4f\xff\x51")
    white = (1 << (body[at + 42] + 1)) - 1
    seen = (samples.astype(np.float64) * 255 / white).round().astype(np.uint8)
    return np.asarray(Image.fromarray(seen).convert("RGB"))
