"""A folder that is filled with images, each published whole and known by the settings inside it.

The settings are embedded in the PNG: for ourselves as JSON, and for other programs as they know them.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from turbo_fetch.dreambooth.data.captions import shown
from turbo_fetch.dreambooth.data.sources import length_warnings
from turbo_fetch.dreambooth.families import Family
from turbo_fetch.dreambooth.sampling.sampler import SampleRequest, known_as, make_images
from turbo_fetch.errors import InputError, OutputExists
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.spec.dreambooth import SamplingTable
from turbo_fetch.spec.table import VaeTiling
from turbo_fetch.stop import StopRequest
from turbo_fetch.storage import Storage

OWN_CHUNK: Final = "turbo-fetch"
_SEAL: Final = "pixels"
"""In it: a digest of the pixels, by which a retouched image is told from one that is as it was made."""
TO_COME: Final = "that of weights that are yet to be trained"
"""Stands for a hash that nobody knows yet, and is that of no image."""
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
    embedding: str | None = None
    embedding_hash: str | None = None
    vae_tiling: VaeTiling = "auto"

    def differences(self, other: Settings) -> list[str]:
        """Return where the two would give other images: `steps was 50, is now 20`."""
        told_apart = [
            field.name for field in fields(self) if field.name not in {"model", "lora", "embedding"}
        ]
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
    retouched: tuple[str, ...]
    """Names of images that turbo-fetch made and somebody changed since."""
    foreign: tuple[str, ...]
    """Names of images that turbo-fetch did not make."""

    def refuse(self, url: str, key: str) -> None:
        """Raise OutputExists for an image of other settings or of somebody else; `key` is the spec's."""
        self.refuse_different(url, key)
        self.refuse_others(url, key, self.foreign)

    def refuse_different(self, url: str, key: str) -> None:
        """Raise OutputExists for an image of other settings; `key` is the spec's, which names the folder."""
        for name, changes in self.different.items():
            raise OutputExists(
                f"{url}: {name} was made with other settings ({'; '.join(changes)}); "
                f"expected another {key}, or an empty one"
            )

    def refuse_others(self, url: str, key: str, others: Sequence[str]) -> None:
        """Raise OutputExists for images that are somebody's work and would be written over."""
        if others:
            raise OutputExists(
                f"{url}: not as turbo-fetch made them, and so not written over: {shown(others)}; expected another "
                f"{key}, or that you move these files"
            )

    def tell_retouched(self, url: str, note: Callable[[str], None]) -> None:
        """Say which images were changed since they were made, and stay so."""
        kept = [name for name in self.retouched if name not in self.different]
        if kept:
            note(f"{url}: changed since they were made, and left as they are: {shown(kept)}")


@dataclass(frozen=True, slots=True)
class RunControl:
    """Who is told of the progress, and who may stop it."""

    listener: ProgressListener
    stop: StopRequest


def compare(place: Storage, wanted: Mapping[str, Settings]) -> ImageDiff:
    """Compare the images of a folder with those that are wanted, by name."""
    there = {entry.name for entry in place.list()}
    missing: list[str] = []
    foreign: list[str] = []
    different, retouched = {}, []
    for name, settings in wanted.items():
        content = place.read_bytes(name) if name in there else b""
        try:
            image = _loaded(content)
        except _BROKEN:
            # An image of ours may be damaged; what never was one is somebody else's.
            is_lost = not content or OWN_CHUNK.encode() in content
            (missing if is_lost else foreign).append(name)
            continue
        try:
            found = _settings_of(image, name)
        except InputError:
            foreign.append(name)
            continue
        if not _is_sealed(image):
            retouched.append(name)
        if changes := found.differences(settings):
            different[name] = changes
    return ImageDiff(tuple(missing), different, tuple(retouched), tuple(foreign))


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
    prompts = list(dict.fromkeys(request.prompt for request in requests))
    for line in (*family.notes, *length_warnings(family, prompts, "prompts")):
        control.listener.note(line)
    sampler = known_as(sampling.scheduler, family)
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
    parameters = as_parameters(settings, sampler, image.size)
    return sealed(image, asdict(settings), {SHARED_CHUNK: parameters})


def sealed(
    image: Image.Image, facts: Mapping[str, object] | None = None, texts: Mapping[str, str] | None = None
) -> bytes:
    """Return an image as PNG that says of itself that turbo-fetch made it, as long as nobody changes it.

    `facts` are kept with it for ourselves, `texts` for other programs.
    """
    chunks = PngInfo()
    # International text, since prompts are in any language and plain text chunks are Latin-1.
    for name, text in (texts or {}).items():
        chunks.add_itxt(name, text)
    own = {**(facts or {}), _SEAL: _digest(image)}
    chunks.add_itxt(OWN_CHUNK, json.dumps(own, ensure_ascii=False))
    file = io.BytesIO()
    image.save(file, "PNG", pnginfo=chunks)
    return file.getvalue()


def write_own(place: Storage, name: str, image: Image.Image) -> bool:
    """Publish an image unless what is there is somebody else's; return whether it was. Raises OutputError."""
    if place.exists(name) and not is_own(place.read_bytes(name)):
        return False
    place.write_bytes(name, sealed(image))
    return True


def is_own(png: bytes) -> bool:
    """Return whether turbo-fetch made an image, and its pixels are what they were."""
    try:
        return _is_sealed(_loaded(png))
    except _BROKEN:
        return False


_BROKEN: Final = (OSError, SyntaxError, ValueError)
"""What Pillow raises for a file that is not a whole image."""


def _loaded(png: bytes) -> Image.Image:
    """Return an image, all of it decoded. Raises one of _BROKEN."""
    with Image.open(io.BytesIO(png)) as image:
        image.load()
    return image


def _is_sealed(image: Image.Image) -> bool:
    try:
        own = json.loads(image.info[OWN_CHUNK])
        # Earlier versions did not seal what they made.
        return bool(own.get(_SEAL, "") in {"", _digest(image)})
    except (ValueError, KeyError, AttributeError, TypeError):
        return False


def _digest(image: Image.Image) -> str:
    return hashlib.sha256(f"{image.mode} {image.size} ".encode() + image.tobytes()).hexdigest()


def settings_in(png: bytes, name: str) -> Settings:
    """Return the settings inside a PNG that `to_png` made. Raises InputError, naming it `name`."""
    try:
        image = _loaded(png)
    except _BROKEN as error:
        raise InputError(f"{name}: not a whole image: {error}") from error
    return _settings_of(image, name)


def _settings_of(image: Image.Image, name: str) -> Settings:
    text = image.info.get(OWN_CHUNK)
    if text is None:
        raise InputError(f"{name}: holds no settings of turbo-fetch; expected a PNG that it made")
    try:
        facts = json.loads(text)
        facts.pop(_SEAL, None)
        return Settings(**facts)
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{name}: its settings cannot be read: {error}") from error
