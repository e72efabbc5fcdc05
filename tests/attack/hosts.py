"""Hosts that send what they were not asked for, documents without end, and floods: other hosts do not suffer."""

from __future__ import annotations

import time
import tracemalloc
from collections import Counter
from contextlib import ExitStack
from ipaddress import IPv4Address
from pathlib import Path
from random import Random

import turbo_fetch
from album import album
from attack.campaign import Attack
from fetching import LIMITS
from jobs import job_spec, ledger, write_list
from origin import Origin
from raw_origin import RawOrigin
from test_attacks import attempt
from test_keep_alive import ASKED, GOOD, UNASKED, WHEN_S, fetch_side_by_side, script
from test_response_reader import FLOODS
from turbo_fetch.fetch.robots import MAX_BYTES, Robots
from turbo_fetch.outcomes import Outcome

PRIVATE = ("127.0.0.0/8", "10.0.0.0/8", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10", "172.16.0.0/12")
LINES = (
    "user-agent: *", "user-agent: a", "user-agent: turbo-fetch", "user-agent: turbo", "disallow: /a", "disallow: /*a*b",
    "disallow: /%e2%80*", "allow: /a$", "content-usage: train-ai=n", "content-usage: /*a*b train-ai=n",
    "crawl-delay: 1", "sitemap: a", "disallow: /" + "a/" * 200, "user-agent:", "#", "\0", "disallow: /é*$",
)  # fmt: skip


def attacks(stack: ExitStack, folder: Path) -> list[Attack]:
    """Return the attacks."""
    return [
        Attack("unasked bytes on a kept connection", _unasked_bytes),
        Attack("robots.txt of any lines", _robots),
        Attack("notations of private addresses, with and without a proxy", _private_address),
        Attack("floods beside other hosts", _flood),
    ]


def _unasked_bytes(random: Random, folder: Path) -> str | None:
    asked = random.choice(list(ASKED))
    bad = {
        f"/bad{number}.jpg": script(
            ASKED[asked], unasked, random.choice([*WHEN_S.values(), random.random() / 4])
        )
        for number, unasked in enumerate(UNASKED.values())
    }
    targets = [*GOOD, *random.choices(list(bad), k=len(GOOD))]
    random.shuffle(targets)
    with RawOrigin(bad | GOOD) as origin:
        results = fetch_side_by_side(origin, targets, workers=random.choice((1, 4, 8)))
    wrong = [
        target
        for number, target in enumerate(GOOD)
        if [each.body for each in results[target]] != [b"good %d" % number]
    ]
    return f"after {asked}, wrong images for {wrong}" if wrong else None


def _robots(random: Random, folder: Path) -> str | None:
    chosen = random.choices(LINES, k=random.choice((1, 2, 3, 6)))
    text = "".join(f"{random.choice(chosen)}\n" * random.choice((1, 10, 1000)) for _ in range(3000))[
        :MAX_BYTES
    ]
    path = "/" + random.choice(("a/", "ab", "é", "%e2", "?a=b&")) * random.choice((1, 100, 2000))
    tracemalloc.start()
    began_s = time.process_time()
    robots = Robots(text, "turbo-fetch")
    parsed_s = time.process_time()
    _, most_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    asked_s = time.process_time()
    refusal = robots.refusal(path)
    if refusal is None:
        robots.content_usage(path)
    ended_s = time.process_time()
    if parsed_s - began_s > 12 or most_bytes > 150_000_000 or ended_s - asked_s > 0.05:
        return (
            f"{parsed_s - began_s:.1f} s and {most_bytes / 1e6:.0f} MB to read, {ended_s - asked_s:.3f} s to look up: "
            f"{chosen}"
        )
    return None


def _private_address(random: Random, folder: Path) -> str | None:
    network, bits = random.choice(PRIVATE).split("/")
    address = int(IPv4Address(network)) | random.getrandbits(32 - int(bits))
    host = _notation(address, random)
    with Origin({"a.jpg": b"x"}) as proxy:
        ways = {"proxy": proxy.base} if random.random() < 0.5 else {}
        fetched = attempt(f"http://{host}:8080/a.jpg", None, robots="ignore", timeout_s=1, **ways)
        asked = proxy.hits.total()
    if asked or fetched.outcome not in {Outcome.ADDRESS, Outcome.URL}:
        return f"{host} ended as {fetched.outcome.label} ({fetched.detail}), requests to the proxy: {asked}"
    return None


def _notation(address: int, random: Random) -> str:
    """Return an address of IPv4 as browsers take it: of one to four numbers, of any base, escaped, or within IPv6."""
    if random.random() < 0.2:
        return random.choice(("[::ffff:{}]", "[64:ff9b::{}]", "[::{}]")).format(IPv4Address(address))
    count = random.randint(1, 4)
    parts = [address >> (24 - 8 * place) & 255 for place in range(count - 1)]
    parts.append(address & (1 << (8 * (5 - count))) - 1)
    text = ".".join(random.choice(("{}", "0x{:x}", "0X{:08X}", "0{:o}")).format(part) for part in parts)
    if random.random() < 0.3:
        text = "".join(f"%{ord(each):02x}" if random.random() < 0.5 else each for each in text)
    return text + random.choice(("", "", "."))


def _flood(random: Random, folder: Path) -> str | None:
    """A host that floods each of its connections beside one that does not: no row of the other fails."""
    images = album(60, side=40)
    flood = FLOODS[random.choice(list(FLOODS))][:4_000_000]
    with Origin(images, latency_s=0.01) as good, RawOrigin({"/flood.jpg": [flood]}) as bad:
        rows = [good.url(name) for name in images] + [bad.url(f"/flood.jpg?{number}") for number in range(20)]
        random.shuffle(rows)
        listed = write_list(folder / "list.parquet", rows)
        turbo_fetch.run(
            job_spec(listed, folder / "out", http={**LIMITS, "retries": 0}, engine={"workers": 1})
        )
    outcomes = Counter(row["outcome"] for row in ledger(folder / "out") if row["url"].startswith(good.base))
    return None if outcomes == {"success": len(images)} else f"rows of the other host: {dict(outcomes)}"
