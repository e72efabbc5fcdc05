"""The reference of the Python interface, from its docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from typing import Any

import turbo_fetch
from turbo_fetch.dataset.reader import Sample, StoredDataset
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.progress.summary import Summary
from turbo_fetch.stages import RunSummary

INTRODUCTION = """\
# Python

```python
import turbo_fetch

spec = turbo_fetch.load_spec("spec.toml")
summary = turbo_fetch.run(spec)  # in a notebook or a coroutine: await turbo_fetch.arun(spec)
print(summary.text())

dataset = turbo_fetch.open_dataset("out")
for sample in dataset.samples():
    print(sample.key, len(sample.image), sample.caption)
print(dataset.ledger().group_by("outcome").aggregate([([], "count_all")]))
```

A spec can also be written in Python: `turbo_fetch.Spec.model_validate({"fetch": {...}})` takes the tables of
[the spec file](spec.md) as dictionaries.
"""
FUNCTIONS = ("run", "arun", "load_spec", "open_dataset", "pixels")
CLASSES: dict[type, tuple[str, ...]] = {
    RunSummary: ("fetch", "text"),
    Summary: ("successes", "causes", "rows_per_s", "check", "text"),
    StoredDataset: ("rows", "image", "samples", "batches", "metadata", "ledger", "urls"),
    Sample: ("caption", "extension"),
    ProgressListener: tuple(name for name in vars(ProgressListener) if not name.startswith("_")),
}
"""What is told of each class: the rest of it is for turbo-fetch's own use."""

_CROSS_REFERENCE = re.compile(r":\w+:`([^`]+)`")


def python_page() -> str:
    """Return the page."""
    functions = (_function(getattr(turbo_fetch, name), f"turbo_fetch.{name}") for name in FUNCTIONS)
    return "\n".join((INTRODUCTION, *functions, *(_class(kind, names) for kind, names in CLASSES.items())))


def _class(kind: type, names: Iterable[str]) -> str:
    is_public = kind.__name__ in turbo_fetch.__all__
    parts = [f"## `{'turbo_fetch.' * is_public}{kind.__name__}`\n\n{_text(kind)}\n"]
    for name in names:
        member = vars(kind)[name]
        if isinstance(member, property):
            parts.append(f"### `{name}`\n\n{_text(member.fget)}\n")
        else:
            parts.append(_function(member, name, level=3))
    return "\n".join(parts)


def _function(function: Any, name: str, level: int = 2) -> str:
    signature = (
        str(inspect.signature(function)).replace("'", "").replace("(self, ", "(").replace("(self)", "()")
    )
    return f"{'#' * level} `{name}`\n\n```python\n{name}{signature}\n```\n\n{_text(function)}\n"


def _text(thing: Any) -> str:
    return _CROSS_REFERENCE.sub(r"`\1`", inspect.getdoc(thing) or "")
