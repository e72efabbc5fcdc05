"""The pages of the site say what the code says and does."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docs.generate.__main__ import PAGES
from docs.generate.outcomes import MEANINGS

import tutorial
from album import album
from jobs import job_spec, write_list
from origin import Origin
from turbo_fetch.outcomes import Outcome
from turbo_fetch.specfile import dump_spec, parse_spec

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


def test_the_python_of_the_readme_runs_as_it_stands(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    (program,) = re.findall(r"```python\n([^`]*turbo_fetch\.run[^`]*)```", readme)
    (tmp_path / "program.py").write_text(program)
    with Origin(album(4)) as origin:
        urls = write_list(tmp_path / "list.parquet", [origin.url(name) for name in album(4)])
        (tmp_path / "spec.toml").write_text(dump_spec(job_spec(urls, tmp_path / "out")))
        command = [sys.executable, "program.py"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "4 of 4 rows" in done.stdout
