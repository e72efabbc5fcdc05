"""Where images come from, and what is wrong, or looks wrong, with them and with words.

They come from a folder, a dataset of turbo-fetch, or what the fetch stage of the same spec made.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any, Final

from turbo_fetch.dataset import names
from turbo_fetch.dataset.description import read_job
from turbo_fetch.dataset.place import open_place
from turbo_fetch.dreambooth.data.captions import shown
from turbo_fetch.dreambooth.data.folder import kohya_name, read_folder
from turbo_fetch.dreambooth.data.images import ImageFile
from turbo_fetch.errors import InputError, PicturesError, SpecError
from turbo_fetch.spec import Spec, TrainSpec
from turbo_fetch.storage.failures import explained

if TYPE_CHECKING:
    # It imports the libraries of models, which looking at images does without.
    from turbo_fetch.dreambooth.families import Family

FETCHED: Final = "fetch"
FEW: Final = 3
"""The DreamBooth paper uses three to five images; fewer are learned by heart."""
RARE_AFTER: Final = 15_000
"""CLIP's vocabulary goes from common to rare; the paper takes rare ones, and `sks` is number 48,136."""
RARE_WORDS: Final = (TrainSpec.model_fields["identifier"].default, "ohwx", "zwx", "ukj", "olis", "shs")
"""Words that people use for subjects, as they mean little to CLIP; one that a model reads as one token is named."""


def read_images(place: str, what: str, work: Path, note: Callable[[str], None]) -> list[ImageFile]:
    """Return the images at a place, opened and checked; `work` is for those of a dataset.

    A place with a job is a dataset, in any format; what has none is a folder of images. Raises
    PicturesError, InputError, DatasetError, MissingExtra.
    """
    if "://" not in place and read_job(open_place(place)) is None:
        return read_folder(Path(place), what, note)
    return read_folder(_unpacked(place, work), what, note)


def check_images(spec: Spec, place: str, key: str, what: str = "subject") -> None:
    """Raise as `read_images`, or InputError, naming the spec's `key`, if there is nothing at a place.

    What the fetch stage of the spec makes may be yet to come.
    """
    fetched = None if spec.fetch is None else Path(spec.fetch.output.path).absolute()
    place = subject_place(spec, place, key)
    if "://" in place or (fetched is not None and Path(place).absolute().is_relative_to(fetched)):
        return
    if not Path(place).exists():
        raise InputError(f"{key} = {place!r}: no such folder; expected a folder or dataset of images")
    if read_job(open_place(place)) is None:
        try:
            read_folder(Path(place), what, lambda _note: None)
        except PicturesError as error:
            raise PicturesError(f"{key}: {error}") from error


def image_places(spec: Spec) -> dict[str, str]:
    """Return the folders and datasets of images of the subjects of `[train]`, by key."""
    train = train_spec_of(spec)
    named: dict[str, str] = {}
    for number, (each, held_out) in enumerate(zip(train.each_subject, train.held_out, strict=True)):
        alone = not train.subjects
        named["train.subject" if alone else f"train.subjects.{number}.images"] = each.subject
        named["train.validation.pictures" if alone else f"train.subjects.{number}.validation"] = held_out
    return {key: place for key, place in named.items() if place}


def _unpacked(place: str, work: Path) -> Path:
    """Write the images of a dataset and their captions as files, unless they are there already."""
    from turbo_fetch.dataset.reader import StoredDataset

    storage = open_place(place)
    folder = work / f"pictures-{hashlib.sha256(storage.read_bytes(names.MANIFEST)).hexdigest()[:32]}"
    if folder.is_dir():
        return folder
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with explained(str(folder)):
        partial.mkdir(parents=True)
        for sample in StoredDataset.open(storage).samples():
            (partial / f"{sample.key}.{sample.extension}").write_bytes(sample.image)
            if sample.caption:
                (partial / f"{sample.key}.txt").write_text(sample.caption, encoding="utf-8")
        # Several devices may have done the same at once.
        if not folder.is_dir():
            partial.rename(folder)
    shutil.rmtree(partial, ignore_errors=True)
    return folder


def subject_place(spec: Spec, place: str, key: str) -> str:
    """Return where images are, with `fetch` resolved. Raises SpecError."""
    if place != FETCHED:
        return place
    if spec.fetch is None:
        raise SpecError(f'{key} = "fetch", but the spec has no [fetch]; expected it, or a folder or dataset')
    # Imports pandas, and the format.
    from turbo_fetch.dataset.formats import format_of

    if not format_of(spec.fetch.output.format).has_images:
        raise SpecError(
            f'{key} = "fetch", but fetch.output.format = "{spec.fetch.output.format}" keeps no images; expected '
            "another format"
        )
    return spec.fetch.output.path


