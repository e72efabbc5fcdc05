"""EXIF tags against Pillow's reading of the same files: what cameras and strangers wrote, and all types of values."""

from __future__ import annotations

import json
import struct
from collections import defaultdict
from typing import Any

import pytest
from PIL import Image

from exif_by_pillow import pairs, printed, spellings, tags_of
from hostile_corpus import hostile_images
from sample_images import encoded, transformed
from turbo_fetch.shard.transform import Transform
from turbo_fetch.spec import ImageSpec

BY_EXIF_ONLY = {"Image Orientation"}
"""Pillow takes an orientation from XMP where EXIF has none."""


def _recorded(bodies: list[bytes]) -> list[dict[str, str] | None]:
    """Return what is recorded of each image, None for those that are refused."""
    records: list[dict[str, Any]] = []
    transform = Transform(ImageSpec(size=16, max_pixels=40_000_000), threads=2)
    for start in range(0, len(bodies), 32):
        records += transform.run(bodies[start : start + 32]).to_pylist()
    return [None if one["outcome"] else json.loads(one["exif"] or "{}") for one in records]


def _may_have_tags(body: bytes) -> bool:
    """Return whether a file may have one block of tags: those of several blocks are recorded of the first alone."""
    return body[:4] in {b"II*\0", b"MM\0*"} or b"eXIf" in body or body.count(b"Exif\0\0") == 1


@pytest.mark.linux
def test_every_tag_that_pillow_finds_in_files_of_the_wild_is_recorded_with_its_value() -> None:
    bodies = [body for body in hostile_images().values() if _may_have_tags(body)]
    found = [(body, tags) for body in bodies if (tags := tags_of(body))]
    compared, problems = 0, []
    names: dict[tuple[str, str], set[str]] = defaultdict(set)
    numbers: dict[tuple[str, str], set[str]] = defaultdict(set)
    for (_, tags), recorded in zip(found, _recorded([body for body, _ in found]), strict=True):
        for key, value, text in pairs(tags, recorded) if recorded is not None else ():
            compared += 1
            if text is not None and _is_name(value, text):
                names[key, printed(value)].add(text)
                numbers[key, text].add(printed(value))
            elif text not in spellings(value) and (text is not None or key not in BY_EXIF_ONLY):
                problems.append((key, str(value)[:80], text))
    assert problems == []
    assert compared > 1000
    # A number has one name and a name one number, whatever the file.
    assert [each for each in (*names.items(), *numbers.items()) if len(each[1]) > 1] == []
    assert names["Image Orientation", "6"] == {"Rotated 90 CW"}
    assert names["EXIF Flash", "16"] == {"Flash did not fire, compulsory flash mode"}


def _is_name(value: object, text: str) -> bool:
    """Return whether numbers are recorded by a name."""
    is_number = isinstance(value, int) or (isinstance(value, bytes | tuple) and len(value) <= 4)
    return is_number and text not in spellings(value) and text[:1].isalpha()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("pointer", [4, 13])
@pytest.mark.parametrize("order", "<>")
def test_values_of_every_type_are_recorded_in_every_format(kind: str, pointer: int, order: str) -> None:
    block = _block(order, pointer)
    body = block if kind == "TIFF" else encoded(Image.new("RGB", (32, 32)), kind, exif=b"Exif\0\0" + block)
    tags = tags_of(body)
    assert {"Image", "EXIF"} <= tags.keys()
    recorded = json.loads(transformed(body)["exif"])
    compared = list(pairs({"EXIF": tags["EXIF"]}, recorded))
    assert [each for each in compared if each[2] not in spellings(each[1])] == []
    assert {key for key, _, _ in compared} >= {f"EXIF Tag 0x{0xC000 + kind:04X}" for kind in VALUES}


VALUES = {
    1: ("3B", (1, 200, 3)),
    2: ("5s", (b"text",)),
    3: ("2H", (1, 65_535)),
    4: ("I", (4_000_000_000,)),
    5: ("4I", (10, 2000, 7, 1)),
    6: ("2b", (-1, 5)),
    7: ("60B", tuple(range(60))),
    8: ("h", (-5,)),
    9: ("i", (-70_000,)),
    10: ("2i", (-3, 9)),
}
"""Type of TIFF → format of `struct`, and values."""


def _block(order: str, pointer: int) -> bytes:
    """Return a TIFF file of one grey row whose EXIF directory, found by a pointer of that type, has VALUES."""
    size = struct.Struct(order + "HHI")
    image = [
        (256, 3, 8),
        (257, 3, 1),
        (258, 3, 8),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 8),
        (277, 3, 1),
        (279, 4, 8),
    ]
    first, entries = 16, len(image) + 1
    inner = first + 2 + entries * 12 + 4
    heap = inner + 2 + len(VALUES) * 12 + 4
    directory, content = struct.pack(order + "H", len(VALUES)), b""
    for kind, (layout, values) in VALUES.items():
        stored = struct.pack(order + layout, *values)
        count = len(values) // 2 if kind in {5, 10} else len(stored) if kind == 2 else len(values)
        place = stored.ljust(4, b"\0") if len(stored) <= 4 else struct.pack(order + "I", heap + len(content))
        directory += size.pack(0xC000 + kind, kind, count) + place
        content += stored if len(stored) > 4 else b""
    outer = struct.pack(order + "H", entries)
    for tag, kind, value in (*image, (0x8769, pointer, inner)):
        outer += size.pack(tag, kind, 1) + struct.pack(order + ("H2x" if kind == 3 else "I"), value)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", first) + bytes(8)
    return head + outer + bytes(4) + directory + bytes(4) + content
