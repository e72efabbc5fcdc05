"""`tfrecord`: `NNNNN.tfrecord`, one `tf.train.Example` for each image; written and read here, without TensorFlow.

Features are named as in img2dataset: the image after its encoding (`jpg`, also for `original` bytes), `txt`
for the caption, and every metadata column by its own name; images of further sizes are `jpg_128`. A feature has
one type in all samples, that of its column:

- booleans and integers: int64_list of one value; floats: float_list of one value
- lists of booleans, integers or floats: the same kinds, of any length
- strings: bytes_list of one UTF-8 value; binary: the bytes; lists of strings: bytes_list of any length
- all else: bytes_list of one value, as in `key.json` (:mod:`~turbo_fetch.dataset.formats.members`), nested as JSON

A null number, and a list that is null or holds one, is left out, which tf.io.parse_single_example takes as
missing; any other null is an empty value.

A record is its length (uint64), the masked CRC-32C of the length, the content, and the content's (all
little-endian; tensorflow/core/lib/io/record_writer.h). An Example maps names to lists of bytes, floats or
integers (tensorflow/core/example/feature.proto), in the wire format of Protocol Buffers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.types as kinds

from turbo_fetch import _native
from turbo_fetch.arrow.binaries import blobs
from turbo_fetch.arrow.kept_types import is_binary, is_list, is_string
from turbo_fetch.arrow.python_values import json_values
from turbo_fetch.arrow.schemas import named
from turbo_fetch.dataset.formats.format import Format, StoredImage, reading, refuse_columns, together
from turbo_fetch.dataset.formats.images import ENCODINGS, extension_of, sized
from turbo_fetch.dataset.formats.members import text_bytes, text_members
from turbo_fetch.dataset.formats.staged_file import StagedFile
from turbo_fetch.dataset.samples import Samples
from turbo_fetch.spec import ImageSpec
from turbo_fetch.storage import Storage

SUFFIX: Final = ".tfrecord"
TEXT: Final = "txt"

Kind = Literal["bytes", "float", "int64"]
"""What a feature is a list of; floats are of 32 bits."""

Feature = tuple[Kind, Sequence[bytes] | Sequence[float] | Sequence[int]]

_LENGTH: Final = struct.Struct("<Q")
_CHECKSUM: Final = struct.Struct("<I")
_MASK: Final = 0xA282EAD8
_WORD: Final = 0xFFFFFFFF
_FIELDS: Final[Mapping[Kind, int]] = {"bytes": 1, "float": 2, "int64": 3}
_KINDS: Final[Mapping[int, Kind]] = {number: kind for kind, number in _FIELDS.items()}
_VARINT: Final = 0
_FIXED64: Final = 1
_DELIMITED: Final = 2
_FIXED32: Final = 5


class RecordFile(StagedFile):
    """A TFRecord file in the work folder, filled sample by sample."""

    def __init__(self, path: Path, metadata: pa.Schema, image: ImageSpec) -> None:
        _check_columns(metadata, image)
        super().__init__(path)
        self._image = extension_of(image)

    def add(self, samples: Samples) -> None:
        """Append the samples that have an image."""
        rows = zip(*_columns(samples.metadata), strict=True)
        texts = text_members(samples.metadata)
        names = [named(self._image, size) for size in samples.images]
        images = zip(*map(blobs, samples.images.values()), strict=True)
        for row, contents in zip(rows, images, strict=True):
            text = None if texts is None else next(texts)
            if contents[0] is None:
                continue
            features = [(name, feature) for name, feature in row if feature is not None]
            features += [(name, ("bytes", [content])) for name, content in zip(names, contents, strict=True)]
            if text is not None:
                features.append((TEXT, ("bytes", [text])))
            self.append(encode_record(encode_example(features)))


def _columns(metadata: pa.RecordBatch) -> Iterator[list[tuple[str, Feature | None]]]:
    for name, column in zip(metadata.schema.names, metadata.columns, strict=True):
        yield [(name, feature) for feature in _features(column)]


def _features(column: pa.Array) -> list[Feature | None]:
    """Return the feature of each value, None for a missing one."""
    if is_binary(column.type) or kinds.is_fixed_size_binary(column.type):
        return [("bytes", [value or b""]) for value in column.to_pylist()]
    kind = _number_kind(column.type)
    if kind is not None:
        return [None if value is None else (kind, [value]) for value in column.to_pylist()]
    if is_list(column.type):
        item = column.type.value_type
        kind = "bytes" if is_string(item) else _number_kind(item)
    if kind is not None:
        return [_listed(kind, values) for values in column.to_pylist()]
    return [("bytes", [text_bytes(value)]) for value in json_values(column)]


def _listed(kind: Kind, values: list[Any] | None) -> Feature | None:
    if values is None or None in values:
        return None
    return kind, [value.encode() for value in values] if kind == "bytes" else values


def _number_kind(kind: pa.DataType) -> Kind | None:
    if kinds.is_boolean(kind) or kinds.is_integer(kind):
        return "int64"
    return "float" if kinds.is_floating(kind) else None


class BadRecord(ValueError):
    """A record or a message is not whole, or not what it says."""


def encode_record(content: bytes) -> tuple[bytes, bytes, bytes]:
    """Return the pieces of the record that holds `content`."""
    length = _LENGTH.pack(len(content))
    return length + _masked_checksum(length), content, _masked_checksum(content)


def read_records(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the contents of the records of a file; raises BadRecord where one is torn or altered."""
    number = 0
    while head := file.read(_LENGTH.size + _CHECKSUM.size):
        length, checksum = head[: _LENGTH.size], head[_LENGTH.size :]
        if checksum != _masked_checksum(length):
            raise BadRecord(f"record {number}: the length is torn or altered")
        size = _LENGTH.unpack(length)[0]
        content, checksum = file.read(size), file.read(_CHECKSUM.size)
        if len(content) != size or len(checksum) != _CHECKSUM.size:
            raise BadRecord(f"record {number}: the file ends within it")
        if checksum != _masked_checksum(content):
            raise BadRecord(f"record {number}: the content does not match its checksum")
        yield content
        number += 1


