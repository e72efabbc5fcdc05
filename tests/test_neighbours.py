"""An image is what it is, whatever came before it: on one thread, on many, and through a whole run."""

from __future__ import annotations

import io
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image
from typer.testing import CliRunner

import turbo_fetch
from damage import broken_jpegs, damaged
from fuzz_corpus import sound_images, without_segments
from jobs import job_spec, write_list
from origin import Origin
from sample_images import encoded, scene, spec
from turbo_fetch.cli.commands import app
from turbo_fetch.dataset.reader import open_dataset
from turbo_fetch.outcomes import BY_NUMBER
from turbo_fetch.shard.transform import Transform

SOUND = sound_images()
JPEGS = [name for name in SOUND if name.endswith("jpg")]
MUTATIONS = 100 if settings.get_current_profile_name() == "slow" else 4
"""Of each image in each of the ways below."""
WAYS: dict[str, dict[str, Any]] = {
    "jpg": {"size": 32, "mode": "border", "encode": "jpg", "phash": True, "exif": True},
    "png": {"mode": "no", "encode": "png", "quality": 1},
    "webp": {"size": 24, "mode": "center_crop", "encode": "webp", "quality": 80},
    "original": {"encode": "original", "phash": True, "digest": "md5"},
    "kept": {"mode": "no", "encode": "jpg", "skip_reencode": True},
    "blurred": {"size": 32, "mode": "stretch", "encode": "jpg"},
}
BOX = (0.2, 0.3, 0.7, 0.8)


def records(way: str, bodies: list[bytes], threads: int) -> list[dict[str, Any]]:
    """Transform bodies on threads that have seen nothing before."""
    transform = Transform(spec(**{"max_pixels": 1_000_000, **WAYS[way]}), threads)
    boxes = [[BOX]] * len(bodies) if way == "blurred" else []
    found: list[dict[str, Any]] = transform.run(bodies, boxes).to_pylist()
    return found


def hostile(random: Random) -> list[bytes]:
    """Return all kinds of damage to all kinds of images, in some order."""
    bodies = list(SOUND.values())
    bad = [damaged(body, random.choice(bodies), random) for body in bodies for _ in range(MUTATIONS)]
    bad += [body for name in JPEGS for body in broken_jpegs(SOUND[name]).values()]
    random.shuffle(bad)
    return bad


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("way", WAYS)
def test_every_good_image_is_the_same_among_bad_ones(way: str, threads: int) -> None:
    random = Random(f"{way} {threads}")
    good = list(SOUND.values())
    alone = {body: records(way, [body], 1)[0] for body in good}
    bodies = [body for bad in hostile(random) for body in (random.choice(good), bad)]
    found = records(way, bodies, threads)[::2]
    damaged_by_neighbours = sum(
        record != alone[body] for body, record in zip(bodies[::2], found, strict=True)
    )
    assert damaged_by_neighbours == 0
    assert {record["outcome"] for record in alone.values()} == {0}


@pytest.mark.parametrize("way", ["jpg", "png"])
def test_a_bad_image_too_is_judged_by_itself(way: str) -> None:
    bad = hostile(Random(way))[::8]
    first = records(way, bad, 1)
    assert records(way, bad[::-1], 1)[::-1] == first
    assert [records(way, [body], 1)[0] for body in bad[:100]] == first[:100]


@pytest.mark.parametrize("kind", broken_jpegs(SOUND["baseline.jpg"]))
def test_what_pillow_and_djpeg_refuse_is_refused_and_harms_nobody(kind: str) -> None:
    for name in JPEGS:
        body = broken_jpegs(SOUND[name])[kind]
        good, bad, after = records("png", [SOUND["grey.jpg"], body, SOUND["grey.jpg"]], 1)
        assert good == after
        assert good["outcome"] == 0
        assert bad["outcome"] != 0, name
        with pytest.raises((OSError, SyntaxError)):
            Image.open(io.BytesIO(body)).load()


def pixels(record: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.int16]]:
    """Return the pixels of an image that was kept."""
    assert record["outcome"] == 0, record["detail"]
    return np.asarray(Image.open(io.BytesIO(bytes(record["image"]))).convert("RGB"), np.int16)


