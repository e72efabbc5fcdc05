"""Places on the driver's disk that workers read themselves, and what each looks for to prove that it sees them too.

On a machine that lacks a folder, or has an empty one where a disk should be mounted, every row would fail.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from glob import iglob
from itertools import islice
from pathlib import Path
from typing import Final

from turbo_fetch.errors import InputError
from turbo_fetch.plan.lists import image_folders
from turbo_fetch.spec import FetchSpec
from turbo_fetch.storage.filesystems import path_of

MOST: Final = 8
"""So many paths are looked for below each folder, down to so many folders deep."""


@dataclass(frozen=True, slots=True)
class Landmark:
    """A place that the driver has. It can be pickled."""

    key: str
    """Which key of the spec names it."""
    place: str
    paths: tuple[str, ...]
    """Some of what is in it, of which a worker has to see one: files come and go."""


def places(fetch: FetchSpec) -> list[tuple[str, Path]]:
    """Return the places of this disk that the workers of a job read, each with the key that names it."""
    deny = fetch.deny
    named = [("fetch.input.urls", each) for each in image_folders(fetch.input)]
    if fetch.input.image_column is not None:
        urls = fetch.input.urls
        named += [("fetch.input.urls", each) for each in ([urls] if isinstance(urls, str) else urls)]
    named += [("fetch.sources.files", each) for each in fetch.sources.files]
    for name, lists in (("urls", deny.urls), ("domains", deny.domains), ("hashes", deny.hashes)):
        named += [(f"fetch.deny.{name}", each) for each in lists]
    return [(key, path) for key, place in named if (path := path_of(place)) is not None]


def landmarks(places: Iterable[tuple[str, Path]]) -> tuple[Landmark, ...]:
    """Return what a worker that begins now has to see, as far as it is there."""
    return tuple(Landmark(key, str(place), found) for key, place in places if (found := tuple(_paths(place))))


def look_for(landmarks: Iterable[Landmark]) -> None:
    """Raise InputError if this machine lacks one of the places that the driver has."""
    for landmark in landmarks:
        if not any(map(os.path.lexists, landmark.paths)):
            raise InputError(
                f"{landmark.place} ({landmark.key}): the machine {os.uname().nodename} does not see there what the "
                f"driver sees (such as {landmark.paths[0]}); expected the same under this path on all machines: mount "
                "it there, or use an object store"
            )


def _paths(place: Path) -> Iterator[str]:
    """Yield a place that is a file, or some of what is in a folder or matches a pattern, if there is anything."""
    if not place.exists():
        # A pattern may have such parts that Path.glob refuses.
        yield from islice(iglob(str(place), recursive=True), MOST)  # noqa: PTH207
        return
    yield from map(_far_below, _first(str(place), MOST)) if place.is_dir() else [str(place)]


def _far_below(path: str) -> str:
    """Return what is in a folder, or in a folder of it: an empty one may be where another disk is mounted elsewhere."""
    for _ in range(MOST):
        inside = _first(path, 1)
        if not inside:
            break
        path = inside[0]
    return path


def _first(folder: str, most: int) -> list[str]:
    """Return the paths of some entries of a folder; none of what is a file, or may not be read."""
    with suppress(OSError), os.scandir(folder) as found:
        return [entry.path for entry in islice(found, most)]
    return []
