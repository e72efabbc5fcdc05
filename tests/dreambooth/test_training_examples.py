"""From files to examples: what is found, how it is cut, in which order it comes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from turbo_fetch.dreambooth.data.image_set import ExampleSequence, ImageSet, make_image_set
from turbo_fetch.dreambooth.data.images import Unreadable, buckets, cut, inspect, nearest
from turbo_fetch.spec.train_tables import PicturesSpec


def _image_set(path: Path, size: tuple[int, int], **options: object) -> ImageSet:
    mask = path.with_name(f"{path.stem}.mask.png")
    image = inspect(path, mask=mask if mask.exists() else None)
    return make_image_set([image], ["a"], [size], PicturesSpec.model_validate(options), seed=0)


def _gradient(path: Path, width: int = 96, height: int = 64) -> Path:
    """Write an image that is black at the left and white at the right."""
    row = np.linspace(0, 255, width).astype(np.uint8)
    Image.fromarray(np.tile(row[None, :, None], (height, 1, 3))).save(path)
    return path


def test_the_middle_is_cut_out_and_scaled_to_minus_one_to_one(tmp_path: Path) -> None:
    image_set = _image_set(_gradient(tmp_path / "a.png"), (32, 32))
    pixels = image_set.pixels(0, 0)
    assert pixels.shape == (3, 32, 32)
    # Of the 96 columns the middle 64 are kept: from a sixth to five sixths of the way.
    assert pixels[0, 0, 0].item() == pytest.approx(-0.66, abs=0.05)
    assert pixels[0, 0, -1].item() == pytest.approx(0.66, abs=0.05)


def test_a_flipped_variant_is_the_mirror_image(tmp_path: Path) -> None:
    image_set = _image_set(_gradient(tmp_path / "a.png"), (32, 32), flip=True)
    assert image_set.variants == 2
    assert torch.equal(image_set.pixels(0, 1), image_set.pixels(0, 0).flip(2))


def test_random_crops_differ_and_their_place_is_told(tmp_path: Path) -> None:
    image_set = _image_set(_gradient(tmp_path / "a.png"), (32, 32), crop="random", random_crops=3)
    lefts = {image_set.conditioning(0, variant)[3].item() for variant in range(3)}
    assert len(lefts) == 3
    for variant in range(3):
        # A step of 255 grey levels over 95 pixels; the cut is half the size of its window.
        left = image_set.pixels(0, variant)[0, 0, 0].item()
        told = image_set.conditioning(0, variant)[3].item() * 2
        assert (left + 1) * 127.5 == pytest.approx(told * 255 / 95, abs=6)


def test_exif_orientation_is_obeyed(tmp_path: Path) -> None:
    image = Image.open(_gradient(tmp_path / "a.png"))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    inspected = inspect(tmp_path / "turned.jpg")
    assert inspected.size == (64, 96)
    pixels = _image_set(tmp_path / "turned.jpg", (64, 96)).pixels(0, 0)
    assert pixels[0, 0].mean() < -0.9
    assert pixels[0, -1].mean() > 0.9


def test_16_bit_is_scaled_and_transparency_lies_on_white(tmp_path: Path) -> None:
    Image.fromarray(np.full((64, 64), 32896, np.uint16)).save(tmp_path / "deep.png")
    assert _image_set(tmp_path / "deep.png", (64, 64)).pixels(0, 0).mean().item() == pytest.approx(
        0, abs=0.01
    )
    Image.new("RGBA", (64, 64), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert _image_set(tmp_path / "clear.png", (64, 64)).pixels(0, 0).min().item() == 1


def test_a_mask_goes_through_the_same_cut(tmp_path: Path) -> None:
    _gradient(tmp_path / "a.png")
    mask = np.zeros((64, 96), np.uint8)
    mask[:, :48] = 255
    Image.fromarray(mask).save(tmp_path / "a.mask.png")
    image_set = _image_set(tmp_path / "a.png", (32, 32), flip=True, mask_floor=0.25)
    weights = image_set.mask(0, 0, shrink=8)
    assert weights.shape == (1, 4, 4)
    assert weights[0, 0].tolist() == pytest.approx([1, 1, 0.25, 0.25], abs=0.05)
    torch.testing.assert_close(image_set.mask(0, 1, shrink=8), weights.flip(2))


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    _gradient(tmp_path / "a.png")
    Image.new("L", (10, 10)).save(tmp_path / "a.mask.png")
    with pytest.raises(Unreadable, match=r"10x10 pixels; expected 96x64"):
        inspect(tmp_path / "a.png", mask=tmp_path / "a.mask.png")


@given(
    st.integers(1, 4000),
    st.integers(1, 4000),
    st.sampled_from([(512, 512), (768, 384), (64, 128)]),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_a_cut_lies_in_the_image_and_has_the_shape_of_its_target(
    width: int, height: int, target: tuple[int, int], across: float, down: float
) -> None:
    window = cut((width, height), target, across, down)
    left, top, right, bottom = window.box
    assert -1e-6 <= left < right <= width + 1e-6
    assert -1e-6 <= top < bottom <= height + 1e-6
    assert window.width / window.height == pytest.approx(target[0] / target[1])
    assert window.width == pytest.approx(width) or window.height == pytest.approx(height)


def test_buckets_have_no_more_pixels_than_the_square_and_contain_it() -> None:
    sizes = buckets(512, 64, 2.0)
    assert sizes[0] == (512, 512)
    assert len(sizes) == 5
    for width, height in sizes:
        assert width % 64 == height % 64 == 0
        assert width * height <= 512 * 512
        assert max(width / height, height / width) <= 2
    assert nearest((3000, 2000), sizes) == (640, 384)
    assert nearest((900, 1000), sizes) == (512, 512)


@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=4),
    st.integers(1, 5),
    st.integers(0, 2**32),
)
def test_a_round_has_every_image_and_batches_of_one_bucket(
    counts: list[int], batch_size: int, seed: int
) -> None:
    numbers = iter(range(100))
    groups = tuple(tuple(next(numbers) for _ in range(count)) for count in counts)
    sequence = ExampleSequence(seed, groups, batch_size)
    of = {number: index for index, group in enumerate(groups) for number in group}
    seen: Counter[int] = Counter()
    for position in range(sequence.batches_per_round):
        batch = sequence.batch(position)
        assert len(batch) == batch_size
        assert len({of[example.image] for example in batch}) == 1
        seen.update(example.image for example in batch)
    assert seen.keys() == of.keys()
    if batch_size == 1:
        assert set(seen.values()) == {1}


def test_any_position_can_be_asked_for_first() -> None:
    def fresh() -> ExampleSequence:
        return ExampleSequence(3, ((0, 1, 2), (3, 4)), 2, variants=4, caption_dropout=0.5)

    in_order = fresh()
    expected = [in_order.batch(position) for position in range(20)]
    assert [fresh().batch(position) for position in reversed(range(20))] == expected[::-1]
    assert ExampleSequence(4, ((0, 1, 2), (3, 4)), 2, variants=4).batch(0) != expected[0]
    assert {example.variant for batch in expected for example in batch} == {0, 1, 2, 3}
    assert {example.without_caption for batch in expected for example in batch} == {True, False}
