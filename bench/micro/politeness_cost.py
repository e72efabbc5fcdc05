"""What asking for consent costs a client: `python bench/micro/politeness_cost.py`.

One process downloads 20 KB bodies from one host over loopback and drops them; in turn with all rules of politeness on
(robots.txt with some rules, X-Robots-Tag, Content-Usage, TDM reservations) and with all of them ignored. Nothing
else is done with the bodies, so the share that is told is an upper bound: decoding an image costs ten times more.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from turbo_fetch.fetch.client import Client
    from turbo_fetch.fetch.request import Fetched

ROOT = Path(__file__).resolve().parents[2]
REQUESTS: Final = 500
"""In a row, before it is the other one's turn: what else the machine does changes more slowly."""

TURNS: Final = 300
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
        pairs = uvloop.run(_take_turns(urls))
    us_per_s = 1e6 / REQUESTS
    figures = {
        "respect_us_per_request": us_per_s * statistics.median(respect_s for respect_s, _ in pairs),
        "ignore_us_per_request": us_per_s * statistics.median(ignore_s for _, ignore_s in pairs),
        "share": statistics.median(respect_s / ignore_s - 1 for respect_s, ignore_s in pairs),
        "share_quartiles": statistics.quantiles(respect_s / ignore_s - 1 for respect_s, ignore_s in pairs),
        "share_of_the_least": min(pair[0] for pair in pairs) / min(pair[1] for pair in pairs) - 1,
    }
    result = {
        "micro": "politeness-cost",
        "date": now(),
        "command": "python bench/micro/politeness_cost.py",
        "machine": describe_machine(),
        "versions": our_versions(),
        "requests": REQUESTS,
        "body_bytes": BODY_BYTES,
        "cpu_ms_respect": " ".join(f"{1000 * pair[0]:.1f}" for pair in pairs),
        "cpu_ms_ignore": " ".join(f"{1000 * pair[1]:.1f}" for pair in pairs),
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


async def _take_turns(urls: list[str]) -> list[tuple[float, float]]:
    """Return the CPU seconds of turns, with and without the rules; the first ones, which ask for them, are left out."""
    from turbo_fetch.fetch.budget import ByteBudget
    from turbo_fetch.fetch.client import Client
    from turbo_fetch.spec import HttpSpec

    common = {"allow_private_addresses": True, "concurrency": 64, "per_domain": 0, "ports": "any"}
    respect, ignore = (HttpSpec.model_validate({**common, **changes}) for changes in ({}, IGNORED))
    pairs = []
    async with (
        Client(respect, ByteBudget(64_000_000)) as polite,
        Client(ignore, ByteBudget(64_000_000)) as rude,
    ):
        for turn in range(TURNS):
            if turn % 2:
                polite_s, rude_s = await _spent_s(polite, urls), await _spent_s(rude, urls)
            else:
                rude_s, polite_s = await _spent_s(rude, urls), await _spent_s(polite, urls)
            pairs.append((polite_s, rude_s))
    return pairs[2:]


async def _spent_s(client: Client, urls: list[str]) -> float:
    """Download all, and return the CPU seconds of this process."""
    from turbo_fetch.fetch.pool import FetchPool
    from turbo_fetch.fetch.request import Request

    requests = [Request(row, url, "127.0.0.1") for row, url in enumerate(urls)]
    left = len(urls)
    over = asyncio.Event()

    def done(_: int, fetched: Fetched) -> None:
        nonlocal left
        assert fetched.body is not None, fetched.detail
        client.budget.release(len(fetched.body))
        left -= 1
        if not left:
            over.set()

    pool = FetchPool(client, client.http)
    running = asyncio.ensure_future(pool.run())
    begun_s = time.process_time()
    pool.submit(requests, done)
    await over.wait()
    spent_s = time.process_time() - begun_s
    running.cancel()
    await asyncio.wait({running})
    return spent_s


if __name__ == "__main__":
    main()
