"""The trainer's sub-packages import downward only, and what is true of one model family is said in its adapter."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from turbo_fetch.dreambooth.families import FAMILIES

ROOT = "turbo_fetch.dreambooth"
PACKAGE = Path(__file__).parents[2] / "python" / "turbo_fetch" / "dreambooth"

ORDER = (
    "quiet",
    "run_folder",
    "model_files",
    "families",
    "data",
    "sampling",
    "ahead",
    "export",
    "training",
    "scoring",
    "toy",
)
"""From the bottom up: each imports only from those before it, and from itself."""

LAZY = {
    "turbo_fetch.dreambooth.training.on_ray",
    "turbo_fetch.dataset.reader",
    "turbo_fetch.dataset.formats",
}
"""What is imported in a function, since it brings a package that most runs do without."""


MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
    if path != PACKAGE / "__init__.py"
}
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


def _imports(node: ast.AST) -> Iterator[str]:
    """Yield the names below `turbo_fetch` that are imported in a tree, modules as such."""
    for each in ast.walk(node):
        if isinstance(each, ast.Import):
            yield from (alias.name for alias in each.names if alias.name.startswith("turbo_fetch"))
        elif isinstance(each, ast.ImportFrom) and (each.module or "").startswith("turbo_fetch"):
            modules = (f"{each.module}.{alias.name}" for alias in each.names)
            yield from (
                name if name.removeprefix(f"{ROOT}.") in MODULES else each.module or "" for name in modules
            )


def test_every_module_is_in_a_sub_package_of_the_order() -> None:
    assert {name.partition(".")[0] for name in MODULES} == set(ORDER)


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down(name: str) -> None:
    floor = ORDER.index(name.partition(".")[0])
    for imported in _imports(TREES[name]):
        if imported.startswith(f"{ROOT}."):
            other = imported.removeprefix(f"{ROOT}.").partition(".")[0]
            assert ORDER.index(other) <= floor, f"{name} imports {imported}"


def test_modules_import_each_other_in_no_circle() -> None:
    graph = {
        name: {
            imported.removeprefix(f"{ROOT}.")
            for imported in _imports(tree)
            if imported.startswith(f"{ROOT}.")
        }
        for name, tree in TREES.items()
    }
    free: set[str] = set()
    while ready := {name for name in graph.keys() - free if graph[name] <= free}:
        free |= ready
    assert graph.keys() == free, sorted(graph.keys() - free)


def test_only_what_brings_a_heavy_package_is_imported_in_functions() -> None:
    lazy = {
        imported
        for tree in TREES.values()
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for imported in _imports(function)
    }
    assert lazy <= LAZY


def test_no_other_module_speaks_of_a_family() -> None:
    names = "|".join([*(family.name for family in FAMILIES.values()), *FAMILIES])
    # Keys that kohya's scripts write for models of all families begin with "ss_sd".
    families = re.compile(rf"(?<![a-z])(?<!ss_)({names})(?![a-z])", re.IGNORECASE)
    # The toy is itself a small model of a family.
    others = {name: path for name, path in MODULES.items() if not name.startswith(("families", "toy"))}
    for name, path in others.items():
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            found = families.search(line)
            assert found is None, f"{name}:{number} speaks of {found}"


def test_only_training_imports_the_trainer() -> None:
    for name, tree in TREES.items():
        if not name.startswith("training"):
            imported = {
                (node.module or "").partition(".")[0]
                for node in ast.walk(tree)
                if isinstance(node, ast.ImportFrom)
            }
            assert "lightning" not in imported, name
