"""What is remembered of hosts: for a day, within bounds, and whatever happens to the file."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import pytest

from turbo_fetch.fetch.documents import LIFETIME_S, Document
from turbo_fetch.runners.document_cache import DocumentCache

NAME = "documents.sqlite"


def test_what_was_learnt_holds_for_a_day_in_the_next_run_too(tmp_path: Path) -> None:
    now_s = 1000.0
    cache = DocumentCache(tmp_path / NAME, lambda: now_s)
    cache.store({"a": Document(200, "text"), "b": Document(404)})
    cache.close()
    again = DocumentCache(tmp_path / NAME, lambda: now_s)
    assert again.find(["a", "b", "c"]) == {"a": Document(200, "text"), "b": Document(404)}
    now_s += LIFETIME_S
    assert again.find(["a", "b"]) == {}
    again.close()


@pytest.mark.parametrize("by_s", [-3600.0, -10 * LIFETIME_S, 10 * LIFETIME_S])
def test_a_clock_that_was_set_makes_nothing_last_longer(tmp_path: Path, by_s: float) -> None:
    now_s = 10.0**9
    cache = DocumentCache(tmp_path / NAME, lambda: now_s)
    cache.store({"a": Document(404)})
    now_s += by_s
    assert cache.find(["a"]) == {}
    cache.close()


@pytest.mark.parametrize("seed", range(200))
def test_a_damaged_file_says_nothing_that_was_not_said(tmp_path: Path, seed: int) -> None:
    said = {
        f"https://{n}.example/robots.txt": Document(200, f"user-agent: *\ndisallow: /{n}\n")
        for n in range(60)
    }
    hosts = {f"{n}.example": f"192.0.2.{n}" for n in range(60)}
    cache = DocumentCache(tmp_path / NAME)
    cache.store(said)
    cache.store_answered(hosts)
    cache.close()
    content = bytearray((tmp_path / NAME).read_bytes())
    random = Random(seed)
    for _ in range(random.choice((1, 30))):
        start = random.randrange(len(content))
        size = random.choice((1, 2, 512))
        content[start : start + size] = bytes(size) if random.random() < 0.5 else random.randbytes(size)
    (tmp_path / NAME).write_bytes(content)
    again = DocumentCache(tmp_path / NAME)
    assert again.find(said).items() <= said.items()
    assert again.answered().items() <= hosts.items()
    again.store({"new": Document(404)})
    again.close()


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_file_that_cannot_be_used_costs_nothing_but_requests(tmp_path: Path, is_folder: bool) -> None:
    path = tmp_path / NAME
    if is_folder:
        path.mkdir()
    else:
        path.write_bytes(b"not a database, but long enough to look at" * 50)
    cache = DocumentCache(path)
    assert cache.find(["a"]) == {}
    cache.store({"a": Document(200, "text")})
    assert cache.find(["a"]) == {"a": Document(200, "text")}
    cache.close()


def test_the_file_stays_within_its_bounds_and_what_is_new_stays(tmp_path: Path) -> None:
    bound = 2_000_000
    cache = DocumentCache(tmp_path / NAME, max_bytes=bound)
    for number in range(400):
        cache.store({f"{number}.{part}": Document(200, os.urandom(2500).hex()) for part in range(4)})
    assert (tmp_path / NAME).stat().st_size < 1.2 * bound
    assert len(cache.find(["0.0", "399.0", "399.3"])) == 2
    cache.close()
