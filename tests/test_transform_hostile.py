"""Bodies that are broken, cut off, lying, or no images end as data, within bounds of memory and time."""

from __future__ import annotations

import itertools
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from processes import PATIENCE_S
from sample_images import encoded, scene, spec, transformed
from turbo_fetch.outcomes import BY_NUMBER, Outcome
from turbo_fetch.shard.transform import Transform

NATIVE = ["JPEG", "PNG", "WEBP", "GIF"]
ALL = [*NATIVE, "BMP", "TIFF", "JPEG2000", "AVIF"]
BODIES = {kind: encoded(scene(160, 120), kind) for kind in ALL}
PROGRESSIVE = encoded(scene(400, 300), "JPEG", progressive=True, quality=95)


@pytest.mark.parametrize(
    ("body", "outcome", "detail"),
    [
        (b"", Outcome.NOT_AN_IMAGE, "empty body"),
        (b"<!DOCTYPE html><html>", Outcome.NOT_AN_IMAGE, "HTML"),
        (b"\xef\xbb\xbf \n<html lang='en'>", Outcome.NOT_AN_IMAGE, "HTML"),
        (b"<?xml version='1.0'?>\n<svg xmlns=''/>", Outcome.NOT_AN_IMAGE, "SVG"),
        (b'{"error": 404}', Outcome.NOT_AN_IMAGE, "JSON"),
        (b"%PDF-1.7", Outcome.NOT_AN_IMAGE, "PDF document"),
        (b"not found", Outcome.NOT_AN_IMAGE, "text"),
        (b"\x00\x01\x02\x03", Outcome.NOT_AN_IMAGE, "unknown content"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", Outcome.UNSUPPORTED, "HEIC"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isomiso2", Outcome.NOT_AN_IMAGE, "MP4 or QuickTime video"),
        (b"8BPS\0\x01", Outcome.UNSUPPORTED, "Photoshop document"),
        (b"\xff\x0a\0\0", Outcome.UNSUPPORTED, "JPEG XL"),
    ],
)
def test_what_is_no_image_is_named(body: bytes, outcome: Outcome, detail: str) -> None:
    record = transformed(body)
    assert BY_NUMBER[record["outcome"]] is outcome
    assert record["detail"] == detail


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("kind", NATIVE)
@pytest.mark.parametrize("encode", ["jpg", "original"])
def test_a_body_that_is_cut_off_is_truncated(kind: str, share: float, encode: str) -> None:
    body = BODIES[kind]
    record = transformed(body[: max(int(len(body) * share), 13)], encode=encode, quality=90)
    assert BY_NUMBER[record["outcome"]] is Outcome.TRUNCATED, record["detail"]


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_progressive_jpeg_that_is_cut_off_is_truncated(share: float) -> None:
    record = transformed(PROGRESSIVE[: int(len(PROGRESSIVE) * share)], mode="stretch", size=64)
    assert BY_NUMBER[record["outcome"]] is Outcome.TRUNCATED


SCANS = [at for at in range(len(PROGRESSIVE)) if PROGRESSIVE.startswith(b"\xff\xda", at)]


@pytest.mark.parametrize("encode", ["jpg", "original"])
@pytest.mark.parametrize("scan", range(1, len(SCANS)))
def test_a_progressive_jpeg_that_ends_between_two_scans_is_truncated(scan: int, encode: str) -> None:
    for end in (SCANS[scan], SCANS[scan] + 2, SCANS[scan] + 2 + 6):
        record = transformed(PROGRESSIVE[:end], encode=encode, quality=90)
        assert BY_NUMBER[record["outcome"]] is Outcome.TRUNCATED


def test_a_jpeg_whose_components_come_one_by_one_is_truncated_without_the_last() -> None:
    parts = [b"\xff\xda\0\x08\1" + bytes([component, 0]) + b"\0\x3f\0" for component in (1, 2, 3)]
    body = encoded(Image.new("RGB", (8, 8), "teal"), "JPEG", subsampling=0)
    tables = body[: body.index(b"\xff\xda")]
    # A code of two bits for no difference in DC, and one of four for the end of a block, then ones.
    scans = [part + b"\x2b" for part in parts]
    whole = tables + b"".join(scans)
    assert BY_NUMBER[transformed(whole)["outcome"]] is Outcome.SUCCESS
    assert BY_NUMBER[transformed(tables + b"".join(scans[:2]))["outcome"]] is Outcome.TRUNCATED


