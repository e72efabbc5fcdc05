"""What a run of `[train]` would be refused for, found before anything is made; no weights are read."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from turbo_fetch.dataset.names import PROBE
from turbo_fetch.dataset.place import open_place
from turbo_fetch.dreambooth.data.sources import check_images, image_places
from turbo_fetch.dreambooth.data.training_data import image_sizes
from turbo_fetch.dreambooth.families import FAMILIES, family_of, skeleton
from turbo_fetch.dreambooth.families.loading import check_files
from turbo_fetch.dreambooth.families.quantised import check_quantisation
from turbo_fetch.dreambooth.families.trainable import configure_trainable
from turbo_fetch.dreambooth.run_folder import check_record, check_steps, essentials, is_complete, read_record
from turbo_fetch.dreambooth.training.machine import check_machine
from turbo_fetch.dreambooth.training.optimisers import optimiser_class
from turbo_fetch.dreambooth.training.trainer import compiled_blocks
from turbo_fetch.errors import SpecError
from turbo_fetch.spec import Spec, TrainSpec


def check_training(spec: Spec) -> None:
    """Raise what the stage would: of options, machine, model, place, and images that are there."""
    train = spec.train
    if train is None:
        return
    output = Path(train.output)
    before = read_record(output)
    if is_complete(output, train.steps):
        # What is complete has no need of its base any more.
        known = FAMILIES.get(before.get("pipeline", ""))
        _check_record(output, before, train if known is None else known.with_defaults(train))
        return
    _check_options(train)
    if spec.engine.kind != "ray":
        # Its workers are on other machines.
        check_machine(train)
    filled = _checked_by_shapes(train)
    if before:
        _check_record(output, before, filled)
    open_place(train.output).probe(PROBE)
    for key, folder in image_places(spec).items():
        check_images(spec, folder, key)


def _check_options(train: TrainSpec) -> None:
    """Refuse what the base or this installation cannot do, before anything is read. Raises SpecError, MissingExtra."""
    optimiser_class(train.optimiser.kind)
    check_quantisation(train.base_precision)
    family_of(train.base).check_options(train)
    check_files(train.base)
    if train.strategy.startswith("deepspeed") and find_spec("deepspeed") is None:
        raise SpecError(
            f"train.strategy = {train.strategy!r} needs the package 'deepspeed'. Install it with: pip install deepspeed"
        )


def _checked_by_shapes(train: TrainSpec) -> TrainSpec:
    """Return `[train]` as the family fills it in; refuse what no model of these shapes can learn. Raises SpecError."""
    family = skeleton(train.base)
    train = family.with_defaults(train)
    image_sizes(train, family)
    compiled_blocks(family.denoiser, train.compile)
    configure_trainable(family, train)
    return train


def _check_record(output: Path, before: Mapping[str, Any], train: TrainSpec) -> None:
    """Raise OutputExists for a run of another spec; its images and the weights of its base are looked at later."""
    check_record(output, before, essentials(train, {}))
    check_steps(output, before.get("steps_done") or 0, train)
