"""The pages of the site say what the code says and does."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docs.generate.__main__ import PAGES
from docs.generate.outcomes import MEANINGS

import tutorial
from turbo_fetch.outcomes import Outcome
from turbo_fetch.specfile import parse_spec

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
MARKDOWN = sorted(path for path in DOCS.rglob("*.md"))


@pytest.mark.parametrize("name", PAGES)
def test_generated_pages_are_in_step_with_the_code(name: str) -> None:
    assert (DOCS / name).read_text() == PAGES[name](), "run: python -m docs.generate"


def test_every_outcome_is_explained() -> None:
    assert set(MEANINGS) == set(Outcome)


def test_every_page_is_in_the_navigation() -> None:
    nav = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]
    assert sorted(_pages(nav)) == [path.relative_to(DOCS).as_posix() for path in MARKDOWN]


def _pages(entries: list[dict[str, Any]]) -> Iterator[str]:
    for entry in entries:
        for target in entry.values():
            if isinstance(target, str):
                yield target
            else:
                yield from _pages(target)


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_every_spec_in_a_page_is_valid(page: Path) -> None:
    for block in re.findall(r"```toml\n(.*?)```", page.read_text(), re.DOTALL):
        tables = tomllib.loads(block)
        if "train" not in tables:
            fetch = tables.setdefault("fetch", {})
            fetch.setdefault("input", {}).setdefault("urls", "list.parquet")
            fetch.setdefault("output", {}).setdefault("path", "dataset")
        parse_spec(tables, page.name)


def test_the_tutorial_does_what_it_shows(tmp_path: Path) -> None:
    printed = tutorial.outputs(tmp_path)
    shown = [output for _, output in tutorial.blocks()]
    assert [tutorial.steady(text) for text in printed] == [tutorial.steady(text) for text in shown]
