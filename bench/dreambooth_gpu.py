"""What a step of DreamBooth takes on a GPU, against diffusers' `train_dreambooth.py`; no figure is published of it yet.

    python -m bench.dreambooth_gpu --peer train_dreambooth.py --base MODEL --subject FOLDER --class FOLDER

Needs an NVIDIA GPU with CUDA that nothing else uses, about 24 GB of its memory for Stable Diffusion 1.5 at 512 pixels,
the model, some images of a dog, and class images (`[prior]` makes them). Seconds per step are the difference
between a long and a short run; memory is what the device has less of than before, ten times a second.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from bench.dreambooth_programs import PACKAGES, Task, compared, one_run, peer_script
from bench.machine import describe_machine, now, our_versions


def main() -> None:
    given = _arguments()
    task = Task(given.base, given.subject, given.class_, given.resolution, 5e-6, "gpu", given.precision)
    programs = compared(given.peer)
    runs = []
    with tempfile.TemporaryDirectory() as scratch:
        for program in programs:
            for steps in (given.short, given.steps):
                with _Memory() as memory:
                    run = one_run(program, task, steps, Path(scratch) / "run", {})
                runs.append(run | {"peak_gpu_bytes": memory.peak_bytes})
    figures = {}
    for program in programs:
        short, long = (run for run in runs if run["program"] == program.name)
        figures[program.name] = {
            "s_per_step": (long["wall_s"] - short["wall_s"]) / (given.steps - given.short),
            "peak_gpu_gb": long["peak_gpu_bytes"] / 1e9,
            "mean_loss": sum(long["losses"]) / len(long["losses"]),
        }
    result = {
        "date": now(),
        "command": f"python -m bench.dreambooth_gpu {' '.join(sys.argv[1:])}",
        "gpu": torch.cuda.get_device_name(),
        "machine": describe_machine(),
        "versions": our_versions() | {name: metadata.version(name) for name in PACKAGES},
        "figures": figures,
        "runs": runs,
    }
    given.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=1))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer", type=Path, required=True, help="train_dreambooth.py of diffusers")
    parser.add_argument("--base", required=True, help="Stable Diffusion 1.5: a diffusers folder or hub id")
    parser.add_argument("--subject", type=Path, required=True, help="folder with images of a dog")
    parser.add_argument("--class", dest="class_", type=Path, required=True, help="folder with class images")
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--precision", choices=("fp32", "fp16", "bf16"), default="fp16")
    parser.add_argument("--short", type=int, default=50)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--output", type=Path, default=Path("dreambooth-gpu.json"))
    given = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error(f"this needs an NVIDIA GPU with CUDA; torch {torch.__version__} sees none here")
    try:
        peer_script(given.peer)
    except FileNotFoundError as error:
        parser.error(str(error))
    for name, folder in (("--subject", given.subject), ("--class", given.class_)):
        if not folder.is_dir():
            parser.error(f"{name} {folder}: no such folder")
    return given


class _Memory:
    """Watches how much less memory of the device is free than when the watch began."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._free_before = torch.cuda.mem_get_info()[0]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> _Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.1):
            self.peak_bytes = max(self.peak_bytes, self._free_before - torch.cuda.mem_get_info()[0])


if __name__ == "__main__":
    main()
