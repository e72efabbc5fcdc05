"""Captions and masks by functions of the user, for images that have none: called once per image, kept on disk.

They are in a Python file or an installed module, which has one or both of

    def captions(images: Sequence[PIL.Image.Image]) -> Sequence[str]
    def masks(images: Sequence[PIL.Image.Image]) -> Sequence[PIL.Image.Image]

and gets upright RGB images, a few at a time. `{identifier}` and `{class}` in captions are replaced as in all others;
masks have the size of their image, and white counts.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from PIL import Image

from turbo_fetch.dreambooth.data.captions import shown
from turbo_fetch.dreambooth.data.images import ImageFile, Unreadable, inspect, open_upright
from turbo_fetch.errors import OutputError, PicturesError, SpecError
from turbo_fetch.spec.train_tables import PicturesSpec
from turbo_fetch.storage.disk import replace_with
from turbo_fetch.storage.failures import explained
from turbo_fetch.user_code import UserCode

AT_ONCE: Final = 8
"""Images that a function gets, so that few are open at a time."""


@dataclass(frozen=True)
class Annotator:
    """The functions of a file or module, and what tells their results from those of others."""

    name: str
    captions: Callable[[Sequence[Image.Image]], Sequence[Any]] | None
    masks: Callable[[Sequence[Image.Image]], Sequence[Any]] | None
    version: str
    """Hash of the source."""


def open_annotator(pictures: PicturesSpec) -> Annotator | None:
    """Return the functions that `pictures.annotator` names and the spec has use for. Raises SpecError."""
    name = pictures.annotator
    if name is None:
        return None
    code = UserCode.read(name, "train.pictures.annotator")
    module = code.module()
    found = {kind: getattr(module, kind, None) for kind in ("captions", "masks")}
    wanted = {"captions": pictures.captions == "auto", "masks": pictures.masks}
    used = {kind: made if wanted[kind] and callable(made) else None for kind, made in found.items()}
    if not any(used.values()):
        expected = " or ".join(kind for kind, is_wanted in wanted.items() if is_wanted)
        raise SpecError(f"train.pictures.annotator = {name!r}: has no function {expected}")
    return Annotator(name, used["captions"], used["masks"], code.digest)


def annotated(
    images: Sequence[ImageFile], annotator: Annotator, folder: Path, note: Callable[[str], None]
) -> list[ImageFile]:
    """Return the images with captions and masks where they had none; `folder` keeps what was made.

    Raises PicturesError for what the functions raise or return, OutputError.
    """
    kept = folder / f"annotated-{annotator.version[:32]}"
    with explained(str(kept)):
        kept.mkdir(parents=True, exist_ok=True)
    lacking = [image for image in images if _lacks(image, annotator)]
    waiting = [image for image in lacking if not _is_kept(_path(kept, image))]
    for start in range(0, len(waiting), AT_ONCE):
        _annotate(waiting[start : start + AT_ONCE], annotator, kept)
    made = {image.path: _with_results(image, kept) for image in lacking}
    if made:
        texts = [repr(image.caption) for image in made.values() if image.caption]
        note(f"{len(made)} image(s) annotated by {annotator.name}: {shown(texts)}")
    return [made.get(image.path, image) for image in images]


def _lacks(image: ImageFile, annotator: Annotator) -> bool:
    needs_caption = annotator.captions is not None and not image.caption
    return needs_caption or (annotator.masks is not None and image.mask is None)


def _is_kept(path: Path) -> bool:
    """Return whether what was made of an image is there to be read."""
    try:
        return "caption" in json.loads(path.read_bytes())
    except (OSError, ValueError, TypeError):
        return False


def _annotate(images: Sequence[ImageFile], annotator: Annotator, kept: Path) -> None:
    """Call the functions for a few images, and keep what they return."""
    opened = [open_upright(image.path) for image in images]
    captions = _called(annotator, "captions", annotator.captions, opened, str)
    masks = _called(annotator, "masks", annotator.masks, opened, Image.Image)
    for image, pixels, caption, mask in zip(images, opened, captions, masks, strict=True):
        if mask is not None:
            if mask.size != pixels.size:
                raise PicturesError(
                    f"{annotator.name}: the mask of {image.path.name} has {mask.size[0]}x{mask.size[1]} pixels; "
                    f"expected {pixels.size[0]}x{pixels.size[1]}, as the image has"
                )
            file = io.BytesIO()
            mask.convert("L").save(file, "PNG")
            _keep(_path(kept, image).with_suffix(".png"), file.getvalue())
        # It says that both are there.
        _keep(_path(kept, image), json.dumps({"caption": caption}, ensure_ascii=False).encode())


def _called(
    annotator: Annotator,
    kind: str,
    function: Callable[[Sequence[Image.Image]], Sequence[Any]] | None,
    images: Sequence[Image.Image],
    expected: type,
) -> list[Any]:
    if function is None:
        return [None] * len(images)
    try:
        returned = list(function(images))
    except Exception as error:
        # Whatever the function does: it is the user's.
        raise PicturesError(
            f"{annotator.name}: its function {kind} raised {type(error).__name__}: {error}"
        ) from error
    wrong = [type(each).__name__ for each in returned if not isinstance(each, expected)]
    if wrong or len(returned) != len(images):
        found = f"a {wrong[0]}" if wrong else f"{len(returned)} of them"
        raise PicturesError(
            f"{annotator.name}: its function {kind} returned {found} for {len(images)} images; expected a "
            f"{expected.__name__} for each"
        )
    return returned


def _with_results(image: ImageFile, kept: Path) -> ImageFile:
    path = _path(kept, image)
    caption, mask = json.loads(path.read_bytes())["caption"], path.with_suffix(".png")
    text = image.caption or (" ".join(caption.split()) if caption else None)
    if image.mask is not None or not mask.is_file():
        return replace(image, caption=text)
    try:
        return inspect(image.path, text, mask)
    except Unreadable as error:
        raise OutputError(f"{error}; delete {kept}, and it is made again") from error


def _path(kept: Path, image: ImageFile) -> Path:
    return kept / f"{image.digest}.json"


def _keep(path: Path, content: bytes) -> None:
    with explained(str(path)):
        replace_with(path, content)
