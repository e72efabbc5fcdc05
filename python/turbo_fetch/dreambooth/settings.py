"""How a picture was made, embedded in its PNG: for ourselves as JSON, and for other programs as they know it."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final

from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from turbo_fetch.errors import InputError

OWN_CHUNK: Final = "turbo-fetch"
SHARED_CHUNK: Final = "parameters"
"""Text chunk that AUTOMATIC1111's web UI writes and ComfyUI, Civitai and others read."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that a picture is a function of."""

    prompt: str
    negative: str
    seed: int
    scheduler: str
    steps: int
    guidance: float
    width: int | None
    """Pixels; None: what the model was made for."""
    height: int | None
    model: str
    model_hash: str
    """What the weights are, wherever they lie."""
    lora: str | None = None
    lora_hash: str | None = None
    lora_scale: float = 1.0
    precision: str = "auto"

    def differences(self, other: Settings) -> list[str]:
        """Return where the two would give other pictures: `steps was 50, is now 20`."""
        told_apart = [field.name for field in fields(self) if field.name not in {"model", "lora"}]
        return [
            f"{name} was {getattr(self, name)!r}, is now {getattr(other, name)!r}"
            for name in told_apart
            if getattr(self, name) != getattr(other, name)
        ]


def as_parameters(settings: Settings, sampler: str, size: tuple[int, int]) -> str:
    """Return the settings in the words of AUTOMATIC1111's web UI."""
    facts = {
        "Steps": settings.steps,
        "Sampler": sampler,
        "CFG scale": f"{settings.guidance:g}",
        "Seed": settings.seed,
        "Size": f"{size[0]}x{size[1]}",
        "Model hash": settings.model_hash[:10],
        "Model": Path(settings.model).name,
    }
    if settings.lora is not None:
        facts["Lora hashes"] = f'"{Path(settings.lora).stem}: {(settings.lora_hash or "")[:12]}"'
    negative = f"\nNegative prompt: {settings.negative}" if settings.negative else ""
    return f"{settings.prompt}{negative}\n" + ", ".join(f"{name}: {value}" for name, value in facts.items())


def to_png(picture: Image.Image, settings: Settings, sampler: str) -> bytes:
    """Return the picture as PNG with its settings inside."""
    chunks = PngInfo()
    # International text, since prompts are in any language and plain text chunks are Latin-1.
    chunks.add_itxt(SHARED_CHUNK, as_parameters(settings, sampler, picture.size))
    chunks.add_itxt(OWN_CHUNK, json.dumps(asdict(settings), ensure_ascii=False))
    file = io.BytesIO()
    picture.save(file, "PNG", pnginfo=chunks)
    return file.getvalue()


def settings_in(png: bytes, name: str) -> Settings:
    """Return the settings inside a PNG that `to_png` made. Raises InputError, naming it `name`."""
    try:
        with Image.open(io.BytesIO(png)) as picture:
            picture.load()
            text = picture.info.get(OWN_CHUNK)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise InputError(f"{name}: not a whole picture: {error}") from error
    if text is None:
        raise InputError(f"{name}: holds no settings of turbo-fetch; expected a PNG that it made")
    try:
        return Settings(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise InputError(f"{name}: its settings cannot be read: {error}") from error
