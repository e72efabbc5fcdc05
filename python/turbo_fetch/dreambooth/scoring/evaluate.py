"""The `[evaluate]` stage: images of each model by the protocol of the DreamBooth paper, and what they score."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from glob import has_magic
from pathlib import Path
from typing import Any, Final

from PIL import Image

from turbo_fetch.dataset.lock import locked
from turbo_fetch.dataset.names import PROBE
from turbo_fetch.dataset.place import open_place
from turbo_fetch.dreambooth.data.images import ImageFile, open_upright
from turbo_fetch.dreambooth.data.sources import check_images, read_images, subject_place
from turbo_fetch.dreambooth.families.models import (
    base_of,
    check_model,
    check_named,
    family_of,
    model_hash,
    weights_of,
)
from turbo_fetch.dreambooth.run_folder import is_complete, is_of_run
from turbo_fetch.dreambooth.sampling.image_folder import TO_COME, RunControl, Settings, compare, fill
from turbo_fetch.dreambooth.sampling.prompts import Words, read_prompts
from turbo_fetch.dreambooth.sampling.sampler import best_device, check_sampling, open_model, sampler_name
from turbo_fetch.dreambooth.scoring.candidates import BASE, Candidate, candidates, known_ahead, to_come
from turbo_fetch.dreambooth.scoring.encoders import (
    distance_weights,
    encoder_weights,
    open_distance,
    open_encoder,
)
from turbo_fetch.dreambooth.scoring.page import REPORT, Gallery, Real, render, thumbnails
from turbo_fetch.dreambooth.scoring.scores import (
    SCORES,
    Encoders,
    Features,
    ModelScores,
    Subject,
    Verdict,
    as_json,
    class_scores,
    joined,
    judge,
    made_with,
    mean_scores,
    prompt_scores,
    read_scores,
    real_scores,
    see,
)
from turbo_fetch.errors import Interrupted, SpecError
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.spec import EvaluateSpec, Spec, TrainSpec
from turbo_fetch.stop import StopRequest
from turbo_fetch.storage import Storage

IMAGES: Final = "pictures"
_SEEN_AT_ONCE: Final = 16
CLASS: Final = "class"
"""What names of images of the class begin with."""


@dataclass(frozen=True, slots=True)
class EvaluateReport:
    """What was scored."""

    path: str
    models: int
    made: int
    verdict: Verdict | None

    def text(self) -> str:
        """See stages.Report."""
        best = "" if self.verdict is None else f"; {self.verdict.text()}"
        return (
            f"scores    {self.path}/{REPORT}: {self.models:,} models{best}; "
            f"{self.made:,} images were made in this run"
        )


@dataclass(frozen=True, slots=True)
class PromptSet:
    """What every model is asked to show."""

    prompts: tuple[str, ...]
    class_prompt: str


@dataclass(frozen=True, slots=True)
class ModelUnderTest:
    """A model with the images that are wanted of it, by name, and where they are kept."""

    candidate: Candidate
    wanted: Mapping[str, Settings]
    place: Storage
    missing: tuple[str, ...]


def run(spec: Spec, listener: ProgressListener, stop: StopRequest) -> EvaluateReport:
    """Make the images that are missing, score all, and write the report; blocks until done.

    What `check` refuses, it did, and what else cannot be measured is refused before an image is made. Raises SpecError,
    InputError, PicturesError, ModelError, MissingExtra, OutputError, OutputExists if the place holds images of other
    settings, or Interrupted, after which the same call resumes.
    """
    evaluate = spec.evaluate
    if evaluate is None:
        raise SpecError("the spec has no table [evaluate]")
    prompt_set = _prompt_set(spec, evaluate)
    found = candidates(spec, evaluate)
    if not evaluate.models and len(found) <= 2:
        listener.note(
            "evaluate: one step to score; train.checkpoints_kept = 10 keeps more of the next run for curves"
        )
    place = open_place(evaluate.output)
    with locked(place, listener.note, stop):
        real = read_images(_real_place(spec, evaluate)[0], "subject", place.work, listener.note)
        hash_of = partial(weights_of, hash_of=cache(model_hash))
        tested = [
            _under_test(place, candidate, plan(evaluate, prompt_set, candidate, hash_of))
            for candidate in found
        ]
        facts = _facts(evaluate, prompt_set, real, tested)
        if not any(under_test.missing for under_test in tested) and place.exists(REPORT):
            before = read_scores(place, facts)
            if before is not None:
                return _report(place, *before, made=0)
        return _evaluate(evaluate, prompt_set, real, tested, (place, facts, RunControl(listener, stop)))


def check(spec: Spec) -> None:
    """Raise before anything is made what the stage would: of prompts, photos, models, encoders, place and images."""
    evaluate, train = spec.evaluate, spec.train
    if evaluate is None:
        return
    prompt_set = _prompt_set(spec, evaluate)
    check_images(spec, *_real_place(spec, evaluate))
    for name in [*evaluate.models, *([evaluate.base] if evaluate.base else [])]:
        if not has_magic(name) and not is_of_run(spec, name) and not Path(name).exists():
            check_named(name, "evaluate.base" if name == evaluate.base else "evaluate.models", "model")
    place = open_place(evaluate.output)
    is_done = train is None or is_complete(Path(train.output), train.steps)
    known = candidates(spec, evaluate) if is_done else known_ahead(spec, evaluate)
    bases = []
    for candidate in known:
        _check_candidate(candidate)
        bases.append(base_of(candidate.model))
    if train is not None and not is_done:
        for candidate in known:
            _under_test(place, candidate, plan(evaluate, prompt_set, candidate, weights_of))
        for candidate in to_come(evaluate, train):
            _under_test(place, candidate, plan(evaluate, prompt_set, candidate, lambda _model: TO_COME))
        if not evaluate.models or not known:
            bases.append(train.base)
    for base in dict.fromkeys(bases):
        check_sampling(evaluate, "evaluate", base)
    place.probe(PROBE)
    if not is_done or not place.exists(SCORES):
        _open_encoders(evaluate)


def _check_candidate(candidate: Candidate) -> None:
    """Raise ModelError for a model or LoRA that is not whole, or of no known family."""
    check_model(candidate.model)
    if candidate.lora is not None:
        check_named(candidate.lora, "evaluate.models", "lora")


def _evaluate(
    evaluate: EvaluateSpec,
    prompt_set: PromptSet,
    real: Sequence[ImageFile],
    tested: Sequence[ModelUnderTest],
    around: tuple[Storage, Mapping[str, Any], RunControl],
) -> EvaluateReport:
    place, facts, control = around
    encoders = _open_encoders(evaluate)
    features, photos = _see_photos(encoders, real, control)
    photographs = Real(photos, real_scores(evaluate.metrics, features))
    texts = encoders.clip.texts(prompt_set.prompts) if encoders.clip and encoders.clip.texts else None
    subject = Subject(features, prompt_set.prompts, texts)
    made = sum(_make(evaluate, under_test, control) for under_test in tested)
    models, galleries = [], []
    for under_test in tested:
        scores, gallery = _score(evaluate, under_test, subject, (encoders, control))
        control.listener.note(f"evaluate: {under_test.candidate.name}: {scores.text()}")
        models.append(scores)
        galleries.append(gallery)
    verdict = judge(models, BASE)
    place.write_bytes(REPORT, render(models, verdict, galleries, photographs, facts))
    # The report is there before what says that all is done.
    place.write_bytes(SCORES, as_json(facts, models, verdict, photographs.scores))
    return _report(place, models, verdict, made)


def _go_on(control: RunControl) -> None:
    """Raise Interrupted if asked to stop."""
    control.listener.refresh()
    if control.stop:
        raise Interrupted("stopped while scoring; the same command resumes, all images are there")


def _see_photos(
    encoders: Encoders, real: Sequence[ImageFile], control: RunControl
) -> tuple[Features, list[str]]:
    """Return the features of the real images and small copies of them, with few of them open at a time."""
    seen, photos = [], []
    for start in range(0, len(real), _SEEN_AT_ONCE):
        _go_on(control)
        opened = [open_upright(image.path) for image in real[start : start + _SEEN_AT_ONCE]]
        seen.append(see(encoders, opened))
        photos += thumbnails(opened)
    return joined(seen), photos


def _report(
    place: Storage, models: Sequence[ModelScores], verdict: Verdict | None, made: int
) -> EvaluateReport:
    return EvaluateReport(place.url, len(models), made, verdict)


def _prompt_set(spec: Spec, evaluate: EvaluateSpec) -> PromptSet:
    trained = Words.of(_subject(spec, evaluate))
    words = Words(evaluate.identifier or trained.identifier, evaluate.class_ or trained.class_)
    prompts = read_prompts(evaluate.prompts, [words], "evaluate.prompts")
    needs_class = evaluate.measures("pres", "class_div")
    class_prompt = words.fill(evaluate.class_prompt, "evaluate.class_prompt") if needs_class else ""
    return PromptSet(prompts, class_prompt)


def _subject(spec: Spec, evaluate: EvaluateSpec) -> TrainSpec | None:
    """Return what was trained for the subject that is scored; None if another one is."""
    if spec.train is None:
        return None
    subjects = {each.identifier: each for each in spec.train.each_subject}
    if len(subjects) == 1:
        return spec.train.each_subject[0]
    return subjects.get(evaluate.identifier or "")


def _real_place(spec: Spec, evaluate: EvaluateSpec) -> tuple[str, str]:
    """Return where the real images are, and by which key. Raises SpecError."""
    trained = _subject(spec, evaluate)
    if evaluate.subject is not None:
        return subject_place(spec, evaluate.subject, "evaluate.subject"), "evaluate.subject"
    if trained is None:
        raise SpecError(
            "evaluate.subject is missing, and the spec has no [train] whose subject could be meant"
        )
    return subject_place(spec, trained.subject, "train.subject"), "train.subject"


def _under_test(place: Storage, candidate: Candidate, wanted: Mapping[str, Settings]) -> ModelUnderTest:
    own = place.inside(f"{IMAGES}/{candidate.name}", place.work)
    found = compare(own, wanted)
    found.refuse_different(own.url, "evaluate.output")
    # An image that somebody changed would be scored as the model's.
    found.refuse_others(own.url, "evaluate.output", [*found.foreign, *found.retouched])
    return ModelUnderTest(candidate, wanted, own, found.missing)


def plan(
    evaluate: EvaluateSpec, prompt_set: PromptSet, candidate: Candidate, hash_of: Callable[[str], str]
) -> dict[str, Settings]:
    """Return the settings of every image of a model by its name: prompt by prompt, then those of the class.

    `hash_of` hashes the weights of a model. The seeds are the same for all models, so that nothing but the weights
    makes a difference.
    """
    lora, family = candidate.lora, family_of(candidate.model)
    family.check_negative(evaluate.negative, "evaluate.negative")
    shared: dict[str, Any] = {
        **evaluate.model_dump(include={"negative", "steps", "width", "height", "precision", "vae_tiling"}),
        "guidance": family.guidance_of(evaluate.guidance),
        "scheduler": sampler_name(evaluate.scheduler, family, "evaluate.scheduler"),
        "model": candidate.model,
        "model_hash": hash_of(candidate.model),
        "lora": lora,
        "lora_hash": None if lora is None else hash_of(lora),
    }
    wanted = {}
    if evaluate.measures("dino", "clip_i", "clip_t", "div", "lpips"):
        for row, prompt in enumerate(prompt_set.prompts):
            for number in range(evaluate.images):
                seed = evaluate.seed + row * evaluate.images + number
                wanted[f"{row:05d}-{number:03d}.png"] = Settings(prompt=prompt, seed=seed, **shared)
    if evaluate.measures("pres", "class_div"):
        for number in range(evaluate.class_images):
            settings = Settings(prompt=prompt_set.class_prompt, seed=evaluate.seed + number, **shared)
            wanted[f"{CLASS}-{number:03d}.png"] = settings
    return wanted


def _facts(
    evaluate: EvaluateSpec,
    prompt_set: PromptSet,
    real: Sequence[ImageFile],
    tested: Sequence[ModelUnderTest],
) -> dict[str, Any]:
    weights = {name: encoder_weights(name) for name in _encoders_needed(evaluate).values()}
    if evaluate.measures("lpips"):
        weights["lpips"] = distance_weights()
    for under_test in tested:
        settings = next(iter(under_test.wanted.values()))
        weights[under_test.candidate.name] = " ".join(filter(None, (settings.model_hash, settings.lora_hash)))
    digests = [image.digest for image in real]
    return made_with(evaluate, prompt_set.prompts, prompt_set.class_prompt, digests, weights)


def _encoders_needed(evaluate: EvaluateSpec) -> dict[str, str]:
    needed = {}
    if evaluate.measures("dino", "pres", "div", "class_div"):
        needed["dino"] = evaluate.dino
    if evaluate.measures("clip_i", "clip_t"):
        needed["clip"] = evaluate.clip
    return needed


def _open_encoders(evaluate: EvaluateSpec) -> Encoders:
    device, needed = best_device(), _encoders_needed(evaluate)
    reads = evaluate.measures("clip_t")
    return Encoders(
        open_encoder(needed["dino"], "evaluate.dino", device) if "dino" in needed else None,
        open_encoder(needed["clip"], "evaluate.clip", device, reads) if "clip" in needed else None,
        open_distance(device) if evaluate.measures("lpips") else None,
    )


def _make(evaluate: EvaluateSpec, under_test: ModelUnderTest, control: RunControl) -> int:
    candidate = under_test.candidate
    if under_test.missing:
        control.listener.note(f"evaluate: {candidate.name}: {len(under_test.missing):,} images to make")
    return fill(
        under_test.place,
        under_test.wanted,
        under_test.missing,
        evaluate,
        lambda: open_model(candidate.model, evaluate, candidate.lora),
        control,
    )


def _score(
    evaluate: EvaluateSpec,
    under_test: ModelUnderTest,
    subject: Subject,
    around: tuple[Encoders, RunControl],
) -> tuple[ModelScores, Gallery]:
    encoders, control = around
    images, of_class = (
        [_opened(under_test.place, name) for name in under_test.wanted if name.startswith(CLASS) == is_class]
        for is_class in (False, True)
    )
    seen = []
    for start in range(0, len(images), _SEEN_AT_ONCE):
        _go_on(control)
        seen.append(see(encoders, images[start : start + _SEEN_AT_ONCE]))
    prompts = prompt_scores(evaluate.metrics, joined(seen), subject) if images else []
    if encoders.lpips is not None:
        for row, prompt in enumerate(prompts):
            _go_on(control)
            prompt.scores["lpips"] = encoders.lpips(
                images[row * evaluate.images : (row + 1) * evaluate.images]
            )
    scores = mean_scores(prompts)
    if of_class and encoders.dino is not None and subject.real.dino is not None:
        scores |= class_scores(evaluate.metrics, encoders.dino.images(of_class), subject.real.dino)
    candidate = under_test.candidate
    return (
        ModelScores(candidate.name, candidate.step, candidate.model, candidate.lora, scores, prompts),
        Gallery(thumbnails(images), thumbnails(of_class)),
    )


def _opened(place: Storage, name: str) -> Image.Image:
    return Image.open(io.BytesIO(place.read_bytes(name))).convert("RGB")
