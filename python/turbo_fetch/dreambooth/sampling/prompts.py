"""The prompts of a stage: given in the spec, in a file, or those of the DreamBooth paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from turbo_fetch.errors import InputError
from turbo_fetch.spec import TrainSpec

PAPER_OBJECT: Final = (
    "a {identifier} {class} in the jungle",
    "a {identifier} {class} in the snow",
    "a {identifier} {class} on the beach",
    "a {identifier} {class} on a cobblestone street",
    "a {identifier} {class} on top of pink fabric",
    "a {identifier} {class} on top of a wooden floor",
    "a {identifier} {class} with a city in the background",
    "a {identifier} {class} with a mountain in the background",
    "a {identifier} {class} with a blue house in the background",
    "a {identifier} {class} on top of a purple rug in a forest",
    "a {identifier} {class} with a wheat field in the background",
    "a {identifier} {class} with a tree and autumn leaves in the background",
    "a {identifier} {class} with the Eiffel Tower in the background",
    "a {identifier} {class} floating on top of water",
    "a {identifier} {class} floating in an ocean of milk",
    "a {identifier} {class} on top of green grass with sunflowers around it",
    "a {identifier} {class} on top of a mirror",
    "a {identifier} {class} on top of the sidewalk in a crowded street",
    "a {identifier} {class} on top of a dirt road",
    "a {identifier} {class} on top of a white rug",
    "a red {identifier} {class}",
    "a purple {identifier} {class}",
    "a shiny {identifier} {class}",
    "a wet {identifier} {class}",
    "a cube shaped {identifier} {class}",
)
"""The 25 prompts of the paper (arXiv 2208.12242, supplementary training_data) for objects."""

PAPER_LIVE: Final = (
    *PAPER_OBJECT[:10],
    "a {identifier} {class} wearing a red hat",
    "a {identifier} {class} wearing a santa hat",
    "a {identifier} {class} wearing a rainbow scarf",
    "a {identifier} {class} wearing a black top hat and a monocle",
    "a {identifier} {class} in a chef outfit",
    "a {identifier} {class} in a firefighter outfit",
    "a {identifier} {class} in a police outfit",
    "a {identifier} {class} wearing pink glasses",
    "a {identifier} {class} wearing a yellow shirt",
    "a {identifier} {class} in a purple wizard outfit",
    "a red {identifier} {class}",
    "a purple {identifier} {class}",
    "a shiny {identifier} {class}",
    "a wet {identifier} {class}",
    "a cube shaped {identifier} {class}",
)
"""Those for living subjects, which are the same in part."""

_PAPER: Final = {"paper": PAPER_OBJECT, "paper-live": PAPER_LIVE}


@dataclass(frozen=True, slots=True)
class Words:
    """What stands for `{identifier}` and `{class}` in a prompt; None if nothing says."""

    identifier: str | None = None
    class_: str | None = None

    @classmethod
    def of(cls, train: TrainSpec | None) -> Words:
        """Return the words of `[train]` for one subject."""
        return cls() if train is None else cls(train.identifier, train.class_)

    @classmethod
    def of_each(cls, train: TrainSpec | None) -> tuple[Words, ...]:
        """Return the words of each subject of `[train]`."""
        return (cls(),) if train is None else tuple(map(cls.of, train.each_subject))

    def fill(self, template: str, key: str) -> str:
        """Return the template with the words in it. Raises InputError, naming `key`, for a word that is missing."""
        for field, word in (("{identifier}", self.identifier), ("{class}", self.class_)):
            if field in template:
                if word is None:
                    raise InputError(
                        f"{key}: {template!r} speaks of the subject, but the spec has no [train] that names "
                        "identifier and class"
                    )
                template = template.replace(field, word)
        return template


def read_prompts(given: str | tuple[str, ...], subjects: Sequence[Words], key: str) -> tuple[str, ...]:
    """Return the prompts with `{identifier}` and `{class}` filled in, for each subject where there are several.

    `given` is a list, `paper`, `paper-live`, or a file with one prompt per line. Raises InputError, naming `key`.
    """
    lines = given if isinstance(given, tuple) else _PAPER.get(given) or _lines(Path(given), key)
    return tuple(
        prompt for line in lines for prompt in dict.fromkeys(words.fill(line, key) for words in subjects)
    )


def _lines(path: Path, key: str) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except FileNotFoundError:
        raise InputError(
            f"{key} = {str(path)!r}: no such file; expected a list of prompts, or a text file with one per line"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{key} = {str(path)!r}: cannot be read as a UTF-8 text file: {error}") from error
    prompts = [line for line in lines if line and not line.startswith("#")]
    if not prompts:
        raise InputError(f"{key} = {str(path)!r}: holds no prompt; expected one per line")
    return prompts
