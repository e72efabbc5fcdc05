"""Types of score columns: from the words of the spec to Arrow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import pyarrow as pa

DETAIL: Final = "score detail"
"""Beside the scores of a row in a spool: why it has none; null where it has."""

_TYPES: Final = {
    "bool": pa.bool_(),
    "string": pa.string(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float16": pa.float16(),
    "float32": pa.float32(),
    "float64": pa.float64(),
}


def score_schema(columns: Mapping[str, str]) -> pa.Schema:
    """Return the columns that `fetch.score.columns` names, in its order."""
    return pa.schema([pa.field(name, _type(word)) for name, word in columns.items()])


def spooled_schema(columns: Mapping[str, str]) -> pa.Schema:
    """Return the columns in which a spool has the scores of rows."""
    return pa.schema([pa.field("row", pa.uint32()), pa.field(DETAIL, pa.string()), *score_schema(columns)])


def _type(word: str) -> pa.DataType:
    name, _, length = word.rstrip("]").partition("[")
    return pa.list_(_TYPES[name], int(length)) if length else _TYPES[name]
