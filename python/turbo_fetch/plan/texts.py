"""Text of a list: columns of any scalar type, and JSON values, as strings of valid UTF-8."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from turbo_fetch.errors import InputError

_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def as_text(array: pa.Array, what: str) -> tuple[pa.Array, pa.Array | None]:
    """Return an array of any scalar type as strings, and which had bytes that are no UTF-8, which became U+FFFD.

    Raises InputError, naming `what`, for a nested type.
    """
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    kind = array.type
    if pa.types.is_nested(kind) or isinstance(kind, pa.BaseExtensionType):
        raise InputError(f"{what} is of type {kind}; expected strings")
    if is_string(kind) or is_binary(kind):
        repaired, changed = valid_utf8(array)
        return repaired.cast(pa.string()), changed
    return array.cast(pa.string()), None


def is_string(kind: pa.DataType) -> bool:
    """Return whether the type is one of Arrow's three string types."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_binary(kind: pa.DataType) -> bool:
    """Return whether the type is one of Arrow's three types of bytes of any length."""
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def valid_utf8(array: pa.Array) -> tuple[pa.Array, pa.Array | None]:
    """Return strings or bytes as strings whose UTF-8 is valid, and which were not, if any.

    Arrow does not check what a file claims to be UTF-8.
    """
    try:
        if not is_string(array.type):
            return array.cast(pa.large_string()), None
        array.validate(full=True)
        return array, None
    except pa.ArrowInvalid:
        as_bytes = array.cast(pa.large_binary())
        repaired = pa.array([_decoded(value) for value in as_bytes.to_pylist()], pa.large_string())
        changed = pc.fill_null(pc.not_equal(repaired.cast(pa.large_binary()), as_bytes), False)
        return repaired.cast(array.type) if is_string(array.type) else repaired, changed


def _decoded(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "replace")


def texts(values: Sequence[Any]) -> pa.Array:
    """Return JSON values as strings: strings as they are, null as null, all others as JSON text."""
    return pa.array([_text(value) for value in values], pa.string())


def _text(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value) if has_surrogate(value) else value
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        # Integers of more than 64 bits, and lone surrogates.
        return json.dumps(value, separators=(",", ":"))


def has_surrogate(text: str) -> bool:
    """Return whether a string holds half of a surrogate pair, which has no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
