"""The bare transform beside OpenCV's and libvips': `python bench/micro/image_transform.py [--before FOLDER]`.

Each program decodes, resizes, pads and encodes the same bodies in memory on one thread of a process of its own: mode
border, Lanczos (OpenCV: area, as the peer has it), JPEG quality 95; images of web sizes to 256 pixels, and photographs
of 2 to 12 megapixels to 256, 512 and 1,024. Programs take turns row by row; the figure is the processor time of the
process per image, least of the rounds. `--before` names a folder that holds another build's `turbo_fetch`.
`pyvips` comes of the group `bench`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, Final

ROOT = Path(__file__).resolve().parents[2]
BATCH: Final = 64
QUALITY: Final = 95
ROUNDS: Final = {"web": 2, "large": 1}
ROWS: Final = (("web", 256), ("large", 256), ("large", 512), ("large", 1024))
"""Which corpus, to which size."""

Run = Callable[[list[bytes], int], None]
Figures = dict[str, dict[str, float]]


def main() -> None:
    """Measure all programs, print and save."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--before", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--large-count", type=int, default=24)
    parser.add_argument("--worker", choices=["ours", "opencv", "vips"])
    arguments = parser.parse_args()
    if arguments.worker is not None:
        _work(arguments.worker)
        return
    os.chdir(ROOT)
    sys.path[0] = str(ROOT)
    from bench.corpus import CorpusPlan, build_corpus
    from bench.machine import describe_machine, now, our_versions
    from bench.photos import FEW

    corpora = {
        "web": build_corpus(CorpusPlan(arguments.count, FEW), Path(".cache")),
        "large": build_corpus(
            CorpusPlan(
                arguments.large_count,
                FEW,
                mean_pixels=5_000_000,
                least_pixels=2_000_000,
                most_pixels=12_000_000,
            ),
            Path(".cache"),
        ),
    }
    machine = describe_machine()
    programs = {"ours": ROOT / "python", "opencv": None, "vips": None}
    if arguments.before is not None:
        programs["before"] = arguments.before.resolve()
    figures = _measure(programs, {name: corpus.folder for name, corpus in corpora.items()})
    result = {
        "micro": "image-transform",
        "date": now(),
        "command": "python bench/micro/image_transform.py" + (" --before FOLDER" if arguments.before else ""),
        "machine": machine,
        "versions": our_versions() | {"pyvips": metadata.version("pyvips")},
        "corpora": {
            name: {
                "images": len(corpus.pictures),
                "mean_kb": corpus.mean_bytes / 1e3,
                "mean_pixels": corpus.mean_pixels,
                "progressive": sum(image.progressive for image in corpus.pictures),
            }
            for name, corpus in corpora.items()
        },
        "ms_per_image": figures,
        "ratio": {name: _ratios(figures["ours"], peer) for name, peer in figures.items()},
    }
    Path("bench/results/micro-image-transform.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({name: result[name] for name in ("ms_per_image", "ratio")}, indent=1))


def _ratios(ours: Figures, peer: Figures) -> Figures:
    return {
        row: {lot: ours[row][lot] / peer[row][lot] for lot in lots if peer[row][lot] > 0}
        for row, lots in ours.items()
    }


def _measure(programs: dict[str, Path | None], corpora: dict[str, Path]) -> dict[str, Figures]:
    """Return the least processor milliseconds per image of each program, row and lot, the programs taking turns."""
    workers = {name: _start(name, folder) for name, folder in programs.items()}
    best: dict[str, Figures] = {name: {} for name in workers}
    for corpus, side in ROWS:
        row = f"{corpus} to {side}"
        # The first round warms up, and counts only if it is the fastest.
        for _ in range(ROUNDS[corpus] + 1):
            for name, worker in workers.items():
                kept = best[name].setdefault(row, {})
                task = {"folder": str(corpora[corpus]), "side": side}
                for lot, spent_ms in _ask(worker, task).items():
                    kept[lot] = min(kept.get(lot, spent_ms), spent_ms)
    for worker in workers.values():
        worker.communicate()
    return best


def _ask(worker: subprocess.Popen[str], task: dict[str, Any]) -> dict[str, float]:
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(json.dumps(task) + "\n")
    worker.stdin.flush()
    answer: dict[str, float] = json.loads(worker.stdout.readline())
    return answer


def _start(name: str, folder: Path | None) -> subprocess.Popen[str]:
    program = "ours" if folder is not None else name
    environment = os.environ | {"VIPS_CONCURRENCY": "1"}
    if folder is not None:
        environment["PYTHONPATH"] = str(folder)
    return subprocess.Popen(
        [sys.executable, __file__, "--worker", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


def _work(program: str) -> None:
    """Answer each line of input with the milliseconds per image of one round, by lot."""
    transform = {"ours": _ours, "opencv": _opencv, "vips": _vips}[program]()
    loaded: dict[str, dict[str, list[bytes]]] = {}
    for line in sys.stdin:
        task = json.loads(line)
        if task["folder"] not in loaded:
            loaded[task["folder"]] = _lots(Path(task["folder"]))
        lots = loaded[task["folder"]]
        spent = {}
        for lot, bodies in lots.items():
            began = time.process_time()
            transform(bodies, task["side"])
            spent[lot] = (time.process_time() - began) * 1e3
        counts = {lot: len(bodies) for lot, bodies in lots.items()}
        answer = {lot: spent[lot] / max(counts[lot], 1) for lot in lots}
        print(json.dumps(answer | {"mix": sum(spent.values()) / sum(counts.values())}), flush=True)


def _lots(folder: Path) -> dict[str, list[bytes]]:
    lots: dict[str, list[bytes]] = {"baseline": [], "progressive": []}
    for path in sorted(folder.glob("*.jpg")):
        body = path.read_bytes()
        lots["progressive" if b"\xff\xc2\x00\x11" in body[:2048] else "baseline"].append(body)
    return lots


def _ours() -> Run:
    from turbo_fetch.shard.transform import Transform
    from turbo_fetch.spec import ImageSpec

    transforms: dict[int, Transform] = {}

    def run(bodies: list[bytes], side: int) -> None:
        if side not in transforms:
            spec = ImageSpec(size=side, mode="border", encode="jpg", quality=QUALITY)
            transforms[side] = Transform(spec, 1)
        for start in range(0, len(bodies), BATCH):
            outcomes = transforms[side].run(bodies[start : start + BATCH])["outcome"]
            assert not any(outcomes.to_pylist())

    return run


def _opencv() -> Run:
    import cv2
    import numpy as np

    cv2.setNumThreads(1)

    def run(bodies: list[bytes], side: int) -> None:
        for body in bodies:
            pixels = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
            assert pixels is not None
            height, width = pixels.shape[:2]
            scale = side / max(height, width)
            size = (max(round(width * scale), 1), max(round(height * scale), 1))
            small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
            left, top = (side - size[0]) // 2, (side - size[1]) // 2
            sides = (top, side - size[1] - top, left, side - size[0] - left)
            padded = cv2.copyMakeBorder(small, *sides, cv2.BORDER_CONSTANT, value=(255, 255, 255))
            cv2.imencode(".jpg", padded, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])

    return run


def _vips() -> Run:
    import pyvips  # type: ignore[import-untyped]

    pyvips.cache_set_max(0)

    def run(bodies: list[bytes], side: int) -> None:
        for body in bodies:
            small = pyvips.Image.thumbnail_buffer(body, side, height=side)
            padded = small.gravity("centre", side, side, extend="white")
            padded.write_to_buffer(".jpg", Q=QUALITY)

    return run


if __name__ == "__main__":
    main()
