"""Imports point one way, as ARCHITECTURE.md says; importing the package is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "python" / "turbo_fetch"

FORBIDDEN = {
    "spec": {
        "turbo_fetch.errors",
        "turbo_fetch.stages.fetch",
        "turbo_fetch.stages",
        "aiohttp",
        "pyarrow",
        "torch",
    },
    "errors.py": {"turbo_fetch"},
    "outcomes.py": {"turbo_fetch"},
    "policy.py": {"aiohttp", "asyncio"},
    "writers": {"aiohttp", "turbo_fetch.fetch", "turbo_fetch.runners", "turbo_fetch.stages.fetch", "fsspec"},
    "fetch": {
        "cv2",
        "turbo_fetch.shard.transform",
        "turbo_fetch.dataset.formats",
        "turbo_fetch.shard.open_shard",
        "turbo_fetch.runners",
    },
    "plan": {
        "aiohttp",
        "turbo_fetch.fetch",
        "turbo_fetch.shard.open_shard",
        "turbo_fetch.runners",
        "turbo_fetch.stages.fetch",
    },
    "runners/supervisor.py": {
        "ray",
        "pyspark",
        "aiohttp",
        "turbo_fetch.shard.open_shard",
        "turbo_fetch.stages.fetch",
        "turbo_fetch.storage",
    },
    "runners/ray.py": {
        "aiohttp",
        "turbo_fetch.shard.open_shard",
        "turbo_fetch.stages.fetch",
        "turbo_fetch.fetch",
    },
    "runners/spark.py": {
        "aiohttp",
        "turbo_fetch.shard.open_shard",
        "turbo_fetch.stages.fetch",
        "turbo_fetch.fetch",
    },
    "attempts.py": {"ray", "pyspark", "aiohttp", "turbo_fetch.runners", "turbo_fetch.stages.fetch"},
    "runners/local.py": {
        "aiohttp",
        "turbo_fetch.shard.open_shard",
        "turbo_fetch.stages.fetch",
        "turbo_fetch.fetch",
    },
    "spool.py": {"turbo_fetch.fetch", "turbo_fetch.dataset.formats", "turbo_fetch.shard.open_shard"},
    "storage.py": {"turbo_fetch.spool.spool", "turbo_fetch.dataset.formats", "turbo_fetch.shard.open_shard"},
    "shard.py": {
        "turbo_fetch.runners",
        "turbo_fetch.stages.fetch",
        "turbo_fetch.cli",
        "turbo_fetch.progress.display",
    },
    "readers": {
        "aiohttp",
        "turbo_fetch.fetch",
        "turbo_fetch.shard.open_shard",
        "turbo_fetch.runners",
        "turbo_fetch.stages.fetch",
        "turbo_fetch.maintenance",
    },
    "care": {"aiohttp", "turbo_fetch.cli"},
    "job.py": {"turbo_fetch.cli", "aiohttp"},
    "dreambooth": {
        "aiohttp",
        "turbo_fetch.fetch",
        "turbo_fetch.plan",
        "turbo_fetch.shard.open_shard",
        "turbo_fetch.stages.fetch",
        "turbo_fetch.stages",
        "turbo_fetch.shard.transform",
        "turbo_fetch.cli",
    },
    "objectives.py": {"diffusers", "lightning", "turbo_fetch"},
}


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _modules(place: str) -> list[Path]:
    found = list(PACKAGE.rglob(place))
    assert found, f"ARCHITECTURE.md and this test speak of {place}, which is not there"
    return [path for match in found for path in (match.rglob("*.py") if match.is_dir() else [match])]


@pytest.mark.parametrize("place", FORBIDDEN)
def test_imports_point_one_way(place: str) -> None:
    for path in _modules(place):
        for name in _imports(path):
            for forbidden in FORBIDDEN[place]:
                assert not f"{name}.".startswith(f"{forbidden}."), f"{path.name} imports {name}"


def test_the_native_module_is_imported_in_few_places() -> None:
    importers = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if any(name.startswith("turbo_fetch._native") for name in _imports(path))
    }
    assert {path for path in importers if not path.startswith("plan/")} == {
        "__init__.py",
        "fetch/redirects.py",
        "transform.py",
        "tfrecord.py",
    }


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("turbo_fetch", "torch ray cv2 pyarrow aiohttp fsspec pydantic typer rich"),
        # What is imported before the first worker is started.
        ("turbo_fetch.cli", "torch ray cv2 pyarrow aiohttp fsspec pydantic typer rich numpy asyncio"),
        ("turbo_fetch.cli.commands", "torch ray cv2 pyarrow aiohttp fsspec pydantic rich numpy"),
        # What parent and worker of a job import, at least, before the first request.
        (
            "turbo_fetch.stages.fetch",
            "torch ray cv2 aiohttp fsspec importlib.metadata pydantic.plugin._loader",
        ),
        (
            "turbo_fetch.runners.worker",
            "torch ray cv2 fsspec pydantic.plugin._loader turbo_fetch.spec.train",
        ),
        (
            "turbo_fetch.monitor.process",
            "torch ray cv2 pyarrow aiohttp fsspec pydantic typer rich numpy asyncio",
        ),
    ],
)
def test_importing_is_light(module: str, heavy: str) -> None:
    code = (
        "import sys\n"
        "from turbo_fetch.startup import without_pandas\n"
        "without_pandas()\n"
        f"import {module}\n"
        f"heavy = {set(heavy.split())!r} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_stages_that_train_do_without_the_packages_of_fetching() -> None:
    code = (
        "import sys, turbo_fetch.stages, turbo_fetch.dreambooth.train\n"
        "heavy = {'pyarrow', 'aiohttp', 'turbo_fetch.stages.fetch'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
