"""A folder of images as people keep them: its images with captions and masks, and what of it is left out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

from turbo_fetch.dreambooth.data.captions import FoundCaptions, find_captions, shown
from turbo_fetch.dreambooth.data.images import ImageFile, Unreadable, inspect
from turbo_fetch.errors import PicturesError

SUFFIXES: Final = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".tif", ".tiff", ".gif"),
        *(".avif", ".heic", ".heif", ".hif", ".jp2", ".jpx", ".ppm", ".pgm", ".tga"),
    }
)
_MASKS: Final = (".mask", "-masklabel")
"""What the name of a mask has after that of its image: ours, and OneTrainer's."""
_RECORDS: Final = frozenset({"prior.json"})
_KOHYA: Final = re.compile(r"(\d+)_(.+)")


def read_folder(folder: Path, what: str, note: Callable[[str], None]) -> list[ImageFile]:
    """Open every image of a folder; `what` names it in messages. A folder that is as it was is read once.

    Raises PicturesError that lists every file that is broken, or says that there is none; MissingExtra.
    """
    if not folder.is_dir():
        found = "a file" if folder.exists() else "no such folder"
        raise PicturesError(f"{folder}: {found}; expected a folder with images of the {what}")
    images, notes = _read_as_of(folder, what, _state(folder))
    for line in notes:
        note(f"{folder}: {line}")
    return list(images)


def _state(folder: Path) -> tuple[tuple[str, int, int, int], ...]:
    """Return what changes when a file of a folder does."""
    found = ((path, path.stat()) for path in sorted(folder.iterdir()) if path.exists())
    return tuple((str(path.absolute()), stat.st_mtime_ns, stat.st_size, stat.st_ino) for path, stat in found)


@lru_cache(maxsize=16)
def _read_as_of(folder: Path, what: str, _state: object) -> tuple[tuple[ImageFile, ...], tuple[str, ...]]:
    """Return the images of a folder, and what is to be told of it; raises as `read_folder`."""
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    files = [path for path in paths if path.is_file()]
    images = [path for path in files if path.suffix.lower() in SUFFIXES and not _is_mask(path)]
    if not images:
        raise PicturesError(_no_images(folder, what, [path for path in paths if path.is_dir()]))
    others = [path for path in files if path not in set(images)]
    captions = find_captions(images, others)
    opened = _opened(folder, images, others, captions)
    notes = (*captions.notes, *_done_to(opened), *_left_out(paths, opened, captions))
    return tuple(opened), notes


def kohya_name(name: str) -> tuple[int, str] | None:
    """Return repeats and words of a folder that is named as kohya's scripts want it, `10_sks dog`."""
    match = _KOHYA.fullmatch(name)
    return None if match is None else (int(match[1]), match[2].strip())


def _is_mask(path: Path) -> bool:
    return path.stem.endswith(_MASKS)


def _opened(
    folder: Path, images: Sequence[Path], others: Sequence[Path], captions: FoundCaptions
) -> list[ImageFile]:
    masks = {path.name: path for path in others if _is_mask(path)}
    opened, broken = [], list(captions.faults)
    for path in images:
        names = [f"{path.stem}{mark}.png" for mark in _MASKS]
        mask = next((masks[name] for name in names if name in masks), None)
        try:
            opened.append(inspect(path, captions.by_name.get(path.name), mask))
        except Unreadable as error:
            broken.append(str(error))
    if broken:
        listed = "".join(f"\n  {line}" for line in broken[:8])
        more = f"\n  and {len(broken) - 8} more" if len(broken) > 8 else ""
        raise PicturesError(f"{folder}: {len(broken)} broken file(s); fix or remove them:{listed}{more}")
    return opened


def _done_to(images: Sequence[ImageFile]) -> Iterator[str]:
    """Yield what was done to images beyond decoding, and to which."""
    for told in dict.fromkeys(told for image in images for told in image.notes):
        names = [image.path.name for image in images if told in image.notes]
        yield f"{len(names)} image(s) {told}: {shown(names)}"


def _left_out(paths: Sequence[Path], images: Sequence[ImageFile], captions: FoundCaptions) -> Iterator[str]:
    used = {image.path for image in images} | {image.mask for image in images} | captions.used
    rest = [path for path in paths if path not in used and path.name not in _RECORDS]
    masks = [path.name for path in rest if _is_mask(path)]
    if masks:
        yield f"{len(masks)} mask(s) without an image of that name, or not PNG: {shown(masks)}"
    strays = [path.name + ("/" if path.is_dir() else "") for path in rest if not _is_mask(path)]
    if strays:
        yield f"left out, not images: {shown(strays)}"


def _no_images(folder: Path, what: str, subfolders: Sequence[Path]) -> str:
    """Return why a folder holds no images to learn from, and where some are instead."""
    counts = {path: sum(file.suffix.lower() in SUFFIXES for file in path.iterdir()) for path in subfolders}
    filled = {path: count for path, count in counts.items() if count}
    if not filled:
        return f"{folder}: no images of the {what}; expected files that end in {', '.join(sorted(SUFFIXES))}"
    named = {path: name for path in filled if (name := kohya_name(path.name)) is not None}
    if not named:
        listed = shown([f"{path.name}/ ({count})" for path, count in filled.items()])
        return (
            f"{folder}: no images of the {what}, but its subfolders hold some; expected one of them: {listed}"
        )
    several = len(named) > 1 and what != "class"
    lines = "\n".join(
        _as_subject(path, *name, filled[path]) if several else _as_spec(path, *name, what)
        for path, name in named.items()
    )
    one = " Several of them are several subjects." if several else ""
    return (
        f"{folder}: a folder for kohya's scripts, whose subfolders hold the images. Name the subfolder instead, "
        f"and say in the spec what its name says.{one}\n{lines}"
    )


def _words_of(words: str) -> tuple[str, str]:
    """Return the identifier and the noun that a folder's name has; the first is empty if there is only one word."""
    first, _, rest = words.partition(" ")
    return (first, rest) if rest else ("", first)


def _as_subject(path: Path, repeats: int, words: str, images: int) -> str:
    """Return the lines of a spec for one of several subjects, with its share of the batches in a run of kohya's."""
    identifier, noun = _words_of(words)
    lines = [f"images = {str(path)!r}", f"identifier = {identifier or 'a rare word'!r}", f"class = {noun!r}"]
    return "\n".join(f"  {line}" for line in ("[[train.subjects]]", *lines, f"weight = {repeats * images}"))


def _as_spec(path: Path, repeats: int, words: str, what: str) -> str:
    """Return the lines of a spec that mean what a folder's name means to kohya's scripts."""
    if what == "class":
        return f"  [prior]\n  source = {str(path)!r}"
    identifier, noun = _words_of(words)
    lines = [f"subject = {str(path)!r}", *([f"identifier = {identifier!r}"] if identifier else [])]
    lines += [f"class = {noun!r}", "[train.pictures]", f"repeats = {repeats}"]
    return "\n".join(f"  {line}" for line in ("[train]", *lines))
