"""Boxes lose what they showed; perceptual hashes are those of imagehash's definition and survive encoding."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from album import pixels
from sample_images import encoded, spec
from turbo_fetch.shard.boxes import parse_boxes
from turbo_fetch.shard.transform import Transform

BOX = (0.25, 0.25, 0.75, 0.75)


def _blurred(picture: Image.Image, kind: str = "PNG", **options: Any) -> npt.NDArray[np.float64]:
    batch = Transform(spec(**options.pop("spec", {})), 1).run([encoded(picture, kind, **options)], [[BOX]])
    image = batch["image"][0].as_py()
    assert image is not None, batch["detail"]
    return np.asarray(Image.open(io.BytesIO(image))).astype(np.float64)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP"])
def test_noise_and_stripes_look_the_same_once_blurred(kind: str) -> None:
    stripes = np.zeros((128, 128, 3), np.uint8)
    stripes[:, ::2] = 255
    noise = np.random.default_rng(3).integers(0, 2, (128, 128, 3), np.uint8) * 255
    first, second = (_blurred(Image.fromarray(each), kind)[32:96, 32:96] for each in (stripes, noise))
    for inside in (first, second):
        assert np.abs(np.diff(inside, axis=0)).max() <= 4
        assert np.abs(np.diff(inside, axis=1)).max() <= 4
    assert np.abs(first - second).max() < 40


def test_pixels_away_from_the_box_stay_as_they_are() -> None:
    picture = Image.fromarray(pixels(100, 100, 1))
    made = _blurred(picture)
    assert np.array_equal(made[:18], np.asarray(picture)[:18])
    assert np.array_equal(made[:, 82:], np.asarray(picture)[:, 82:])


def test_boxes_are_of_the_upright_image() -> None:
    grey = np.full((100, 60, 3), 128, np.uint8)
    grey[:50, :30, 0] = 255 * (np.indices((50, 30)).sum(axis=0) % 2)
    turned = Image.fromarray(np.rot90(grey, 1).copy())
    exif = Image.Exif()
    exif[0x0112] = 6
    body = encoded(turned, "PNG", exif=exif.tobytes())
    batch = Transform(spec(), 1).run([body], [[(0.0, 0.0, 0.5, 0.5)]])
    made = np.asarray(Image.open(io.BytesIO(batch["image"][0].as_py()))).astype(np.float64)
    assert made.shape == (100, 60, 3)
    assert np.abs(np.diff(made[:50, :30, 0], axis=0)).max() <= 8


@pytest.mark.parametrize("option", [{"skip_reencode": True}, {"mode": "center_crop", "size": 32}])
def test_no_option_lets_a_box_through(option: dict[str, Any]) -> None:
    checks = Image.fromarray((np.indices((128, 128)).sum(axis=0) % 2 * 255).astype(np.uint8)).convert("RGB")
    made = _blurred(checks, spec=option)
    middle = made[made.shape[0] // 2 - 4 :][:8, made.shape[1] // 2 - 4 :][:, :8]
    assert np.ptp(middle) <= 8


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        (None, []),
        ("[]", []),
        ("null", []),
        ("[[0, 0, 1, 0.5]]", [(0.0, 0.0, 1.0, 0.5)]),
        ("[0, 0, 1, 0.5]", [(0.0, 0.0, 1.0, 0.5)]),
        ("[[-0.1, 0.2, 1.4, 0.5]]", [(0.0, 0.2, 1.0, 0.5)]),
    ],
)
def test_boxes_are_read(text: str | None, boxes: list[tuple[float, ...]]) -> None:
    assert parse_boxes(text) == (boxes, None)


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "3",
        "[[0, 0, 1]]",
        "[[0.5, 0, 0.5, 1]]",
        "[[120, 40, 200, 90]]",
        '[["0", 0, 1, 1]]',
        "[[0, 0, null, 1]]",
    ],
)
def test_odd_boxes_are_a_problem_never_no_box(text: str) -> None:
    boxes, problem = parse_boxes(text)
    assert boxes == []
    assert problem is not None
    assert "expected" in problem


def _phash(body: bytes, **options: Any) -> int:
    return int(Transform(spec(phash=True, **options), 1).run([body])["phash"][0].as_py(), 16)


def _reference(grey: npt.NDArray[np.float64]) -> int:
    """Return the hash of 32 by 32 grey values by its definition, in floating point."""
    cosines = np.cos(np.pi * np.outer(np.arange(32), 2 * np.arange(32) + 1) / 64)
    low = (cosines @ grey @ cosines.T)[:8, :8]
    return int("".join("1" if value else "0" for value in (low > np.median(low)).ravel()), 2)


def test_the_hash_is_that_of_its_definition() -> None:
    for seed in range(20):
        grey = Image.fromarray(pixels(32, 32, seed)).convert("L")
        away = (_phash(encoded(grey, "PNG")) ^ _reference(np.asarray(grey).astype(float))).bit_count()
        assert away == 0, seed


def test_the_hash_survives_encoding_and_tells_images_apart() -> None:
    hashes = []
    for seed in range(8):
        picture = Image.fromarray(pixels(300, 200, seed))
        plain = _phash(encoded(picture, "PNG"))
        hashes.append(plain)
        for other in (
            encoded(picture, "JPEG", quality=60),
            encoded(picture.resize((900, 600)), "JPEG", quality=90),
            encoded(picture, "WEBP", quality=70),
            encoded(picture, "BMP"),
        ):
            assert (plain ^ _phash(other)).bit_count() <= 4
            assert (plain ^ _phash(other, mode="center_crop", size=16)).bit_count() <= 4
            assert (plain ^ _phash(other, encode="original")).bit_count() <= 4
    apart = [(one ^ other).bit_count() for one in hashes for other in hashes if one != other]
    assert min(apart) > 12
