"""Captions of the images in a folder, in the forms in which people keep them.

Beside an image: `photo.txt`, `photo.png.txt`, `photo.caption`. For many: `metadata.jsonl` and `metadata.csv` of Hugging
Face's imagefolder, and the JSON of kohya's scripts. In UTF-8 or UTF-16, with any line ends.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any, Final

SIDECARS: Final = (".txt", ".caption")
"""Suffixes of captions beside an image, the first of which counts if there are several."""
TABLES: Final = ("metadata.jsonl", "metadata.csv")
_TEXTS: Final = ("text", "caption", "prompt", "description")
"""Columns that hold captions, the first of which counts."""
_BOMS: Final = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))

_ENCODINGS: Final = "expected captions in UTF-8, or in UTF-16 with a byte order mark"


class Uncaptioned(Exception):
    """A file of captions cannot be understood; the message says which and why."""


@dataclass
class FoundCaptions:
    """The captions of images by their file names, and what was odd."""

    by_name: dict[str, str] = field(default_factory=dict)
    used: set[Path] = field(default_factory=set)
    """Files that are captions, of whichever image."""
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    """What is broken, to be mended before the images can be learned from."""


def find_captions(images: Sequence[Path], others: Sequence[Path]) -> FoundCaptions:
    """Return the captions of images; `others` are the other files of their folder.

    A caption beside its image counts before that of a table. What has no image, and images that have no caption
    although others do, are in the notes.
    """
    found = FoundCaptions()
    tables = dict(_tables(others, found))
    beside = _sidecars(images, others, found)
    both = [name for name in beside if any(_lookup(table, name) is not None for table in tables.values())]
    if both:
        found.notes.append(
            f"captions both beside images and in {shown(tables)}; those beside count: {shown(both)}"
        )
    for image in images:
        texts = [beside.get(image.name), *(_lookup(table, image.name) for table in tables.values())]
        known = [text for text in texts if text is not None]
        if known:
            found.by_name[image.name] = known[0]
    _tell(images, tables, found)
    return found


def _tell(images: Sequence[Path], tables: Mapping[str, Mapping[str, str]], found: FoundCaptions) -> None:
    empty = [name for name, text in found.by_name.items() if not text]
    if empty:
        found.notes.append(f"{len(empty)} empty caption(s), the prompt is used instead: {shown(empty)}")
    without = [image.name for image in images if image.name not in found.by_name]
    if without and found.by_name:
        found.notes.append(
            f"{len(without)} of {len(images)} images have no caption, the prompt is used instead: {shown(without)}"
        )
    for source, table in tables.items():
        lost = table.keys() - {name for image in images for name in (image.name, image.stem)}
        if lost:
            found.notes.append(
                f"{source}: {len(lost)} caption(s) of images that are not there: {shown(sorted(lost))}"
            )


def _sidecars(images: Sequence[Path], others: Sequence[Path], found: FoundCaptions) -> dict[str, str]:
    """Return the captions that lie beside images."""
    there = {path.stem + path.suffix.lower(): path for path in reversed(others)}
    captions = {}
    for image in images:
        names = [stem + suffix for suffix in SIDECARS for stem in (image.stem, image.name)]
        paths = [there[name] for name in names if name in there]
        found.used.update(paths)
        if paths:
            try:
                captions[image.name] = _one_line(read_text(paths[0]))
            except Uncaptioned as error:
                found.faults.append(str(error))
        if len(paths) > 1:
            found.notes.append(f"{image.name}: several captions, of which {paths[0].name} is used")
    stray = [path for path in others if path.suffix.lower() in SIDECARS and path not in found.used]
    if stray:
        listed = shown([path.name for path in stray])
        found.notes.append(f"{len(stray)} caption(s) without an image of that name: {listed}")
        found.used.update(stray)
    return captions


def _tables(others: Sequence[Path], found: FoundCaptions) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the captions of each file that holds those of many images, by their names."""
    for path in others:
        name, suffix = path.name.lower(), path.suffix.lower()
        if name not in TABLES and suffix != ".json":
            continue
        try:
            text = read_text(path)
            captions = _of_table(path, text, found) if name in TABLES else _of_kohya(path, text)
        except (Uncaptioned, ValueError, csv.Error) as error:
            if name in TABLES:
                found.faults.append(str(error) if isinstance(error, Uncaptioned) else f"{path}: {error}")
            continue
        if captions is not None:
            found.used.add(path)
            # Tables name images by paths of whichever system, with or without the suffix.
            yield path.name, {PureWindowsPath(name).name: text for name, text in captions.items()}


