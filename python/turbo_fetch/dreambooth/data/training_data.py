"""All images of a run, read, checked and made into the examples of each concept: subject, class, validation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from turbo_fetch.dreambooth.data.annotator import annotated, open_annotator
from turbo_fetch.dreambooth.data.cache import Advance, Captions, cached_captions, cached_latents
from turbo_fetch.dreambooth.data.decoding import Size
from turbo_fetch.dreambooth.data.examples import Concept, SubjectExamples
from turbo_fetch.dreambooth.data.image_set import ExampleSequence, ImageSet, make_image_set
from turbo_fetch.dreambooth.data.images import ImageFile, buckets
from turbo_fetch.dreambooth.data.sources import (
    class_images_places,
    image_warnings,
    length_warnings,
    read_images,
    subject_place,
    word_warnings,
)
from turbo_fetch.dreambooth.families import Family, Sides
from turbo_fetch.dreambooth.families.trainable import with_all_tokens
from turbo_fetch.dreambooth.run_folder import CACHE
from turbo_fetch.errors import PicturesError, SpecError
from turbo_fetch.spec import Spec, TrainSpec


@dataclass(frozen=True)
class SubjectImages:
    """All images that are there for one subject."""

    train: TrainSpec
    """What the run is for this subject, as if it were the only one."""
    subject: list[ImageFile]
    prior: list[ImageFile]
    validation: list[ImageFile]


@dataclass(frozen=True)
class TrainingData:
    """All images of a run, by what they are of."""

    subjects: tuple[SubjectImages, ...]
    class_prompt: str | None
    """Caption of class images that have none."""

    def digests(self) -> dict[str, list[str]]:
        """Return what tells these images and captions apart from others, in the order in which they are numbered."""
        found = {}
        for images in self.subjects:
            alone, train = len(self.subjects) == 1, images.train
            subject, class_ = ("subject", "class") if alone else (train.identifier, f"class {train.class_}")
            found[subject] = _digests(images.subject, _captions_of(train, images.subject))
            found[class_] = _digests(images.prior, _captions_of(train, images.prior, self.class_prompt))
        return found


def read_training_data(spec: Spec, train: TrainSpec, note: Callable[[str], None]) -> TrainingData:
    """Read and check all images; says what is doubtful. Raises PicturesError, InputError, SpecError."""
    work, annotator = _cache(train), open_annotator(train.pictures)

    def of_subject(place: str) -> list[ImageFile]:
        try:
            found = read_images(place, "subject", work, note)
        except PicturesError as error:
            if spec.fetch is None or place != spec.fetch.output.path:
                raise
            raise PicturesError(f'train.subject = "fetch", what fetch.output.path has: {error}') from error
        return found if annotator is None else annotated(found, annotator, work, note)

    priors = {
        class_: read_images(place, "class", work, note) for class_, place in class_images_places(spec).items()
    }
    subjects = []
    for each, held_out in zip(train.each_subject, train.held_out, strict=True):
        subject = of_subject(subject_place(spec, each.subject, "train.subject"))
        for warning in image_warnings(each, subject, _captions_of(each, subject)):
            note(warning)
        validation = of_subject(held_out) if held_out else []
        subjects.append(SubjectImages(each, subject, priors.get(each.class_, []), validation))
    return TrainingData(tuple(subjects), spec.prior.prompt if spec.prior else None)


def make_concepts(
    train: TrainSpec,
    family: Family,
    data: TrainingData,
    note: Callable[[str], None],
    advance: Advance = lambda _done, _total: None,
) -> tuple[SubjectExamples, ...]:
    """Return the examples of each subject, encoded if they are to be cached.

    `advance` is called for every variant of an image that was encoded, and may raise to stop. Raises SpecError if the
    model cannot make images of that resolution, OutputError.
    """
    sizes = image_sizes(train, family)
    if not family.image_side / 1.5 < train.resolution < family.image_side * 1.5:
        note(
            f"train.resolution = {train.resolution}, but this model was made for images of {family.image_side} pixels "
            f"a side, and far from them it makes worse ones; expected train.resolution = {family.image_side}"
        )
    made, words = [], [images.train.identifier for images in data.subjects]
    for number, images in enumerate(data.subjects):
        captions = [
            *_captions_of(images.train, images.subject),
            *_captions_of(images.train, images.prior, data.class_prompt),
            *_captions_of(images.train, images.validation),
        ]
        for warning in (
            *word_warnings(images.train, family.prompt_tokenizer, words),
            *length_warnings(family, captions),
        ):
            note(warning)
        made.append(_examples_of(family, images, data.class_prompt, sizes, train.seed + 2 * number))
    return tuple(_encoded(train, family, examples, note, advance) for examples in made)


def _examples_of(
    family: Family, images: SubjectImages, class_prompt: str | None, sizes: Sequence[Size], seed: int
) -> SubjectExamples:
    """Return the examples of a subject, not encoded."""
    train = images.train
    pictures = train.pictures
    subject = make_image_set(images.subject, _captions_of(train, images.subject), sizes, pictures, seed)
    examples = SubjectExamples(
        train.identifier, _concept(family, subject, train.batch_size, pictures.repeats)
    )
    if images.prior:
        captions = _captions_of(train, images.prior, class_prompt)
        prior = make_image_set(images.prior, captions, sizes, pictures, seed + 1)
        examples = replace(examples, prior=_concept(family, prior, train.batch_size))
    if images.validation:
        captions = _captions_of(train, images.validation)
        plain = pictures.model_copy(update={"flip": False, "crop": "center", "caption_dropout": 0.0})
        held_out = make_image_set(images.validation, captions, sizes, plain, seed)
        examples = replace(examples, validation=_concept(family, held_out, 1))
    return examples


def _encoded(
    train: TrainSpec,
    family: Family,
    examples: SubjectExamples,
    note: Callable[[str], None],
    advance: Advance,
) -> SubjectExamples:
    if not train.cache:
        return examples

    def cached(concept: Concept | None) -> Concept | None:
        if concept is None:
            return None
        latents = cached_latents(family, concept.image_set, _cache(train), note, advance)
        return replace(concept, latents=latents)

    subject = cached(examples.subject)
    assert subject is not None
    return replace(
        examples, subject=subject, prior=cached(examples.prior), validation=cached(examples.validation)
    )


def make_captions(
    train: TrainSpec,
    family: Family,
    subjects: Sequence[SubjectExamples],
    note: Callable[[str], None],
    advance: Advance,
) -> Captions:
    """Return the captions of all concepts as the denoiser is told them, encoded once if no encoder is trained.

    `advance` is called for every caption that was encoded, and may raise to stop.
    """
    if train.learns_words or not train.cache:
        return Captions(family)
    concepts = [concept for examples in subjects for concept in examples.concepts]
    captions = {caption for concept in concepts for caption in concept.image_set.captions}
    return cached_captions(family, [*captions, ""], _cache(train), note, advance)


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


def image_sizes(train: TrainSpec, family: Family) -> Sequence[Size]:
    """Return the sizes to which images are cut. Raises SpecError for those that the model cannot make."""
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
