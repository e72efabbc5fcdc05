"""All images of a run, read, checked and made into the examples of each concept: subject, class, validation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from turbo_fetch.dreambooth.data.cache import Advance, Captions, cached_captions, cached_latents
from turbo_fetch.dreambooth.data.decoding import Size
from turbo_fetch.dreambooth.data.examples import Concept
from turbo_fetch.dreambooth.data.image_set import ExampleSequence, ImageSet, make_image_set
from turbo_fetch.dreambooth.data.images import ImageFile, buckets
from turbo_fetch.dreambooth.data.sources import (
    class_images_place,
    image_warnings,
    read_images,
    subject_place,
    word_warnings,
)
from turbo_fetch.dreambooth.families import Family, Sides
from turbo_fetch.dreambooth.families.trainable import with_all_tokens
from turbo_fetch.dreambooth.run_folder import CACHE
from turbo_fetch.errors import SpecError
from turbo_fetch.spec import Spec, TrainSpec


@dataclass(frozen=True)
class TrainingData:
    """All images of a run, by what they are of."""

    subject: list[ImageFile]
    prior: list[ImageFile]
    validation: list[ImageFile]
    class_prompt: str | None
    """Caption of class images that have none."""

    def digests(self, train: TrainSpec) -> dict[str, list[str]]:
        """Return what tells these images and captions apart from others, in the order in which they are numbered."""
        return {
            "subject": _digests(self.subject, _captions_of(train, self.subject)),
            "class": _digests(self.prior, _captions_of(train, self.prior, self.class_prompt)),
        }


def read_training_data(spec: Spec, train: TrainSpec, note: Callable[[str], None]) -> TrainingData:
    """Read and check all images; says what is doubtful. Raises PicturesError, InputError, SpecError."""
    work = _cache(train)
    subject = read_images(subject_place(spec, train.subject, "train.subject"), "subject", work, note)
    for warning in image_warnings(train, subject, _captions_of(train, subject)):
        note(warning)
    place = class_images_place(spec)
    prior = [] if place is None else read_images(place, "class", work, note)
    validation = []
    if train.validation is not None:
        validation = read_images(train.validation.pictures, "subject", work, note)
    return TrainingData(subject, prior, validation, spec.prior.prompt if spec.prior else None)


def make_concepts(
    train: TrainSpec,
    family: Family,
    data: TrainingData,
    note: Callable[[str], None],
    advance: Advance = lambda _done, _total: None,
) -> dict[str, Concept]:
    """Return the examples of each concept, `subject`, `prior`, `validation`, encoded if they are to be cached.

    `advance` is called for every variant of an image that was encoded, and may raise to stop. Raises SpecError if the
    model cannot make images of that resolution, OutputError.
    """
    captions = _captions_of(train, data.subject)
    for warning in word_warnings(train, next(iter(family.tokenizers.values())), captions):
        note(warning)
    sizes = _sizes(train, family)
    if not family.image_side / 1.5 < train.resolution < family.image_side * 1.5:
        note(
            f"train.resolution = {train.resolution}, but this model was made for images of {family.image_side} pixels "
            f"a side, and far from them it makes worse ones; expected train.resolution = {family.image_side}"
        )
    subject = make_image_set(data.subject, captions, sizes, train.pictures, train.seed)
    concepts = {"subject": _concept(family, subject, train.batch_size, train.pictures.repeats)}
    if data.prior:
        captions = _captions_of(train, data.prior, data.class_prompt)
        prior = make_image_set(data.prior, captions, sizes, train.pictures, train.seed + 1)
        concepts["prior"] = _concept(family, prior, train.batch_size)
    if data.validation:
        captions = _captions_of(train, data.validation)
        plain = train.pictures.model_copy(update={"flip": False, "crop": "center", "caption_dropout": 0.0})
        held_out = make_image_set(data.validation, captions, sizes, plain, train.seed)
        concepts["validation"] = _concept(family, held_out, 1)
    if not train.cache:
        return concepts
    return {
        name: replace(concept, latents=cached_latents(family, concept.image_set, _cache(train), advance))
        for name, concept in concepts.items()
    }


def make_captions(
    train: TrainSpec,
    family: Family,
    concepts: dict[str, Concept],
    advance: Advance = lambda _done, _total: None,
) -> Captions:
    """Return the captions of all concepts as the denoiser is told them, encoded once if no encoder is trained.

    `advance` is called for every caption that was encoded, and may raise to stop.
    """
    if train.learns_words or not train.cache:
        return Captions(family)
    captions = {caption for concept in concepts.values() for caption in concept.image_set.captions}
    return cached_captions(family, [*captions, ""], _cache(train), advance)


def _cache(train: TrainSpec) -> Path:
    return Path(train.output) / CACHE


def _concept(family: Family, image_set: ImageSet, batch_size: int, repeats: int = 1) -> Concept:
    sequence = ExampleSequence(
        image_set.seed,
        tuple(group * repeats for group in image_set.groups.values()),
        batch_size,
        image_set.variants,
        image_set.options.caption_dropout,
    )
    return Concept(image_set, sequence, family.vae_scale)


def _sizes(train: TrainSpec, family: Family) -> Sequence[Size]:
    multiple = family.size_multiple
    largest = family.own_sides.largest
    possible = Sides(multiple, None if largest is None else largest // multiple * multiple)
    near, most = possible.nearest(train.resolution), f" up to {largest:,}" if largest else ""
    if near != train.resolution:
        raise SpecError(
            f"train.resolution = {train.resolution}: sides of this model's images are multiples of {multiple} "
            f"pixels{most}; expected {near}"
        )
    if not train.pictures.buckets:
        return [(train.resolution, train.resolution)]
    sizes = buckets(train.resolution, multiple, train.pictures.max_aspect)
    return [size for size in sizes if largest is None or max(size) <= largest]


def _captions_of(train: TrainSpec, images: Sequence[ImageFile], template: str | None = None) -> list[str]:
    own = train.pictures.captions == "auto"
    return [
        with_all_tokens(train, train.caption(image.caption if own and image.caption else template))
        for image in images
    ]


def _digests(images: Sequence[ImageFile], captions: Sequence[str]) -> list[str]:
    return [f"{image.digest}: {caption}" for image, caption in zip(images, captions, strict=True)]
