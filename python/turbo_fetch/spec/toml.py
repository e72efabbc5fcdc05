"""The tables of a spec before they are validated: TOML and overrides; imports nothing that takes time."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from typing import Any

from turbo_fetch.errors import SpecError


def parsed(content: bytes, origin: str) -> dict[str, Any]:
    """Return the tables in a TOML file; `origin` names it in messages. Raises SpecError."""
    try:
        # An editor of another system may have put a byte order mark first.
        return tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise SpecError(f"{origin}: cannot be read as a UTF-8 text file: {error}") from error
    except ValueError as error:
        # Of integers with thousands of digits Python itself says no.
        raise SpecError(f"{origin}: not valid TOML: {error}") from error


def quoted(text: str) -> str:
    """Return a text as a basic string of TOML: that of JSON, but for a character that only JSON takes as it is."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def overridden(tables: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return the tables, changed in place by overrides such as `fetch.image.size=512`. Raises SpecError."""
    for override in overrides:
        _apply(tables, override)
    return tables


def _apply(tables: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise SpecError(f"--set {override!r}: expected KEY=VALUE, for instance fetch.image.size=512")
    table = tables
    for name in names[:-1]:
        inner = table.setdefault(name, {})
        if not isinstance(inner, dict):
            raise SpecError(f"--set {override!r}: {name} is a value, not a table")
        table = inner
    table[names[-1]] = _value(text.strip())


def _value(text: str) -> Any:
    """Read a value as TOML, or else as a bare string, so that paths need no quotes."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except ValueError:
        return text
