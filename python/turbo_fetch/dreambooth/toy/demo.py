"""The demonstration: a base, a subject that it has never seen, training, and the pictures before and after."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from PIL import Image

from turbo_fetch.dreambooth.grid import grid
from turbo_fetch.dreambooth.toy.base import Recipe, recipe_text, train_base
from turbo_fetch.dreambooth.toy.judge import Judge
from turbo_fetch.dreambooth.toy.lesson import Lesson, learn, pictures_of, recognised, take_photos
from turbo_fetch.errors import Interrupted
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.stop import StopRequest
from turbo_fetch.storage.failures import explained

SHEET: Final = "sheet.png"
JUDGED: Final = 32
"""Pictures per prompt that are judged."""
SHOWN: Final = 10
"""Of them, those on the sheet."""
SIDE_SHOWN: Final = 80


@dataclass(frozen=True, slots=True)
class DemoReport:
    """What the judge says: means of P(subject | picture)."""

    sheet: Path
    identifier: str
    class_: str
    known_before: float
    known: float
    drift: float
    drift_without_prior: float

    def text(self) -> str:
        """Return the report as lines for a person."""
        return "\n".join(
            (
                "How surely a judge sees the subject, 0 to 1:",
                f"  {self.identifier!r}, before training: {self.known_before:.2f}",
                f"  {self.identifier!r}, after training: {self.known:.2f}",
                f"  {self.class_!r}, after training: {self.drift:.2f}",
                f"  {self.class_!r}, trained without class pictures: {self.drift_without_prior:.2f}",
                f"pictures  {self.sheet}",
            )
        )


def base_in(cache: Path, recipe: Recipe, listener: ProgressListener, stop: StopRequest) -> Path:
    """Return the folder of the toy base, which is trained first if the cache has none of this recipe.

    Raises MissingExtra, OutputError, or Interrupted, after which it begins anew.
    """
    folder = cache / f"toy-base-{hashlib.sha256(recipe_text(recipe).encode()).hexdigest()[:12]}"
    if (folder / "model_index.json").is_file():
        return folder
    listener.stage("base")

    def progress(_phase: str, done: int, total: int) -> None:
        if stop:
            raise Interrupted("stopped while training the toy base, which begins anew next time")
        listener.step(done, total, "steps", {})
        listener.refresh()

    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    with explained(str(folder)):
        partial.mkdir(parents=True, exist_ok=True)
        train_base(partial, recipe, progress)
        partial.rename(folder)
    return folder


def run(lesson: Lesson, listener: ProgressListener, stop: StopRequest) -> DemoReport:
    """Teach the base the subject, with and without class pictures, and lay the pictures out on a sheet.

    Raises as the stages `[prior]` and `[train]`, or Interrupted, after which the same call goes on.
    """
    with_prior = replace(lesson, folder=lesson.folder / "with-prior", with_prior=True)
    without = replace(lesson, folder=lesson.folder / "without-prior", with_prior=False)
    photos = take_photos(with_prior)
    take_photos(without)
    learn(with_prior, listener, stop)
    learn(without, listener, stop)
    identifier, class_ = lesson.identifier_prompt, lesson.class_prompt
    lines = {
        f"the {len(photos)} photos of the subject": photos,
        f"before: {identifier}": pictures_of(lesson.base, identifier, JUDGED),
        f"after: {identifier}": pictures_of(with_prior.model, identifier, JUDGED),
        f"before: {class_}": pictures_of(lesson.base, class_, JUDGED),
        f"after: {class_}": pictures_of(with_prior.model, class_, JUDGED),
        f"after, trained without class pictures: {class_}": pictures_of(without.model, class_, JUDGED),
    }
    _, before, after, _, drift, drift_without = lines.values()
    judge = Judge()

    def known(pictures: Sequence[Image.Image]) -> float:
        return recognised(judge, pictures, lesson)

    sheet = lesson.folder / SHEET
    with explained(str(sheet)):
        grid([line[:SHOWN] for line in lines.values()], list(lines), SIDE_SHOWN).save(sheet)
    return DemoReport(
        sheet, identifier, class_, known(before), known(after), known(drift), known(drift_without)
    )
