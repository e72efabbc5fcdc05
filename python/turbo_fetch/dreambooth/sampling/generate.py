"""The `[generate]` stage: from prompts to images, each a function of its settings, which it carries inside."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from turbo_fetch.dataset.names import PROBE
from turbo_fetch.dataset.place import open_place
from turbo_fetch.dreambooth.data.images import grid
from turbo_fetch.dreambooth.families import Family
from turbo_fetch.dreambooth.families.models import base_of, check_named, family_of, weights_of
from turbo_fetch.dreambooth.run_folder import is_complete, is_of_run, trained_model
from turbo_fetch.dreambooth.sampling.image_folder import (
    TO_COME,
    RunControl,
    Settings,
    compare,
    fill,
    write_own,
)
from turbo_fetch.dreambooth.sampling.prompts import Words, read_prompts
from turbo_fetch.dreambooth.sampling.sampler import check_sampling, open_model, sampler_name
from turbo_fetch.errors import SpecError
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.spec import GenerateSpec, Spec, TrainSpec
from turbo_fetch.stop import StopRequest
from turbo_fetch.storage import Storage

GRID = "grid.png"
LARGEST_GRID = 400
"""Images on a grid; more are no longer looked at together, and would take gigabytes to lay out."""


@dataclass(frozen=True, slots=True)
class GenerateReport:
    """What was made."""

    path: str
    images: int
    made: int

    def text(self) -> str:
        """See stages.Report."""
        return f"images    {self.path}: {self.images:,}, of which {self.made:,} were made in this run"


def run(spec: Spec, listener: ProgressListener, stop: StopRequest) -> GenerateReport:
    """Make the images that are missing; blocks until done. What `check` refuses, it did.

    Raises SpecError, InputError, ModelError, OutputError, OutputExists if the place holds images of other
    settings, or Interrupted, after which the same call resumes with the missing ones.
    """
    generate = spec.generate
    if generate is None:
        raise SpecError("the spec has no table [generate]; expected one with the key prompts")
    prompts = read_prompts(generate.prompts, Words.of_each(spec.train), "generate.prompts")
    model, lora = trained_model(spec, generate.model, generate.lora, "generate.model")
    place = open_place(generate.output)
    wanted = plan(generate, prompts, _Weights.of(generate, model, lora))
    found = compare(place, wanted)
    found.refuse(place.url, "generate.output")
    found.tell_retouched(place.url, listener.note)
    made = fill(
        place,
        wanted,
        found.missing,
        generate,
        lambda: open_model(model, generate, lora, generate.lora_scale, generate.embedding),
        RunControl(listener, stop),
    )
    wants_grid = generate.grid and len(wanted) <= LARGEST_GRID and (made or not place.exists(GRID))
    if wants_grid and not write_own(place, GRID, _sheet(place, wanted)):
        listener.note(f"{place.url}: {GRID} is not one that turbo-fetch made, and left as it is")
    return GenerateReport(place.url, len(wanted), made)


def check(spec: Spec) -> None:
    """Raise before anything is made what the stage would: of prompts, files that it names, its place and its images."""
    generate, train = spec.generate, spec.train
    if generate is None:
        return
    prompts = read_prompts(generate.prompts, Words.of_each(train), "generate.prompts")
    for kind in ("model", "lora", "embedding"):
        name = getattr(generate, kind)
        if name is not None and not is_of_run(spec, name):
            check_named(name, f"generate.{kind}", kind)
    place = open_place(generate.output)
    place.probe(PROBE)
    if train is None or is_complete(Path(train.output), train.steps):
        model, _ = trained_model(spec, generate.model, generate.lora, "generate.model")
        check_sampling(generate, "generate", base_of(model))
        return
    weights = _Weights.to_come(spec, generate, train)
    check_sampling(
        generate, "generate", train.base if is_of_run(spec, weights.model) else base_of(weights.model)
    )
    compare(place, plan(generate, prompts, weights)).refuse(place.url, "generate.output")


@dataclass(frozen=True, slots=True)
class _Weights:
    """What images are made with, and hashes of it."""

    family: type[Family]
    model: str
    model_hash: str
    lora: str | None
    lora_hash: str | None
    word_hash: str | None

    @classmethod
    def of(cls, generate: GenerateSpec, model: str, lora: str | None) -> _Weights:
        """Return it of a model and a LoRA that are there. Raises ModelError."""
        word = generate.embedding
        return cls(
            family_of(model),
            model,
            weights_of(model),
            lora,
            None if lora is None else weights_of(lora),
            None if word is None else weights_of(word),
        )

    @classmethod
    def to_come(cls, spec: Spec, generate: GenerateSpec, train: TrainSpec) -> _Weights:
        """Return it before `[train]` has run: nobody knows the hash of what that makes. Raises ModelError."""

        def hash_of(name: str | None) -> str | None:
            if name is None:
                return None
            return TO_COME if is_of_run(spec, name) else weights_of(name)

        is_lora = train.method == "lora" and (generate.model is None or is_of_run(spec, generate.model))
        model = train.base if is_lora else generate.model or train.output
        lora = generate.lora or (train.output if is_lora else None)
        family = family_of(train.base if is_of_run(spec, model) else model)
        return cls(family, model, hash_of(model) or "", lora, hash_of(lora), hash_of(generate.embedding))


def plan(generate: GenerateSpec, prompts: Sequence[str], weights: _Weights) -> dict[str, Settings]:
    """Return the settings of every image by its name, prompt by prompt. Raises SpecError."""
    family = weights.family
    family.check_negative(generate.negative, "generate.negative")
    scheduler = sampler_name(generate.scheduler, family, "generate.scheduler")
    wanted = {}
    for row, prompt in enumerate(prompts):
        for number in range(generate.images):
            wanted[f"{row:05d}-{number:03d}.png"] = Settings(
                prompt=prompt,
                negative=generate.negative,
                seed=generate.seed + number + (0 if generate.fixed_code else row * generate.images),
                scheduler=scheduler,
                steps=generate.steps,
                guidance=family.guidance_of(generate.guidance),
                width=generate.width,
                height=generate.height,
                model=weights.model,
                model_hash=weights.model_hash,
                lora=weights.lora,
                lora_hash=weights.lora_hash,
                lora_scale=generate.lora_scale if weights.lora is not None else 1.0,
                precision=generate.precision,
                embedding=generate.embedding,
                embedding_hash=weights.word_hash,
                vae_tiling=generate.vae_tiling,
            )
    return wanted


def _sheet(place: Storage, wanted: Mapping[str, Settings]) -> Image.Image:
    lines: dict[str, list[Image.Image]] = {}
    labels: dict[str, str] = {}
    for name, settings in wanted.items():
        row = name.partition("-")[0]
        lines.setdefault(row, []).append(Image.open(io.BytesIO(place.read_bytes(name))))
        labels[row] = settings.prompt
    return grid(list(lines.values()), list(labels.values()))
