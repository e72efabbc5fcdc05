"""Which places of a spec must not be the same, since what one stage writes would become what another reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from turbo_fetch.storage.filesystems import path_of

if TYPE_CHECKING:
    from turbo_fetch.spec.whole import Spec


def collisions(spec: Spec) -> Iterator[str]:
    """Yield each pair of places that must not be the same, as a sentence; symbolic links count as what they lead to."""
    train = spec.train
    written, images = _written(spec), _images(spec)
    for key, folder in written.items():
        for other, read in images.items():
            if folder == read and other != key:
                yield (
                    f"{key} and {other} are both {folder}: what is written would be learned from as an image; "
                    f"expected another {key}"
                )
    base = None if train is None else _local(train.base)
    output = written.get("train.output")
    if base is not None and output is not None and _overlap(base, output):
        yield (
            f"train.output is {output}, where train.base lies ({base}): the base would be replaced; "
            "expected another train.output"
        )


def _overlap(base: Path, output: Path) -> bool:
    """Whether a model, a folder or a single file, would be touched by what is written to a folder."""
    if not (base / "model_index.json").is_file():
        return base == output
    return output.is_relative_to(base) or base.is_relative_to(output)


def _written(spec: Spec) -> dict[str, Path]:
    """Return the folders that stages write, by key."""
    prior = spec.prior
    named = {
        "train.output": spec.train and spec.train.output,
        "prior.output": prior and prior.source == "generate" and _class_images(spec),
        "generate.output": spec.generate and spec.generate.output,
        "evaluate.output": spec.evaluate and spec.evaluate.output,
    }
    return _resolved(named)


def _images(spec: Spec) -> dict[str, Path]:
    """Return the folders of images that stages read, by key."""
    train, prior, evaluate = spec.train, spec.prior, spec.evaluate
    generates = prior is not None and prior.source == "generate"
    named = {
        "train.subject": train and train.subject != "fetch" and train.subject,
        "train.validation.pictures": train and train.validation and train.validation.pictures,
        "evaluate.subject": evaluate and evaluate.subject != "fetch" and evaluate.subject,
        "prior.source": prior and not generates and prior.source,
        "prior.output": generates and _class_images(spec),
        "fetch.output.path": spec.fetch and spec.fetch.output.path,
    }
    return _resolved(named)


def _class_images(spec: Spec) -> str | None:
    if spec.prior is not None and spec.prior.output is not None:
        return spec.prior.output
    return None if spec.train is None else f"{spec.train.output.rstrip('/')}-class"


def _resolved(named: Mapping[str, object]) -> dict[str, Path]:
    found = {key: _local(place) for key, place in named.items() if isinstance(place, str)}
    return {key: path for key, path in found.items() if path is not None}


def _local(place: str) -> Path | None:
    """Return the folder of a place on this machine, symbolic links followed; None for a URL."""
    path = path_of(place)
    return None if path is None else Path(path).resolve()
