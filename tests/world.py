"""What the world sees in a file: Pillow's image of it, upright, on white, in sRGB; and how ours compares."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, ImageOps

import witnesses
from turbo_fetch.outcomes import BY_NUMBER
from turbo_fetch.shard.transform import Transform

Pixels = npt.NDArray[np.uint8]

SAME_DB = 28.0
MAX_PIXELS = 50_000_000


@dataclass(frozen=True)
class Verdict:
    """How one file fared: `same`, `wrong`, an outcome's label, or `only-ours` where Pillow does not open it."""

    word: str
    detail: str = ""

    @property
    def is_wrong(self) -> bool:
        return self.word == "wrong"


def seen(body: bytes) -> Pixels | None:
    """Return the pixels that Pillow shows, RGB, or None where it does not open the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            picture = Image.open(io.BytesIO(body))
            if picture.width * picture.height > MAX_PIXELS:
                return None
            picture.load()
            upright = ImageOps.exif_transpose(picture)
            return in_srgb(on_white(upright), picture.info.get("icc_profile"))
        except Exception:
            return None


def on_white(picture: Image.Image) -> Image.Image:
    """Return the image without alpha and with eight bits, in mode L, RGB or CMYK."""
    if picture.mode == "I;16" or picture.mode.startswith("I;16"):
        return _deep_grey(picture)
    if picture.mode in {"CMYK", "L", "RGB"} and "transparency" not in picture.info:
        return picture
    if picture.mode == "La":
        picture = picture.convert("LA")
    if picture.mode in {"LAB", "YCbCr", "HSV", "1"} and "transparency" not in picture.info:
        return picture.convert("L" if picture.mode == "1" else "RGB")
    if picture.mode in {"I", "F"}:
        raise ValueError("there is no common meaning of black and white")
    clear = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")


def _deep_grey(picture: Image.Image) -> Image.Image:
    levels = np.asarray(picture).astype(np.uint32)
    grey = ((levels + 128) // 257).astype(np.uint8)
    clear = picture.info.get("transparency")
    if isinstance(clear, int):
        grey[levels == clear] = 255
    return Image.fromarray(grey)


def in_srgb(picture: Image.Image, icc: bytes | None) -> Pixels:
    """Convert by Pillow's colour management; a profile that does not fit is ignored."""
    if icc:
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            converted = ImageCms.profileToProfile(
                picture, profile, ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
            assert converted is not None
            return np.asarray(converted)
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass
    return np.asarray(picture.convert("RGB"))


def psnr_db(left: Pixels, right: Pixels) -> float:
    """Return the peak signal-to-noise ratio of two images of equal shape."""
    error = float(np.mean((left.astype(np.float64) - right) ** 2))
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))


def verdict(transform: Transform, body: bytes) -> Verdict:
    """Compare what the transform makes of a file with what the world sees."""
    record = transform.run([body]).to_pylist()[0]
    if record["outcome"]:
        return Verdict(BY_NUMBER[record["outcome"]].label, record["detail"])
    found = compared(record["image"], seen(body))
    if found.is_wrong and record["original_format"] == "jpeg2000":
        # Pillow 13 rounds white of more than eight bits up to black, in colour.
        witnessed = compared(record["image"], witnesses.imagecodecs_sees(body))
        return Verdict("pillow-wrong", found.detail) if witnessed.word == "same" else found
    return found


def compared(image: bytes, expected: Pixels | None) -> Verdict:
    """Compare a file of ours with expected pixels."""
    if expected is None:
        return Verdict("only-ours")
    ours = np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))
    if ours.shape != expected.shape:
        return Verdict("wrong", f"sides {ours.shape[1::-1]}, expected {expected.shape[1::-1]}")
    likeness = psnr_db(ours, expected)
    return Verdict("same" if likeness > SAME_DB else "wrong", f"{likeness:.1f} dB")
