"""`tfrecord`: `NNNNN.tfrecord`, one `tf.train.Example` for each picture.

Features are named as in img2dataset: the picture after its encoding (`jpg`, also for `original` bytes), `txt`
for the caption, and every metadata column by its own name. A feature has one type in all samples, that of its
column:

- booleans and integers: int64_list of one value; floats: float_list of one value
- lists of booleans, integers or floats: the same kinds, of any length
- strings: bytes_list of one UTF-8 value; binary: the bytes; lists of strings: bytes_list of any length
- all else: bytes_list of one value, as in `key.json` (:mod:`~turbo_fetch.dataset.formats.members`), nested as JSON

A null number, and a list that is null or holds one, is left out, which tf.io.parse_single_example takes as
missing; any other null is an empty value.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import orjson
import pyarrow as pa
import pyarrow.types as kinds

from turbo_fetch.arrow.binaries import blobs
from turbo_fetch.dataset.formats.members import extension_of, json_values, text_members
from turbo_fetch.dataset.formats.staged_file import StagedFile, WrittenFile
from turbo_fetch.dataset.formats.tfrecord_codec import Feature, Kind, encode_example, encode_record
from turbo_fetch.dataset.samples import Samples
from turbo_fetch.errors import InputError
from turbo_fetch.spec import ImageSpec

TEXT: Final = "txt"
PICTURES: Final = ("jpg", "png", "webp")
"""Names of features of pictures, by which readers tell them."""


def check_names(metadata: pa.Schema) -> None:
    """Raise InputError if a column of the list has the name that a picture's or the caption's feature may have."""
    for name in (*PICTURES, TEXT):
        if name in metadata.names:
            raise InputError(
                f"the list's column {name!r} has the name of a feature that tfrecord files add; expected another: "
                "give it a new name in fetch.input.keep_columns, or leave it out"
            )


class RecordFile:
    """A TFRecord file in the work folder, filled sample by sample."""

    def __init__(self, path: Path, metadata: pa.Schema, image: ImageSpec) -> None:
        check_names(metadata)
        self._picture = extension_of(image)
        self._file = StagedFile(path)

    def add(self, samples: Samples) -> None:
        """Append the samples that have a picture."""
        rows = zip(*_columns(samples.metadata), strict=True)
        texts = text_members(samples.metadata)
        for row, picture in zip(rows, blobs(samples.image), strict=True):
            text = None if texts is None else next(texts)
            if picture is None:
                continue
            features = [(name, feature) for name, feature in row if feature is not None]
            features.append((self._picture, ("bytes", [picture])))
            if text is not None:
                features.append((TEXT, ("bytes", [text])))
            self._file.append(encode_record(encode_example(features)))

    def finish(self, name: str) -> WrittenFile:
        """Return the finished file, to be published as `name`."""
        return self._file.finish(name)

    def close(self) -> None:
        """Close the file, finished or not."""
        self._file.close()


def _columns(metadata: pa.RecordBatch) -> Iterator[list[tuple[str, Feature | None]]]:
    for name, column in zip(metadata.schema.names, metadata.columns, strict=True):
        yield [(name, feature) for feature in _features(column)]


def _features(column: pa.Array) -> list[Feature | None]:
    """Return the feature of each value, None for a missing one."""
    if isinstance(column.type, pa.BaseExtensionType) and not isinstance(column.type, pa.UuidType):
        return _features(column.storage)
    if kinds.is_dictionary(column.type):
        return _features(column.dictionary_decode())
    if _is_binary(column.type):
        return [("bytes", [value or b""]) for value in column.to_pylist()]
    kind = _number_kind(column.type)
    if kind is not None:
        return [None if value is None else (kind, [value]) for value in column.to_pylist()]
    if _is_list(column.type):
        kind = _number_kind(column.type.value_type) or _string_kind(column.type.value_type)
    if kind is not None:
        return [_listed(kind, values) for values in column.to_pylist()]
    return [("bytes", [_text(value)]) for value in json_values(column)]


def _listed(kind: Kind, values: list[Any] | None) -> Feature | None:
    if values is None or None in values:
        return None
    return kind, [value.encode() for value in values] if kind == "bytes" else values


def _text(value: Any) -> bytes:
    if value is None:
        return b""
    return value.encode() if isinstance(value, str) else orjson.dumps(value)


def _number_kind(kind: pa.DataType) -> Kind | None:
    if kinds.is_boolean(kind) or kinds.is_integer(kind):
        return "int64"
    return "float" if kinds.is_floating(kind) else None


def _string_kind(kind: pa.DataType) -> Kind | None:
    return "bytes" if kinds.is_string(kind) or kinds.is_large_string(kind) else None


def _is_binary(kind: pa.DataType) -> bool:
    return bool(kinds.is_binary(kind) or kinds.is_large_binary(kind) or kinds.is_fixed_size_binary(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind))
