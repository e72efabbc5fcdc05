"""The packages are in one order, and imports only go down it, as ARCHITECTURE.md says; importing is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "python" / "turbo_fetch"

ORDER = (
    # Modules of the root floor that everything may use.
    "errors",
    "outcomes",
    "causes",
    "redaction",
    "startup",
    "stop",
    "user_code",
    # Packages, each of which may use those above it in this list.
    "storage",
    "spec",
    "arrow",
    "plan",
    "progress",
    "spool",
    "dataset",
    "fetch",
    "sources",
    "score",
    "shard",
    "duplicates",
    "monitor",
    "runners",
    "doctor",
    "dreambooth",
    "stages",
    "maintenance",
    "img2dataset",
    "cli",
)
ROOT_MODULES = 10
"""What a stranger takes in at a glance."""

FOREIGN = {
    "spec": {"aiohttp", "pyarrow", "torch"},
    "plan": {"aiohttp"},
    "fetch": {"cv2", "PIL"},
    "fetch/retry_policy.py": {"aiohttp", "asyncio"},
    "dataset": {"aiohttp", "fsspec", "cv2"},
    "runners": {"aiohttp", "cv2"},
    "runners/supervisor.py": {"ray", "pyspark"},
    "stages/fetch.py": {"aiohttp", "ray", "pyspark"},
    "maintenance": {"aiohttp"},
    "dreambooth": {
        "aiohttp",
        "turbo_fetch.plan",
        "turbo_fetch.fetch",
        "turbo_fetch.shard",
        "turbo_fetch.duplicates",
    },
}
"""What a package does without, though its place in the order, or no rule, would allow it."""


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = {_name(path): path for path in PACKAGE.rglob("*.py")}


def _floor(module: str) -> str | None:
    """Return the part of the order that a module belongs to; None for the package itself and `python -m`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] not in {"__main__", "_native"} else None


def test_every_module_has_its_place_in_the_order() -> None:
    assert {floor for floor in map(_floor, MODULES) if floor} == set(ORDER)


def test_the_root_floor_is_small() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= ROOT_MODULES


@pytest.mark.parametrize("floor", ORDER)
def test_imports_only_go_down_the_order(floor: str) -> None:
    above = set(ORDER[ORDER.index(floor) + 1 :])
    for module, path in MODULES.items():
        if _floor(module) == floor:
            up = {
                name for name in _imports(path) if name.startswith("turbo_fetch.") and _floor(name) in above
            }
            assert not up, f"{module} imports {up}"


def test_no_module_imports_itself_by_a_detour() -> None:
    graph = {
        module: {name for name in _imports(path) if name in MODULES and name != module and _floor(name)}
        for module, path in MODULES.items()
    }
    # A package is what stands in its __init__, and its modules need not wait for it.
    for module, imported in graph.items():
        imported -= {name for name in imported if module.startswith(f"{name}.")}
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("place", FOREIGN)
def test_packages_do_without_what_is_not_their_concern(place: str) -> None:
    target = PACKAGE / place
    paths = list(target.rglob("*.py")) if target.is_dir() else [target]
    assert paths
    for path in paths:
        for name in _imports(path):
            for foreign in FOREIGN[place]:
                assert not f"{name}.".startswith(f"{foreign}."), f"{path.name} imports {name}"


def test_the_native_module_is_imported_in_few_places() -> None:
    importers = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if any(name.startswith("turbo_fetch._native") for name in _imports(path))
    }
    assert {path for path in importers if not path.startswith("plan/")} == {
        "__init__.py",
        "dataset/formats/staged_file.py",
        "dataset/formats/tfrecord.py",
        "fetch/redirects.py",
        "shard/transform.py",
        "storage/interface.py",
        "spool/frames.py",
        "spool/spool.py",
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
            "torch ray cv2 aiohttp fsspec asyncio importlib.metadata pydantic.plugin._loader psutil._pslinux "
            "pyarrow._compute pyarrow._parquet",
        ),
        (
            "turbo_fetch.runners.worker",
            "torch ray cv2 fsspec pydantic.plugin._loader turbo_fetch.spec.train psutil._pslinux pyarrow._compute "
            "pyarrow._parquet turbo_fetch.dataset.formats turbo_fetch.shard.commit",
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
        "from turbo_fetch.startup import with_late_modules, without_pandas\n"
        "without_pandas()\n"
        "with_late_modules()\n"
        f"import {module}\n"
        f"heavy = {set(heavy.split())!r} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_stages_that_train_do_without_the_packages_of_fetching() -> None:
    code = (
        "import sys, turbo_fetch.stages, turbo_fetch.dreambooth.training.launch\n"
        "heavy = {'pyarrow', 'aiohttp', 'turbo_fetch.stages.fetch'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