@pytest.mark.parametrize("neighbour", JPEGS)
def test_a_jpeg_without_huffman_tables_is_decoded_by_those_of_the_standard(neighbour: str) -> None:
    """As webcams and Motion JPEG send it (ITU-T T.81, annex K)."""
    whole = encoded(scene(80, 60), "JPEG", quality=85)
    bare = without_segments(whole, 0xC4)
    assert len(bare) < len(whole)
    _, record = records("png", [SOUND[neighbour], bare], 1)
    expected = np.asarray(Image.open(io.BytesIO(bare)).convert("RGB"), np.int16)
    assert np.abs(pixels(record) - expected).max() == 0


@pytest.mark.parametrize("neighbour", JPEGS)
def test_a_jpeg_without_quantisation_tables_is_always_refused_alike(neighbour: str) -> None:
    _, record = records("png", [SOUND[neighbour], without_segments(SOUND["baseline.jpg"], 0xDB)], 1)
    assert (BY_NUMBER[record["outcome"]].label, record["detail"]) == (
        "corrupt",
        "Quantization table 0x00 was not defined",
    )


@pytest.mark.parametrize("transform", range(8))
@pytest.mark.parametrize("model", ["RGB", "CMYK"])
def test_any_number_in_adobes_marker_opens_as_in_pillow(model: str, transform: int) -> None:
    marker = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([transform])
    plain = without_segments(without_segments(encoded(scene(40, 30).convert(model), "JPEG"), 0xE0), 0xEE)
    body = plain[:2] + marker + plain[2:]
    (record,) = records("png", [body], 1)
    picture = Image.open(io.BytesIO(body))
    assert picture.mode == model
    if model == "RGB":
        assert np.abs(pixels(record) - np.asarray(picture, np.int16)).max() == 0
    else:
        assert record["outcome"] == 0


@pytest.mark.parametrize("harmless", ["JFIF 9", "Adobe 3"])
def test_a_harmless_complaint_does_not_hide_that_data_is_missing(harmless: str) -> None:
    body = encoded(Image.effect_noise((200, 150), 60).convert("RGB"), "JPEG")
    if harmless == "JFIF 9":
        body = body.replace(b"JFIF\x00\x01", b"JFIF\x00\x09")
    else:
        body = without_segments(body, 0xE0)
        body = body[:2] + b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x03" + body[2:]
    whole, cut = records("png", [body, body[: len(body) // 2]], 1)
    assert BY_NUMBER[whole["outcome"]].label == "success"
    assert BY_NUMBER[cut["outcome"]].label == "truncated"


def without_place(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return what does not depend on where in the list a row is."""
    return {name: value for name, value in metadata.items() if name not in {"key", "caption"}}


@pytest.mark.parametrize("output_format", ["webdataset", "parquet_bytes"])
def test_the_samples_of_a_run_are_the_same_with_hostile_rows_between(
    output_format: str, tmp_path: Path
) -> None:
    random = Random(output_format)
    good = {f"good-{number}-{name}": body for number in range(4) for name, body in SOUND.items()}
    bad = {f"bad-{number}": body for number, body in enumerate(hostile(random)[: len(good)])}
    mixed = [name for pair in zip(bad, good, strict=True) for name in pair]
    datasets = []
    with Origin({**good, **bad}) as origin:
        for names in (list(good), mixed):
            output = tmp_path / str(len(names))
            listed = write_list(tmp_path / f"{len(names)}.parquet", [origin.url(name) for name in names])
            image = {"phash": True, "max_pixels": 1_000_000}
            turbo_fetch.run(job_spec(listed, output, image=image, output={"format": output_format}))
            datasets.append(
                {sample.metadata["url"]: sample for sample in open_dataset(str(output)).samples()}
            )
    expected, found = datasets
    assert len(expected) == len(good)
    for url, sample in expected.items():
        assert found[url].image == sample.image
        assert without_place(found[url].metadata) == without_place(sample.metadata)
    deep = CliRunner().invoke(app, ["verify", str(output), "--deep", "--quiet", "--workers", "1"])
    assert deep.exit_code == 0, deep.output
