"""Every format and variant gives the pixels that were put in, upright, opaque and in sRGB."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from sample_images import difference, encoded, pixels, scene, transformed

SCENE = scene(97, 61)


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("JPEG", {"quality": 98, "subsampling": 0}, 1.0),
        ("JPEG", {"quality": 98, "progressive": True}, 1.5),
        ("PNG", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("WEBP", {"quality": 95}, 3.0),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("JPEG2000", {"irreversible": False}, 0),
        ("AVIF", {"quality": 98}, 2.0),
    ],
)
def test_a_format_gives_its_pixels(kind: str, options: dict[str, Any], tolerance: float) -> None:
    record = transformed(encoded(SCENE, kind, **options))
    assert record["original_format"] == kind.lower()
    assert difference(pixels(encoded(SCENE, kind, **options)), SCENE) <= tolerance


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("sides", [(400, 300), (401, 299), (1031, 777)])
def test_jpeg_of_any_subsampling_and_odd_sides_lands_in_place(
    subsampling: int, sides: tuple[int, int]
) -> None:
    image = scene(*sides)
    made = pixels(encoded(image, "JPEG", quality=98, subsampling=subsampling), mode="stretch", size=(80, 60))
    assert difference(made, image.resize((80, 60), Image.Resampling.LANCZOS)) < 1.0


@pytest.mark.parametrize("quality", [60, 80, 95])
@pytest.mark.parametrize("sides", [(400, 300), (401, 299), (1031, 777), (17, 13)])
@pytest.mark.parametrize(
    ("encode", "encoded_at", "tolerance"), [("png", 1, 1.0), ("jpg", 98, 2.0), ("webp", 100, 1.0)]
)
@pytest.mark.parametrize("profile", [False, True])
def test_lossy_webp_is_resampled_as_pillow_does_it(
    quality: int, sides: tuple[int, int], encode: str, encoded_at: int, tolerance: float, profile: bool
) -> None:
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() if profile else b""
    body = encoded(scene(*sides), "WEBP", quality=quality, icc_profile=icc)
    pillows = Image.open(io.BytesIO(body)).convert("RGB").resize((80, 60), Image.Resampling.LANCZOS)
    made = pixels(body, mode="stretch", size=(80, 60), encode=encode, quality=encoded_at)
    assert difference(made, pillows) < tolerance


def interlaced_png(image: Image.Image) -> bytes:
    """Write the seven passes of Adam7 by hand, since no encoder here interlaces."""
    passes = [
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ]
    stored = np.asarray(image)
    rows = [
        b"\0" + row.tobytes()
        for left, top, across, down in passes
        for row in stored[top::down, left::across]
        if row.size
    ]
    header = struct.pack(">IIBBBBB", *image.size, 8, 2, 0, 0, 1)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def test_interlaced_png_is_put_together() -> None:
    assert difference(pixels(interlaced_png(SCENE)), SCENE) == 0


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_palette_colours_are_looked_up(kind: str) -> None:
    palette = SCENE.quantize(64)
    assert difference(pixels(encoded(palette, kind)), palette.convert("RGB")) == 0


@pytest.mark.parametrize(
    ("kind", "mode"), [("PNG", "1"), ("PNG", "L"), ("TIFF", "1"), ("TIFF", "L"), ("BMP", "L")]
)
def test_grey_variants_give_one_channel(kind: str, mode: str) -> None:
    grey = SCENE.convert(mode)
    assert difference(pixels(encoded(grey, kind)), grey.convert("L")) == 0


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_rather_than_clipped(kind: str) -> None:
    levels = np.linspace(0, 65_535, 97 * 61).reshape(61, 97).astype(np.uint16)
    made = pixels(encoded(Image.fromarray(levels), kind))
    assert np.array_equal(made, ((levels.astype(np.uint32) + 128) // 257).astype(np.uint8))


def test_sixteen_bit_colour_keeps_its_channels_apart() -> None:
    deep = np.asarray(SCENE).astype(np.uint16) * 257
    ok, body = cv2.imencode(".png", deep[..., ::-1])
    assert ok
    assert difference(pixels(body.tobytes()), SCENE) == 0


@pytest.mark.parametrize("depth", [10, 12])
def test_deep_avif_is_scaled_from_its_own_depth(depth: int) -> None:
    white = np.full((64, 64, 3), (1 << depth) - 1, np.uint16)
    ok, body = cv2.imencode(".avif", white, [cv2.IMWRITE_AVIF_DEPTH, depth])
    assert ok
    assert pixels(body.tobytes()).min() >= 254


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("WEBP", {"lossless": True, "exact": True}),
        ("TIFF", {}),
        ("JPEG2000", {"irreversible": False}),
    ],
)
def test_alpha_is_laid_on_white(kind: str, options: dict[str, Any]) -> None:
    alpha = np.tile(np.arange(97, dtype=np.uint8) * 2, (61, 1))
    image = Image.fromarray(np.dstack([np.asarray(SCENE), alpha]))
    expected = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    assert difference(pixels(encoded(image, kind, **options)), expected) < 1.0


def test_grey_alpha_is_laid_on_white() -> None:
    assert (pixels(encoded(Image.new("LA", (8, 8), (0, 51)), "PNG")) == 204).all()


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_transparent_palette_entry_is_white(kind: str) -> None:
    image = Image.new("P", (16, 16), 1)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.paste(0, (0, 0, 8, 16))
    made = pixels(encoded(image, kind, transparency=0))
    assert (made[:, :8] == 255).all()
    assert (made[:, 8:] == (200, 100, 50)).all()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_gives_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "lime", "blue")]
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    body = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=100, **options)
    assert (pixels(body) == (255, 0, 0)).all()


@pytest.mark.parametrize("subsampling", [0, 2])
def test_cmyk_is_light_where_there_is_no_ink(subsampling: int) -> None:
    inks = SCENE.convert("CMYK")
    made = pixels(encoded(inks, "JPEG", quality=98, subsampling=subsampling))
    assert difference(made, inks.convert("RGB")) < 3.0


UPRIGHT = {
    1: [],
    2: [Image.Transpose.FLIP_LEFT_RIGHT],
    3: [Image.Transpose.ROTATE_180],
    4: [Image.Transpose.FLIP_TOP_BOTTOM],
    5: [Image.Transpose.TRANSPOSE],
    6: [Image.Transpose.ROTATE_90],
    7: [Image.Transpose.TRANSVERSE],
    8: [Image.Transpose.ROTATE_270],
}
"""How an upright image is stored under each orientation."""


def stored(orientation: int, kind: str) -> bytes:
    image = scene(320, 200)
    for step in UPRIGHT[orientation]:
        image = image.transpose(step)
    exif = Image.Exif()
    exif[0x0112] = orientation
    if kind == "TIFF":
        return encoded(image, kind, tiffinfo={0x0112: orientation})
    return encoded(image, kind, exif=exif.tobytes(), quality=98)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_every_orientation_is_turned_upright(kind: str, orientation: int) -> None:
    made = pixels(stored(orientation, kind))
    assert difference(made, scene(320, 200)) < 3.0


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["border", "center_crop", "keep_ratio", "stretch"])
def test_an_oriented_image_is_fitted_as_it_is_seen(mode: str, orientation: int) -> None:
    options: dict[str, Any] = {"mode": mode, "size": (70, 50)}
    expected = pixels(encoded(scene(320, 200), "JPEG", quality=98), **options)
    assert difference(pixels(stored(orientation, "JPEG"), **options), expected) < 1.5


def test_original_sides_are_those_before_orientation() -> None:
    record = transformed(stored(6, "JPEG"))
    assert (record["original_width"], record["original_height"]) == (200, 320)
    assert (record["width"], record["height"]) == (320, 200)


def swapped_profile() -> bytes:
    """sRGB with the names of red and blue exchanged: a conversion that nobody can miss."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = int.from_bytes(profile[128:132], "big")
    for entry in range(132, 132 + 12 * count, 12):
        names = {b"rXYZ": b"bXYZ", b"bXYZ": b"rXYZ"}
        profile[entry : entry + 4] = names.get(bytes(profile[entry : entry + 4]), profile[entry : entry + 4])
    return bytes(profile)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_colour_profile_is_converted_to_srgb(kind: str) -> None:
    exact: dict[str, dict[str, Any]] = {
        "WEBP": {"lossless": True},
        "JPEG": {"quality": 98, "subsampling": 0},
    }
    options = exact.get(kind, {})
    made = pixels(encoded(SCENE, kind, icc_profile=swapped_profile(), **options))
    assert difference(made, np.asarray(SCENE)[..., ::-1]) < 2.0


def test_an_srgb_profile_changes_nothing() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert difference(pixels(encoded(SCENE, "PNG", icc_profile=profile)), SCENE) == 0


def test_a_broken_profile_is_ignored() -> None:
    assert difference(pixels(encoded(SCENE, "PNG", icc_profile=swapped_profile()[:200])), SCENE) == 0


def test_an_image_with_another_profile_is_not_kept_as_it_is() -> None:
    body = encoded(SCENE, "JPEG", icc_profile=swapped_profile())
    record = transformed(body, encode="jpg", quality=95, skip_reencode=True)
    assert record["image"] != body
    left = np.asarray(Image.open(io.BytesIO(record["image"])), np.float64)
    assert difference(left, np.asarray(SCENE)[..., ::-1]) < 4.0