def encode_example(features: Iterable[tuple[str, Feature]]) -> bytes:
    """Return an Example message with the features in the order given; names must be distinct."""
    return _delimited(1, b"".join(_entry(name, feature) for name, feature in features))


def decode_example(content: bytes) -> dict[str, Feature]:
    """Return the features of an Example message; raises BadRecord if it is none."""
    features: dict[str, Feature] = {}
    for _, message in _fields(memoryview(content), wanted=(1,)):
        for _, entry in _fields(message, wanted=(1,)):
            parts = dict(_fields(entry, wanted=(1, 2)))
            for number, values in _fields(parts.get(2, memoryview(b"")), wanted=(1, 2, 3)):
                features[_name(parts.get(1, memoryview(b"")))] = _decode_list(_KINDS[number], values)
    return features


def _masked_checksum(content: bytes) -> bytes:
    crc = _native.crc32c([content])
    return _CHECKSUM.pack((((crc >> 15) | (crc << 17)) + _MASK) & _WORD)


def _entry(name: str, feature: Feature) -> bytes:
    kind, values = feature
    listed = _delimited(_FIELDS[kind], _encode_list(kind, values))
    return _delimited(1, _delimited(1, name.encode()) + _delimited(2, listed))


def _encode_list(kind: Kind, values: Sequence[bytes] | Sequence[float] | Sequence[int]) -> bytes:
    if kind == "bytes":
        return b"".join(_delimited(1, value) for value in cast(Sequence[bytes], values))
    if kind == "float":
        # What is beyond 32 bits is infinite, as in TensorFlow.
        with np.errstate(over="ignore"):
            return _delimited(1, np.asarray(values, "<f4").tobytes())
    # A negative integer is its 64-bit two's complement, and an unsigned one beyond int64 shares its bits.
    return _delimited(1, b"".join(_varint(int(value) & 0xFFFFFFFFFFFFFFFF) for value in values))


def _delimited(number: int, payload: bytes | memoryview) -> bytes:
    return b"".join((_varint(number << 3 | _DELIMITED), _varint(len(payload)), payload))


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _name(encoded: memoryview) -> str:
    try:
        return bytes(encoded).decode()
    except UnicodeDecodeError as error:
        raise BadRecord("the name of a feature is not UTF-8") from error


def _decode_list(kind: Kind, values: memoryview) -> Feature:
    found = [value for _, value in _fields(values, wanted=(1,))]
    if kind == "bytes":
        return kind, [bytes(value) for value in found]
    if kind == "float":
        packed = b"".join(found)
        if len(packed) % 4:
            raise BadRecord("a list of floats ends within one")
        return kind, struct.unpack(f"<{len(packed) // 4}f", packed)
    numbers: list[int] = []
    for block in found:
        place = 0
        while place < len(block):
            number, place = _read_varint(block, place)
            numbers.append(number - (1 << 64) if number >> 63 else number)
    return kind, numbers


def _fields(message: memoryview, wanted: Sequence[int]) -> Iterator[tuple[int, memoryview]]:
    """Yield number and payload of the wanted fields; a value that is not packed is its own payload."""
    place = 0
    while place < len(message):
        tag, start = _read_varint(message, place)
        number, wire = tag >> 3, tag & 7
        if wire == _DELIMITED:
            length, start = _read_varint(message, start)
            place = start + length
        elif wire == _VARINT:
            place = _read_varint(message, start)[1]
        elif wire in {_FIXED32, _FIXED64}:
            place = start + (4 if wire == _FIXED32 else 8)
        else:
            raise BadRecord(f"a field has the wire type {wire}, which no Example has")
        if place > len(message):
            raise BadRecord("a message ends within a field")
        if number in wanted:
            yield number, message[start:place]


def _read_varint(message: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(message) and shift < 64:
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
    raise BadRecord("a message ends within a number")


def _read_images(storage: Storage, name: str, sizes: Sequence[str]) -> Iterator[StoredImage]:
    return together(f"{storage.url}/{name}{SUFFIX}", _members(storage, name, sizes), sizes)


def _members(storage: Storage, name: str, sizes: Sequence[str]) -> Iterator[tuple[str, str, bytes]]:
    """Yield key, extension and content of each image."""
    place = f"{name}{SUFFIX}"
    with reading(f"{storage.url}/{place}", BadRecord), storage.open_file(place) as file:
        for record in read_records(file):
            features = decode_example(record)
            key = next(iter(features.get("key", ("bytes", [b""]))[1]), b"")
            encoding = next((each for each in ENCODINGS if each in features), None)
            if encoding is None or not isinstance(key, bytes):
                continue
            for size in ("", *sizes):
                found = next(iter(features.get(named(encoding, size), ("bytes", ()))[1]), None)
                if isinstance(found, bytes):
                    yield key.decode("ascii", "replace"), sized(encoding, size), found


def _check_columns(metadata: pa.Schema, image: ImageSpec) -> None:
    more = [named(extension_of(image), size) for size in image.more_boxes]
    refuse_columns(metadata, (*ENCODINGS, *more, TEXT), "a feature that tfrecord files add")


FORMAT: Final = Format(
    loads_in="tf.data, PyPI tfrecord",
    suffix=SUFFIX,
    writer=RecordFile,
    read_images=_read_images,
    check_columns=_check_columns,
    croissant_files=lambda image: (f"*{SUFFIX}", "application/octet-stream"),
)
