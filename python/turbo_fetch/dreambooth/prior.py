"""The `[prior]` stage: pictures of the subject's class by the base model itself, which keep it from forgetting.

The folder's record says how they were made, down to a hash of the weights; they are used again only if all of it is
as it was.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from turbo_fetch.dataset.names import PROBE
from turbo_fetch.dreambooth.album import Onlooker, fill, review
from turbo_fetch.dreambooth.sampling import open_pipeline
from turbo_fetch.dreambooth.settings import Settings
from turbo_fetch.dreambooth.weights import model_hash
from turbo_fetch.errors import InputError, SpecError
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.spec import PriorSpec, Spec, TrainSpec
from turbo_fetch.stop import StopRequest
from turbo_fetch.storage import LocalStorage

RECORD: Final = "prior.json"


@dataclass(frozen=True, slots=True)
class PriorReport:
    """What class pictures there are."""

    path: str
    pictures: int
    made: int

    def text(self) -> str:
        """See stages.Report."""
        if self.pictures == 0:
            return f"prior     {self.path}, which was there already"
        return f"prior     {self.path}: {self.pictures:,} class pictures, of which {self.made:,} were made in this run"


def class_pictures(spec: Spec) -> str | None:
    """Return the folder or dataset of this spec's class pictures; None without `[prior]`."""
    if spec.prior is None:
        return None
    if spec.prior.source != "generate":
        return spec.prior.source
    return spec.prior.output or f"{_train(spec).output.rstrip('/')}-class"


def run(spec: Spec, listener: ProgressListener, stop: StopRequest) -> PriorReport:
    """Make the class pictures that are missing; blocks until done.

    Raises SpecError, InputError, ModelError, OutputError, or Interrupted, after which the same call goes on.
    """
    prior = spec.prior
    if prior is None:
        raise SpecError("the spec has no table [prior]")
    train = _train(spec)
    folder = str(class_pictures(spec))
    if prior.source != "generate":
        if "://" not in folder and not Path(folder).exists():
            raise InputError(
                f'prior.source = {folder!r}: no such folder; expected "generate", or a folder or dataset of pictures'
            )
        return PriorReport(folder, 0, 0)
    wanted = plan(prior, train)
    place = LocalStorage(Path(folder))
    place.probe(PROBE)
    found = review(place, wanted)
    for changes in found.different.values():
        listener.note(f"prior: the pictures in {folder} are made anew, for {'; '.join(changes)}")
        break
    _drop_others(place, wanted)
    todo = [name for name in wanted if name in found.missing or name in found.different]
    place.write_bytes(RECORD, _record(wanted))
    made = fill(
        place, wanted, todo, prior, lambda: open_pipeline(train.base, prior), Onlooker(listener, stop)
    )
    return PriorReport(folder, len(wanted), made)


def plan(prior: PriorSpec, train: TrainSpec) -> dict[str, Settings]:
    """Return the settings of every class picture by its name."""
    weights = model_hash(train.base)
    return {
        f"{number:05d}.png": Settings(
            prompt=train.caption(prior.prompt),
            negative=prior.negative,
            seed=prior.seed + number,
            scheduler=prior.scheduler,
            steps=prior.steps,
            guidance=prior.guidance,
            width=prior.width,
            height=prior.height,
            model=train.base,
            model_hash=weights,
            precision=prior.precision,
        )
        for number in range(prior.images)
    }


def _drop_others(place: LocalStorage, wanted: dict[str, Settings]) -> None:
    """Delete pictures that an earlier run of more images made, by its record; nothing else is touched."""
    if place.exists(RECORD):
        for name in json.loads(place.read_bytes(RECORD))["pictures"]:
            if name not in wanted:
                place.delete(name)


def _record(wanted: dict[str, Settings]) -> bytes:
    shared: dict[str, Any] = asdict(next(iter(wanted.values())))
    shared.pop("seed")
    seeds = {name: settings.seed for name, settings in wanted.items()}
    return json.dumps({"made_with": shared, "pictures": seeds}, ensure_ascii=False, indent=1).encode()


def _train(spec: Spec) -> TrainSpec:
    if spec.train is None:
        raise SpecError("[prior] needs a table [train] beside it, which names the base model and the class")
    return spec.train
