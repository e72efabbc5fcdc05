"""What is wrong, or looks wrong, with pictures and words, said before the model is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from turbo_fetch.dreambooth.pictures import SUFFIXES, Picture, Unreadable, files, inspect
from turbo_fetch.errors import PicturesError
from turbo_fetch.spec.train import TrainSpec

FEW: Final = 3
"""The DreamBooth paper uses three to five pictures; fewer are learned by heart."""
SHOWN: Final = 8
RARE_AFTER: Final = 15_000
"""CLIP's vocabulary goes from common to rare; the paper takes rare ones, and `sks` is number 48,136."""


def read_folder(folder: Path, what: str, note: Callable[[str], None]) -> list[Picture]:
    """Open every picture of a folder; `what` names it in messages.

    Raises PicturesError that lists every file that is broken, or says that there is none.
    """
    if not folder.is_dir():
        raise PicturesError(f"{folder}: no such folder; expected one with pictures of the {what}")
    pictures, broken, strays = [], [], []
    for path, is_picture in files(folder):
        if not is_picture:
            strays.append(path.name + ("/" if path.is_dir() else ""))
            continue
        try:
            pictures.append(inspect(path))
        except Unreadable as error:
            broken.append(str(error))
    if broken:
        listed = "\n".join(f"  {line}" for line in broken[:SHOWN])
        more = f"\n  and {len(broken) - SHOWN} more" if len(broken) > SHOWN else ""
        raise PicturesError(f"{folder}: {len(broken)} broken file(s); mend or remove them:\n{listed}{more}")
    if not pictures:
        raise PicturesError(
            f"{folder}: no pictures of the {what}; expected files that end in {', '.join(sorted(SUFFIXES))}"
        )
    if strays:
        note(f"{folder}: left out, as no pictures: {_list(strays)}")
    return pictures


def doubts(train: TrainSpec, pictures: Sequence[Picture], captions: Sequence[str]) -> Iterator[str]:
    """Yield what may spoil the result although it can be learned from."""
    if len(pictures) < FEW:
        yield f"{train.subject}: {len(pictures)} picture(s) of the subject; three to five or more learn better"
    small = [picture for picture in pictures if min(picture.size) < train.resolution]
    if small:
        smallest = min(min(picture.size) for picture in small)
        yield (
            f"{train.subject}: {len(small)} of {len(pictures)} pictures are smaller than "
            f"resolution = {train.resolution} and are enlarged up to {train.resolution / smallest:.1f} times: "
            f"{_list([picture.path.name for picture in small])}"
        )
    for word, key in ((train.identifier, "identifier"), (train.class_, "class")):
        without = [caption for caption in captions if word.lower() not in caption.lower()]
        if without:
            yield (
                f"{len(without)} of {len(captions)} captions lack the {key} {word!r}, "
                f"which is then not learned from them: {_list([repr(caption) for caption in without])}"
            )


def word_doubts(train: TrainSpec, tokenizer: Any, captions: Sequence[str]) -> Iterator[str]:
    """Yield what the tokenizer makes doubtful: an identifier that is no rare single token, long captions."""
    numbers = tokenizer(train.identifier, add_special_tokens=False).input_ids
    if train.trains("token"):
        pass
    elif len(numbers) != 1:
        parts = _list([repr(token) for token in tokenizer.convert_ids_to_tokens(numbers)])
        yield f"identifier {train.identifier!r} is {len(numbers)} tokens ({parts}); one rare token learns better: sks"
    elif numbers[0] < RARE_AFTER:
        yield f"identifier {train.identifier!r} is a common word, which has a meaning to unlearn; a rare one: sks"
    limit = tokenizer.model_max_length
    long = [caption for caption in captions if len(tokenizer(caption).input_ids) > limit]
    if long:
        yield f"{len(long)} captions are longer than the {limit} tokens that are read: {_list(long)}"


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
