"""Where pictures come from: a folder, a dataset of turbo-fetch, or what the fetch stage of the same spec made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from turbo_fetch.dreambooth.pictures import Picture
from turbo_fetch.dreambooth.preflight import read_folder
from turbo_fetch.errors import SpecError
from turbo_fetch.spec import Spec

FETCHED = "fetch"


def read_pictures(place: str, what: str, work: Path, note: Callable[[str], None]) -> list[Picture]:
    """Return the pictures at a place, opened and checked. Raises PicturesError, InputError."""
    return read_folder(Path(place), what, note)


def subject_place(spec: Spec, place: str, key: str) -> str:
    """Return where pictures are, with `fetch` resolved. Raises SpecError."""
    if place != FETCHED:
        return place
    if spec.fetch is None:
        raise SpecError(f'{key} = "fetch", but the spec has no [fetch]; expected it, or a folder or dataset')
    return spec.fetch.output.path
