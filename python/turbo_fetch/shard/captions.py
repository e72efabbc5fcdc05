"""The captions of all rows with one URL, in the row of it that is requested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from turbo_fetch.arrow.schemas import CAPTIONS


def with_captions(source: pa.RecordBatch, later: Mapping[int, Sequence[str]]) -> pa.RecordBatch:
    """Return the rows of a shard with a column of the captions of each, its own one first, every one once.

    `later` has those of the later rows with the same URL, by row.
    """
    own = source.column("caption").to_pylist()
    together = [
        [*dict.fromkeys(text for text in (caption, *later.get(row, ())) if text is not None)]
        for row, caption in enumerate(own)
    ]
    return source.append_column(CAPTIONS, pa.array(together, pa.list_(pa.string())))
