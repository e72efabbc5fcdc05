"""Whether DreamBooth learns: subjects that the toy base has never seen, with and without class pictures.

    python -m bench.dreambooth_proof --base FOLDER [--subjects 3] [--seeds 3] [--jobs 1]

The judge of the toy world gives P(subject | picture); diversity is the mean distance of EfficientNet-lite0 features.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from bench.machine import describe_machine, now, our_versions
from turbo_fetch.dreambooth.metrics import mean_distance
from turbo_fetch.dreambooth.offline import features, open_encoder
from turbo_fetch.dreambooth.toy.base import Recipe
from turbo_fetch.dreambooth.toy.demo import base_in
from turbo_fetch.dreambooth.toy.judge import Judge
from turbo_fetch.dreambooth.toy.lesson import Lesson, learn, pictures_of, recognised, spec_of, take_photos
from turbo_fetch.dreambooth.toy.shapes import SUBJECTS
from turbo_fetch.runners.stop import StopRequest
from turbo_fetch.watcher import Watcher

RESULT: Final = Path("bench/results/dreambooth-proof.json")
PICTURES: Final = 32
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
        base = given.base or base_in(work, Recipe(), Watcher(), StopRequest())
        chosen = [
            Lesson(base, subject, work / f"{subject}-{seed}".replace(" ", "-"), seed)
            for seed in range(given.seeds)
            for subject in list(SUBJECTS)[: given.subjects]
        ]
        lessons = []
        with ProcessPoolExecutor(given.jobs, mp_context=get_context("spawn")) as pool:
            judge = Judge()
            for done in as_completed([pool.submit(_measured, lesson, judge) for lesson in chosen]):
                lessons.append(done.result())
                print(json.dumps(lessons[-1]), flush=True)
                _save(
                    given.output,
                    {
                        "date": date,
                        "command": f"python -m bench.dreambooth_proof {' '.join(sys.argv[1:])}".strip(),
                        "machine": machine,
                        "versions": our_versions() | {name: metadata.version(name) for name in _PACKAGES},
                        "spec": _settings(chosen[0]),
                        "figures": _figures(lessons),
                        "lessons": lessons,
                    },
                )
    print(json.dumps(_figures(lessons), indent=1))


def _measured(lesson: Lesson, judge: Judge) -> dict[str, Any]:
    """Learn a subject both ways and return all figures; the pictures of a class have the same seeds everywhere."""
    started = time.process_time()
    encoder = open_encoder()

    def diversity(pictures: Sequence[Image.Image]) -> float:
        return mean_distance(features(encoder, pictures))

    base_class = pictures_of(lesson.base, lesson.class_prompt, PICTURES)
    facts: dict[str, Any] = {"subject": lesson.subject, "seed": lesson.seed}
    facts["drift_of_the_base"] = recognised(judge, base_class, lesson)
    for name, with_prior in (("with_prior", True), ("without_prior", False)):
        one = replace(lesson, folder=lesson.folder / name, with_prior=with_prior)
        take_photos(one)
        learn(one, Watcher(), StopRequest())
        class_ = pictures_of(one.model, one.class_prompt, PICTURES)
        facts[name] = {
            "known": recognised(judge, pictures_of(one.model, one.identifier_prompt, PICTURES), one),
            "drift": recognised(judge, class_, one),
            "diversity_of_base": diversity(class_) / diversity(base_class),
        }
    return facts | {"cpu_s": round(time.process_time() - started, 1)}


def _figures(lessons: list[dict[str, Any]]) -> dict[str, Any]:
    def mean(way: str, figure: str) -> float:
        return float(np.mean([lesson[way][figure] for lesson in lessons]))

    drift, without = mean("with_prior", "drift"), mean("without_prior", "drift")
    diversity = mean("with_prior", "diversity_of_base")
    known = mean("with_prior", "known")
    return {
        "known": {"value": known, "target": ">= 0.8", "met": known >= 0.8},
        "drift": {"value": drift, "target": "<= 0.15", "met": drift <= 0.15},
        "drift_without_prior": {
            "value": without,
            "target": ">= 3 times the drift with it",
            "met": without >= 3 * drift,
        },
        "diversity_of_base": {
            "value": diversity,
            "target": "within 5 % of 1",
            "met": abs(diversity - 1) <= 0.05,
        },
        "lessons": len(lessons),
    }


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
