"""Formats that OpenCV and Pillow decode: within the limits of the spec, not theirs, and only when they come."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import threading
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image, ImageFile

import handmade
from processes import PATIENCE_S
from sample_images import difference, encoded, pixels, scene, spec, transformed
from turbo_fetch.outcomes import BY_NUMBER, Outcome
from turbo_fetch.shard.transform import Transform

SCENE = scene(97, 61)


def outcome(body: bytes, **options: Any) -> tuple[Outcome, str | None]:
    record = transformed(body, **options)
    return BY_NUMBER[record["outcome"]], record["detail"]


def tiff(samples: npt.NDArray[np.generic], **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, samples, **options)
    return file.getvalue()


IMPORTS = """
import sys
from turbo_fetch.spec import ImageSpec
from turbo_fetch.shard.transform import Transform
body = bytes.fromhex(sys.argv[1])
assert Transform(ImageSpec(), 1).run([body])["outcome"].to_pylist() == [0]
print(*sorted({"cv2", "PIL"} & set(sys.modules)))
"""


@pytest.mark.parametrize(
    ("kind", "imported"),
    [("JPEG", ""), ("BMP", ""), ("ICO", ""), ("GIF", ""), ("TIFF", "cv2"), ("AVIF", "PIL")],
)
def test_decoders_are_imported_when_an_image_asks_for_them(kind: str, imported: str) -> None:
    body = encoded(scene(32, 32), kind)
    command = [sys.executable, "-c", IMPORTS, body.hex()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE_S)
    assert done.stdout.strip() == imported


def lying_avif(width: int, height: int) -> bytes:
    """An AVIF whose container says 10 by 10 and whose bitstream has all its pixels."""
    body = encoded(Image.new("RGB", (width, height), "teal"), "AVIF", speed=10)
    extent = b"ispe\0\0\0\0"
    return body.replace(extent + struct.pack(">II", width, height), extent + struct.pack(">II", 10, 10))


def test_an_avif_is_limited_by_what_its_bitstream_says() -> None:
    body = lying_avif(1200, 1000)
    assert outcome(body, max_pixels=1_000_000)[0] is Outcome.TOO_MANY_PIXELS
    # Decoders make it as large as the container says.
    assert pixels(body).shape == (10, 10, 3)


def test_a_tiff_is_limited_by_its_tiles() -> None:
    body = tiff(np.zeros((20, 20), np.uint8), tile=(16, 16), compression="zlib")
    for tag in (322, 323):
        body = body.replace(struct.pack("<HHII", tag, 4, 1, 16), struct.pack("<HHII", tag, 4, 1, 65_520))
    assert outcome(body, max_pixels=1_000_000)[0] is Outcome.TOO_MANY_PIXELS


def test_a_jpeg_2000_is_limited_by_its_codestream() -> None:
    body = encoded(SCENE, "JPEG2000")
    at = body.index(b"\xff\x4f\xff\x51") + 8
    grown = body[:at] + struct.pack(">II", 60_000, 60_000) + body[at + 8 :]
    assert outcome(grown)[0] is Outcome.CORRUPT
    tiled = body[: at + 16] + struct.pack(">II", 1, 1) + body[at + 24 :]
    assert outcome(tiled, max_pixels=1_000_000)[0] is Outcome.TOO_MANY_PIXELS


def test_a_png_in_an_icon_is_limited_by_its_own_header() -> None:
    inner = encoded(Image.new("RGB", (2000, 1000)), "PNG")
    body = handmade.ico([((16, 16), 32, inner)])
    assert outcome(body, max_pixels=1_000_000)[0] is Outcome.TOO_MANY_PIXELS
    assert pixels(body).shape == (1000, 2000, 3)


def test_pillows_limit_is_not_ours_and_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for kind in ("AVIF", "JPEG2000"):
        assert outcome(encoded(SCENE, kind))[0] is Outcome.SUCCESS
    palette = encoded(SCENE.quantize(16), "TIFF")
    assert outcome(palette) == (Outcome.UNSUPPORTED, "tiff variant with more pixels than Pillow takes")
    assert Image.MAX_IMAGE_PIXELS == 1000
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_warnings_of_pillow_do_not_leave_its_threads() -> None:
    body = bytearray(encoded(SCENE.quantize(16), "TIFF", software="a" * 40))
    # The count of a text's bytes runs past the end of the file.
    at = body.index(struct.pack("<HHI", 305, 2, 41))
    body[at + 4 : at + 8] = struct.pack("<I", 1 << 20)
    before = list(warnings.filters)
    transform = Transform(spec(), 1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        threads = [threading.Thread(target=transform.run, args=([bytes(body)] * 5,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert caught == []
    assert warnings.filters == before


@pytest.mark.parametrize(
    ("samples", "options", "detail"),
    [
        (np.zeros((8, 8), np.float32), {}, "TIFF with signed or fractional samples"),
        (np.zeros((8, 8), np.int8), {}, "TIFF with signed or fractional samples"),
        (np.zeros((8, 8), np.uint32), {}, "TIFF colour space or depth"),
        (np.zeros((3, 8, 8), np.uint16), {"planarconfig": "separate"}, "TIFF sample layout"),
        (np.zeros((8, 8), np.uint16), {"photometric": "miniswhite"}, "TIFF colour space or depth"),
        (np.zeros((8, 8, 2), np.uint16), {"planarconfig": "contig"}, "TIFF sample layout"),
        (
            np.zeros((2, 8, 8), np.uint8),
            {"planarconfig": "separate", "extrasamples": [2], "compression": "zlib"},
            "TIFF sample layout",
        ),
        (np.zeros((8, 8), np.uint8), {"compression": "png"}, "TIFF compression"),
    ],
)
def test_a_tiff_that_nothing_here_reads_right_is_named(
    samples: npt.NDArray[np.generic], options: dict[str, Any], detail: str
) -> None:
    photometric = "rgb" if samples.shape[0] == 3 else "minisblack"
    body = tiff(samples, **{"photometric": photometric, **options})
    assert outcome(body) == (Outcome.UNSUPPORTED, detail)


@pytest.mark.parametrize("alpha", [1, 2])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_fourth_sample_of_a_tiff_is_alpha_where_it_says_so(
    alpha: int, dtype: type[np.unsignedinteger[Any]]
) -> None:
    top = np.iinfo(dtype).max
    samples = np.zeros((4, 4, 4), dtype)
    samples[..., 3] = top // 2
    kept = pixels(tiff(samples, photometric="rgb", extrasamples=[alpha], planarconfig="contig"))
    assert abs(int(kept.mean()) - 128) <= 1
    plain = pixels(tiff(samples, photometric="rgb", extrasamples=[0], planarconfig="contig"))
    assert plain.max() == 0


@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "packbits", "zstd"])
def test_the_first_page_of_a_tiff_is_taken(compression: str | None) -> None:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as out:
        for page in (np.asarray(SCENE), 255 - np.asarray(SCENE)):
            out.write(page, photometric="rgb", compression=compression)
    assert difference(pixels(file.getvalue()), SCENE) == 0


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("tile", [None, (16, 16)])
@pytest.mark.parametrize("pages", [1, 2])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "packbits"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    ("samples", "planes"), [(1, "contig"), (3, "contig"), (3, "separate"), (4, "contig"), (4, "separate")]
)
def test_a_tiff_of_any_layout_has_its_pixels_or_is_refused(
    samples: int,
    planes: str,
    dtype: type[np.unsignedinteger[Any]],
    compression: str | None,
    pages: int,
    tile: tuple[int, int] | None,
    order: Any,
) -> None:
    picture = np.asarray(SCENE)
    channels = np.asarray(SCENE.convert("RGBA"))[..., :samples].astype(dtype)
    channels *= np.iinfo(dtype).max // 255
    stored = (
        channels[..., 0] if samples == 1 else channels if planes == "contig" else np.moveaxis(channels, 2, 0)
    )
    file = io.BytesIO()
    with tifffile.TiffWriter(file, byteorder=order) as out:
        for page in (stored, np.zeros_like(stored))[:pages]:
            out.write(
                np.ascontiguousarray(page),
                photometric="minisblack" if samples == 1 else "rgb",
                planarconfig=None if samples == 1 else planes,
                extrasamples=[2] if samples == 4 else None,
                compression=compression,
                tile=tile,
            )
    if dtype is np.uint16 and planes == "separate" and compression is None:
        assert outcome(file.getvalue()) == (Outcome.UNSUPPORTED, "TIFF sample layout")
        return
    made = pixels(file.getvalue())
    assert difference(made, picture[..., 0] if samples == 1 else picture) == 0


def test_sixteen_bits_of_colour_in_a_tiff_are_rounded_rather_than_cut() -> None:
    deep = np.full((4, 4, 3), 255, np.uint16)
    assert (pixels(tiff(deep, photometric="rgb")) == 1).all()


MASKS_OF_TEN_BITS = (0x3FF00000, 0xFFC00, 0x3FF)


@pytest.mark.parametrize("header", [40, 52, 56, 108, 124])
@pytest.mark.parametrize("masks", [MASKS_OF_TEN_BITS, (0xFF, 0xFF00, 0xFF0000), (0xF00, 0xF0, 0xF)])
def test_a_bitmap_is_cut_apart_by_any_masks(header: int, masks: tuple[int, ...]) -> None:
    stated = masks if header < 56 else (*masks, 0)
    rows = handmade.masked_rows(np.asarray(SCENE), 32, masks)
    data = handmade.bmp_rows(rows, top_down=False)
    body = handmade.bmp(SCENE.size, 32, data, header=header, compression=3, masks=stated)
    assert difference(pixels(body), SCENE) < (9 if masks[2] == 0xF else 1.1)


def test_an_icon_of_clear_pixels_alone_is_not_taken_for_white() -> None:
    clear = np.zeros((16, 16), np.uint8)
    content = handmade.icon_bitmap(np.asarray(scene(16, 16)), clear, 32)
    assert outcome(handmade.ico([((16, 16), 32, content)]))[0] is Outcome.UNSUPPORTED


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
@pytest.mark.parametrize("bits", [8, 24, 32])
def test_a_bitmap_that_is_cut_off_is_truncated(bits: int, share: float) -> None:
    grey = bits == 8
    body = encoded(SCENE.convert("L" if grey else "RGB" if bits == 24 else "RGBA"), "BMP")
    assert outcome(body[: int(len(body) * share)])[0] is Outcome.TRUNCATED


@pytest.mark.linux
def test_a_decoder_out_of_memory_does_not_blame_the_data() -> None:
    done = subprocess.run(
        [sys.executable, "-c", OUT_OF_MEMORY], capture_output=True, text=True, check=True, timeout=PATIENCE_S
    )
    assert done.stdout.split() == ["out-of-memory"] * 3


OUT_OF_MEMORY = """
import io, resource, sys
from pathlib import Path
import cv2
from PIL import Image
from turbo_fetch.outcomes import BY_NUMBER
from turbo_fetch.spec import ImageSpec
from turbo_fetch.shard.transform import Transform

def body(kind, mode, size, **options):
    file = io.BytesIO()
    Image.new(mode, size).save(file, kind, **options)
    return file.getvalue()

transform = Transform(ImageSpec(), 1)
kinds = [("TIFF", mode, {"compression": "packbits"}) for mode in ("RGB", "CMYK")]
kinds += [("PNG", "RGBA", {})]
transform.run([b'no image', *(body(kind, mode, (64, 64), **options) for kind, mode, options in kinds)])
bodies = [body(kind, mode, (9000, 9000), **options) for kind, mode, options in kinds]
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (60 << 20),) * 2)
for each in bodies:
    print(BY_NUMBER[transform.run([each])["outcome"].to_pylist()[0]].label)
"""
