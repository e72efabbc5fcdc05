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
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final, cast

ROOT = Path(__file__).resolve().parents[2]
REQUESTS: Final = 6_000
IN_FLIGHT: Final = 64
_LENGTH: Final = re.compile(rb"Content-Length: (\d+)")


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
        port = int(origin.http_url.rpartition(":")[2])
        fetch_ms = _spent_ms(lambda: uvloop.run(_fetch_by_sockets(port, names)))
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


class _Fetching(asyncio.Protocol):
    """Asks for one address after the other over a connection, and reads what comes until it is as long as announced."""

    def __init__(self, paths: Iterator[bytes], ended: asyncio.Future[None]) -> None:
        self._paths = paths
        self._ended = ended
        self._pieces: list[bytes] = []
        self._left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the first address."""
        self._transport = cast(asyncio.Transport, transport)
        self._ask()

    def data_received(self, data: bytes) -> None:
        """Take bytes; those of a body become one object, as a client has to hand it over."""
        if not self._left:
            head, _, data = data.partition(b"\r\n\r\n")
            length = _LENGTH.search(head)
            assert length is not None
            self._left = int(length[1])
        self._pieces.append(data)
        self._left -= len(data)
        if not self._left:
            b"".join(self._pieces)
            self._ask()

    def _ask(self) -> None:
        self._pieces.clear()
        path = next(self._paths, None)
        if path is None:
            self._transport.close()
            self._ended.set_result(None)
        else:
            self._transport.write(b"GET /%b HTTP/1.1\r\nHost: localhost\r\n\r\n" % path)


async def _fetch_by_sockets(port: int, names: list[str]) -> None:
    loop = asyncio.get_running_loop()
    paths = iter([name.encode() for name in names])
    ended = [loop.create_future() for _ in range(IN_FLIGHT)]
    for end in ended:
        await loop.create_connection(partial(_Fetching, paths, end), "127.0.0.1", port)
    await asyncio.gather(*ended)


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
