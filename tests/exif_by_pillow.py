"""What Pillow reads in an EXIF block, in the words in which turbo-fetch records it."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IFDRational

FORMATS = {"JPEG", "MPO", "PNG", "TIFF", "WEBP"}
DIRECTORIES = {"EXIF": 0x8769, "GPS": 0x8825, "Interoperability": 0xA005, "Thumbnail": 1}
NAMES = {
    (0x00FE, "NewSubfileType"): "SubfileType",
    (0x011E, None): "XPosition",
    (0x011F, None): "YPosition",
    (0x0201, "JpegIFOffset"): "JPEGInterchangeFormat",
    (0x0202, "JpegIFByteCount"): "JPEGInterchangeFormatLength",
    (0x83BB, "IptcNaaInfo"): "IPTC/NAA",
    (0x83BB, "IPTCNAA"): "IPTC/NAA",
    (0x9214, "SubjectLocation"): "SubjectArea",
    (0x9290, "SubsecTime"): "SubSecTime",
    (0x9291, "SubsecTimeOriginal"): "SubSecTimeOriginal",
    (0x9292, "SubsecTimeDigitized"): "SubSecTimeDigitized",
    (0xA003, "ExifImageHeight"): "ExifImageLength",
    (0xA005, "ExifInteroperabilityOffset"): "InteroperabilityOffset",
    (0x001D, "GPSDateStamp"): "GPSDate",
    (0x0001, "InteropIndex"): "InteroperabilityIndex",
    (0x0002, None): "InteroperabilityVersion",
}
"""Number and name of Pillow's → the name that exifread, and so img2dataset, has for the tag."""

LEFT_OUT = {0x02BC, 0x927C, 0x9286}
"""XMP packets, notes of makers and comments of unknown coding: not recorded, as exifread does by default."""


def tags_of(body: bytes) -> dict[str, dict[int, Any]]:
    """Return the tags of an image by directory; nothing for one that Pillow does not open."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = Image.open(io.BytesIO(body))
            if image.format not in FORMATS:
                return {}
            found = image.getexif()
            tags = {"Image": dict(found)}
            for name, directory in DIRECTORIES.items():
                tags[name] = dict(found.get_ifd(directory))
        # Pillow raises all kinds of errors for files that were made to break it.
        except Exception:
            return {}
        return {name: inner for name, inner in tags.items() if inner}


def keys_of(directory: str, tag: int) -> list[str]:
    """Return the keys under which a tag may be recorded."""
    known = (ExifTags.GPSTAGS if directory == "GPS" else ExifTags.TAGS).get(tag)
    name = NAMES.get((tag, known), known)
    return [f"{directory} {name}", f"{directory} Tag 0x{tag:04X}"]


def printed(value: Any) -> str:
    """Return a value as it is recorded, unless numbers have names."""
    if isinstance(value, str):
        return value.partition("\0")[0].strip()
    if isinstance(value, float):
        return f"({value!r},)"
    if isinstance(value, IFDRational):
        over, under = int(value.numerator), int(value.denominator)
        return str(Fraction(over, under)) if under else f"{over}/0"
    if isinstance(value, tuple | bytes):
        values = list(map(printed, value))
        if len(values) >= 1000:
            return "[]"
        if len(values) == 1:
            return values[0]
        return f"[{', '.join(values[:20])}, ... ]" if len(values) > 50 else f"[{', '.join(values)}]"
    return str(value)


def spellings(value: Any) -> set[str]:
    """Return how a value may be recorded, unless numbers have names."""
    found = {printed(value)}
    if isinstance(value, str):
        # Pillow reads Latin-1, we read UTF-8, and the standard knows ASCII only.
        found.add(printed(value.encode("latin-1", "replace").decode("utf-8", "replace")))
    if isinstance(value, bytes):
        found.add("".join(chr(byte) for byte in value if byte >= 32).strip())
    return found


def pairs(
    found: Mapping[str, Mapping[int, Any]], recorded: Mapping[str, str]
) -> Iterator[tuple[str, Any, str | None]]:
    """Yield the key of each tag that Pillow found, its value, and what is recorded, None where nothing is."""
    for directory, tags in found.items():
        for tag, value in tags.items():
            if tag not in LEFT_OUT:
                key = next(
                    (key for key in keys_of(directory, tag) if key in recorded), keys_of(directory, tag)[0]
                )
                yield key, value, recorded.get(key)
