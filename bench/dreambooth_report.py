"""The part of bench/results/README.md that is about training, from the JSON files beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

Result = Mapping[str, Any]

_STEPS: Final = "dreambooth-steps"
_PROOF: Final = "dreambooth-proof"


def training_section(results: Path) -> Iterable[str]:
    """Yield the lines; none if nothing of it was measured."""
    steps, proof = (_read(results / f"{name}.json") for name in (_STEPS, _PROOF))
    if steps is None and proof is None:
        return
    yield "## Training"
    yield ""
    yield "| Measure | Must reach | Measured | |"
    yield "|---|---|---|---|"
    if steps is not None:
        yield from _step_verdicts(steps)
    if proof is not None:
        yield from _proof_verdicts(proof)
    yield ""
    if steps is not None:
        yield from _step_figures(steps)
    if proof is not None:
        yield from _lessons(proof)
    for result in filter(None, (steps, proof)):
        yield _provenance(result)
        yield ""


def _read(path: Path) -> Result | None:
    return json.loads(path.read_text()) if path.is_file() else None


def _step_verdicts(steps: Result) -> Iterable[str]:
    for name, verdict in steps["verdicts"].items():
        yield f"| {name} | ≤ {verdict['target']:.3g} | {verdict['value']:.3g} | {_met(verdict)} |"


def _proof_verdicts(proof: Result) -> Iterable[str]:
    for name, verdict in proof["verdicts"].items():
        if name == "lessons":
            continue
        if "worst" in verdict:
            measured = f"mean {verdict['mean']:.3g}, worst lesson {verdict['worst']:.3g}"
        else:
            measured = (
                f"mean {verdict['mean']:.3f} ± {verdict['standard_error']:.3f}, "
                f"lessons {verdict['smallest']:.3f} to {verdict['largest']:.3f}"
            )
        of = f"{verdict['lessons_within']} of {proof['verdicts']['lessons']} lessons within"
        target = str(verdict["target"]).replace("<=", "≤").replace(">=", "≥")
        said = name.replace("|", "\\|")
        yield f"| {said} | {target} | {measured}; {of} | {_met(verdict)} |"


def _step_figures(steps: Result) -> Iterable[str]:
    yield "Stable Diffusion 1.5 with widths divided by eight, 256 pixels, one thread, prior preservation, batch 1 + 1:"
    yield ""
    yield "| Program | CPU-s per step | CPU-s before the first | Peak RSS, MB | Mean loss of the last half |"
    yield "|---|---|---|---|---|"
    for name, of in steps["figures"].items():
        yield (
            f"| {name} | {of['cpu_s_per_step']:.3f} | {of['start_cpu_s']:.1f} | {of['peak_rss_mb']:.0f} "
            f"| {of['mean_loss_of_last_half']:.3f} ± {of['standard_error_of_last_half']:.3f} |"
        )
    yield ""


def _lessons(proof: Result) -> Iterable[str]:
    yield "Lessons of the toy world, with and without class images:"
    yield ""
    yield "| Subject, seed | P(subject \\| identifier), with / without | Drift, with / without | Diversity / base's |"
    yield "|---|---|---|---|"
    for lesson in proof["lessons"]:
        a, b = lesson["with_prior"], lesson["without_prior"]
        yield (
            f"| {lesson['subject']}, {lesson['seed']} | {a['known']:.3f} / {b['known']:.3f} "
            f"| {a['drift']:.4f} / {b['drift']:.3f} "
            f"| {a['diversity_of_base']:.3f} / {b['diversity_of_base']:.3f} |"
        )
    yield ""


def _provenance(result: Result) -> str:
    machine, versions = result["machine"], result["versions"]
    return (
        f"`{result['command']}`, {result['date'][:16]} UTC, {machine['cpu']}, {machine['cores']} cores, load before "
        f"{machine['load_average_before']:.1f}, torch {versions['torch']}, diffusers {versions['diffusers']}, "
        f"turbo-fetch at {versions['commit']}."
    )


def _met(verdict: Result) -> str:
    return "met" if verdict["met"] else "**missed**"
