"""What a shell completes besides commands, options and files: the words that options take."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, get_args, get_origin

if TYPE_CHECKING:
    from pydantic import BaseModel


def output_formats(incomplete: str) -> list[str]:
    """Return the formats of datasets that begin so."""
    from turbo_fetch.spec.formats import OutputFormat

    return [name for name in get_args(OutputFormat) if name.startswith(incomplete)]


def outcomes(incomplete: str) -> list[str]:
    """Return the outcomes that begin so, and the word for all failures."""
    from turbo_fetch.outcomes import BY_LABEL

    return [label for label in (*BY_LABEL, "failed") if label.startswith(incomplete)]


def spec_keys(incomplete: str) -> list[str]:
    """Return the keys of the spec that begin so, each with the sign before its value."""
    from turbo_fetch.spec import Spec

    return [f"{key}=" for key in _keys(Spec, "") if key.startswith(incomplete)]


def _keys(table: type[BaseModel], prefix: str) -> Iterator[str]:
    from turbo_fetch.spec.specfile import tables_of

    for name, field in table.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        # Tables in lists, and under names of the user's, have no key to be completed.
        is_many = get_origin(field.annotation) in {dict, tuple, list}
        inner = None if is_many else next(tables_of(field.annotation), None)
        if inner is None:
            yield key
        else:
            yield from _keys(inner, f"{key}.")
