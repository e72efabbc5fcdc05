"""A folder that is filled with images, each published whole and known by the settings inside it.

The settings are embedded in the PNG: for ourselves as JSON, and for other programs as they know them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final

from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from turbo_fetch.dreambooth.families import Family
from turbo_fetch.dreambooth.sampling.sampler import SampleRequest, known_as, make_images
from turbo_fetch.errors import InputError, OutputExists
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.spec.dreambooth import SamplingTable
from turbo_fetch.stop import StopRequest
from turbo_fetch.storage import Storage

OWN_CHUNK: Final = "turbo-fetch"
SHARED_CHUNK: Final = "parameters"
"""Text chunk that AUTOMATIC1111's web UI writes and ComfyUI, Civitai and others read."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that an image is a function of."""

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
        """Return where the two would give other images: `steps was 50, is now 20`."""
        told_apart = [field.name for field in fields(self) if field.name not in {"model", "lora"}]
        return [
            f"{name} was {getattr(self, name)!r}, is now {getattr(other, name)!r}"
            for name in told_apart
            if getattr(self, name) != getattr(other, name)
        ]


@dataclass(frozen=True, slots=True)
class ImageDiff:
    """What of the images that are wanted is there already."""

    missing: tuple[str, ...]
    """Names of images that are not there, or not whole."""
    different: Mapping[str, list[str]]
    """Names of images that were made with other settings, and what differs."""

    def refuse_different(self, url: str, key: str) -> None:
        """Raise OutputExists for an image of other settings; `key` is the spec's, which names the folder."""
        for name, changes in self.different.items():
            raise OutputExists(
                f"{url}: {name} was made with other settings ({'; '.join(changes)}); "
                f"expected another {key}, or an empty one"
            )


@dataclass(frozen=True, slots=True)
class RunControl:
    """Who is told of the progress, and who may stop it."""

    listener: ProgressListener
    stop: StopRequest


def compare(place: Storage, wanted: Mapping[str, Settings]) -> ImageDiff:
    """Compare the images of a folder with those that are wanted, by name."""
    there = {entry.name for entry in place.list()}
    missing, different = [], {}
    for name, settings in wanted.items():
        try:
            found = settings_in(place.read_bytes(name), name) if name in there else None
        except InputError:
            found = None
        if found is None:
            missing.append(name)
        elif found.differences(settings):
            different[name] = found.differences(settings)
    return ImageDiff(tuple(missing), different)


def fill(
    place: Storage,
    wanted: Mapping[str, Settings],
    names: Iterable[str],
    sampling: SamplingTable,
    open_model: Callable[[], Family],
    control: RunControl,
) -> int:
    """Make the images of these names and publish each as it is ready; return how many.

    Raises Interrupted, ModelError, OutputError; what was published stays.
    """
    requests = [SampleRequest(name, wanted[name].prompt, wanted[name].seed) for name in names]
    if not requests:
        return 0
    family = open_model()
    for line in family.notes:
        control.listener.note(line)
    sampler = known_as(sampling.scheduler, family.pipeline.scheduler)
    images = make_images(family, sampling, requests, lambda: bool(control.stop))
    for done, (request, image) in enumerate(images, start=1):
        place.write_bytes(request.name, to_png(image, wanted[request.name], sampler))
        control.listener.step(done, len(requests), "images", {})
        control.listener.refresh()
    return len(requests)


def as_parameters(settings: Settings, sampler: str, size: tuple[int, int]) -> str:
    """Return the settings as AUTOMATIC1111's web UI writes them."""
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


def to_png(image: Image.Image, settings: Settings, sampler: str) -> bytes:
    """Return the image as PNG with its settings inside."""
    chunks = PngInfo()
    # International text, since prompts are in any language and plain text chunks are Latin-1.
    chunks.add_itxt(SHARED_CHUNK, as_parameters(settings, sampler, image.size))
    chunks.add_itxt(OWN_CHUNK, json.dumps(asdict(settings), ensure_ascii=False))
    file = io.BytesIO()
    image.save(file, "PNG", pnginfo=chunks)
    return file.getvalue()


def settings_in(png: bytes, name: str) -> Settings:
    """Return the settings inside a PNG that `to_png` made. Raises InputError, naming it `name`."""
    try:
        with Image.open(io.BytesIO(png)) as image:
            image.load()
            text = image.info.get(OWN_CHUNK)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise InputError(f"{name}: not a whole image: {error}") from error
    if text is None:
        raise InputError(f"{name}: holds no settings of turbo-fetch; expected a PNG that it made")
    try:
        return Settings(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise InputError(f"{name}: its settings cannot be read: {error}") from error
