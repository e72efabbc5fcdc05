"""The `[evaluate]` stage: pictures of each model by the protocol of the DreamBooth paper, and what they score."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Final

from PIL import Image

from turbo_fetch.dataset.lock import locked
from turbo_fetch.dataset.names import PROBE
from turbo_fetch.dataset.place import open_place
from turbo_fetch.dreambooth.album import Onlooker, fill, review
from turbo_fetch.dreambooth.pictures import Picture, open_upright
from turbo_fetch.dreambooth.prompts import Words, read_prompts
from turbo_fetch.dreambooth.restored import check_model, weights_of
from turbo_fetch.dreambooth.sampling import add_lora, best_device, open_pipeline
from turbo_fetch.dreambooth.scoring.candidates import BASE, Candidate, candidates
from turbo_fetch.dreambooth.scoring.encoders import encoder_weights, open_encoder
from turbo_fetch.dreambooth.scoring.gallery import Gallery, Real, thumbnails
from turbo_fetch.dreambooth.scoring.measure import (
    Encoders,
    Features,
    ModelScores,
    Subject,
    Verdict,
    class_scores,
    joined,
    judge,
    mean_scores,
    prompt_scores,
    real_scores,
    see,
)
from turbo_fetch.dreambooth.scoring.page import REPORT, render
from turbo_fetch.dreambooth.scoring.perceptual import distance_weights, open_distance
from turbo_fetch.dreambooth.scoring.record import SCORES, as_json, made_with, read_scores
from turbo_fetch.dreambooth.settings import Settings
from turbo_fetch.dreambooth.sources import read_pictures, subject_place
from turbo_fetch.dreambooth.weights import model_hash
from turbo_fetch.errors import Interrupted, OutputExists, SpecError
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.spec import EvaluateSpec, Spec
from turbo_fetch.stop import StopRequest
from turbo_fetch.storage import Storage

PICTURES: Final = "pictures"
_OPEN_AT_ONCE: Final = 16
CLASS: Final = "class"
"""What names of pictures of the class begin with."""


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
            f"{self.made:,} pictures were made in this run"
        )


@dataclass(frozen=True, slots=True)
class Question:
    """What every model is asked to show."""

    prompts: tuple[str, ...]
    class_prompt: str


@dataclass(frozen=True, slots=True)
class Sitter:
    """A model with the pictures that are wanted of it, by name, and where they are kept."""

    candidate: Candidate
    wanted: Mapping[str, Settings]
    place: Storage
    missing: tuple[str, ...]


def run(spec: Spec, listener: ProgressListener, stop: StopRequest) -> EvaluateReport:
    """Make the pictures that are missing, score all, and write the report; blocks until done.

    What cannot be measured is refused before a picture is made. Raises SpecError, InputError, PicturesError,
    ModelError, MissingExtra, OutputError, OutputExists if the place holds pictures of other settings, or Interrupted,
    after which the same call goes on.
    """
    evaluate = spec.evaluate
    if evaluate is None:
        raise SpecError("the spec has no table [evaluate]")
    question = _question(spec, evaluate)
    found = candidates(spec, evaluate)
    for candidate in found:
        check_model(candidate.model)
    if not evaluate.models and len(found) <= 2:
        listener.note(
            "evaluate: one step to score; train.checkpoints_kept = 10 keeps more of the next run for curves"
        )
    place = open_place(evaluate.output)
    with locked(place):
        place.probe(PROBE)
        real = _real_pictures(spec, evaluate, place, listener)
        hash_of = partial(weights_of, hash_of=cache(model_hash))
        sitters = [
            _sitter(place, candidate, plan(evaluate, question, candidate, hash_of)) for candidate in found
        ]
        facts = _facts(evaluate, question, real, sitters)
        if not any(sitter.missing for sitter in sitters) and place.exists(REPORT):
            before = read_scores(place, facts)
            if before is not None:
                return _report(place, *before, made=0)
        return _evaluate(evaluate, question, real, sitters, (place, facts, Onlooker(listener, stop)))


def _evaluate(
    evaluate: EvaluateSpec,
    question: Question,
    real: Sequence[Picture],
    sitters: Sequence[Sitter],
    around: tuple[Storage, Mapping[str, Any], Onlooker],
) -> EvaluateReport:
    place, facts, onlooker = around
    encoders = _open_encoders(evaluate)
    features, photos = _see_photos(encoders, real)
    photographs = Real(photos, real_scores(evaluate.metrics, features))
    texts = encoders.clip.texts(question.prompts) if encoders.clip and encoders.clip.texts else None
    subject = Subject(features, question.prompts, texts)
    made = sum(_make(evaluate, sitter, onlooker) for sitter in sitters)
    models, galleries = [], []
    for sitter in sitters:
        if onlooker.stop:
            raise Interrupted("stopped while scoring; the same command goes on, all pictures are there")
        scores, gallery = _score(evaluate, sitter, subject, encoders)
        onlooker.listener.note(f"evaluate: {sitter.candidate.name}: {scores.text()}")
        models.append(scores)
        galleries.append(gallery)
    verdict = judge(models, BASE)
    place.write_bytes(REPORT, render(models, verdict, galleries, photographs, facts))
    # The report is there before what says that all is done.
    place.write_bytes(SCORES, as_json(facts, models, verdict, photographs.scores))
    return _report(place, models, verdict, made)


def _see_photos(encoders: Encoders, real: Sequence[Picture]) -> tuple[Features, list[str]]:
    """Return the features of the real pictures and small copies of them, with few of them open at a time."""
    seen, photos = [], []
    for start in range(0, len(real), _OPEN_AT_ONCE):
        opened = [open_upright(picture.path) for picture in real[start : start + _OPEN_AT_ONCE]]
        seen.append(see(encoders, opened))
        photos += thumbnails(opened)
    return joined(seen), photos


def _report(
    place: Storage, models: Sequence[ModelScores], verdict: Verdict | None, made: int
) -> EvaluateReport:
    return EvaluateReport(place.url, len(models), made, verdict)


def _question(spec: Spec, evaluate: EvaluateSpec) -> Question:
    trained = Words.of(spec.train)
    words = Words(evaluate.identifier or trained.identifier, evaluate.class_ or trained.class_)
    prompts = read_prompts(evaluate.prompts, words, "evaluate.prompts")
    needs_class = evaluate.measures("pres", "class_div")
    class_prompt = words.fill(evaluate.class_prompt, "evaluate.class_prompt") if needs_class else ""
    return Question(prompts, class_prompt)


def _real_pictures(
    spec: Spec, evaluate: EvaluateSpec, place: Storage, listener: ProgressListener
) -> list[Picture]:
    named = evaluate.subject or (spec.train.subject if spec.train else None)
    if named is None:
        raise SpecError(
            "evaluate.subject is missing, and the spec has no [train] whose subject could be meant"
        )
    folder = subject_place(spec, named, "evaluate.subject")
    return read_pictures(folder, "subject", place.work, listener.note)


def _sitter(place: Storage, candidate: Candidate, wanted: Mapping[str, Settings]) -> Sitter:
    own = place.inside(f"{PICTURES}/{candidate.name}", place.work)
    found = review(own, wanted)
    for name, changes in found.different.items():
        raise OutputExists(
            f"{own.url}: {name} was made with other settings ({'; '.join(changes)}); "
            "expected another evaluate.output, or an empty one"
        )
    return Sitter(candidate, wanted, own, found.missing)


def plan(
    evaluate: EvaluateSpec, question: Question, candidate: Candidate, hash_of: Callable[[str], str]
) -> dict[str, Settings]:
    """Return the settings of every picture of a model by its name: prompt by prompt, then those of the class.

    `hash_of` hashes the weights of a model. The seeds are the same for all models, so that nothing but the weights
    makes a difference.
    """
    lora = candidate.lora
    shared: dict[str, Any] = {
        **evaluate.model_dump(
            include={"negative", "scheduler", "steps", "guidance", "width", "height", "precision"}
        ),
        "model": candidate.model,
        "model_hash": hash_of(candidate.model),
        "lora": lora,
        "lora_hash": None if lora is None else hash_of(lora),
    }
    wanted = {}
    if evaluate.measures("dino", "clip_i", "clip_t", "div", "lpips"):
        for row, prompt in enumerate(question.prompts):
            for number in range(evaluate.images):
                seed = evaluate.seed + row * evaluate.images + number
                wanted[f"{row:05d}-{number:03d}.png"] = Settings(prompt=prompt, seed=seed, **shared)
    if evaluate.measures("pres", "class_div"):
        for number in range(evaluate.class_images):
            settings = Settings(prompt=question.class_prompt, seed=evaluate.seed + number, **shared)
            wanted[f"{CLASS}-{number:03d}.png"] = settings
    return wanted


def _facts(
    evaluate: EvaluateSpec, question: Question, real: Sequence[Picture], sitters: Sequence[Sitter]
) -> dict[str, Any]:
    weights = {name: encoder_weights(name) for name in _encoders_needed(evaluate).values()}
    if evaluate.measures("lpips"):
        weights["lpips"] = distance_weights()
    for sitter in sitters:
        settings = next(iter(sitter.wanted.values()))
        weights[sitter.candidate.name] = " ".join(filter(None, (settings.model_hash, settings.lora_hash)))
    digests = [picture.digest for picture in real]
    return made_with(evaluate, question.prompts, question.class_prompt, digests, weights)


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


def _make(evaluate: EvaluateSpec, sitter: Sitter, onlooker: Onlooker) -> int:
    candidate = sitter.candidate

    def open_model() -> Any:
        pipeline = open_pipeline(candidate.model, evaluate)
        if candidate.lora is not None:
            add_lora(pipeline, candidate.lora, 1.0)
        return pipeline

    if sitter.missing:
        onlooker.listener.note(f"evaluate: {candidate.name}: {len(sitter.missing):,} pictures to make")
    return fill(sitter.place, sitter.wanted, sitter.missing, evaluate, open_model, onlooker)


def _score(
    evaluate: EvaluateSpec, sitter: Sitter, subject: Subject, encoders: Encoders
) -> tuple[ModelScores, Gallery]:
    pictures, of_class = (
        [_opened(sitter.place, name) for name in sitter.wanted if name.startswith(CLASS) == is_class]
        for is_class in (False, True)
    )
    prompts = prompt_scores(evaluate.metrics, see(encoders, pictures), subject) if pictures else []
    if encoders.lpips is not None:
        for row, prompt in enumerate(prompts):
            prompt.scores["lpips"] = encoders.lpips(
                pictures[row * evaluate.images : (row + 1) * evaluate.images]
            )
    scores = mean_scores(prompts)
    if of_class and encoders.dino is not None and subject.real.dino is not None:
        scores |= class_scores(evaluate.metrics, encoders.dino.pictures(of_class), subject.real.dino)
    candidate = sitter.candidate
    return (
        ModelScores(candidate.name, candidate.step, candidate.model, candidate.lora, scores, prompts),
        Gallery(thumbnails(pictures), thumbnails(of_class)),
    )


def _opened(place: Storage, name: str) -> Image.Image:
    return Image.open(io.BytesIO(place.read_bytes(name))).convert("RGB")
