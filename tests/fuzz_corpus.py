"""Sound images and lists of every kind, small: `python tests/fuzz_corpus.py FOLDER` writes them for `make fuzz`."""

from __future__ import annotations

import json
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from sample_images import encoded, scene

SIZE = (57, 43)


def sound_images() -> dict[str, bytes]:
    """Return images by name, whose suffix is the format."""
    return {**_jpegs(), **_pngs(), **_others()}


def sound_lists() -> dict[str, bytes]:
    """Return URLs, tables and an array of JSON, as the fuzz target reads them all."""
    urls = [
        "https://example.com/a b.jpg?x=%zz",
        "//host/päth",
        "HTTP://[::1]:80/../%2e",
        "ftp://x",
        "x" * 300,
    ]
    rows = [f'{url}\t"a ""caption"", {number}"\t{number}' for number, url in enumerate(urls)]
    table = "url\tcaption\tnumber\r\n" + "\r\n".join(rows)
    array = json.dumps([{"url": url, "deep": [[], {"a": ["]"]}]} for url in urls], indent=1)
    lists = {"urls": "\n".join(urls), "tsv": table, "csv": table.replace("\t", ","), "json": array}
    return {f"{name}.txt": text.encode() for name, text in lists.items()}


def without_segments(body: bytes, marker: int) -> bytes:
    """Return a JPEG without its segments of one kind before the scan."""
    kept, at = body[:2], 2
    while body[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(body[at + 2 : at + 4], "big")
        kept += b"" if body[at + 1] == marker else body[at:end]
        at = end
    return kept + body[at:]


def _jpegs() -> dict[str, bytes]:
    colour = scene(*SIZE)
    exif = Image.Exif()
    exif[274] = 6
    exif[270] = "a scene"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    bodies = {
        "baseline": encoded(colour, "JPEG", quality=90),
        "full_chroma": encoded(colour, "JPEG", subsampling=0, quality=95),
        "half_chroma": encoded(colour, "JPEG", subsampling=1),
        "progressive": encoded(colour, "JPEG", progressive=True),
        "restarts": encoded(colour, "JPEG", restart_marker_blocks=2),
        "grey": encoded(colour.convert("L"), "JPEG"),
        "grey_progressive": encoded(colour.convert("L"), "JPEG", progressive=True),
        "cmyk": encoded(colour.convert("CMYK"), "JPEG"),
        "rgb": encoded(colour, "JPEG", keep_rgb=True),
        "turned": encoded(colour, "JPEG", exif=exif, icc_profile=profile),
    }
    bodies["motion"] = without_segments(bodies["baseline"], 0xC4)
    return {f"{name}.jpg": body for name, body in bodies.items()}


def _pngs() -> dict[str, bytes]:
    colour = scene(*SIZE)
    wide = Image.fromarray(np.arange(SIZE[0] * SIZE[1], dtype=np.uint16).reshape(SIZE[::-1]) * 26)
    alpha = colour.copy()
    alpha.putalpha(colour.convert("L"))
    frames = [colour.rotate(90), colour.rotate(180)]
    bodies = {
        "rgb": encoded(
            colour, "PNG", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        ),
        "rgba": encoded(alpha, "PNG"),
        "grey_alpha": encoded(alpha.convert("LA"), "PNG"),
        "bits": encoded(colour.convert("1"), "PNG"),
        "palette": encoded(colour.quantize(13), "PNG", transparency=3),
        "wide": encoded(wide, "PNG"),
        "animated": encoded(colour, "PNG", save_all=True, append_images=frames),
        "interlaced": interlaced(np.asarray(colour)),
    }
    return {f"{name}.png": body for name, body in bodies.items()}


def interlaced(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    """Return a PNG of 8-bit RGB pixels in the seven passes of Adam7, which Pillow does not write."""
    passes = [
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ]
    lines = b"".join(
        b"\0" + row.tobytes() for x, y, right, down in passes for row in pixels[y::down, x::right]
    )
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, 2, 0, 0, 1)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def _others() -> dict[str, bytes]:
    colour = scene(*SIZE)
    alpha = colour.copy()
    alpha.putalpha(colour.convert("L"))
    palette = colour.quantize(20)
    frames = [palette.rotate(90), palette.rotate(180)]
    small = Image.new("RGBA", SIZE)
    small.paste(colour.crop((0, 0, 20, 10)), (6, 8))
    return {
        "lossy.webp": encoded(colour, "WEBP"),
        "lossless.webp": encoded(colour, "WEBP", lossless=True),
        "alpha.webp": encoded(alpha, "WEBP"),
        "animated.webp": encoded(small, "WEBP", save_all=True, append_images=[alpha, colour.convert("RGBA")]),
        "plain.gif": encoded(palette, "GIF"),
        "animated.gif": encoded(palette, "GIF", save_all=True, append_images=frames, transparency=2),
        "plain.bmp": encoded(colour, "BMP"),
        "palette.bmp": encoded(palette, "BMP"),
        "plain.tif": encoded(colour, "TIFF"),
        "deflated.tif": encoded(colour, "TIFF", compression="tiff_adobe_deflate"),
        "plain.avif": encoded(colour, "AVIF", speed=10),
        "plain.jp2": encoded(colour, "JPEG2000"),
    }


def main() -> None:
    """Write all of them."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, body in {**sound_images(), **sound_lists()}.items():
        (folder / name.replace(".", "_", name.count(".") - 1)).write_bytes(body)


if __name__ == "__main__":
    main()
