"""Processes that are turbo-fetch's own start light, and end so."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType


class _NoPandas:
    """An import finder that says that pandas is not installed."""

    @staticmethod
    def find_spec(name: str, _path: Sequence[str] | None, _target: ModuleType | None = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return


def without_pandas() -> None:
    """Keep pandas out of this process; to be called before pyarrow is used, and only in a process of our own.

    pyarrow imports pandas, if it is installed, at the first `pa.array`, to recognise its objects: half a
    second and 45 MB per process, of which nothing here makes use.
    """
    if _NoPandas not in sys.meta_path:
        sys.meta_path.insert(0, _NoPandas)


def without_plugins() -> None:
    """Have pydantic look for no plugins, for which it reads the metadata of all installed packages."""
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")


def with_few_threads() -> None:
    """Have numpy start no threads for linear algebra; to be called before it is imported."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@contextmanager
def importing() -> Iterator[None]:
    """Look for no garbage while modules are imported, nor in them later: they stay."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
