"""Pictures of every format, depth, layout and compression, by seed: what the web may hold and no corpus does."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from typing import Any, Final

import cv2
import imagecodecs
import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image

import handmade
from sample_images import encoded, scene

Made = tuple[str, bytes]


def generated(seed: int) -> Made:
    """Return a file and what it is in words, the same for the same seed."""
    rng = random.Random(seed)
    maker = rng.choice(MAKERS)
    words, body = maker(rng, _scene(rng))
    return f"{seed}: {maker.__name__.strip('_')} {words}", body


def _scene(rng: random.Random) -> Image.Image:
    return scene(rng.randint(1, 70), rng.randint(1, 50))


def _rgb(picture: Image.Image) -> npt.NDArray[np.uint8]:
    return np.asarray(picture)


def _grey(picture: Image.Image) -> npt.NDArray[np.uint8]:
    return np.asarray(picture.convert("L"))


def _alpha(picture: Image.Image) -> npt.NDArray[np.uint8]:
    y, x = np.mgrid[0 : picture.height, 0 : picture.width]
    return ((x * 7 + y * 5) % 256).astype(np.uint8)  # type: ignore[no-any-return]


def _indexed(picture: Image.Image, bits: int) -> tuple[npt.NDArray[np.uint8], list[tuple[int, int, int]]]:
    """Return indices and colours, always as many as the bits allow."""
    count = 1 << bits
    reduced = picture.quantize(count)
    flat = (reduced.getpalette() or [])[: 3 * count]
    flat += [90] * (3 * count - len(flat))
    colours = [(flat[at], flat[at + 1], flat[at + 2]) for at in range(0, 3 * count, 3)]
    return np.asarray(reduced), colours


def _in_mode(picture: Image.Image, mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(_grey(picture).astype(np.uint16) * 257)
    if mode == "P":
        return picture.quantize(200)
    converted = picture.convert(mode)
    if mode in {"LA", "RGBA"}:
        converted.putalpha(Image.fromarray(_alpha(picture)))
    return converted


def _pillow(rng: random.Random, picture: Image.Image) -> Made:
    kind, modes = rng.choice(PILLOW_MODES)
    mode = rng.choice(modes)
    options: dict[str, Any] = {}
    if kind == "TIFF":
        options["compression"] = rng.choice(TIFF_COMPRESSIONS if mode != "1" else BILEVEL_COMPRESSIONS)
        options["big_tiff"] = rng.random() < 0.2
        if options["compression"] == "jpeg" and mode not in {"L", "RGB"}:
            options["compression"] = "tiff_lzw"
        if rng.random() < 0.3:
            options["tiffinfo"] = {274: rng.randint(1, 8)}
    elif kind == "JPEG2000":
        options = {"irreversible": rng.random() < 0.5, "no_jp2": rng.random() < 0.3}
        options["mct"] = int(mode == "RGB" and rng.random() < 0.5)
        options["signed"] = rng.random() < 0.2
    elif kind == "AVIF":
        options = {"quality": rng.randint(60, 95), "speed": 10, "range": rng.choice(["full", "limited"])}
        options["subsampling"] = rng.choice(["4:0:0"] if mode == "L" else ["4:2:0", "4:2:2", "4:4:4"])
        options["alpha_premultiplied"] = mode == "RGBA" and rng.random() < 0.3
        exif = Image.Exif()
        exif[274] = rng.randint(1, 8)
        options["exif"] = exif.tobytes()
    elif kind == "WEBP":
        options = {"lossless": rng.random() < 0.5, "quality": 90}
    elif kind == "PNG" and mode in {"L", "P", "I;16"} and rng.random() < 0.5:
        options["transparency"] = rng.randint(0, 199)
    elif kind == "JPEG":
        options = {"quality": rng.randint(70, 98), "progressive": rng.random() < 0.5}
    if kind in {"JPEG", "PNG", "WEBP", "AVIF"} and rng.random() < 0.3:
        attribute = rng.choice(['tiff:Orientation="%d"', "<tiff:Orientation>%d</tiff:Orientation>"])
        packet = f"<x:xmpmeta>{attribute % rng.randint(0, 9)}</x:xmpmeta>"
        options.pop("exif", None)
        if kind == "PNG":
            from PIL.PngImagePlugin import PngInfo

            options["pnginfo"] = PngInfo()
            options["pnginfo"].add_itxt("XML:com.adobe.xmp", packet, zip=rng.random() < 0.5)
        else:
            options["xmp"] = packet.encode()
    words = f"{kind} {mode} {options}"
    return words, encoded(_in_mode(picture, mode), kind, **options)


TIFF_COMPRESSIONS: Final = [
    "raw",
    "tiff_lzw",
    "tiff_adobe_deflate",
    "tiff_deflate",
    "packbits",
    "zstd",
    "lzma",
    "jpeg",
]
BILEVEL_COMPRESSIONS: Final = ["raw", "tiff_ccitt", "group3", "group4", "packbits", "tiff_lzw"]
PILLOW_MODES: Final = [
    ("PNG", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"]),
    ("TIFF", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "LAB", "I;16", "I", "F"]),
    ("JPEG2000", ["L", "LA", "RGB", "RGBA", "I;16"]),
    ("AVIF", ["L", "RGB", "RGBA"]),
    ("WEBP", ["RGB", "RGBA"]),
    ("GIF", ["1", "L", "P", "RGB"]),
    ("BMP", ["1", "L", "P", "RGB", "RGBA"]),
    ("JPEG", ["L", "RGB", "CMYK"]),
    ("ICO", ["L", "RGB", "RGBA"]),
]


def _tifffile(rng: random.Random, picture: Image.Image) -> Made:
    samples, options = _tiff_samples(rng, picture)
    options["compression"] = rng.choice([None, "zlib", "lzw", "packbits", "zstd", "deflate"])
    options["bigtiff"] = rng.random() < 0.2
    options["byteorder"] = rng.choice("<>")
    if rng.random() < 0.3:
        options["tile"] = (16, 32)
    if rng.random() < 0.3:
        options["rowsperstrip"] = rng.randint(1, 9)
    if options["compression"] not in {None, "packbits"} and rng.random() < 0.3:
        options["predictor"] = True
    file = io.BytesIO()
    with tifffile.TiffWriter(file, bigtiff=options.pop("bigtiff"), byteorder=options.pop("byteorder")) as out:
        out.write(samples, **options)
        if rng.random() < 0.2:
            out.write(255 - samples if samples.dtype.kind == "u" else -samples, **options)
    return f"{samples.dtype} {samples.shape} {options}".replace("\n", " ")[:300], file.getvalue()


def _tiff_samples(rng: random.Random, picture: Image.Image) -> tuple[npt.NDArray[Any], dict[str, Any]]:
    rgb, grey, alpha = _rgb(picture), _grey(picture), _alpha(picture)
    options: dict[str, Any] = {}
    kind = rng.choice(["grey", "rgb", "rgba", "rgbx", "cmyk", "palette", "grey_alpha", "white"])
    samples: npt.NDArray[Any]
    if kind == "palette":
        indices, colours = _indexed(picture, 8)
        return indices, {"photometric": "palette", "colormap": np.array(colours, np.uint16).T * 257}
    if kind in {"grey", "white"}:
        samples, options["photometric"] = grey, "minisblack" if kind == "grey" else "miniswhite"
    elif kind == "grey_alpha":
        meaning = rng.choice([0, 1, 2])
        samples = np.dstack([_multiplied(grey, alpha) if meaning == 1 else grey, alpha])
        options |= {"photometric": "minisblack", "extrasamples": [meaning]}
        options["planarconfig"] = "contig"
    elif kind == "cmyk":
        samples, options["photometric"] = np.asarray(picture.convert("CMYK")), "separated"
    else:
        samples, options["photometric"] = rgb, "rgb"
        if kind != "rgb":
            samples = np.dstack([rgb, alpha])
            options["extrasamples"] = [0 if kind == "rgbx" else rng.choice([1, 2])]
            if options["extrasamples"] == [1]:
                samples[..., :3] = _multiplied(rgb, alpha[..., None])
    samples = _in_depth(rng, samples)
    if samples.ndim == 3 and kind != "grey_alpha":
        planar = rng.random() < 0.4
        options["planarconfig"] = "separate" if planar else "contig"
        samples = np.moveaxis(samples, -1, 0).copy() if planar else samples
    return samples, options


def _multiplied(colours: npt.NDArray[np.uint8], alpha: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return (colours.astype(np.uint16) * alpha // 255).astype(np.uint8)


def _in_depth(rng: random.Random, samples: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    depth = rng.choice(["uint8", "uint8", "uint8", "uint16", "uint16", "float32", "int16", "uint32", "int8"])
    if depth == "uint16":
        return samples.astype(np.uint16) * 257
    if depth == "float32":
        return samples.astype(np.float32) / 255
    return samples if depth == "uint8" else (samples.astype(np.int64) // 2).astype(depth)


def _opencv(rng: random.Random, picture: Image.Image) -> Made:
    # OpenCV writes no JPEG 2000 of few pixels.
    picture = picture.resize((picture.width + 32, picture.height + 32))
    suffix = rng.choice([".png", ".tiff", ".jp2", ".avif"])
    depth = rng.choice([10, 12]) if suffix == ".avif" else 16
    samples: npt.NDArray[np.uint16] = _rgb(picture)[..., ::-1].astype(np.uint16)
    if suffix != ".avif" and rng.random() < 0.5:
        samples = _grey(picture).astype(np.uint16)
    samples = samples * ((1 << depth) - 1) // 255
    options = [cv2.IMWRITE_AVIF_DEPTH, depth] if suffix == ".avif" else []
    done, body = cv2.imencode(suffix, samples.astype(np.uint16), options)
    assert done
    return f"{suffix} {depth} {samples.shape}", body.tobytes()


def _jpeg2000(rng: random.Random, picture: Image.Image) -> Made:
    bits = rng.randint(2, 16)
    channels = rng.choice([1, 2, 3, 4])
    rgba = np.dstack([_rgb(picture), _alpha(picture)]).astype(np.uint32)
    stack = {1: [0], 2: [0, 3], 3: [0, 1, 2], 4: [0, 1, 2, 3]}[channels]
    levels = rgba[..., stack] * ((1 << bits) - 1) // 255
    samples = levels.astype(np.uint8 if bits <= 8 else np.uint16)
    signed = rng.random() < 0.2
    if signed:
        samples = (levels.astype(np.int32) - (1 << (bits - 1))).astype(np.int8 if bits <= 8 else np.int16)
    options: dict[str, Any] = {
        "bitspersample": bits,
        "codecformat": rng.choice(["jp2", "j2k"]),
        "reversible": rng.random() < 0.7,
        "level": 0,
    }
    if channels == 3 and not signed and bits >= 8:
        options["mct"] = rng.random() < 0.5
    body = imagecodecs.jpeg2k_encode(samples[..., 0] if channels == 1 else samples, **options)
    return f"{channels} channels signed={signed} {options}", bytes(body)


def _bmp(rng: random.Random, picture: Image.Image) -> Made:
    size, top_down = picture.size, rng.random() < 0.3
    bits = rng.choice([1, 4, 8, 16, 24, 32])
    header = rng.choice([12, 40, 40, 52, 56, 64, 108, 124])
    top_down = top_down and header != 12
    options: dict[str, Any] = {"header": header, "top_down": top_down}
    if bits <= 8:
        indices, colours = _indexed(picture, bits)
        options["palette"] = colours
        if header >= 40 and bits >= 4 and rng.random() < 0.4:
            options |= {"compression": 1 if bits == 8 else 2, "top_down": False}
            data = handmade.runs(indices, rng, narrow=bits == 4)
        else:
            data = handmade.bmp_rows(handmade.packed(indices, bits), top_down=top_down)
    else:
        rgba = np.dstack([_rgb(picture), _alpha(picture)])
        masks: tuple[int, ...] = {16: (0x7C00, 0x3E0, 0x1F), 24: (0xFF0000, 0xFF00, 0xFF)}.get(
            bits, (0xFF0000, 0xFF00, 0xFF)
        )
        if header in {40, 52, 56, 108, 124} and bits != 24 and rng.random() < 0.6:
            masks = rng.choice(MASKS[bits])
            masks = masks[:3] if header in {40, 52} else masks
            options |= {"compression": 3, "masks": masks}
        data = handmade.bmp_rows(handmade.masked_rows(rgba, bits, masks), top_down=top_down)
    words = f"{bits} bits {header} {options.get('compression', 0)} {options.get('masks')} top_down={top_down}"
    return words, handmade.bmp(size, bits, data, **options)


MASKS: Final[dict[int, list[tuple[int, ...]]]] = {
    16: [(0xF800, 0x7E0, 0x1F, 0), (0x7C00, 0x3E0, 0x1F, 0), (0xF00, 0xF0, 0xF, 0)],
    32: [
        (0xFF0000, 0xFF00, 0xFF, 0),
        (0xFF000000, 0xFF0000, 0xFF00, 0),
        (0xFF, 0xFF00, 0xFF0000, 0xFF000000),
        (0xFF0000, 0xFF00, 0xFF, 0xFF000000),
        (0xFF000000, 0xFF0000, 0xFF00, 0xFF),
        (0x3FF00000, 0xFFC00, 0x3FF, 0),
    ],
}


def _png(rng: random.Random, picture: Image.Image) -> Made:
    colour_type = rng.choice([0, 2, 3, 4, 6])
    bits = rng.choice({0: [1, 2, 4, 8, 16], 3: [1, 2, 4, 8]}.get(colour_type, [8, 16]))
    extra: list[tuple[bytes, bytes]] = []
    late: list[tuple[bytes, bytes]] = []
    if colour_type == 3:
        samples, colours = _indexed(picture, bits)
        extra.append((b"PLTE", b"".join(map(bytes, colours))))
        if rng.random() < 0.6:
            extra.append((b"tRNS", bytes(rng.randrange(256) for _ in range(rng.randint(1, len(colours))))))
        levels: npt.NDArray[np.integer] = samples
    else:
        grey, alpha = _grey(picture), _alpha(picture)
        stacks = {0: [grey], 2: [_rgb(picture)], 4: [grey, alpha], 6: [_rgb(picture), alpha]}
        levels = np.dstack(stacks[colour_type]).astype(np.uint32) * ((1 << bits) - 1) // 255
        if colour_type in {0, 2} and rng.random() < 0.5:
            extra.append((b"tRNS", levels[0, 0].astype(">u2").tobytes()))
    if rng.random() < 0.2:
        exif = Image.Exif()
        exif[274] = rng.randint(1, 8)
        raw = exif.tobytes()
        text = b"Raw profile type exif\0\nexif\n%8d\n%s\n" % (len(raw), raw.hex().encode())
        (late if rng.random() < 0.5 else extra).append((b"tEXt", text))
    interlaced = rng.random() < 0.3
    words = f"type {colour_type}, {bits} bits, interlaced={interlaced}, {[kind for kind, _ in extra + late]}"
    return words, handmade.png(levels, bits, colour_type, interlaced=interlaced, extra=extra, late=late)


def _gif(rng: random.Random, picture: Image.Image) -> Made:
    bits = rng.randint(1, 7)
    indices, colours = _indexed(picture, bits)
    width, height = picture.size
    screen = rng.choice([(width, height), (0, 0), (width + 7, height + 5), (max(width - 3, 1), height)])
    options: dict[str, Any] = {"screen": screen, "interlaced": rng.random() < 0.4}
    if rng.random() < 0.3:
        options["at"] = (rng.randint(0, 6), rng.randint(0, 6))
    if rng.random() < 0.3:
        options |= {"own_colours": colours, "colours": [(1, 2, 3), (4, 5, 6)]}
    else:
        options["colours"] = colours
    if rng.random() < 0.4:
        options["transparent"] = rng.randrange(len(colours))
    if rng.random() < 0.2:
        options["before"] = rng.choice([b"\0", b"\0\0\0", b"\x21\xfe\x03abc\0", b"\x21\x99\x01x\0"])
    options["background"] = rng.randrange(2)
    words = {key: value for key, value in options.items() if "colours" not in key}
    return f"{bits} bits {picture.size} {words}", handmade.gif(indices, **options)


def _ico(rng: random.Random, picture: Image.Image) -> Made:
    entries = []
    for _ in range(rng.randint(1, 3)):
        image = _scene(rng)
        shape = np.where(_alpha(image) > 90, 255, 0).astype(np.uint8)
        bits = rng.choice([1, 4, 8, 24, 32, 0])
        if bits == 0:
            content, bits = encoded(_in_mode(image, rng.choice(["RGB", "RGBA", "P", "LA"])), "PNG"), 32
        elif bits == 32:
            content = handmade.icon_bitmap(_rgb(image), _alpha(image) | 1, 32)  # type: ignore[arg-type]
        elif bits == 24:
            content = handmade.icon_bitmap(_rgb(image), shape, 24)
        else:
            content = handmade.icon_bitmap(*_with_shape(image, bits, shape))
        entries.append((image.size, bits, content))
    return f"{[(size, bits) for size, bits, _ in entries]}", handmade.ico(entries)


def _with_shape(
    image: Image.Image, bits: int, shape: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], int, list[tuple[int, int, int]]]:
    indices, colours = _indexed(image, bits)
    return indices, shape, bits, colours


MAKERS: Final[list[Callable[[random.Random, Image.Image], Made]]] = [
    _pillow,
    _pillow,
    _pillow,
    _tifffile,
    _tifffile,
    _opencv,
    _jpeg2000,
    _bmp,
    _bmp,
    _png,
    _gif,
    _ico,
]
