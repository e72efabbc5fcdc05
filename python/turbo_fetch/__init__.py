"""turbo-fetch: image URL lists into training-ready datasets, and a few images into a personalised model.

    import turbo_fetch
    from turbo_fetch import Spec

    tables = {"fetch": {"input": {"urls": "list.parquet"}, "output": {"path": "out"}}}
    summary = turbo_fetch.run(Spec.model_validate(tables))
    print(summary.text())

    dataset = turbo_fetch.open_dataset("out")
    for sample in dataset.samples():
        print(sample.key, len(sample.image), sample.caption)
    print(dataset.ledger().group_by("outcome").aggregate([([], "count_all")]))

`arun` is `run` for use inside an event loop; both show progress unless given a `ProgressListener`. Importing the
package is cheap: what it needs is imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from turbo_fetch._native import __version__

if TYPE_CHECKING:
    from turbo_fetch.dataset.description import load_spec
    from turbo_fetch.dataset.reader import open_dataset
    from turbo_fetch.errors import TurboFetchError
    from turbo_fetch.progress.listener import ProgressListener
    from turbo_fetch.progress.summary import Summary
    from turbo_fetch.score.pixels import pixels
    from turbo_fetch.spec import Spec
    from turbo_fetch.stages import RunSummary, arun, run

__all__ = [
    "ProgressListener",
    "RunSummary",
    "Spec",
    "Summary",
    "TurboFetchError",
    "__version__",
    "arun",
    "load_spec",
    "open_dataset",
    "pixels",
    "run",
]


_HOMES = {
    "ProgressListener": "progress.listener",
    "RunSummary": "stages",
    "Spec": "spec",
    "Summary": "progress.summary",
    "TurboFetchError": "errors",
    "arun": "stages",
    "load_spec": "dataset.description",
    "open_dataset": "dataset.reader",
    "pixels": "score.pixels",
    "run": "stages",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"turbo_fetch.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'turbo_fetch' has no attribute {name!r}")
