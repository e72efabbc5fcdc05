"""Places of rows: numbers that sort as rows come, over several datasets, and the names that people read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from turbo_fetch.dataset.keys import numbered
from turbo_fetch.dataset.names import shard_name
from turbo_fetch.dataset.reader import StoredDataset
from turbo_fetch.spec import OutputSpec

ROW_BITS: Final = 24
SHARD_BITS: Final = 32
MAX_ROWS: Final = 1 << ROW_BITS
"""Rows that a shard may have where duplicates are looked for."""
OF_SAME_DATASET: Final = r"^duplicate of (\S+|row \d+ of shard \S+)$"
"""Matches what is said of a duplicate whose original has this key in the same dataset."""


def place(dataset: int, shard: int, row: int = 0) -> int:
    """Return the place of a row; `dataset` counts those that come before, in order."""
    return (dataset << SHARD_BITS | shard) << ROW_BITS | row


def shard_of(number: int) -> int:
    """Return the shard of a place, within its dataset."""
    return number >> ROW_BITS & ((1 << SHARD_BITS) - 1)


class Names:
    """Says of which row another one is a duplicate."""

    def __init__(self, against: Sequence[StoredDataset], output: OutputSpec) -> None:
        self._urls = [dataset.storage.url for dataset in against]
        self._outputs = [_output(dataset) for dataset in against]
        self._outputs.append(output)

    def detail(self, original: int) -> str:
        """Return the text that the ledger has for a duplicate of the row at this place."""
        dataset = original >> ROW_BITS + SHARD_BITS
        key = _name(shard_of(original), original & MAX_ROWS - 1, self._outputs[dataset])
        elsewhere = f" in {self._urls[dataset]}" if dataset < len(self._urls) else ""
        return f"duplicate of {key}{elsewhere}"


def _output(dataset: StoredDataset) -> OutputSpec:
    return OutputSpec.model_validate({"path": dataset.storage.url, **dataset.essentials_of("output")})


def _name(shard: int, row: int, output: OutputSpec) -> str:
    """Return the key of a row or, where that is in its shard alone, its place."""
    if output.key_column is not None:
        return f"row {row} of shard {shard_name(shard, output.shard_digits)}"
    return numbered([row], shard, output)[0]
