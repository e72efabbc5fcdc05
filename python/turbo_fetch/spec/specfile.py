"""Spec files: TOML and command-line overrides in, a validated Spec or every problem at once out."""

from __future__ import annotations

import difflib
import glob
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from types import UnionType
from typing import Annotated, Any, Final, TypeVar, Union, get_args, get_origin

import tomli_w
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from turbo_fetch.errors import SpecError
from turbo_fetch.redaction import redact, redact_tables
from turbo_fetch.spec import Place, Spec
from turbo_fetch.spec.toml import overridden, parsed
from turbo_fetch.storage.filesystems import path_of

_LONGEST_VALUE: Final = 80
_VARIABLE: Final = re.compile(r"\$\{(\w+)\}")
_BARE: Final = re.compile(r"[\w-]+", re.ASCII)
"""A key that TOML does not ask to be quoted."""

Model = TypeVar("Model", bound=BaseModel)


def load_spec(
    path: str | Path,
    overrides: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    output: str | None = None,
) -> Spec:
    """Read the spec at `path` and apply overrides such as `fetch.image.size=512`; all its paths are absolute then.

    Relative ones begin at the folder of the file, those of overrides at the current folder. `output` is where the
    dataset is, whatever the file says.

    With `environment`, `${NAME}` in headers and the proxy of `[fetch.http]` becomes its variable NAME.
    Raises SpecError that lists every problem with file, key, value and what was expected.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise SpecError(f"{Path(path).absolute()}: no such file; expected a TOML spec") from None
    except IsADirectoryError:
        raise SpecError(f"{path}: this is a folder; expected a TOML spec") from None
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}; expected a TOML spec") from error
    tables = parsed(content, str(path))
    if output is not None and isinstance(tables.get("fetch"), dict):
        tables["fetch"].setdefault("output", {})["path"] = output
    tables = overridden(rooted(tables, _folder_of(Path(path))), overrides)
    if environment is not None:
        _fill_in(tables, environment, str(path))
    return parse_spec(rooted(tables, Path.cwd()), str(path))


def given(path: Path, overrides: Sequence[str], key: str) -> Any:
    """Return the value of a key that a readable spec has, as the user wrote it."""
    value: Any = overridden(parsed(path.read_bytes(), str(path)), overrides)
    for name in key.split("."):
        value = value[name]
    return value


def load_text(
    content: bytes, origin: str, overrides: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Spec:
    """Read a spec whose paths are absolute; `origin` names it in messages. See `load_spec`. Raises SpecError."""
    tables = overridden(parsed(content, origin), overrides)
    if environment is not None:
        _fill_in(tables, environment, origin)
    return parse_spec(tables, origin)


def parse_spec(tables: Mapping[str, Any], origin: str = "spec") -> Spec:
    """Validate the tables of a spec; `origin` names them in messages. Raises SpecError."""
    return validated(Spec, tables, origin)


def validated(model: type[Model], values: Mapping[str, Any], origin: str) -> Model:
    """Return the values as a model, or raise SpecError that lists every problem."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = list(_told(error.errors(), model))
        listed = "".join(f"\n  {_explain(problem, model)}" for problem in problems)
        raise SpecError(f"{origin}: {len(problems)} problem(s){listed}") from error


def _told(problems: Sequence[ErrorDetails], root: type[BaseModel]) -> Iterator[ErrorDetails]:
    """Yield the problems that say something.

    Of a list with a wrong item, not that it is no text either; of a key that takes a number or a word, of a number not
    that it is not the word, and of a text not that it is no number.
    """
    keys = [".".join(_named([str(part) for part in problem["loc"]], root)) for problem in problems]
    for key, problem in zip(keys, problems, strict=True):
        of_key = [other for name, other in zip(keys, problems, strict=True) if name == key]
        kinds = {other["type"] == "literal_error" for other in of_key}
        is_word = problem["type"] == "literal_error"
        has_item = any(name.startswith(f"{key}.") for name in keys)
        if not has_item and (len(kinds) == 1 or is_word == isinstance(problem["input"], str)):
            yield problem


def rooted(tables: Mapping[str, Any], folder: Path, model: type[BaseModel] = Spec) -> dict[str, Any]:
    """Return tables with relative paths, which the types of their fields tell, made absolute: they begin at `folder`.

    URLs and what is wrong with the tables stay; defaults that are relative paths are filled in.
    """
    found = dict(tables)
    for name, field in model.model_fields.items():
        key = name if name in found else field.alias or name
        inner = next(tables_of(field.annotation), None)
        kind = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
        value = found.get(key, field.default)
        if inner is not None and isinstance(value, Mapping):
            found[key] = rooted(value, folder, inner)
        elif inner is not None and isinstance(value, list):
            found[key] = [
                rooted(each, folder, inner) if isinstance(each, Mapping) else each for each in value
            ]
        elif isinstance(value, str) and (place := _place(kind)) is not None:
            found[key] = _absolute(value, place, folder)
        elif isinstance(value, list | tuple) and value and (place := _place(kind, in_list=True)) is not None:
            found[key] = [_absolute(each, place, folder) if isinstance(each, str) else each for each in value]
    return found


def _place(kind: Any, in_list: bool = False, outer: Place | None = None) -> Place | None:
    """Return the mark of a type's texts, or of the texts in its lists: of `tuple[Location, ...] | None`, of either."""
    origin = get_origin(kind)
    if origin is Annotated:
        marks = [each for each in kind.__metadata__ if isinstance(each, Place)]
        return _place(kind.__origin__, in_list, marks[-1] if marks else outer)
    if origin in {tuple, list}:
        return _place(get_args(kind)[0]) if in_list else None
    if origin in {Union, UnionType}:
        found = (_place(each, in_list, outer) for each in get_args(kind))
        return next((place for place in found if place is not None), None)
    return None if in_list or kind is not str else outer


