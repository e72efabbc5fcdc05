"""The pages of the site say what the code says and does."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from docs.generate.__main__ import PAGES

import tutorial
from album import album
from jobs import job_spec, write_list
from kept_columns import PER_SHARD, dataset
from origin import Origin
from processes import PATIENCE_S
from turbo_fetch.outcomes import MEANINGS, Outcome
from turbo_fetch.spec import OutputFormat
from turbo_fetch.spec.specfile import dump_spec, parse_spec

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
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
    assert done.returncode == 0, done.stderr
    assert "4 of 4 rows" in done.stdout


OUTPUTS = (DOCS / "outputs.md").read_text()


@pytest.fixture
def run_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], dict[str, Any]]]:
    """Give what runs a program in a folder with a dataset `out`, and returns its variables."""
    import datasets

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def run(program: str) -> dict[str, Any]:
        variables: dict[str, Any] = {}
        exec(program, variables)
        return variables

    with warnings.catch_warnings():
        # Warnings of other people's libraries are theirs.
        warnings.simplefilter("ignore")
        yield run
        gc.collect()


@pytest.mark.parametrize("output_format", ["webdataset", "files", "parquet", "parquet_bytes"])
def test_hugging_face_loads_as_the_page_of_outputs_shows(
    tmp_path: Path, run_there: Callable[[str], dict[str, Any]], output_format: OutputFormat
) -> None:
    whole, tars = (block for block in _python(OUTPUTS) if "datasets" in block)
    dataset(tmp_path, output_format, {"n": pa.array([None] * 20 + [1] * 4)}, encode="jpg")
    rows = list(run_there(whole)["data"])
    assert len(rows) == (24 if "parquet" in output_format else 20)
    if output_format == "webdataset":
        assert [row["json"] for row in run_there(tars)["data"]] == [row["json"] for row in rows]


def test_webdataset_pandas_polars_and_duckdb_load_as_the_page_of_outputs_shows(
    tmp_path: Path, run_there: Callable[[str], dict[str, Any]]
) -> None:
    import duckdb

    dataset(tmp_path, "webdataset", {"n": pa.array(range(10 * PER_SHARD))}, encode="jpg")
    (tables,) = (block for block in _python(OUTPUTS) if "polars" in block)
    assert len(run_there(tables)["rows"]) == 10 * PER_SHARD
    (query,) = re.findall(r"```sql\n(.*?);\n```", OUTPUTS, re.DOTALL)
    counted = duckdb.sql(query)
    assert counted is not None
    assert sorted(counted.fetchall()) == [("http-4xx", 20), ("success", 100)]
    (loader,) = (block for block in _python(OUTPUTS) if "webdataset, torch" in block)
    # Images of the test have several sizes; the page is about those of one.
    loader = loader.replace("num_workers=4", "num_workers=0").replace("batched(32)", "batched(1)")
    assert sum(len(texts) for _, texts in run_there(loader)["loader"]) == 100


def test_lmdb_is_read_as_the_page_of_outputs_shows(
    tmp_path: Path, run_there: Callable[[str], dict[str, Any]]
) -> None:
    dataset(tmp_path, "lmdb", {"n": pa.array(range(PER_SHARD))}, encode="jpg")
    (block,) = (block for block in _python(OUTPUTS) if "lmdb" in block)
    found = run_there(block)
    assert len(found["keys"]) == 10
    assert found["picture"][1:4] == b"PNG"
    found["environment"].close()


def _python(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page, re.DOTALL)
