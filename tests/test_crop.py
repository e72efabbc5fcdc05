"""Images cropped to a box of their row: the pixels that Pillow's crop has, resized like any other image."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms
from typer.testing import CliRunner

import turbo_fetch
from jobs import content_hashes, job_spec, ledger, write_list
from origin import Origin
from sample_images import difference, encoded, scene, spec
from turbo_fetch.cli.commands import app
from turbo_fetch.dataset.reader import open_dataset
from turbo_fetch.outcomes import Outcome
from turbo_fetch.shard.boxes import Box, used_boxes
from turbo_fetch.shard.transform import Transform

SCENE = scene(300, 200)
BOX: Box = (0.2, 0.25, 0.7, 0.75)
PIXELS = (60, 50, 210, 150)


def _made(body: bytes, box: Box = BOX, **options: Any) -> dict[str, Any]:
    record: dict[str, Any] = Transform(spec(**options), 1, crop=True).run([body], [[box]]).to_pylist()[0]
    return record


def _pixels(body: bytes, box: Box = BOX, **options: Any) -> Any:
    record = _made(body, box, **options)
    assert record["outcome"] == 0, record["detail"]
    image = Image.open(io.BytesIO(record["image"]))
    assert image.size == (record["width"], record["height"])
    return np.asarray(image)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF"])
def test_the_pixels_are_those_of_pillows_crop(kind: str) -> None:
    body = encoded(SCENE, kind)
    expected = Image.open(io.BytesIO(body)).convert("RGB").crop(PIXELS)
    assert np.array_equal(_pixels(body), np.asarray(expected))


@given(st.tuples(*[st.integers(0, 300), st.integers(0, 200)] * 2))
def test_any_box_of_whole_pixels_is_cut_out_exactly(corners: tuple[int, int, int, int]) -> None:
    left, right = sorted((corners[0], corners[2]))
    top, bottom = sorted((corners[1], corners[3]))
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    if right > 300 or bottom > 200:
        return
    made = _pixels(encoded(SCENE, "PNG"), (left / 300, top / 200, right / 300, bottom / 200))
    assert np.array_equal(made, np.asarray(SCENE.crop((left, top, right, bottom))))


@pytest.mark.parametrize(
    ("mode", "size"), [("center_crop", (64, 64)), ("keep_ratio", (96, 64)), ("stretch", (64, 64))]
)
def test_the_crop_is_what_is_resized(mode: str, size: tuple[int, int]) -> None:
    cut = SCENE.crop(PIXELS)
    if mode == "center_crop":
        cut = cut.crop((25, 0, 125, 100))
    made = _pixels(encoded(SCENE, "PNG"), mode=mode, size=64)
    assert made.shape[:2] == size[::-1]
    assert difference(made, cut.resize(size, Image.Resampling.LANCZOS)) < 1


def test_boxes_are_of_the_upright_image_in_its_own_colours() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = SCENE.transpose(Image.Transpose.ROTATE_90)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    body = encoded(turned, "PNG", exif=exif.tobytes(), icc_profile=profile)
    assert np.array_equal(_pixels(body), np.asarray(SCENE.crop(PIXELS)))


def test_a_jpeg_that_needs_no_other_change_is_cropped_all_the_same() -> None:
    body = encoded(SCENE, "JPEG", quality=95)
    made = _pixels(body, mode="no", encode="jpg", quality=95, skip_reencode=True)
    assert difference(made, SCENE.crop(PIXELS)) < 2
    record = _made(body, mode="no", encode="jpg", quality=95, skip_reencode=True)
    assert (record["original_width"], record["original_height"]) == (300, 200)


@pytest.mark.parametrize(
    ("limits", "outcome"),
    [
        ({"min_side": 100}, Outcome.SUCCESS),
        ({"min_side": 101}, Outcome.TOO_SMALL),
        ({"max_aspect": 1.5}, Outcome.SUCCESS),
        ({"max_aspect": 1.49}, Outcome.ASPECT),
    ],
)
def test_limits_hold_for_what_is_cut_out(limits: dict[str, Any], outcome: Outcome) -> None:
    body = encoded(scene(300, 240), "PNG")
    record = _made(body, (0.2, 0.25, 0.7, 0.25 + 100 / 240), **limits)
    assert record["outcome"] == outcome.number


@pytest.mark.parametrize(
    ("text", "use", "box"),
    [
        ("[[0, 0, 0.5, 0.5], [0.1, 0, 0.9, 0.9]]", "crop_largest", (0.1, 0, 0.9, 0.9)),
        ("[[0, 0, 0.5, 0.5], [0.1, 0, 0.9, 0.9]]", "crop_first", (0, 0, 0.5, 0.5)),
        ("[[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]]", "crop_largest", (0, 0, 0.5, 0.5)),
        ("[0, 0, 0.5, 0.5]", "crop_largest", (0, 0, 0.5, 0.5)),
    ],
)
def test_one_box_is_chosen(text: str, use: Any, box: Box) -> None:
    assert used_boxes(text, use) == ([box], None)


@pytest.mark.parametrize("text", [None, "", "null", "[]"])
def test_a_row_without_a_box_has_nothing_to_be_cropped_to(text: str | None) -> None:
    assert used_boxes(text, "blur") == ([], None)
    assert used_boxes(text, "crop_first") == ([], "there is no box to crop to")
    assert used_boxes("[[0, 0, 1]]", "crop_first")[1] != "there is no box to crop to"


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin({f"{number}.png": encoded(SCENE, "PNG") for number in range(5)}) as origin:
        yield origin


def _run(origin: Origin, folder: Path, into: str, first: str, **http: Any) -> Path:
    boxes = [[[0.2, 0.25, 0.7, 0.75]], [[0.0, 0.0, 0.1, 0.1], [0.2, 0.25, 0.7, 0.75]], [], None, [[0.5, 0.5]]]
    rows = [first, *(origin.url(f"{number}.png") for number in range(1, 5))]
    faces = pa.array(boxes, pa.list_(pa.list_(pa.float64())))
    urls = write_list(folder / f"{into}.parquet", rows, faces=faces)
    turbo_fetch.run(
        job_spec(
            urls,
            folder / into,
            input={"boxes_column": "faces", "boxes_use": "crop_largest"},
            image={"size": 64, "mode": "keep_ratio", "encode": "png", "quality": 1},
            http=http,
        )
    )
    return folder / into


def test_rows_are_cropped_to_their_largest_box_and_those_without_one_are_told(
    origin: Origin, tmp_path: Path
) -> None:
    out = _run(origin, tmp_path, "out", origin.url("0.png"))
    rows = ledger(out)
    assert [row["outcome"] for row in rows] == ["success"] * 2 + ["bad-boxes"] * 3
    assert [row["detail"] for row in rows[2:4]] == ["there is no box to crop to"] * 2
    expected = SCENE.crop(PIXELS).resize((96, 64), Image.Resampling.LANCZOS)
    for sample in open_dataset(str(out)).samples():
        made = Image.open(io.BytesIO(sample.image))
        assert difference(made, expected) < 1
        assert (sample.metadata["width"], sample.metadata["height"]) == made.size == (96, 64)
        assert (sample.metadata["original_width"], sample.metadata["original_height"]) == (300, 200)
    verified = CliRunner().invoke(app, ["verify", str(out), "--deep", "--quiet"])
    assert verified.exit_code == 0, verified.stdout


def test_a_retry_crops_what_comes_late_as_a_lucky_run_does(origin: Origin, tmp_path: Path) -> None:
    late = origin.url("0.png", "status", code=503, times=1)
    out = _run(origin, tmp_path, "out", late, retries=0)
    assert ledger(out)[0]["outcome"] == "http-5xx"
    ended = CliRunner().invoke(app, ["retry", str(out), "--quiet", "--json"])
    assert ended.exit_code == 0, ended.output
    assert json.loads(ended.stdout)["recovered"] == 1
    lucky = _run(origin, tmp_path, "lucky", late)
    assert content_hashes(out)["00000.tar"] == content_hashes(lucky)["00000.tar"]
