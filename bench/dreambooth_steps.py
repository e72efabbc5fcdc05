"""What a step of DreamBooth costs, against diffusers' `train_dreambooth.py`, a separate program.

    python -m bench.dreambooth_steps --peer train_dreambooth.py [--steps 60] [--repeats 3]

Both train the same model on the same images on one thread: prior preservation, a batch of one and one, AdamW, the
text encoder frozen. The peer runs as its README says, and once more with the text embeddings computed once. CPU
seconds of all processes are counted; the difference between a long and a short run is that of the steps alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from bench.dreambooth_model import RESOLUTION, operations, write_images, write_model
from bench.dreambooth_programs import PACKAGES, Task, compared, one_run, peer_script
from bench.machine import describe_machine, now, our_versions

RESULT: Final = Path("bench/results/dreambooth-steps.json")
SHORT: Final = 10
"""Steps of the short run, in which everything is warm."""
WARM_UP: Final = 2
"""Steps of a run of each program that is not counted: it fills the cache of files, and that of compiled code."""
_ENVIRONMENT: Final = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
_LEARNING_RATE: Final = 1e-4


def main() -> None:
    given = _arguments()
    machine, date = describe_machine(), now()
    programs = compared(given.peer)
    chosen = [program for program in programs if given.only in (None, program.name)]
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        task = _task(Path(scratch))
        environment = _ENVIRONMENT | {"TORCHINDUCTOR_CACHE_DIR": str(Path(scratch) / "compiled")}
        for program in chosen:
            one_run(program, task, WARM_UP, Path(scratch) / "run", environment)
        for repeat in range(given.repeats):
            # In turn, and the other way round each second time.
            for program in chosen if repeat % 2 == 0 else reversed(chosen):
                for steps in (SHORT, given.steps):
                    runs.append(one_run(program, task, steps, Path(scratch) / "run", environment))
                    print(json.dumps({k: v for k, v in runs[-1].items() if k != "losses"}), flush=True)
    figures = {program.name: _figures(program.name, runs, given.steps) for program in chosen}
    verdicts = _verdicts(figures) if len(chosen) == len(programs) else {}
    result = {
        "date": date,
        "command": f"python -m bench.dreambooth_steps {' '.join(sys.argv[1:])}",
        "machine": machine,
        "versions": our_versions() | {name: metadata.version(name) for name in PACKAGES},
        "operations": operations(),
        "figures": figures,
        "verdicts": verdicts,
        "runs": runs,
    }
    print(json.dumps({"figures": figures, "verdicts": verdicts}, indent=1))
    if verdicts:
        given.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--peer", type=Path, required=True, help="examples/dreambooth/train_dreambooth.py of diffusers"
    )
    parser.add_argument("--steps", type=int, default=60, help=f"of the long run; more than {SHORT}")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", help="one program, to look at; nothing is kept")
    parser.add_argument("--output", type=Path, default=RESULT)
    given = parser.parse_args()
    try:
        peer_script(given.peer)
    except FileNotFoundError as error:
        parser.error(str(error))
    if given.steps <= SHORT:
        parser.error(f"--steps {given.steps}: expected more than {SHORT}")
    return given


def _task(folder: Path) -> Task:
    """Make model and images in `folder`."""
    return Task(
        str(write_model(folder / "base")),
        write_images(folder / "subject", 4, seed=1),
        write_images(folder / "class", 8, seed=2),
        RESOLUTION,
        _LEARNING_RATE,
    )


def _figures(name: str, runs: Sequence[dict[str, Any]], steps: int) -> dict[str, float]:
    """Return medians over the repeats; CPU of the start is all that is not in steps."""
    short, long = (
        [run for run in runs if run["program"] == name and run["steps"] == count] for count in (SHORT, steps)
    )
    per_step = statistics.median(
        (b["cpu_s"] - a["cpu_s"]) / (steps - SHORT) for a, b in zip(short, long, strict=True)
    )
    curve = [statistics.fmean(values) for values in zip(*(run["losses"] for run in long), strict=True)]
    return {
        "cpu_s_per_step": per_step,
        "start_cpu_s": statistics.median(run["cpu_s"] for run in short) - SHORT * per_step,
        "peak_rss_mb": statistics.median(run["peak_rss_bytes"] for run in long) / 1e6,
        "mean_loss": statistics.fmean(curve),
        "mean_loss_of_last_half": statistics.fmean(curve[len(curve) // 2 :]),
        "standard_error_of_last_half": statistics.stdev(curve[len(curve) // 2 :])
        / (len(curve) - len(curve) // 2) ** 0.5,
    }


def _verdicts(figures: dict[str, dict[str, float]]) -> dict[str, dict[str, Any]]:
    """Compare with what must be reached; two mean losses are equal within three standard errors of their difference."""
    mine, compiled, peer = (figures[name] for name in ("turbo-fetch", "turbo-fetch, compiled", "peer"))
    once = figures["peer, text computed once"]
    step, half = "cpu_s_per_step", "mean_loss_of_last_half"
    noise = (mine["standard_error_of_last_half"] ** 2 + peer["standard_error_of_last_half"] ** 2) ** 0.5

    def row(value: float, target: float) -> dict[str, Any]:
        return {"value": value, "target": target, "met": value <= target}

    return {
        "CPU per step against the peer": row(mine[step] / peer[step], 1 / 1.5),
        "the same with torch.compile": row(compiled[step] / peer[step], 1 / 2.2),
        "the same without, against the peer with text computed once": row(mine[step] / once[step], 1 / 1.5),
        "peak memory against the peer": row(mine["peak_rss_mb"] / peer["peak_rss_mb"], 1.0),
        "difference of the mean losses, in standard errors": row(abs(mine[half] - peer[half]) / noise, 3.0),
    }


if __name__ == "__main__":
    main()
