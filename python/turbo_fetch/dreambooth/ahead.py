"""What the stages that run a model would be refused for, as far as that is seen without the libraries of models.

Those take seconds to import, during which a fetch before them could have begun.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from glob import has_magic
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from turbo_fetch.dataset.names import PROBE
from turbo_fetch.dataset.place import open_place
from turbo_fetch.dreambooth.data.sources import check_images, image_places, train_spec_of
from turbo_fetch.dreambooth.model_files import index_of
from turbo_fetch.dreambooth.run_folder import is_complete, is_of_run
from turbo_fetch.dreambooth.sampling.prompts import Words, read_prompts
from turbo_fetch.errors import MissingExtra, ModelError
from turbo_fetch.spec import Spec

_LIBRARIES: Final = ("torch", "diffusers", "transformers")


def check_ahead(spec: Spec, stages: Sequence[str]) -> None:
    """Raise for packages, models, images, prompts and places of these stages what they would raise themselves."""
    for name in _LIBRARIES:
        if find_spec(name) is None:
            raise MissingExtra(name, "train", f"the stage [{stages[0]}]")
    for key, model in _models(spec, stages):
        if not Path(model).is_file():
            try:
                index_of(model)
            except ModelError as error:
                raise ModelError(f"{key}: {error}") from error
    for key, place in _images(spec, stages):
        check_images(spec, place, key, "class" if key.startswith("prior") else "subject")
    if spec.generate is not None and "generate" in stages:
        read_prompts(spec.generate.prompts, Words.of_each(spec.train), "generate.prompts")
    for output in _outputs(spec, stages):
        open_place(output).probe(PROBE)


def _models(spec: Spec, stages: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the models that have to be there before the first stage, by key."""
    train, generate, evaluate = spec.train, spec.generate, spec.evaluate
    if "train" in stages and train is not None and not is_complete(Path(train.output), train.steps):
        yield "train.base", train.base
    named = []
    if "generate" in stages and generate is not None and generate.model is not None:
        named.append(("generate.model", generate.model))
    if "evaluate" in stages and evaluate is not None:
        named += [("evaluate.base", evaluate.base)] if evaluate.base else []
        # A folder may hold a LoRA, which is for whoever loads it to say.
        named += [("evaluate.models", model) for model in evaluate.models if not Path(model).exists()]
    yield from ((key, name) for key, name in named if not has_magic(name) and not is_of_run(spec, name))


def _images(spec: Spec, stages: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield folders and datasets of images, by key."""
    train, prior, evaluate = spec.train, spec.prior, spec.evaluate
    if "train" in stages and train is not None and not is_complete(Path(train.output), train.steps):
        yield from image_places(spec).items()
    if "prior" in stages and prior is not None and prior.source != "generate":
        train_spec_of(spec)
        yield "prior.source", prior.source
    if "evaluate" in stages and evaluate is not None and evaluate.subject is not None:
        yield "evaluate.subject", evaluate.subject


def _outputs(spec: Spec, stages: Sequence[str]) -> Iterator[str]:
    tables = {"train": spec.train, "generate": spec.generate, "evaluate": spec.evaluate}
    yield from (table.output for name, table in tables.items() if name in stages and table is not None)
