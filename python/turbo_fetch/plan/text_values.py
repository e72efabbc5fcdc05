"""Text of a list: columns of any scalar type, and JSON values, as strings of valid UTF-8."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final

import orjson
import pyarrow as pa

from turbo_fetch.arrow.kept_types import is_binary, is_string, valid_utf8
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
        # A cast, even to what it is, needs Arrow's functions, which most lists do without until the first request.
        return repaired if repaired.type == pa.string() else repaired.cast(pa.string()), changed
    return array.cast(pa.string()), None


def texts(values: Sequence[Any]) -> pa.Array:
    """Return JSON values as strings: strings as they are, null as null, all others as JSON text."""
    return pa.array([_text(value) for value in values], pa.string())


def _text(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value) if has_surrogate(value) else value
    try:
        text = orjson.dumps(value).decode()
    except TypeError:
        # Integers of more than 64 bits, and lone surrogates.
        return json.dumps(value, separators=(",", ":"))
    # What is no finite number is null there.
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False) if "null" in text else text


def has_surrogate(text: str) -> bool:
    """Return whether a string holds half of a surrogate pair, which has no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
