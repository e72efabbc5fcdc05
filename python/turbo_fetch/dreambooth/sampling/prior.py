"""The `[prior]` stage: images of the subject's class by the base model itself, which keep it from forgetting.

The folder's record says how they were made, down to a hash of the weights; they are used again only if all of it is
as it was.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from turbo_fetch.dataset.names import PROBE
from turbo_fetch.dreambooth.data.sources import (
    check_images,
    class_images_place,
    class_images_places,
    train_spec_of,
)
from turbo_fetch.dreambooth.families.models import family_of, model_hash
from turbo_fetch.dreambooth.sampling.image_folder import RunControl, Settings, compare, fill, is_own
from turbo_fetch.dreambooth.sampling.sampler import check_sampling, open_model, sampler_name
from turbo_fetch.errors import SpecError
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.spec import PriorSpec, Spec, TrainSpec
from turbo_fetch.stop import StopRequest
from turbo_fetch.storage import LocalStorage

RECORD: Final = "prior.json"


@dataclass(frozen=True, slots=True)
class PriorReport:
    """What class images there are."""

    path: str
    images: int
    made: int

    def text(self) -> str:
        """See stages.Report."""
        if self.images == 0:
            return f"prior     {self.path}, which was there already"
        return f"prior     {self.path}: {self.images:,} class images, of which {self.made:,} were made in this run"


def run(spec: Spec, listener: ProgressListener, stop: StopRequest) -> PriorReport:
    """Make the class images that are missing; blocks until done. What `check` refuses, it did.

    Raises SpecError, InputError, ModelError, OutputError, or Interrupted, after which the same call resumes.
    """
    prior = spec.prior
    if prior is None:
        raise SpecError("the spec has no table [prior]")
    train = train_spec_of(spec)
    folder = str(class_images_place(spec))
    if prior.source != "generate":
        return PriorReport(folder, 0, 0)
    places = class_images_places(spec)
    subjects = {each.class_: each for each in train.each_subject}
    made = sum(
        _make(prior, subjects[class_], place, RunControl(listener, stop)) for class_, place in places.items()
    )
    return PriorReport(folder, prior.images * len(places), made)


def check(spec: Spec) -> None:
    """Raise before anything is made what the stage would: of the model, the place, and images that are there."""
    prior = spec.prior
    if prior is None:
        return
    train = train_spec_of(spec)
    for place in class_images_places(spec).values():
        if prior.source == "generate":
            LocalStorage(Path(place)).probe(PROBE)
        else:
            check_images(spec, place, "prior.source", "class")
    if prior.source == "generate":
        check_sampling(prior, "prior", train.base)


def _make(prior: PriorSpec, train: TrainSpec, folder: str, control: RunControl) -> int:
    """Make the images of one class that are missing; return how many."""
    listener = control.listener
    wanted = plan(prior, train)
    place = LocalStorage(Path(folder))
    found = compare(place, wanted)
    retouched = [name for name in found.retouched if name in found.different]
    found.refuse_others(place.url, "prior.output", [*found.foreign, *retouched])
    found.tell_retouched(place.url, listener.note)
    for changes in found.different.values():
        listener.note(f"prior: the images in {folder} are made again, for {'; '.join(changes)}")
        break
    _drop_others(place, wanted)
    todo = [name for name in wanted if name in found.missing or name in found.different]
    place.write_bytes(RECORD, _record(wanted))
    return fill(place, wanted, todo, prior, lambda: open_model(train.base, prior), control)


def plan(prior: PriorSpec, train: TrainSpec) -> dict[str, Settings]:
    """Return the settings of every class image by its name."""
    weights = model_hash(train.base)
    family = family_of(train.base)
    family.check_negative(prior.negative, "prior.negative")
    scheduler = sampler_name(prior.scheduler, family, "prior.scheduler")
    return {
        f"{number:05d}.png": Settings(
            prompt=train.caption(prior.prompt),
            negative=prior.negative,
            seed=prior.seed + number,
            scheduler=scheduler,
            steps=prior.steps,
            guidance=family.guidance_of(prior.guidance),
            width=prior.width,
            height=prior.height,
            model=train.base,
            model_hash=weights,
            precision=prior.precision,
            vae_tiling=prior.vae_tiling,
        )
        for number in range(prior.images)
    }


def _drop_others(place: LocalStorage, wanted: dict[str, Settings]) -> None:
    """Delete images that an earlier run of more images made, by its record; nothing else is touched."""
    if place.exists(RECORD):
        for name in json.loads(place.read_bytes(RECORD))["pictures"]:
            if name not in wanted and place.exists(name) and is_own(place.read_bytes(name)):
                place.delete(name)


def _record(wanted: dict[str, Settings]) -> bytes:
    shared: dict[str, Any] = asdict(next(iter(wanted.values())))
    shared.pop("seed")
    seeds = {name: settings.seed for name, settings in wanted.items()}
    return json.dumps({"made_with": shared, "pictures": seeds}, ensure_ascii=False, indent=1).encode()