def class_images_place(spec: Spec) -> str | None:
    """Return the folder or dataset of this spec's class images, of several classes the folder around theirs.

    None without `[prior]`. Raises SpecError.
    """
    if spec.prior is None:
        return None
    if spec.prior.source != "generate":
        return spec.prior.source
    return spec.prior.output or f"{train_spec_of(spec).output.rstrip('/')}-class"


def class_images_places(spec: Spec) -> dict[str, str]:
    """Return the folder or dataset of the images of each class; empty without `[prior]`. Raises SpecError."""
    place = class_images_place(spec)
    if place is None:
        return {}
    classes = list(dict.fromkeys(each.class_ for each in train_spec_of(spec).each_subject))
    if len(classes) == 1:
        return {classes[0]: place}
    return {class_: f"{place.rstrip('/')}/{class_}" for class_ in classes}


def train_spec_of(spec: Spec) -> TrainSpec:
    """Return the `[train]` that class images are for. Raises SpecError."""
    if spec.train is None:
        raise SpecError("[prior] needs a table [train] beside it, which names the base model and the class")
    return spec.train


def image_warnings(train: TrainSpec, images: Sequence[ImageFile], captions: Sequence[str]) -> Iterator[str]:
    """Yield what may spoil the result although it can be learned from."""
    if len(images) < FEW:
        yield f"{train.subject}: {len(images)} image(s) of the subject; three to five or more learn better"
    named = kohya_name(Path(train.subject).name)
    if named is not None and named[0] != train.pictures.repeats:
        yield (
            f"{train.subject}: to kohya's scripts the name means {named[0]} repeats of {named[1]!r}, but "
            f"train.pictures.repeats = {train.pictures.repeats}, identifier = {train.identifier!r} and "
            f"class = {train.class_!r}"
        )
    small = [image for image in images if min(image.size) < train.resolution]
    if small:
        smallest = min(min(image.size) for image in small)
        yield (
            f"{train.subject}: {len(small)} of {len(images)} images are smaller than "
            f"resolution = {train.resolution} and are enlarged up to {train.resolution / smallest:.1f} times: "
            f"{shown([image.path.name for image in small])}"
        )
    for word, key in ((train.identifier, "identifier"), (train.class_, "class")):
        without = [caption for caption in captions if word.lower() not in caption.lower()]
        if without:
            yield (
                f"{len(without)} of {len(captions)} captions lack the {key} {word!r}, "
                f"which is then not learned from them: {_quoted(without)}"
            )


def word_warnings(train: TrainSpec, tokenizer: Any, taken: Collection[str] = ()) -> Iterator[str]:
    """Yield what the tokenizer makes doubtful: an identifier that is no rare single token.

    `taken` are the identifiers of all subjects, none of which is recommended for another.
    """
    if train.trains("token"):
        return
    word, numbers = train.identifier, _numbers(tokenizer, train.identifier)
    rare = (
        other for other in RARE_WORDS if other not in {word, *taken} and len(_numbers(tokenizer, other)) == 1
    )
    # None of them may be one token of this tokenizer.
    example = "".join(f": {other}" for other in islice(rare, 1))
    if len(numbers) != 1:
        parts = shown([repr(token) for token in tokenizer.convert_ids_to_tokens(numbers)])
        found = f"{len(numbers)} tokens ({parts})"
        yield f"identifier {word!r} is {found}; one rare token learns better{example}"
    elif numbers[0] < RARE_AFTER:
        yield f"identifier {word!r} is a common word, which has a meaning to unlearn; a rare one{example}"


def _numbers(tokenizer: Any, word: str) -> list[int]:
    numbers: list[int] = tokenizer(word, add_special_tokens=False).input_ids
    return numbers


def length_warnings(family: Family, captions: Sequence[str], what: str = "captions") -> Iterator[str]:
    """Yield how many captions, or `what` else, are longer than a text encoder reads, for each that there is."""
    counts = Counter(captions)
    long: dict[tuple[str, int], list[str]] = {}
    for caption in counts:
        for encoder, count, most in set(family.readers(caption)):
            if count > most:
                long.setdefault((encoder, most), []).append(caption)
    for (encoder, most), found in sorted(long.items()):
        total = sum(counts[caption] for caption in found)
        yield (
            f"{total} of {len(captions)} {what} are longer than the {most} tokens that the {encoder} reads, and cut: "
            f"{_quoted(found)}"
        )


def _quoted(captions: Sequence[str]) -> str:
    return shown(repr(shorten(caption, 60, placeholder=" …")) for caption in captions)
