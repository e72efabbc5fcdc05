"""Processes that are turbo-fetch's own start light, and end so."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from threading import RLock
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    # At run time it would import the reading of resources and of archives too.
    from importlib.abc import Loader


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


LATE: Final = ("psutil", "pyarrow.compute", "pyarrow.parquet")
"""Modules that take long, and that most runs use after the first request only; `from` imports execute them at once."""

_loading = RLock()


class _LateModule(ModuleType):
    """A module that is executed when something is first asked of it, in whatever thread that is."""

    def __getattribute__(self, name: str) -> Any:
        # Those the import system asks for, of a module that it has seen before.
        if not name.startswith("__"):
            with _loading:
                loader = self.__spec__ and self.__spec__.loader
                if type(self) is _LateModule and isinstance(loader, _LateLoader):
                    loader.execute(self)
        return ModuleType.__getattribute__(self, name)


class _LateLoader:
    """Makes a late module, and executes it by the loader that it has otherwise."""

    def __init__(self, loader: Loader) -> None:
        self._loader: Loader | None = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _LateModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Leave it for later."""

    def execute(self, module: ModuleType) -> None:
        """Execute it, unless that is what asks."""
        loader, self._loader = self._loader, None
        if loader is None:
            return
        try:
            loader.exec_module(module)
        except BaseException:
            self._loader = loader
            raise
        module.__class__ = ModuleType


class _LateFinder:
    """An import finder that has the modules of `LATE` executed late."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name in LATE else None
        if spec is not None and spec.loader is not None:
            spec.loader = cast("Loader", _LateLoader(spec.loader))
        return spec


def with_late_modules() -> None:
    """Have the modules of `LATE` executed when something is asked of them; only in a process of our own."""
    if _LateFinder not in sys.meta_path:
        sys.meta_path.insert(0, _LateFinder)


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


@contextmanager
def late_certificates() -> Iterator[None]:
    """Have TLS contexts that are made meanwhile read the certificate store at their first connection.

    aiohttp makes two when it is imported, each of which reads the store: 60 ms, where a list may have no https at all.
    """
    import ssl

    class LateContext(ssl.SSLContext):
        """A context that has yet to read the store; from its first connection on it is like any other."""

        def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
            return _read(self).wrap_bio(*args, **options)

        def wrap_socket(self, *args: Any, **options: Any) -> ssl.SSLSocket:
            return _read(self).wrap_socket(*args, **options)

    def _read(context: ssl.SSLContext) -> ssl.SSLContext:
        context.__class__ = ssl.SSLContext
        context.set_default_verify_paths()
        return context

    def put_off(context: ssl.SSLContext) -> None:
        context.__class__ = LateContext

    ssl.SSLContext.set_default_verify_paths = put_off  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        del ssl.SSLContext.set_default_verify_paths
