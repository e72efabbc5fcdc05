"""turbo-fetch: image URL lists into training-ready datasets.

    import turbo_fetch
    from turbo_fetch import Spec

    tables = {"fetch": {"input": {"urls": "list.parquet"}, "output": {"path": "out"}}}
    summary = turbo_fetch.run(Spec.model_validate(tables))
    print(summary.text())

`arun` is the same for use inside an event loop. Importing the package is cheap: what it needs is imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from turbo_fetch.errors import TurboFetchError
    from turbo_fetch.job import arun, run
    from turbo_fetch.spec import Spec
    from turbo_fetch.specfile import load_spec
    from turbo_fetch.summary import Summary

__all__ = ["Spec", "Summary", "TurboFetchError", "__version__", "arun", "load_spec", "run"]

__version__ = version("turbo-fetch")

_HOMES = {
    "Spec": "spec",
    "Summary": "summary",
    "TurboFetchError": "errors",
    "arun": "job",
    "load_spec": "specfile",
    "run": "job",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"turbo_fetch.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'turbo_fetch' has no attribute {name!r}")
