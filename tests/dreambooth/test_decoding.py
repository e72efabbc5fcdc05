"""Image files as people have them, against what libvips and LittleCMS show of them."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pillow_heif
import pytest
import pyvips
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

import world
from hostile_corpus import hostile_corpus
from sample_images import encoded, scene
from test_colour_profiles import grey_profile
from turbo_fetch.dreambooth.data import decoding
from turbo_fetch.dreambooth.data.decoding import Undecodable, decode, decode_mask
from turbo_fetch.dreambooth.data.images import cut, inspect, render
from turbo_fetch.errors import MissingExtra

SCENE = scene(96, 64)
RAMP = np.tile(np.linspace(0, 1, 256, dtype=np.float32), (16, 1))
D50 = (0.9642, 1.0, 0.8249)
WIDE = {
    "Display P3": ((0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407)),
    "Adobe RGB": ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)),
}
"""Red, green and blue of two colour spaces as XYZ by D50: SMPTE EG 432-1 and Adobe RGB (1998), Bradford adapted."""


def wide_profile(name: str, gamma: float = 2.2) -> bytes:
    """Return an ICC profile of matrix and curve (ICC.1:2001-04, 6.3.3.2) with a description."""
    title = name.encode() + b"\0"
    tags = {b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(title)) + title + bytes(80)}
    tags[b"wtpt"] = b"XYZ \0\0\0\0" + _numbers(D50)
    for letter, column in zip(b"rgb", WIDE[name], strict=True):
        tags[bytes([letter]) + b"XYZ"] = b"XYZ \0\0\0\0" + _numbers(column)
        tags[bytes([letter]) + b"TRC"] = b"curv\0\0\0\0" + struct.pack(">IHxx", 1, round(gamma * 256))
    table, content = struct.pack(">I", len(tags)), b""
    start = 132 + 12 * len(tags)
    for tag, value in tags.items():
        value += bytes(-len(value) % 4)
        table += tag + struct.pack(">II", start + len(content), len(value))
        content += value
    head = struct.pack(">I", start + len(content)) + bytes(4) + b"\x02\x10\0\0mntrRGB XYZ "
    return head + bytes(12) + b"acsp" + bytes(28) + _numbers(D50) + bytes(48) + table + content


def _numbers(values: tuple[float, ...]) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def by_libvips(content: bytes) -> npt.NDArray[np.int16]:
    """Return an image as libvips shows it: upright, in sRGB, on white."""
    image = pyvips.Image.new_from_buffer(content, "").autorot()
    if image.get_typeof("icc-profile-data"):
        image = image.icc_transform("srgb", embedded=True, intent="perceptual")
    image = image.colourspace("srgb")
    if image.hasalpha():
        image = image.flatten(background=[255, 255, 255])
    return np.asarray(image.cast("uchar").numpy(), np.int16)


def seen(content: bytes) -> npt.NDArray[np.int16]:
    """Return an image as the trainer sees it."""
    return np.asarray(decode(content).image, np.int16)


def _transparent() -> Image.Image:
    image = SCENE.convert("RGBA")
    image.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, 96).astype(np.uint8), (64, 1))))
    return image


def _turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(SCENE, "PNG", exif=exif)


def _tiff(values: npt.NDArray[Any], **options: Any) -> bytes:
    body = io.BytesIO()
    tifffile.imwrite(body, values, photometric="rgb" if values.ndim == 3 else "minisblack", **options)
    return body.getvalue()


AS_LIBVIPS = {
    "grey": encoded(SCENE.convert("L"), "PNG"),
    "black and white": encoded(SCENE.convert("1"), "PNG"),
    "palette": encoded(SCENE.quantize(16), "PNG"),
    "palette with a transparent colour": encoded(SCENE.quantize(16), "PNG", transparency=3),
    "animation with a transparent colour": encoded(
        SCENE.quantize(16), "GIF", transparency=3, save_all=True, append_images=[SCENE.quantize(8)]
    ),
    "grey with alpha": encoded(_transparent().convert("LA"), "PNG"),
    "colour with alpha": encoded(_transparent(), "PNG"),
    "colour with alpha, WebP": encoded(_transparent(), "WEBP", lossless=True),
    "a transparent colour": encoded(SCENE, "PNG", transparency=SCENE.getpixel((5, 5))),
    "16 bits of grey, PNG": encoded(Image.fromarray((RAMP * 65535).astype(np.uint16)), "PNG"),
    "16 bits of grey, TIFF": _tiff((RAMP * 65535).astype(np.uint16)),
    "16 bits of grey, big-endian TIFF": _tiff((RAMP * 65535).astype(np.uint16), byteorder=">"),
    "16 bits of colour, TIFF": _tiff(
        np.stack([RAMP, 1 - RAMP, RAMP / 2], -1).__mul__(65535).astype(np.uint16)
    ),
    "Display P3": encoded(SCENE, "PNG", icc_profile=wide_profile("Display P3")),
    "Adobe RGB": encoded(SCENE, "TIFF", icc_profile=wide_profile("Adobe RGB")),
    "Adobe RGB with alpha": encoded(_transparent(), "PNG", icc_profile=wide_profile("Adobe RGB")),
    "Adobe RGB in a palette": encoded(SCENE.quantize(16), "PNG", icc_profile=wide_profile("Adobe RGB")),
    "grey with a profile": encoded(SCENE.convert("L"), "PNG", icc_profile=grey_profile(1.8)),
    **{f"EXIF orientation {number}": _turned(number) for number in range(1, 9)},
}


@pytest.mark.parametrize("name", AS_LIBVIPS)
def test_an_image_is_seen_as_libvips_shows_it(name: str) -> None:
    content = AS_LIBVIPS[name]
    expected = by_libvips(content)
    if expected.ndim == 2 or expected.shape[2] == 1:
        expected = np.repeat(expected.reshape(*expected.shape[:2], 1), 3, 2)
    assert seen(content).shape == expected.shape
    assert np.abs(seen(content) - expected).max() <= 3


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_inks_become_colours(kind: str) -> None:
    inks = Image.merge("CMYK", [Image.new("L", (8, 8), level) for level in (0, 255, 255, 0)])
    assert decode(encoded(inks, kind)).image.getpixel((4, 4)) == pytest.approx((255, 0, 0), abs=2)


def test_the_images_of_other_projects_are_seen_as_pillow_shows_them() -> None:
    # Every kind of file, and few of each, as the whole corpus takes a minute.
    bodies = [body for body in hostile_corpus().values() if 100 < len(body) < 60_000][::6]
    compared = 0
    for body in bodies:
        expected = world.seen(body)
        if expected is not None:
            compared += 1
            found = np.asarray(decode(body).image)
            assert found.shape == expected.shape
            assert world.psnr_db(found, expected) > world.SAME_DB
    assert compared > 100


@pytest.mark.parametrize("white", [1.0, 255.0, 65535.0])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_floating_point_tiff_is_scaled_and_its_white_is_told(
    white: float, channels: int, kind: type[np.floating[Any]]
) -> None:
    values = (np.repeat(RAMP[..., None], channels, 2) * white).astype(kind)
    found = decode(_tiff(values if channels > 1 else values[..., 0]))
    expected = np.repeat((RAMP * 255).round()[..., None], 3, 2)
    assert np.abs(np.asarray(found.image, np.float64) - expected).max() <= 1
    assert found.notes == (f"with 32-bit values, of which {white:,.0f} is taken for white",)


def test_32_bit_integers_and_highlights_of_floats_keep_their_scale() -> None:
    whole = np.array([[0, 2**31, 2**32 - 1]], np.uint32)
    assert seen(_tiff(whole))[0, :, 0].tolist() == [0, 128, 255]
    bright = np.array([[0.0, 0.5, 1.0, 4.0, np.inf, np.nan]], np.float32)
    assert seen(_tiff(bright))[0, :, 0].tolist() == [0, 128, 255, 255, 0, 0]


def test_what_was_done_to_colours_is_told() -> None:
    assert decode(AS_LIBVIPS["Display P3"]).notes == ("converted to sRGB from Display P3",)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert decode(encoded(SCENE, "PNG", icc_profile=srgb)).notes == ()


@given(st.integers(0, 600), st.binary(min_size=1, max_size=40))
def test_a_broken_profile_is_no_fault_of_the_image(place: int, garbage: bytes) -> None:
    profile = bytearray(wide_profile("Adobe RGB"))
    profile[place : place + len(garbage)] = garbage
    assert seen(encoded(SCENE, "PNG", icc_profile=bytes(profile))).shape == (64, 96, 3)


@pytest.mark.parametrize("profile", [b"no profile", grey_profile(2.2), wide_profile("Adobe RGB")[:150]])
def test_a_profile_that_does_not_fit_is_ignored_and_told(profile: bytes) -> None:
    found = decode(encoded(SCENE, "PNG", icc_profile=profile))
    assert np.array_equal(np.asarray(found.image), np.asarray(SCENE))
    assert found.notes == ("with a colour profile that is broken or for other colours, which is ignored",)


def test_only_the_first_frame_counts_and_that_is_told() -> None:
    content = encoded(SCENE, "GIF", save_all=True, append_images=[Image.new("RGB", SCENE.size)])
    assert decode(content).notes == ("of several frames or pages, of which the first is used",)
    assert seen(content).mean() > 50
    # The second image of a phone's MPO is the same view, for depth.
    assert decode(encoded(SCENE, "MPO", save_all=True, append_images=[SCENE])).notes == ()


def test_photos_of_phones_are_decoded() -> None:
    body = io.BytesIO()
    pillow_heif.from_pillow(SCENE).save(body, quality=95)
    found = decode(body.getvalue())
    assert found.size == SCENE.size
    assert world.psnr_db(np.asarray(found.image), np.asarray(SCENE)) > 35
    # Phones call them JPEG when they send them.
    assert np.array_equal(np.asarray(found.image), seen(body.getvalue()))


def test_without_the_extra_heic_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    body = io.BytesIO()
    pillow_heif.from_pillow(SCENE).save(body)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(MissingExtra, match=r"HEIC.*pip install 'turbo-fetch\[heic\]'"):
        decode(body.getvalue())


def _blank_jpeg(width: int, height: int, **options: Any) -> bytes:
    return encoded(Image.new("L", (width, height), 77), "JPEG", **options)


def test_photos_of_200_megapixels_are_reduced_while_they_are_decoded(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    path.write_bytes(_blank_jpeg(16_320, 12_240))
    found = decode(path.read_bytes())
    assert found.size == (16_320, 12_240)
    assert found.image.size == (8_160, 6_120)
    assert found.notes == ("decoded at a fraction of their size, as they are very large",)
    image = inspect(path)
    window = cut(image.size, (32, 32))
    assert render(path, window, flip=False).mean() == pytest.approx(77, abs=1)


def test_a_window_of_a_reduced_image_is_where_it_is_in_the_whole(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "photo.jpg"
    scene(640, 480).save(path, quality=98)
    window = cut((640, 480), (40, 40), across=0.9)
    whole = render(path, window, flip=False)
    monkeypatch.setattr(decoding, "WHOLE_PIXELS", 100_000)
    reduced = render(path, window, flip=False)
    assert np.abs(whole.astype(int) - reduced).max() <= 4


def _png_header(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n\0\0\0\r"
        + header
        + struct.pack(">I", zlib.crc32(header))
        + b"\0\0\0\0IDAT\x35\xaf\x06\x1e"
    )


def test_what_is_too_large_for_memory_is_refused_by_its_header() -> None:
    with pytest.raises(Undecodable, match=r"has 90,000 megapixels; expected at most 500"):
        decode(_png_header(300_000, 300_000))


def test_broken_files_are_named_and_raise_nothing_else() -> None:
    for content in (b"", b"text", b"II*\0", b"MM\0*\0\0\0\x08\0\0", b"\0\0\0\x18ftypheic" + bytes(40)):
        with pytest.raises(Undecodable):
            decode(content)


def _rgba(colour: int, alpha: npt.NDArray[np.uint8]) -> bytes:
    return encoded(Image.fromarray(np.dstack([np.full((*alpha.shape, 3), colour, np.uint8), alpha])), "PNG")


@pytest.mark.parametrize("colour", [0, 255], ids=["black", "white"])
def test_the_opacity_of_a_mask_in_one_colour_is_the_mask(colour: int) -> None:
    alpha = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (8, 1))
    assert np.array_equal(np.asarray(decode_mask(_rgba(colour, alpha)).image), alpha)


def test_an_opaque_mask_is_its_brightness() -> None:
    grey = Image.fromarray((RAMP * 255).astype(np.uint8))
    assert np.array_equal(
        np.asarray(decode_mask(encoded(grey.convert("RGBA"), "PNG")).image), np.asarray(grey)
    )
    assert np.array_equal(
        np.asarray(decode_mask(encoded(grey, "PNG", icc_profile=grey_profile(1.0))).image), np.asarray(grey)
    )
