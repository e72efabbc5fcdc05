"""`train.json`: what a run was begun with, so that it goes on only as what it was."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from turbo_fetch.errors import OutputExists
from turbo_fetch.spec.specfile import differences
from turbo_fetch.spec.train import TrainSpec
from turbo_fetch.storage.disk import replace_with
from turbo_fetch.storage.failures import explained

RECORD: Final = "train.json"
_FREE: Final = frozenset(
    {
        "output",
        "subject",
        "checkpoint_every",
        "checkpoints_kept",
        "sample_every",
        "log_every",
        "samples",
        "attention",
    }
)
"""Keys that leave no trace in the weights. The subject is compared by its pictures, not by its place."""


def essentials(train: TrainSpec, pictures: Mapping[str, list[str]]) -> dict[str, Any]:
    """Return all that the weights depend on; `pictures` are digests of pictures and captions."""
    table = train.model_dump(mode="json", by_alias=True, exclude=set(_FREE))
    table["pictures"].pop("workers")
    if train.schedule.kind in {"constant", "constant_with_warmup"}:
        # These do not know how long the run is, so that a longer one is the same run.
        table.pop("steps")
    return {"train": table, "pictures": dict(pictures)}


def check(output: Path, now: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `train.json` says, empty if there is none. Raises OutputExists with what differs."""
    path = output / RECORD
    if not path.is_file():
        return {}
    try:
        before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OutputExists(
            f"{path}: damaged ({error}); expected the record of a run. Use another output"
        ) from error
    changed = list(_changes(before["essentials"], now))
    if changed:
        listed = "\n".join(f"  {line}" for line in changed)
        raise OutputExists(
            f"{output}: holds a run of another spec; go on with that, or use another train.output:\n{listed}"
        )
    return before


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    yield from differences(before["train"], now["train"], "train.")
    for kind, pictures in now["pictures"].items():
        old = before["pictures"].get(kind, [])
        if len(pictures) != len(old):
            yield f"pictures of the {kind}: were {len(old):,}, are now {len(pictures):,}"
        elif changed := sum(new != known for new, known in zip(pictures, old, strict=True)):
            yield f"pictures of the {kind}: {changed:,} of {len(old):,} have another content, caption or place"


def write(output: Path, content: Mapping[str, Any]) -> None:
    """Publish `train.json`."""
    path = output / RECORD
    with explained(str(path)):
        output.mkdir(parents=True, exist_ok=True)
        replace_with(path, json.dumps(content, indent=1, ensure_ascii=False).encode())
