"""All pictures of a run, read, checked and made into examples of each kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from turbo_fetch.dreambooth.caches import Captions, cached_captions, cached_latents
from turbo_fetch.dreambooth.collection import Collection, collect
from turbo_fetch.dreambooth.examples import Kind
from turbo_fetch.dreambooth.families import Family
from turbo_fetch.dreambooth.geometry import Size, buckets
from turbo_fetch.dreambooth.learners import Learners, spoken
from turbo_fetch.dreambooth.pictures import Picture
from turbo_fetch.dreambooth.preflight import doubts, word_doubts
from turbo_fetch.dreambooth.prior import class_pictures
from turbo_fetch.dreambooth.sequence import ExampleSequence
from turbo_fetch.dreambooth.sources import read_pictures, subject_place
from turbo_fetch.errors import SpecError
from turbo_fetch.spec import Spec, TrainSpec

CACHE: Final = "cache"


@dataclass(frozen=True)
class Material:
    """All pictures of a run, by what they are of."""

    subject: list[Picture]
    prior: list[Picture]
    validation: list[Picture]
    class_prompt: str | None
    """Caption of class pictures that have none."""

    def digests(self, train: TrainSpec) -> dict[str, list[str]]:
        """Return what tells these pictures and captions apart from others, in the order in which they are numbered."""
        return {
            "subject": _digests(self.subject, _captions_of(train, self.subject)),
            "class": _digests(self.prior, _captions_of(train, self.prior, self.class_prompt)),
        }


def read_material(spec: Spec, train: TrainSpec, note: Callable[[str], None]) -> Material:
    """Read and check all pictures; says what is doubtful. Raises PicturesError, InputError, SpecError."""
    work = Path(train.output) / CACHE
    subject = read_pictures(subject_place(spec, train.subject, "train.subject"), "subject", work, note)
    for doubt in doubts(train, subject, _captions_of(train, subject)):
        note(doubt)
    place = class_pictures(spec)
    prior = [] if place is None else read_pictures(place, "class", work, note)
    validation = []
    if train.validation is not None:
        validation = read_pictures(train.validation.pictures, "subject", work, note)
    return Material(subject, prior, validation, spec.prior.prompt if spec.prior else None)


def make_kinds(
    train: TrainSpec, family: Family, material: Material, note: Callable[[str], None]
) -> dict[str, Kind]:
    """Return the examples of each kind, `subject`, `prior`, `validation`, encoded if they are to be cached.

    Raises SpecError if the model cannot make pictures of that resolution, OutputError.
    """
    captions = _captions_of(train, material.subject)
    for doubt in word_doubts(train, next(iter(family.tokenizers.values())), captions):
        note(doubt)
    sizes = _sizes(train, family)
    subject = collect(material.subject, captions, sizes, train.pictures, train.seed)
    kinds = {"subject": _kind(train, family, subject, train.batch_size, train.pictures.repeats)}
    if material.prior:
        captions = _captions_of(train, material.prior, material.class_prompt)
        prior = collect(material.prior, captions, sizes, train.pictures, train.seed + 1)
        kinds["prior"] = _kind(train, family, prior, train.batch_size)
    if material.validation:
        captions = _captions_of(train, material.validation)
        plain = train.pictures.model_copy(update={"flip": False, "crop": "center", "caption_dropout": 0.0})
        kinds["validation"] = _kind(
            train, family, collect(material.validation, captions, sizes, plain, train.seed), 1
        )
    return kinds


def make_captions(train: TrainSpec, family: Family, learners: Learners, kinds: dict[str, Kind]) -> Captions:
    """Return the captions of all kinds as the denoiser is told them, encoded once if no encoder learns."""
    if learners.text or not train.cache:
        return Captions(family)
    spoken_captions = {caption for kind in kinds.values() for caption in kind.collection.captions}
    return cached_captions(family, [*spoken_captions, ""], Path(train.output) / CACHE)


def _kind(
    train: TrainSpec, family: Family, collection: Collection, batch_size: int, repeats: int = 1
) -> Kind:
    sequence = ExampleSequence(
        collection.seed,
        tuple(group * repeats for group in collection.groups.values()),
        batch_size,
        collection.variants,
        collection.options.caption_dropout,
    )
    kind = Kind(collection, sequence, family.vae_scale)
    if not train.cache:
        return kind
    return replace(kind, latents=cached_latents(family, collection, Path(train.output) / CACHE))


def _sizes(train: TrainSpec, family: Family) -> Sequence[Size]:
    multiple = family.size_multiple
    if train.resolution % multiple:
        near = round(train.resolution / multiple) * multiple or multiple
        raise SpecError(
            f"train.resolution = {train.resolution}: sides of this model's pictures are multiples of {multiple} "
            f"pixels; expected for instance {near}"
        )
    if not train.pictures.buckets:
        return [(train.resolution, train.resolution)]
    return buckets(train.resolution, multiple, train.pictures.max_aspect)


def _captions_of(train: TrainSpec, pictures: Sequence[Picture], template: str | None = None) -> list[str]:
    own = train.pictures.captions == "auto"
    return [
        spoken(train, train.caption(picture.caption if own and picture.caption else template))
        for picture in pictures
    ]


def _digests(pictures: Sequence[Picture], captions: Sequence[str]) -> list[str]:
    return [f"{picture.digest}: {caption}" for picture, caption in zip(pictures, captions, strict=True)]