def test_a_jpeg_2000_that_ends_between_two_tiles_is_truncated() -> None:
    body = encoded(scene(97, 61), "JPEG2000", tile_size=(32, 32))
    tiles = [at for at in range(len(body)) if body.startswith(b"\xff\x90\0\x0a", at)]
    assert len(tiles) == 8
    for end in tiles[1:]:
        assert BY_NUMBER[transformed(body[:end])["outcome"]] is Outcome.TRUNCATED
    assert BY_NUMBER[transformed(body)["outcome"]] is Outcome.SUCCESS


@pytest.mark.parametrize("body", [BODIES["JPEG"], PROGRESSIVE])
def test_a_jpeg_that_lacks_only_its_end_marker_is_whole(body: bytes) -> None:
    assert transformed(body[:-2])["outcome"] == 0


@pytest.mark.parametrize("encode", ["jpg", "original"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("body", [BODIES["JPEG"], PROGRESSIVE])
def test_a_jpeg_whose_end_is_zeros_as_an_unfinished_copy_leaves_it_is_truncated(
    body: bytes, share: float, encode: str
) -> None:
    record = transformed(body[: int(len(body) * share)].ljust(len(body), b"\0"), encode=encode)
    assert BY_NUMBER[record["outcome"]] is Outcome.TRUNCATED, record["detail"]


def test_a_jpeg_with_a_header_and_a_scan_of_zeros_is_truncated() -> None:
    body = BODIES["JPEG"]
    scan = body.index(b"\xff\xda") + 14
    record = transformed(body[:scan].ljust(len(body), b"\0"))
    assert BY_NUMBER[record["outcome"]] is Outcome.TRUNCATED, record["detail"]


@pytest.mark.parametrize("body", [BODIES["JPEG"], PROGRESSIVE])
def test_a_jpeg_that_lacks_its_end_marker_and_is_padded_with_zeros_is_whole(body: bytes) -> None:
    assert transformed(body[:-2] + bytes(4096))["outcome"] == 0


def test_bytes_after_the_image_are_harmless() -> None:
    for kind in NATIVE:
        assert transformed(BODIES[kind] + b"\0trailing\xff\xd8" * 20)["outcome"] == 0, kind


def test_damaged_jpeg_data_is_corrupt() -> None:
    body = bytearray(encoded(Image.effect_noise((400, 300), 80), "JPEG", quality=95))
    body[len(body) // 2 : len(body) // 2 + 64] = b"\xfe" * 64
    assert BY_NUMBER[transformed(bytes(body))["outcome"]] in {Outcome.CORRUPT, Outcome.SUCCESS}
    middle = len(body) // 2
    record = transformed(bytes(body[:middle]) + b"\xff\xd9")
    assert BY_NUMBER[record["outcome"]] is Outcome.CORRUPT


def png(
    width: int, height: int, data: bytes, kind: int = 2, bits: int = 8, palette: bytes | None = None
) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    colours = [] if palette is None else [(b"PLTE", palette)]
    chunks = [(b"IHDR", header), *colours, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def scan_bomb(scans: int) -> bytes:
    """A progressive JPEG whose last scan is repeated; each costs a pass over the whole image."""
    last = PROGRESSIVE.rindex(b"\xff\xda")
    return PROGRESSIVE[:-2] + PROGRESSIVE[last:-2] * scans + b"\xff\xd9"


@pytest.mark.parametrize("bits", [1, 8])
@pytest.mark.parametrize("length", [*range(8), 766, 767, 768, 769, 771, 4_000])
def test_a_palette_is_taken_or_refused_as_libpng_does(length: int, bits: int) -> None:
    rows = bytes(2 * (1 + (3 * bits + 7) // 8))
    body = png(3, 2, zlib.compress(rows), kind=3, bits=bits, palette=bytes(length))
    record = transformed(body)
    if cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR) is None:
        assert record["outcome"] == Outcome.CORRUPT.number
        assert record["detail"] != "decoder gave up"
    else:
        assert record["outcome"] == Outcome.SUCCESS.number


@pytest.mark.usefixtures("no_collections")
def test_a_bomb_of_scans_is_refused() -> None:
    began = time.process_time()
    assert transformed(scan_bomb(3_000))["outcome"] == Outcome.CORRUPT.number
    assert time.process_time() - began < 2


BOMBS = """
import resource, sys
from pathlib import Path
from turbo_fetch.spec import ImageSpec
from turbo_fetch.shard.transform import Transform
bodies = [path.read_bytes() for path in sorted(Path(sys.argv[1]).iterdir())]
transform = Transform(ImageSpec(max_pixels=20_000_000), 2)
transform.run(bodies[:1])
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20),) * 2)
print(transform.run(bodies)["outcome"].to_pylist())
"""


@pytest.mark.linux
def test_bombs_stay_within_a_memory_limit(tmp_path: Path) -> None:
    gif = bytearray(BODIES["GIF"])
    gif[6:10] = b"\xff\xff\xff\xff"
    webp = bytearray(encoded(scene(160, 120), "WEBP", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"))
    webp[24:30] = b"\xff\x3f\0\xff\x3f\0"
    bombs = {
        "0_ordinary.jpg": BODIES["JPEG"],
        "1_claims_16_gigapixels.png": png(131_072, 131_072, zlib.compress(b"")),
        "2_inflates.png": png(4_000, 4_000, zlib.compress(bytes(500_000_000), 9)),
        "3_screen.gif": bytes(gif),
        "4_canvas.webp": bytes(webp),
        "5_frame.jpg": BODIES["JPEG"].replace(struct.pack(">HH", 120, 160), b"\xff\xff\xff\xff"),
    }
    for name, body in bombs.items():
        (tmp_path / name).write_bytes(body)
    command = [sys.executable, "-c", BOMBS, str(tmp_path)]
    made = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE_S)
    too_many = Outcome.TOO_MANY_PIXELS.number
    assert made.stdout.strip() in {
        f"[0, {too_many}, {inflated}, {too_many}, {too_many}, {too_many}]"
        for inflated in (0, Outcome.CORRUPT.number)
    }


SHORT = """
import resource, sys
from pathlib import Path
from turbo_fetch.outcomes import BY_NUMBER
from turbo_fetch.spec import ImageSpec
from turbo_fetch.shard.transform import Transform
large, small = (Path(each).read_bytes() for each in sys.argv[1:3])
ways = [("jpg", 95), ("png", 0), ("png", 6), ("webp", 80), ("webp", 100)]
transforms = [Transform(ImageSpec(mode="no", encode=encode, quality=quality), 3) for encode, quality in ways]
for transform in transforms:
    transform.run([small] * 6)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (130 << 20),) * 2)
for transform in transforms:
    outcomes = transform.run([small, large, small, large, small])["outcome"].to_pylist()
    print(*(BY_NUMBER[outcome].label for outcome in outcomes))
"""


@pytest.mark.linux
def test_an_image_whose_file_there_is_no_memory_for_says_so_and_costs_no_other(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(png(6_000, 6_000, zlib.compress(bytes(6_000 * 18_001), 1)))
    (tmp_path / "small").write_bytes(BODIES["PNG"])
    command = [sys.executable, "-c", SHORT, str(tmp_path / "large"), str(tmp_path / "small")]
    made = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert made.returncode == 0, made.stderr
    assert made.stdout.splitlines() == ["success out-of-memory success out-of-memory success"] * 5


@given(kind=st.sampled_from(ALL), data=st.data())
def test_no_damage_makes_it_raise(kind: str, data: st.DataObject) -> None:
    body = bytearray(BODIES[kind])
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(len(body) // 2, len(body)))
    record = transformed(bytes(body[:end]), mode="border", size=32, max_pixels=1_000_000)
    assert (record["image"] is None) == (record["outcome"] != 0)
    assert (record["detail"] is None) == (record["outcome"] == 0)
    assert record["outcome"] in BY_NUMBER


@given(
    st.binary(max_size=200),
    st.sampled_from([b"\xff\xd8\xff", b"RIFF\0\1\0\0WEBPVP8X", b"GIF89a", b"II*\0", b"BM"]),
)
def test_no_header_makes_it_raise(tail: bytes, start: bytes) -> None:
    assert transformed(start + tail, max_pixels=1_000_000)["outcome"] in BY_NUMBER


def _overlap() -> tuple[float, float]:
    """Run two calls at once; return the longest pause of Python and the time between their ends, as shares of all."""
    transform = Transform(spec(mode="stretch", size=64), 2)
    noise = np.random.default_rng(1).integers(0, 256, (900, 900, 3), np.uint8)
    bodies = [encoded(Image.fromarray(noise), "PNG")] * 24
    ended: list[float] = []
    together = threading.Barrier(3)

    def work() -> None:
        together.wait()
        transform.run(bodies)
        ended.append(time.perf_counter())

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    together.wait()
    ticks = [time.perf_counter()]
    while any(thread.is_alive() for thread in threads):
        ticks.append(time.perf_counter())
    took = max(ended) - ticks[0]
    longest_pause = max(after - before for before, after in itertools.pairwise(ticks))
    return longest_pause / took, (max(ended) - min(ended)) / took


def test_two_calls_overlap_in_time_and_leave_python_running() -> None:
    # A call that kept the GIL would stop the clock for half of the whole, and calls in turn would end half of it
    # apart, every time. A busy machine may do so now and then.
    assert any(pause < 1 / 4 and apart < 1 / 3 for pause, apart in (_overlap() for _ in range(5)))
