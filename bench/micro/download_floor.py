"""The least that a download-only run can cost per body: `python bench/micro/download_floor.py`.

One process fetches the corpus over loopback by bare sockets on uvloop and drops it; then the same bodies are hashed
twice (each by itself, and the archive as a whole) and written twice (into the journal, and into the archive). What a
run costs above the sum is ours; of that, the fetch by our client is shown.
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
    from bench.bare_download import bare_download_s
    from bench.corpus import LARGE, build_corpus
    from bench.machine import describe_machine, now, our_versions
    from bench.origin import serve

    corpus = build_corpus(LARGE, Path(".cache"))
    names = [corpus.pictures[number % len(corpus.pictures)].name for number in range(REQUESTS)]
    with serve(corpus.folder, Path(".cache/bench/nginx")) as origin:
        fetch_ms = bare_download_s(origin.http_url, names) * 1000
        client_ms = _spent_ms(lambda: uvloop.run(_fetch_by_client(origin.http_url, names)))
    bodies = [(corpus.folder / name).read_bytes() for name in names[:2_000]]
    digest_ms = _spent_ms(lambda: [hashlib.sha256(body).digest() for body in bodies])
    with tempfile.TemporaryFile(dir=".cache") as file:
        write_ms = _spent_ms(lambda: [file.write(body) for body in bodies])
    figures = {
        "fetch_ms": fetch_ms / REQUESTS,
        "two_digests_ms": 2 * digest_ms / len(bodies),
        "two_writes_ms": 2 * write_ms / len(bodies),
    }
    figures["floor_ms"] = sum(figures.values())
    figures["our_client_ms"] = client_ms / REQUESTS
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


async def _fetch_by_client(url: str, names: list[str]) -> None:
    from turbo_fetch.fetch.budget import ByteBudget
    from turbo_fetch.fetch.client import Client
    from turbo_fetch.spec import HttpSpec

    waiting = iter(names)
    budget = ByteBudget(1 << 30)
    http = HttpSpec(per_domain=0, allow_private_addresses=True, robots="ignore")

    async def work(client: Client) -> None:
        for name in waiting:
            fetched = await client.get(f"{url}/{name}")
            assert fetched.body is not None
            budget.release(len(fetched.body))

    async with Client(http, budget) as client, asyncio.TaskGroup() as tasks:
        for _ in range(IN_FLIGHT):
            tasks.create_task(work(client))


def _spent_ms(work: Callable[[], object]) -> float:
    begun_s = time.process_time()
    work()
    return (time.process_time() - begun_s) * 1000


if __name__ == "__main__":
    main()
