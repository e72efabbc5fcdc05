"""What stands beside an image: its metadata as JSON, its caption as text.

Every sample has the same keys, and a value has the type of its column or is null: see `arrow/python_values.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import orjson
import pyarrow as pa

from turbo_fetch.arrow.binaries import blobs
from turbo_fetch.arrow.python_values import json_values
from turbo_fetch.dataset.formats.images import sized
from turbo_fetch.dataset.samples import Samples

TEXTS: Final = frozenset({"json", "txt"})
"""Extensions of members that are no images."""


class Member(NamedTuple):
    """A file of a sample."""

    name: str
    content: bytes | memoryview


def members(samples: Samples, extension: Callable[[str | None], str]) -> Iterator[Member]:
    """Yield the members of the samples that have an image, those of one sample in name order.

    `extension` gives the image's, from the format of the original; those of further sizes are `128.jpg`. Contents are
    views, not copies.
    """
    metadata = samples.metadata
    keys, formats = metadata.column("key").to_pylist(), samples.original_format.to_pylist()
    texts = text_members(metadata)
    # Digits come before letters.
    sizes = [*sorted(samples.more), ""]
    images = zip(*(blobs(samples.images[size]) for size in sizes), strict=True)
    rows = zip(keys, formats, json_members(metadata), images, strict=True)
    for key, original_format, as_json, contents in rows:
        text = None if texts is None else next(texts)
        if contents[-1] is not None:
            kind = extension(original_format)
            for size, content in zip(sizes, contents, strict=True):
                assert content is not None
                yield Member(f"{key}.{sized(kind, size)}", content)
            yield Member(f"{key}.json", as_json)
            if text is not None:
                yield Member(f"{key}.txt", text)


def json_members(metadata: pa.RecordBatch) -> Iterator[bytes]:
    """Yield the JSON object of each row: compact UTF-8, keys in the order of the columns."""
    names = metadata.schema.names
    columns = [json_values(column) for column in metadata.columns]
    for row in zip(*columns, strict=True):
        yield orjson.dumps(dict(zip(names, row, strict=True)))


def text_members(metadata: pa.RecordBatch) -> Iterator[bytes] | None:
    """Yield the caption of each row as UTF-8, empty where it is null; None if there is no caption column.

    A caption that is not a string is written as its JSON.
    """
    if "caption" not in metadata.schema.names:
        return None
    return map(text_bytes, json_values(metadata.column("caption")))


def text_bytes(value: Any) -> bytes:
    """Return a JSON value as text: a string as it is, null as an empty one, all else as JSON."""
    if value is None:
        return b""
    return value.encode() if isinstance(value, str) else orjson.dumps(value)