def _absolute(path: str, place: Place, folder: Path) -> str:
    if place.has_member and ":" in path:
        path, _, member = path.rpartition(":")
        return f"{_absolute(path, replace(place, has_member=False), folder)}:{member}"
    if not path or path in place.words or path_of(path) is None:
        return path
    if Path(os.path.expanduser(path)).is_absolute():  # noqa: PTH111 - as in `path_of`
        return str(path_of(path))
    is_path = path.startswith(("./", "../")) or path in {".", ".."}
    is_pattern = glob.has_magic(path) and not (folder / path).exists()
    there = Path(glob.escape(str(folder)) if is_pattern else folder, path)
    return path if place.or_name and not is_path and not there.exists() else str(path_of(str(there)))


def _folder_of(path: Path) -> Path:
    """Return where the relative paths of a spec file begin; what a pipe brings, such as /dev/stdin, has no folder."""
    return path.absolute().parent if path.is_file() else Path.cwd()


def dump_spec(spec: Spec, root: Path | None = None) -> str:
    """Return the spec as TOML with every default written out; with `root`, relative paths begin there."""
    tables = spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    return tomli_w.dumps(tables if root is None else rooted(tables, root))


def dump_spec_for_others(spec: Spec) -> str:
    """Return the spec as a dataset tells of it: with every secret masked, and paths that hold wherever it is read."""
    tables = rooted(spec.model_dump(mode="json", by_alias=True, exclude_none=True), Path.cwd())
    return tomli_w.dumps(redact_tables(tables))


def differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield what differs between two dumped specs: `fetch.image.size was 256, is now 512`."""
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from differences(old, new, f"{prefix}{name}.")
        elif not _is_same(old, new):
            yield f"{prefix}{name} was {_shown(old)}, is now {_shown(new)}"


def _is_same(old: Any, new: Any) -> bool:
    """Return whether two values are equal, or one path, of which one was noted before it was made absolute."""
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return all(map(_is_same, old, new))
    if not (isinstance(old, str) and isinstance(new, str) and old and new):
        return bool(old == new)
    longer, shorter = sorted((PurePath(old), PurePath(new)), key=PurePath.is_absolute, reverse=True)
    is_tail = longer.is_absolute() and not shorter.is_absolute()
    return old == new or (is_tail and longer.parts[-len(shorter.parts) :] == shorter.parts)


def _fill_in(tables: dict[str, Any], environment: Mapping[str, str], origin: str) -> None:
    """Replace `${NAME}` where secrets belong, in request headers and in the proxy; such headers are noted as secret."""
    http = tables.get("fetch")
    http = http.get("http") if isinstance(http, dict) else None
    if not isinstance(http, dict):
        return
    domains = http.get("domains")
    presets = domains.values() if isinstance(domains, dict) else ()
    places = [(http, "proxy"), *((table, "headers") for table in (http, *presets) if isinstance(table, dict))]
    for table, key in places:
        found = table.get(key)
        if isinstance(found, str):
            table[key] = _filled(found, environment, origin)
        elif isinstance(found, dict):
            filled = [
                name for name, value in found.items() if isinstance(value, str) and _VARIABLE.search(value)
            ]
            if filled and isinstance(listed := http.get("secret_headers", []), list):
                http["secret_headers"] = [*listed, *(name for name in filled if name not in listed)]
            table[key] = {
                name: _filled(value, environment, origin) if isinstance(value, str) else value
                for name, value in found.items()
            }


def _filled(text: str, environment: Mapping[str, str], origin: str) -> str:
    def variable(match: re.Match[str]) -> str:
        if match[1] not in environment:
            raise SpecError(
                f"{origin}: {text!r} refers to the environment variable {match[1]}, which is not set"
            )
        return environment[match[1]]

    return _VARIABLE.sub(variable, text)


def _explain(error: ErrorDetails, root: type[BaseModel]) -> str:
    location = [str(part) for part in error["loc"]]
    key = ".".join(_named(location, root))
    if error["type"] == "extra_forbidden":
        known = _known_keys(location[:-1], root)
        near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(known)}"
        return f"{key}: unknown key; {hint}"
    if error["type"] == "missing":
        return f"{key}: missing; expected a value"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        return f"{key}: {message}"
    return f"{key} = {_shown(error['input'])}: {message[0].lower()}{message[1:]}"


def _named(location: Sequence[str], root: type[BaseModel]) -> list[str]:
    """Drop the parts of a location that pydantic adds for branches of a union; quote keys that TOML would."""
    named: list[str] = []
    model: Any = root
    is_key = False
    for part in location:
        if is_key:
            named.append(part if _BARE.fullmatch(part) else f'"{part}"')
            is_key = False
        elif part.isdigit():
            named.append(part)
        elif isinstance(model, type) and issubclass(model, BaseModel):
            named.append(part)
            kind = model.model_fields[part].annotation if part in model.model_fields else None
            model = next(tables_of(kind), None)
            is_key = any(get_origin(each) is dict for each in (kind, *get_args(kind)))
    return named


def _known_keys(location: Sequence[str], root: type[BaseModel]) -> list[str]:
    model = root
    for name in location:
        if name in model.model_fields:
            model = next(tables_of(model.model_fields[name].annotation))
    return sorted(field.alias or name for name, field in model.model_fields.items())


def tables_of(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the tables that a field may hold: `FetchSpec` of `FetchSpec | None`."""
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield kind


def _shown(value: object) -> str:
    text = redact(repr(redact_tables(value)))
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"
