"""`scores.json`: what the models score, and all that it depends on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any, Final

from turbo_fetch import __version__
from turbo_fetch.dreambooth.scoring.measure import ModelScores, PromptScores, Scores, Verdict
from turbo_fetch.spec import EvaluateSpec
from turbo_fetch.storage import Storage

SCORES: Final = "scores.json"
_LIBRARIES: Final = ("torch", "diffusers", "transformers", "peft")
_PLACES: Final = frozenset(
    {"models", "base", "subject", "prompts", "class_prompt", "output", "identifier", "class_"}
)
"""Keys whose meaning is recorded otherwise: by weights, by pictures, or filled in."""


def made_with(
    evaluate: EvaluateSpec,
    prompts: Sequence[str],
    class_prompt: str,
    subject: Sequence[str],
    weights: Mapping[str, str],
) -> dict[str, Any]:
    """Return all that scores depend on: `subject` are digests of the real pictures, `weights` hashes by name."""
    return {
        "settings": evaluate.model_dump(mode="json", exclude=set(_PLACES)),
        "prompts": list(prompts),
        "class_prompt": class_prompt,
        "subject": list(subject),
        "weights": dict(weights),
    }


def as_json(
    facts: Mapping[str, Any], models: Sequence[ModelScores], verdict: Verdict | None, real: Scores
) -> bytes:
    """Return the content of `scores.json`; `real` is how much the real pictures are like each other."""
    content = {
        "turbo_fetch": __version__,
        "libraries": {name: version(name) for name in _LIBRARIES},
        "made_with": facts,
        "best": None if verdict is None else asdict(verdict),
        "real": real,
        "models": [asdict(model) for model in models],
    }
    return json.dumps(content, ensure_ascii=False, indent=1).encode()


def read_scores(place: Storage, facts: Mapping[str, Any]) -> tuple[list[ModelScores], Verdict | None] | None:
    """Return the scores in a place if they were made with these facts; None if not, or if there are none."""
    try:
        content = json.loads(place.read_bytes(SCORES))
        if content["made_with"] != facts:
            return None
        models = [
            ModelScores(**{**model, "prompts": [PromptScores(**each) for each in model["prompts"]]})
            for model in content["models"]
        ]
        return models, None if content["best"] is None else Verdict(**content["best"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
