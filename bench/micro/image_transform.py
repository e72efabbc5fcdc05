"""The bare transform beside OpenCV's and libvips': `python bench/micro/image_transform.py [--before FOLDER]`.

Each program decodes, resizes, pads and encodes the same bodies in memory on one thread of a process of its own: a
image of 256 pixels, mode border, Lanczos (OpenCV: area, as the peer has it), JPEG quality 95. Rounds are interleaved;
the figure is the processor time of the process per image, best round. `--before` names a folder that holds another
build's `turbo_fetch`.
Needs `pyvips[binary]`.
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
from typing import Final

ROOT = Path(__file__).resolve().parents[2]
ROUNDS: Final = 2
BATCH: Final = 64
SIDE: Final = 256
QUALITY: Final = 95


def main() -> None:
    """Measure all programs, print and save."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--before", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--worker", choices=["ours", "opencv", "vips"])
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.worker is not None:
        _work(arguments.worker, arguments.folder)
        return
    os.chdir(ROOT)
    sys.path[0] = str(ROOT)
    from bench.corpus import CorpusPlan, build_corpus
    from bench.machine import describe_machine, now, our_versions
    from bench.photos import FEW

    corpus = build_corpus(CorpusPlan(arguments.count, FEW), Path(".cache"))
    machine = describe_machine()
    folders = {"ours": ROOT / "python", "opencv": None, "vips": None}
    if arguments.before is not None:
        folders["before"] = arguments.before.resolve()
    figures = _measure(folders, corpus.folder)
    result = {
        "micro": "image-transform",
        "date": now(),
        "command": "python bench/micro/image_transform.py",
        "machine": machine,
        "versions": our_versions() | {"pyvips": metadata.version("pyvips")},
        "pictures": len(corpus.pictures),
        "mean_kb": corpus.mean_bytes / 1e3,
        "mean_pixels": corpus.mean_pixels,
        "ms_per_image": figures,
    }
    Path("bench/results/micro-image-transform.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(figures, indent=1))


def _measure(folders: dict[str, Path | None], corpus: Path) -> dict[str, dict[str, float]]:
    """Return the least processor milliseconds per image of each program and lot, the programs taking turns."""
    workers = {name: _start(name, folder, corpus) for name, folder in folders.items()}
    best: dict[str, dict[str, float]] = {name: {} for name in workers}
    for _ in range(ROUNDS + 1):
        for name, worker in workers.items():
            assert worker.stdin is not None
            assert worker.stdout is not None
            worker.stdin.write("\n")
            worker.stdin.flush()
            for lot, spent_ms in json.loads(worker.stdout.readline()).items():
                best[name][lot] = min(best[name].get(lot, spent_ms), spent_ms)
    for worker in workers.values():
        worker.communicate()
    return best


def _start(name: str, folder: Path | None, corpus: Path) -> subprocess.Popen[str]:
    program = "ours" if folder is not None else name
    command = [sys.executable, __file__, "--worker", program, "--folder", str(corpus)]
    environment = os.environ | {"VIPS_CONCURRENCY": "1"}
    if folder is not None:
        environment["PYTHONPATH"] = str(folder)
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )


def _work(program: str, folder: Path) -> None:
    """Answer each line of input with the milliseconds per image of one round, by lot."""
    transform = {"ours": _ours, "opencv": _opencv, "vips": _vips}[program]()
    lots: dict[str, list[bytes]] = {"baseline": [], "progressive": []}
    for path in sorted(folder.glob("*.jpg")):
        body = path.read_bytes()
        lots["progressive" if b"\xff\xc2\x00\x11" in body[:2048] else "baseline"].append(body)
    for _ in sys.stdin:
        spent = {}
        for lot, bodies in lots.items():
            began = time.process_time()
            transform(bodies)
            spent[lot] = (time.process_time() - began) * 1e3
        counts = {lot: len(bodies) for lot, bodies in lots.items()}
        answer = {lot: spent[lot] / counts[lot] for lot in lots}
        print(json.dumps(answer | {"mix": sum(spent.values()) / sum(counts.values())}), flush=True)


def _ours() -> Callable[[list[bytes]], None]:
    from turbo_fetch.transform import Transform

    from turbo_fetch.spec import ImageSpec

    transform = Transform(ImageSpec(size=SIDE, mode="border", encode="jpg", quality=QUALITY), 1)

    def run(bodies: list[bytes]) -> None:
        for start in range(0, len(bodies), BATCH):
            outcomes = transform.run(bodies[start : start + BATCH])["outcome"]
            assert not any(outcomes.to_pylist())

    return run


def _opencv() -> Callable[[list[bytes]], None]:
    import cv2
    import numpy as np

    cv2.setNumThreads(1)

    def run(bodies: list[bytes]) -> None:
        for body in bodies:
            pixels = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
            assert pixels is not None
            height, width = pixels.shape[:2]
            scale = SIDE / max(height, width)
            size = (max(round(width * scale), 1), max(round(height * scale), 1))
            small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
            left, top = (SIDE - size[0]) // 2, (SIDE - size[1]) // 2
            sides = (top, SIDE - size[1] - top, left, SIDE - size[0] - left)
            padded = cv2.copyMakeBorder(small, *sides, cv2.BORDER_CONSTANT, value=(255, 255, 255))
            cv2.imencode(".jpg", padded, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])

    return run


def _vips() -> Callable[[list[bytes]], None]:
    import pyvips  # type: ignore[import-untyped]

    pyvips.cache_set_max(0)

    def run(bodies: list[bytes]) -> None:
        for body in bodies:
            small = pyvips.Image.thumbnail_buffer(body, SIDE, height=SIDE)
            padded = small.gravity("centre", SIDE, SIDE, extend="white")
            padded.write_to_buffer(".jpg", Q=QUALITY)

    return run


if __name__ == "__main__":
    main()
