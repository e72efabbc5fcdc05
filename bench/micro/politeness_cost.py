"""What asking for consent costs a client: `python bench/micro/politeness_cost.py`.

One process downloads 20 KB bodies from one host over loopback and drops them; in turn with all rules of politeness on
(robots.txt with some rules, X-Robots-Tag, Content-Usage, TDM reservations) and with all of them ignored. Nothing
else is done with the bodies, so the share that is told is an upper bound: decoding a picture costs ten times more.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Final

ROOT = Path(__file__).resolve().parents[2]
REQUESTS: Final = 4_000
REPEATS: Final = 15
FILES: Final = 100
BODY_BYTES: Final = 20_000
ROBOTS: Final = """User-agent: *
Disallow: /admin/
Disallow: /search
Disallow: /*?session=
Disallow: /private/*.pdf$
Allow: /
Sitemap: https://example.org/sitemap.xml
"""
IGNORED: Final = {"robots": "ignore", "opt_out": (), "content_usage": (), "tdm": "ignore"}


def main() -> None:
    """Measure, print and save."""
    os.chdir(ROOT)
    sys.path[0] = str(ROOT)
    import uvloop
    from bench.machine import describe_machine, now, our_versions
    from bench.origin import serve

    folder = _site(Path(".cache/politeness"))
    with serve(folder, Path(".cache/bench/nginx-politeness")) as origin:
        urls = [f"{origin.http_url}/pictures/{number % FILES}.jpg?n={number}" for number in range(REQUESTS)]
        pairs = []
        for repeat in range(REPEATS):
            spent = {}
            for mode in ("respect", "ignore") if repeat % 2 else ("ignore", "respect"):
                begun_s = time.process_time()
                uvloop.run(_fetch(urls, {} if mode == "respect" else IGNORED))
                spent[mode] = time.process_time() - begun_s
            pairs.append((spent["respect"], spent["ignore"]))
    shares = [respect_s / ignore_s - 1 for respect_s, ignore_s in pairs[1:]]
    figures = {
        "respect_us_per_request": statistics.median(pair[0] for pair in pairs[1:]) / REQUESTS * 1e6,
        "ignore_us_per_request": statistics.median(pair[1] for pair in pairs[1:]) / REQUESTS * 1e6,
        "share": statistics.median(shares),
        "share_quartiles": statistics.quantiles(shares),
    }
    result = {
        "micro": "politeness-cost",
        "date": now(),
        "command": "python bench/micro/politeness_cost.py",
        "machine": describe_machine(),
        "versions": our_versions(),
        "requests": REQUESTS,
        "body_bytes": BODY_BYTES,
        "cpu_s_respect_and_ignore": pairs,
        "figures": figures,
    }
    Path("bench/results/micro-politeness-cost.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(figures, indent=1))


def _site(folder: Path) -> Path:
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    (folder / "robots.txt").write_text(ROBOTS)
    for number in range(FILES):
        (folder / "pictures" / f"{number}.jpg").write_bytes(os.urandom(BODY_BYTES))
    return folder


async def _fetch(urls: list[str], changes: dict[str, object]) -> None:
    from turbo_fetch.fetch.budget import ByteBudget
    from turbo_fetch.fetch.client import Client
    from turbo_fetch.fetch.fetched import Fetched
    from turbo_fetch.fetch.pool import FetchPool
    from turbo_fetch.fetch.rows import Request
    from turbo_fetch.spec import HttpSpec

    http = HttpSpec.model_validate(
        {"allow_private_addresses": True, "concurrency": 64, "per_domain": 0, "ports": "any", **changes}
    )
    budget = ByteBudget(64_000_000)
    left = len(urls)
    over = asyncio.Event()

    def done(_: int, fetched: Fetched) -> None:
        nonlocal left
        assert fetched.body is not None, fetched.detail
        budget.release(len(fetched.body))
        left -= 1
        if not left:
            over.set()

    async with Client(http, budget) as client:
        pool = FetchPool(client, http)
        running = asyncio.ensure_future(pool.run())
        pool.submit([Request(row, url, "127.0.0.1") for row, url in enumerate(urls)], done)
        await over.wait()
        running.cancel()
        await asyncio.wait({running})


if __name__ == "__main__":
    main()