def _of_table(path: Path, text: str, found: FoundCaptions) -> dict[str, str]:
    """Read `metadata.jsonl` or `metadata.csv`: https://huggingface.co/docs/datasets/image_load. Raises Uncaptioned."""
    rows = list(_json_rows(path, text) if path.suffix.lower() == ".jsonl" else _csv_rows(text))
    if not rows:
        return {}
    column = next((name for name in _TEXTS if any(name in row for row in rows)), None)
    if column is None or not any("file_name" in row for row in rows):
        columns = ", ".join(str(name) for name in rows[0])
        raise Uncaptioned(f"{path}: has {columns}; expected file_name, and one of {', '.join(_TEXTS)}")
    named = [row for row in rows if row.get("file_name") and column in row]
    counts = Counter(PureWindowsPath(str(row["file_name"])).name for row in named)
    if twice := [name for name, count in counts.items() if count > 1]:
        found.notes.append(
            f"{path.name}: several captions of an image, of which the last is used: {shown(twice)}"
        )
    return {str(row["file_name"]): _one_line(str(row[column] or "")) for row in named}


def _json_rows(path: Path, text: str) -> Iterator[Mapping[str, Any]]:
    # Not by splitlines, which also splits at characters that JSON may hold as they are.
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise Uncaptioned(f"{path}, line {number}: {error}; expected a JSON object per line") from None
        if not isinstance(row, dict):
            raise Uncaptioned(f"{path}, line {number}: expected a JSON object per line")
        yield row


def _csv_rows(text: str) -> Iterator[Mapping[str, Any]]:
    header = text.partition("\n")[0]
    # Spreadsheets of countries with a decimal comma put semicolons.
    delimiter = max(",;\t", key=header.count)
    yield from csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)


def _of_kohya(path: Path, text: str) -> dict[str, str] | None:
    """Read the metadata of kohya's scripts: image → caption, tags; or the JSON of one image, with its caption."""
    content = json.loads(text)
    if not isinstance(content, dict):
        return None
    if isinstance(content.get("caption"), str):
        return {path.stem: _one_line(content["caption"])}
    entries = {name: entry for name, entry in content.items() if isinstance(entry, dict)}
    if len(entries) < len(content) or not any(
        {"caption", "tags"} & entry.keys() for entry in entries.values()
    ):
        return None
    return {
        name: _one_line(", ".join(str(entry[key]) for key in ("caption", "tags") if entry.get(key)))
        for name, entry in entries.items()
    }


def _lookup(table: Mapping[str, str], image: str) -> str | None:
    return table.get(image, table.get(Path(image).stem))


def read_text(path: Path) -> str:
    """Return a text in UTF-8 or UTF-16, as its byte order mark says. Raises Uncaptioned."""
    try:
        content = path.read_bytes()
        encoding = next((name for mark, name in _BOMS if content.startswith(mark)), "utf-8")
        text = content.decode(encoding)
    except OSError as error:
        raise Uncaptioned(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Uncaptioned(f"{path}: byte {error.start + 1} is not UTF-8; {_ENCODINGS}") from None
    if "\0" in text:
        raise Uncaptioned(f"{path}: holds zero bytes; {_ENCODINGS}")
    return text


def _one_line(text: str) -> str:
    return " ".join(text.split())


def shown(names: Iterable[str], most: int = 8) -> str:
    """Return the first of many names, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
