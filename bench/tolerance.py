"""Odd servers, and who gets their images: `python bench/tolerance.py`, about a minute.

Every entry of tests/oddities.py is asked for once by each program, over loopback. A program gets an image if it ends
with just the bytes that are served; a browser, if it shows one of the right size. img2dataset 1.47 downloads with
`urllib.request.urlopen`, so the column of urllib makes its request as it does.
"""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
TIMEOUT_S: Final = 5
PEER_AGENT: Final = "Mozilla/5.0 (X11; Ubuntu; Linux x86_64; rv:72.0) Gecko/20100101 Firefox/72.0"
IMAGE_SIDE: Final = 48
PAGE: Final = "/page.html"


def main() -> None:
    """Measure, print and save."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    from bench.machine import describe_machine, now, our_versions
    from oddities import head, oddities
    from raw_origin import RawOrigin

    image = _picture()
    listed = oddities(image)
    scripts = {target: script for oddity in listed for target, script in oddity.scripts.items()}
    scripts[PAGE] = [head(b"Content-Type: text/html; charset=utf-8", b"Content-Length: 0")]
    programs: dict[str, Callable[[str], bytes | None]] = {
        "curl": lambda url: _curl(url),
        "curl --compressed": lambda url: _curl(url, "--compressed"),
        "urllib (img2dataset)": _urllib,
        "requests": _requests,
        "aiohttp": _aiohttp,
        "turbo-fetch": _ours,
    }
    rows = []
    with RawOrigin(scripts) as origin:
        shown = _browser(origin.url(PAGE), [origin.url(oddity.target) for oddity in listed])
        for oddity, is_shown in zip(listed, shown, strict=True):
            got = {name: _attempt(get, origin.url(oddity.target)) == image for name, get in programs.items()}
            rows.append({"kind": oddity.kind, "server": oddity.name, "got": got | {"Chromium": is_shown}})
    names = list(rows[0]["got"])
    counts = {name: sum(row["got"][name] for row in rows) for name in names}
    missed = [row for row in rows if not row["got"]["turbo-fetch"] and any(row["got"].values())]
    beaten = [f"{row['kind']}: {row['server']}" for row in missed]
    result = {
        "row": "tolerance",
        "date": now(),
        "command": "python bench/tolerance.py",
        "machine": describe_machine(),
        "versions": our_versions() | _versions(),
        "oddities": len(rows),
        "pictures": counts,
        "got_by_others_alone": beaten,
        "rows": rows,
    }
    results = ROOT / "bench/results"
    (results / "tolerance.json").write_text(json.dumps(result, indent=1) + "\n")
    (results / "tolerance.md").write_text(_table(rows, names, counts))
    print(json.dumps({"oddities": len(rows), "pictures": counts, "got_by_others_alone": beaten}, indent=1))


def _picture() -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.radial_gradient("L").resize((IMAGE_SIDE, IMAGE_SIDE)).convert("RGB").save(file, "jpeg", quality=90)
    return file.getvalue()


def _table(rows: list[dict[str, Any]], names: list[str], counts: dict[str, int]) -> str:
    lines = [
        "# Odd servers, and who gets their images",
        "",
        f"`python bench/tolerance.py` over {len(rows)} servers; those without an image to be had are in the list too.",
        "",
        "| | " + " | ".join(names) + " |",
        "|---|" + "---|" * len(names),
        "| **pictures** | " + " | ".join(f"**{counts[name]}**" for name in names) + " |",
    ]
    for row in rows:
        marks = " | ".join("yes" if row["got"][name] else "no" for name in names)
        server = row["server"].replace("|", "\\|")
        lines.append(f"| {row['kind']}: {server} | {marks} |")
    return "\n".join([*lines, ""])


def _attempt(get: Callable[[str], bytes | None], url: str) -> bytes | None:
    try:
        return get(url)
    except Exception:
        # Whatever a program raises, it has no image.
        return None


def _curl(url: str, *options: str) -> bytes | None:
    with tempfile.NamedTemporaryFile() as file:
        command = ["curl", "-sSLg", "--fail", "--max-time", str(TIMEOUT_S), "-o", file.name, *options, url]
        done = subprocess.run(command, capture_output=True, check=False)
        return Path(file.name).read_bytes() if done.returncode == 0 else None


def _urllib(url: str) -> bytes | None:
    request = urllib.request.Request(url, data=None, headers={"User-Agent": PEER_AGENT})
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
        data: bytes = io.BytesIO(response.read()).getvalue()
    return data


def _requests(url: str) -> bytes | None:
    import requests

    response = requests.get(url, timeout=TIMEOUT_S)
    response.raise_for_status()
    return response.content


def _aiohttp(url: str) -> bytes | None:
    import aiohttp

    async def get() -> bytes:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with (
            aiohttp.ClientSession(timeout=timeout, raise_for_status=True) as session,
            session.get(url) as response,
        ):
            return await response.read()

    return asyncio.run(get())


def _ours(url: str) -> bytes | None:
    import pyarrow as pa

    from turbo_fetch._native import parse_urls
    from turbo_fetch.fetch.budget import ByteBudget
    from turbo_fetch.fetch.client import Client
    from turbo_fetch.spec import HttpSpec

    http = HttpSpec(allow_private_addresses=True, robots="ignore", timeout_s=TIMEOUT_S, max_body_mb=1)
    address = pa.record_batch(parse_urls(pa.array([url]))).column("normalised")[0].as_py()

    async def get() -> bytes | None:
        async with Client(http, ByteBudget(10_000_000)) as client:
            return (await client.get(address)).body

    return asyncio.run(get())


def _browser(page_url: str, urls: list[str]) -> list[bool]:
    """Return for each address whether Chromium shows the image, of the size that is served."""
    from browser import browse

    script = """([url, side, limit]) => new Promise((resolve) => {
        const image = new Image();
        setTimeout(() => resolve(false), limit);
        image.onload = () => resolve(image.naturalWidth === side);
        image.onerror = () => resolve(false);
        image.src = url;
    })"""
    with browse(page_url) as tab:
        return [bool(tab.page.evaluate(script, [url, IMAGE_SIDE, 1000 * TIMEOUT_S])) for url in urls]


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    def first_line(command: str) -> str:
        return subprocess.run(
            [command, "--version"], capture_output=True, text=True, check=True
        ).stdout.split("\n")[0]

    return {
        "curl": first_line("curl").split(" ")[1],
        "chromium": first_line("chromium"),
        "urllib": sys.version.split(" ")[0],
        "requests": version("requests"),
        "aiohttp": version("aiohttp"),
    }


if __name__ == "__main__":
    main()
