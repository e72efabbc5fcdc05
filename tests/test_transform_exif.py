"""EXIF tags are recorded as img2dataset records them."""

from __future__ import annotations

import io
import json
import struct
import zlib

import pytest
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import IFDRational

from sample_images import encoded, scene, transformed


def tagged() -> bytes:
    exif = Image.Exif()
    exif[0x010F] = "Camxxra yyy"
    exif[0x0112] = 6
    exif[0x011A] = IFDRational(72, 1)
    exif[0xC000] = 7
    inner = exif.get_ifd(0x8769)
    inner[0x829A] = IFDRational(10, 2000)
    inner[0x9000] = b"0231"
    inner[0x9209] = 16
    inner[0x927C] = b"private"
    inner[0x9286] = b"ASCII\0\0\0hello"
    inner[0x9214] = (10, 20, 30, 40)
    position = exif.get_ifd(0x8825)
    position[2] = (IFDRational(52, 1), IFDRational(31, 1), IFDRational(1234, 100))
    body = encoded(Image.new("RGB", (32, 32)), "JPEG", exif=exif.tobytes())
    # Pillow writes strings in ASCII, cameras in whatever they like.
    return body.replace(b"Camxxra yyy", "Caméra \u2603".encode())


def test_tags_are_named_and_printed_as_exifread_does() -> None:
    recorded = transformed(tagged())["exif"]
    assert recorded.isascii()
    tags = json.loads(recorded)
    del tags["Image ExifOffset"], tags["Image GPSInfo"]
    assert tags == {
        "Image Make": "Caméra \u2603",
        "Image Orientation": "Rotated 90 CW",
        "Image XResolution": "72",
        "Image Tag 0xC000": "7",
        "EXIF ExposureTime": "1/200",
        "EXIF ExifVersion": "0231",
        "EXIF Flash": "Flash did not fire, compulsory flash mode",
        "EXIF SubjectArea": "[10, 20, 30, 40]",
        "GPS GPSLatitude": "[52, 31, 617/50]",
    }


def test_the_text_is_what_json_dumps_writes() -> None:
    recorded = transformed(tagged())["exif"]
    assert json.dumps(json.loads(recorded)) == recorded


def test_a_image_without_tags_has_an_empty_object() -> None:
    assert transformed(encoded(Image.new("RGB", (32, 32)), "JPEG"))["exif"] == "{}"


def test_a_broken_block_is_null_and_harmless() -> None:
    body = encoded(Image.new("RGB", (32, 32)), "JPEG", exif=b"Exif\0\0XX*\0\x08\0\0\0")
    record = transformed(body)
    assert record["outcome"] == 0
    assert record["exif"] is None


def test_a_directory_that_points_to_itself_ends() -> None:
    loop = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x0f\x01\x02\0\x04\0\0\0abc\0\x08\0\0\0"
    assert (
        transformed(encoded(Image.new("RGB", (32, 32)), "JPEG", exif=loop))["exif"] == '{"Image Make": "abc"}'
    )


def test_tags_are_left_out_when_not_wanted_or_when_the_image_fails() -> None:
    assert transformed(tagged(), exif=False)["exif"] is None
    assert transformed(tagged(), min_side=64)["exif"] is None


def test_an_orientation_that_is_stored_as_a_byte_counts_for_nobody() -> None:
    body = encoded(scene(60, 40), "JPEG")
    block = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x0112, 1, 1, 6) + bytes(4)
    segment = b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block
    record = transformed(body[:2] + segment + body[2:], mode="no")
    assert (record["width"], record["height"]) == (60, 40)


BLOCK = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
"""An orientation of six."""


def with_exif(kind: str, block: bytes) -> bytes:
    """Return a picture with an EXIF block as it is, whatever the format wants before it."""
    picture = scene(60, 40)
    if kind == "PNG":
        body = encoded(picture, kind)
        chunk = b"eXIf" + block
        framed = struct.pack(">I", len(block)) + chunk + struct.pack(">I", zlib.crc32(chunk))
        return body[:33] + framed + body[33:]
    return encoded(picture, kind, exif=block)


@pytest.mark.parametrize("prefixes", [0, 1])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_prefix_before_exif_changes_nothing_in_any_format(kind: str, prefixes: int) -> None:
    body = with_exif(kind, b"Exif\0\0" * (prefixes + (kind == "JPEG")) + BLOCK)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(body)))
    record = transformed(body)
    assert (record["width"], record["height"]) == upright.size == (40, 60)
    assert record["exif"] == '{"Image Orientation": "Rotated 90 CW"}'
