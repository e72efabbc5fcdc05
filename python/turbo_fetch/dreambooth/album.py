"""A place that is filled with pictures, each published whole and known by the settings inside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from turbo_fetch.dreambooth.sampling import Shot, make_pictures
from turbo_fetch.dreambooth.schedulers import known_as
from turbo_fetch.dreambooth.settings import Settings, settings_in, to_png
from turbo_fetch.errors import InputError
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.spec.dreambooth import SamplingTable
from turbo_fetch.stop import StopRequest
from turbo_fetch.storage import Storage


@dataclass(frozen=True, slots=True)
class Review:
    """What of an album is there already."""

    missing: tuple[str, ...]
    """Names of pictures that are not there, or not whole."""
    different: Mapping[str, list[str]]
    """Names of pictures that were made with other settings, and what differs."""


@dataclass(frozen=True, slots=True)
class Onlooker:
    """Who is told of the progress, and who may stop it."""

    listener: ProgressListener
    stop: StopRequest


def review(place: Storage, wanted: Mapping[str, Settings]) -> Review:
    """Compare the pictures of a place with those that are wanted, by name."""
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
    return Review(tuple(missing), different)


def fill(
    place: Storage,
    wanted: Mapping[str, Settings],
    names: Iterable[str],
    sampling: SamplingTable,
    open_model: Callable[[], Any],
    onlooker: Onlooker,
) -> int:
    """Make the pictures of these names and publish each as it is ready; return how many.

    Raises Interrupted, ModelError, OutputError; what was published stays.
    """
    shots = [Shot(name, wanted[name].prompt, wanted[name].seed) for name in names]
    if not shots:
        return 0
    pipeline = open_model()
    sampler = known_as(sampling.scheduler, pipeline.scheduler)
    pictures = make_pictures(pipeline, sampling, shots, lambda: bool(onlooker.stop))
    for done, (shot, picture) in enumerate(pictures, start=1):
        place.write_bytes(shot.name, to_png(picture, wanted[shot.name], sampler))
        onlooker.listener.step(done, len(shots), "pictures", {})
        onlooker.listener.refresh()
    return len(shots)
