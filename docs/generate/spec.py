"""The reference of the spec, from its models."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from turbo_fetch.spec import Spec
from turbo_fetch.spec.specfile import tables_of

INTRODUCTION = """\
# The spec file

Every key, generated from the code. A spec is a [TOML](https://toml.io) file. A stage whose table is left out does not
run; a key that is left out has its default. Unknown keys are errors that name the nearest known one. `turbo-fetch
schema` prints the same as JSON Schema, which lets editors complete and check the file. `--set fetch.image.size=512`
changes a key for one run.
"""


def spec_page() -> str:
    """Return the page."""
    schema = Spec.model_json_schema()
    parts = [INTRODUCTION]
    for path, model in _tables(Spec, ()):
        parts.append("\n".join(_section(path, model, schema["$defs"])))
    return "\n".join(parts)


def _tables(model: type[BaseModel], path: tuple[str, ...]) -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield the tables below a model that have keys of their own, in order."""
    for name, field in model.model_fields.items():
        for inner in tables_of(field.annotation):
            inner_path = (*path, field.alias or name)
            if any(not list(tables_of(each.annotation)) for each in inner.model_fields.values()):
                yield ".".join(inner_path), inner
            yield from _tables(inner, inner_path)


def _section(path: str, model: type[BaseModel], definitions: Mapping[str, Any]) -> Iterator[str]:
    summary, _, more = inspect.cleandoc(model.__doc__ or "").partition("\n")
    yield f"## `[{path}]` {{ #{path.replace('.', '-')} }}\n"
    yield f"{_sentence(summary.partition(': ')[2] or summary)}{more}\n"
    yield "| Key | Type | Default | Meaning |"
    yield "|---|---|---|---|"
    properties = definitions[model.__name__]["properties"]
    for name, field in model.model_fields.items():
        if not list(tables_of(field.annotation)):
            key = field.alias or name
            kind = _kind(properties[key], definitions)
            yield f"| `{key}` | {kind} | {_default(field)} | {_meaning(properties[key])} |"
    yield ""


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or value is PydanticUndefined:
        return "none"
    return f"`{_toml(value)}`"


def _toml(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10_000:
        return f"{value:_}"
    return json.dumps(value, ensure_ascii=False)


def _meaning(schema: Mapping[str, Any]) -> str:
    return " ".join(schema["description"].split()).replace("|", "\\|")


def _kind(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """Describe the values that a key accepts."""
    if "$ref" in schema:
        return _kind(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in schema:
        options = [each for each in schema["anyOf"] if each.get("type") != "null"]
        return " or ".join(_kind(each, definitions) for each in options)
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema.get("type") == "array":
        return _array(schema, definitions)
    if schema.get("type") == "object":
        return f"table of {_plural(schema.get('additionalProperties') or {}, definitions)}"
    names = {"integer": "integer", "number": "number", "boolean": "true or false", "string": "string"}
    return f"{names.get(schema.get('type', ''), 'value')}{_range(schema)}"


def _array(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    if "prefixItems" in schema:
        return f"[{', '.join(_kind(item, definitions) for item in schema['prefixItems'])}]"
    return f"list of {_plural(schema['items'], definitions)}"


def _plural(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    kind = _kind(schema, definitions)
    return {"string": "strings", "integer": "integers", "number": "numbers"}.get(kind, kind)


def _range(schema: Mapping[str, Any]) -> str:
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    found = [f"{sign} {schema[name]:_}" for name, sign in bounds.items() if name in schema]
    return f" {', '.join(found)}" if found else ""
