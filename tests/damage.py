"""Damage to image files, drawn from a seed: to their markers and chunks, and to any byte."""

from __future__ import annotations

from random import Random

from fuzz_corpus import without_segments

MARKERS = (
    b"\xff\x0b",
    b"\xff\xc4\x00\x04\x00\xff",
    b"\xff\xdb\x00\x03\x1f",
    b"\xff\xdd\x00\x04\x00\x01",
    b"\xff\xdc\x00\x04\x00\x05",
    b"\xff\xd8",
    b"\xff\xd9",
    b"\x00\x00\x00",
)
NUMBERS = (0, 1, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)


def broken_jpegs(sound: bytes) -> dict[str, bytes]:
    """Return what is known to have left a decoder broken, or to have been decoded by the tables of another file."""
    scan = sound.index(b"\xff\xda")
    frame = next(at for at in range(2, scan) if sound[at : at + 2] in {b"\xff\xc0", b"\xff\xc2"})
    return {
        "two starts": b"\xff\xd8" + sound,
        "unknown marker": sound[:2] + b"\xff\x0b" + sound[2:],
        "7 bits": sound[: frame + 4] + b"\x07" + sound[frame + 5 :],
        "a table of no length": sound[:scan] + b"\xff\xc4\x00\x04\x00\xff" + sound[scan:],
        "two frames": sound[:frame] + sound[frame:scan] * 2 + sound[scan:],
        "no frame": without_segments(sound, sound[frame + 1]),
        "no quantisation": without_segments(sound, 0xDB),
        "no scan": sound[:scan] + b"\xff\xd9",
        "ends in its header": sound[:scan],
    }


def damaged(body: bytes, other: bytes, random: Random) -> bytes:
    """Return `body` damaged once or more; `other` is what it may be spliced with."""
    for _ in range(random.choice((1, 1, 2, 4))):
        body = _damaged_once(bytearray(body), other, random)
    return body


def _damaged_once(body: bytearray, other: bytes, random: Random) -> bytes:
    at = random.randrange(min(len(body), random.choice((64, 700, len(body)))) or 1)
    match random.randrange(9):
        case 0 | 1 | 2:
            body[at : at + 1] = random.randbytes(1)
        case 3:
            body[at:at] = random.choice(MARKERS)
        case 4:
            number = random.choice(NUMBERS).to_bytes(4, random.choice(("big", "little")))
            body[at : at + 4] = random.choice((number, number[:2], number[2:]))
        case 5:
            del body[at : at + random.randrange(1, 40)]
        case 6:
            del body[random.randrange(len(body) + 1) :]
        case 7:
            body[at:] = other[random.randrange(len(other) or 1) :]
        case _:
            scan = body.find(b"\xff\xda")
            if body[:2] == b"\xff\xd8" and scan > 0:
                body[scan:scan] = random.choice(MARKERS)
            else:
                body[at : at + 16] = bytes(16)
    return bytes(body)
