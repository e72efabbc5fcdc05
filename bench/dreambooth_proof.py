"""Whether DreamBooth learns: subjects that the toy base has never seen, with and without class images.

    python -m bench.dreambooth_proof [--base FOLDER] [--subjects 3] [--seeds 3] [--jobs 1]

The judge of the toy world gives P(subject | image); diversity is the mean distance of EfficientNet-lite0 features of
class images, over that of the base. All lessons have the same settings, and all images that are judged the same
seeds. The targets hold for each lesson; that of diversity for the mean over lessons, as its noise in one lesson is of
the target's size (`diversity_of_base_again` is the base against itself from other seeds).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image

from bench.machine import describe_machine, now, our_versions
from turbo_fetch.dreambooth.scoring.encoders import offline_features, open_offline
from turbo_fetch.dreambooth.toy.base import Recipe
from turbo_fetch.dreambooth.toy.demo import (
    Lesson,
    base_in,
    images_of,
    learn,
    recognised,
    spec_of,
    take_photos,
)
from turbo_fetch.dreambooth.toy.judge import Judge
from turbo_fetch.dreambooth.toy.shapes import SUBJECTS
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.stop import StopRequest

RESULT: Final = Path("bench/results/dreambooth-proof.json")
IMAGES: Final = 128
"""That are judged, per model and prompt: with 32, the diversity of one model differs by 4 % from seeds to seeds."""
_PACKAGES: Final = ("torch", "diffusers", "transformers", "lightning")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, help="a trained toy base; by default one is trained")
    parser.add_argument("--subjects", type=int, default=len(SUBJECTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="lessons at once")
    parser.add_argument("--output", type=Path, default=RESULT)
    given = parser.parse_args()
    machine, date = describe_machine(), now()
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        base = given.base or base_in(work, Recipe(), ProgressListener(), StopRequest())
        chosen = [
            Lesson(base, subject, work / f"{subject}-{seed}".replace(" ", "-"), seed)
            for seed in range(given.seeds)
            for subject in list(SUBJECTS)[: given.subjects]
        ]
        lessons = []
        with ProcessPoolExecutor(given.jobs, mp_context=get_context("spawn")) as pool:
            judge = Judge()
            bases = {
                lesson.subject: pool.submit(_of_the_base, lesson, judge)
                for lesson in chosen[: given.subjects]
            }
            known = {subject: future.result() for subject, future in bases.items()}
            facts = {
                "date": date,
                "command": f"python -m bench.dreambooth_proof {' '.join(sys.argv[1:])}".strip(),
                "machine": machine,
                "versions": our_versions() | {name: metadata.version(name) for name in _PACKAGES},
                "spec": _settings(chosen[0]),
                "base": known,
            }
            running = [pool.submit(_measured, lesson, judge, known[lesson.subject]) for lesson in chosen]
            for done in as_completed(running):
                lessons.append(done.result())
                print(json.dumps(lessons[-1]), flush=True)
                lessons.sort(key=lambda lesson: (lesson["seed"], lesson["subject"]))
                # Hours of a slow machine are not lost with the last lesson.
                _save(given.output, facts | {"verdicts": _verdicts(lessons), "lessons": lessons})
        # Processes are counted when they have ended.
        _save(given.output, facts | {"cpu_s": _cpu_s(), "verdicts": _verdicts(lessons), "lessons": lessons})
    print(json.dumps(_verdicts(lessons), indent=1))


def _diversity(encoder: Any, images: list[Image.Image]) -> float:
    """Return the mean Euclidean distance of all pairs of images by their features."""
    return float(torch.pdist(offline_features(encoder, images)).mean())


def _of_the_base(lesson: Lesson, judge: Judge) -> dict[str, float]:
    """Return what the base draws before it is taught anything: the diversity twice, from different seeds."""
    encoder = open_offline()
    class_ = images_of(lesson.base, lesson.class_prompt, IMAGES)
    again = images_of(lesson.base, lesson.class_prompt, IMAGES, seed=IMAGES)
    diversity = _diversity(encoder, class_)
    return {
        "known": recognised(judge, images_of(lesson.base, lesson.identifier_prompt, IMAGES), lesson),
        "drift": recognised(judge, class_, lesson),
        "diversity": diversity,
        "diversity_of_base_again": _diversity(encoder, again) / diversity,
    }


def _measured(lesson: Lesson, judge: Judge, base: dict[str, float]) -> dict[str, Any]:
    """Learn a subject both ways and return all figures."""
    started = time.process_time()
    encoder = open_offline()
    facts: dict[str, Any] = {"subject": lesson.subject, "seed": lesson.seed}
    for name, with_prior in (("with_prior", True), ("without_prior", False)):
        one = replace(lesson, folder=lesson.folder / name, with_prior=with_prior)
        take_photos(one)
        learn(one, ProgressListener(), StopRequest())
        class_ = images_of(one.model, one.class_prompt, IMAGES)
        facts[name] = {
            "known": recognised(judge, images_of(one.model, one.identifier_prompt, IMAGES), one),
            "drift": recognised(judge, class_, one),
            "diversity_of_base": _diversity(encoder, class_) / base["diversity"],
        }
    return facts | {"cpu_s": round(time.process_time() - started, 1)}


def _verdicts(lessons: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the worst lesson and the mean of each figure, and whether the target is met."""
    known = [lesson["with_prior"]["known"] for lesson in lessons]
    drift = [lesson["with_prior"]["drift"] for lesson in lessons]
    ratio = [lesson["without_prior"]["drift"] / lesson["with_prior"]["drift"] for lesson in lessons]
    diversity = [lesson["with_prior"]["diversity_of_base"] for lesson in lessons]
    mean = float(np.mean(diversity))
    return {
        "P(subject | identifier prompt)": _each(known, min, ">= 0.8 in each lesson", lambda v: v >= 0.8),
        "drift, P(subject | class prompt)": _each(drift, max, "<= 0.15 in each lesson", lambda v: v <= 0.15),
        "drift without class images / with": _each(ratio, min, ">= 3 in each lesson", lambda v: v >= 3),
        "class diversity / that of the base": {
            "mean": mean,
            "standard_error": float(np.std(diversity, ddof=1) / len(diversity) ** 0.5)
            if len(diversity) > 1
            else 0.0,
            "smallest": min(diversity),
            "largest": max(diversity),
            "target": "mean within 5 % of 1",
            "met": abs(mean - 1) <= 0.05,
            "lessons_within": sum(abs(value - 1) <= 0.05 for value in diversity),
        },
        "lessons": len(lessons),
    }


def _each(
    values: list[float], worst: Callable[[list[float]], float], target: str, meets: Callable[[float], bool]
) -> dict[str, Any]:
    return {
        "mean": float(np.mean(values)),
        "worst": worst(values),
        "target": target,
        "met": all(map(meets, values)),
        "lessons_within": sum(map(meets, values)),
    }


def _cpu_s() -> float:
    """Return the CPU seconds of this process and of those that it started and that have ended."""
    return sum(os.times()[:4])


def _settings(lesson: Lesson) -> dict[str, Any]:
    spec = spec_of(lesson).model_dump(mode="json", by_alias=True, exclude_unset=True)
    for name in ("base", "subject", "output", "seed"):
        spec["train"].pop(name)
    return spec


def _save(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
