"""Colour profiles of grey and CMYK images, against littlecms and against their own formula."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageCms

from hostile_corpus import hostile_images
from sample_images import encoded, pixels, transformed

SRGB: Any = ImageCms.createProfile("sRGB")
RAMP = Image.fromarray(np.tile(np.arange(256, dtype=np.uint8), (32, 1)))
D50 = (0.9642, 1.0, 0.8249)


def grey_profile(gamma: float) -> bytes:
    """Return a grey ICC profile of a pure power (ICC.1:2001-04, 6.3.1.2): white point and curve."""
    white = b"".join(struct.pack(">i", round(value * 65536)) for value in D50)
    tags = {
        b"wtpt": b"XYZ \0\0\0\0" + white,
        b"kTRC": b"curv\0\0\0\0" + struct.pack(">IHxx", 1, round(gamma * 256)),
    }
    table, content = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        table += name + struct.pack(">II", start + len(content), len(value))
        content += value
    size = struct.pack(">I", start + len(content))
    kind = b"\x02\x10\0\0" + b"mntrGRAYXYZ "
    return size + bytes(4) + kind + bytes(12) + b"acsp" + bytes(28) + white + bytes(48) + table + content


def by_littlecms(image: Image.Image, icc: bytes) -> npt.NDArray[np.int64]:
    """Return the pixels of an image in sRGB, with perceptual intent."""
    profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    converted = ImageCms.profileToProfile(image, profile, SRGB, outputMode="RGB")
    return np.asarray(converted).astype(np.int64)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("gamma", [1.0, 1.8, 3.0])
def test_a_grey_image_is_converted_to_the_grey_of_srgb_and_stays_grey(kind: str, gamma: float) -> None:
    icc = grey_profile(gamma)
    options = {"quality": 100} if kind == "JPEG" else {}
    made = pixels(encoded(RAMP, kind, icc_profile=icc, **options)).astype(np.int64)
    assert made.shape == (32, 256)
    light = (np.arange(256) / 255) ** (round(gamma * 256) / 256)
    exact = 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    assert np.abs(made - exact).max() <= (2 if kind == "JPEG" else 1)
    if gamma > 1:
        # For linear light, littlecms itself is 7 levels off in the shadows.
        assert np.abs(made - by_littlecms(RAMP, icc)[..., 0]).max() <= 3


def test_a_grey_image_with_another_curve_is_not_kept_as_it_is() -> None:
    body = encoded(RAMP, "PNG", icc_profile=grey_profile(1.0))
    assert transformed(body, encode="png", skip_reencode=True)["image"] != body


def _profiled(mode: str) -> Iterator[tuple[bytes, Image.Image]]:
    """Yield the JPEGs of other projects' tests in this mode that have a profile for it."""
    for body in hostile_images().values():
        if body[:2] == b"\xff\xd8" and b"ICC_PROFILE" in body:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    image = Image.open(io.BytesIO(body))
                    image.load()
                    ImageCms.ImageCmsProfile(io.BytesIO(image.info.get("icc_profile", b"")))
                except OSError:
                    continue
            if image.mode == mode and image.info.get("icc_profile"):
                yield body, image


@pytest.mark.linux
@pytest.mark.parametrize("mode", ["CMYK", "L"])
def test_real_profiles_of_printers_give_what_littlecms_gives(mode: str) -> None:
    found = list(_profiled(mode))
    assert found
    for body, image in found:
        made = pixels(body).astype(np.int64)
        wanted = by_littlecms(image, image.info["icc_profile"])
        assert np.abs(made - (wanted if mode == "CMYK" else wanted[..., 0])).max() <= 2


def test_a_cmyk_image_whose_profile_is_for_another_model_is_taken_as_ideal_inks() -> None:
    inks = Image.merge(
        "CMYK", [RAMP, RAMP.transpose(Image.Transpose.ROTATE_180), RAMP, Image.new("L", RAMP.size, 40)]
    )
    plain = pixels(encoded(inks, "TIFF"))
    assert np.array_equal(pixels(encoded(inks, "TIFF", icc_profile=grey_profile(1.0))), plain)
