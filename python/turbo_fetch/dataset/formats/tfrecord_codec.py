"""TFRecord files of `tf.train.Example` messages, encoded and decoded here, without TensorFlow.

A record is its length (uint64), the masked CRC-32C of the length, the content, and the content's (all
little-endian; tensorflow/core/lib/io/record_writer.h). An Example maps names to lists of bytes, floats or
integers (tensorflow/core/example/feature.proto), in the wire format of Protocol Buffers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, Final, Literal, cast

import numpy as np

from turbo_fetch import _native

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


class BadRecord(ValueError):
    """A record or a message is not whole, or not what it says."""


def encode_record(content: bytes) -> tuple[bytes, bytes, bytes]:
    """Return the pieces of the record that holds `content`."""
    length = _LENGTH.pack(len(content))
    return length + _masked_checksum(length), content, _masked_checksum(content)


def read_records(file: IO[bytes], *, check: bool = True) -> Iterator[bytes]:
    """Yield the contents of the records of a file; raises BadRecord where one is torn or altered.

    `check` says whether the checksums of contents are verified; those of lengths always are.
    """
    number = 0
    while head := file.read(_LENGTH.size + _CHECKSUM.size):
        length, checksum = head[: _LENGTH.size], head[_LENGTH.size :]
        if checksum != _masked_checksum(length):
            raise BadRecord(f"record {number}: the length is torn or altered")
        size = _LENGTH.unpack(length)[0]
        content, checksum = file.read(size), file.read(_CHECKSUM.size)
        if len(content) != size or len(checksum) != _CHECKSUM.size:
            raise BadRecord(f"record {number}: the file ends within it")
        if check and checksum != _masked_checksum(content):
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
    crc = _native.crc32c(content)
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
