"""The least that a download-only run can cost per body: `python bench/micro/download_floor.py`.

One process fetches the corpus over loopback with aiohttp on uvloop and drops it; then the same bodies are hashed twice
(each by itself, and the archive as a whole) and written once. What a run costs above the sum is ours.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

ROOT = Path(__file__).resolve().parents[2]
REQUESTS: Final = 6_000
IN_FLIGHT: Final = 64


def main() -> None:
    """Measure, print and save."""
    os.chdir(ROOT)
    sys.path[0] = str(ROOT)
    import uvloop
    from bench.corpus import LARGE, build_corpus
    from bench.machine import describe_machine, now, our_versions
    from bench.origin import serve

    corpus = build_corpus(LARGE, Path(".cache"))
    names = [corpus.pictures[number % len(corpus.pictures)].name for number in range(REQUESTS)]
    with serve(corpus.folder, Path(".cache/bench/nginx")) as origin:
        fetch_ms = _spent_ms(lambda: uvloop.run(_fetch([f"{origin.http_url}/{name}" for name in names])))
    bodies = [(corpus.folder / name).read_bytes() for name in names[:2_000]]
    digest_ms = _spent_ms(lambda: [hashlib.sha256(body).digest() for body in bodies])
    with tempfile.TemporaryFile(dir=".cache") as file:
        write_ms = _spent_ms(lambda: [file.write(body) for body in bodies])
    figures = {
        "fetch_ms": fetch_ms / REQUESTS,
        "two_digests_ms": 2 * digest_ms / len(bodies),
        "write_ms": write_ms / len(bodies),
    }
    figures["floor_ms"] = sum(figures.values())
    result = {
        "micro": "download-floor",
        "date": now(),
        "command": "python bench/micro/download_floor.py",
        "machine": describe_machine(),
        "versions": our_versions(),
        "mean_kb": corpus.mean_bytes / 1e3,
        "figures": figures,
    }
    Path("bench/results/micro-download-floor.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(figures, indent=1))


async def _fetch(urls: list[str]) -> None:
    import aiohttp

    waiting = iter(urls)

    async def work(session: aiohttp.ClientSession) -> None:
        for url in waiting:
            async with session.get(url) as response:
                await response.read()

    connector = aiohttp.TCPConnector(limit=IN_FLIGHT)
    async with (
        aiohttp.ClientSession(connector=connector, read_bufsize=1 << 18) as session,
        asyncio.TaskGroup() as tasks,
    ):
        for _ in range(IN_FLIGHT):
            tasks.create_task(work(session))


def _spent_ms(work: Callable[[], object]) -> float:
    begun_s = time.process_time()
    work()
    return (time.process_time() - begun_s) * 1000


if __name__ == "__main__":
    main()
