"""The boxes of a list: from their JSON to bounds that the transform takes, or the reason why they cannot be used.

What is to be made unrecognisable must never pass because it was not understood, so anything odd is a problem; and so is
a row without a box, where one is to be cut out.
"""

from __future__ import annotations

import math
from typing import Any, Final

import orjson

from turbo_fetch.spec import BoxesUse

Box = tuple[float, float, float, float]

EXPECTED: Final = "expected lists of [left, top, right, bottom], relative to the image's sides, 0 to 1"


def parse_boxes(text: str | None) -> tuple[list[Box], str | None]:
    """Return the boxes in a row's JSON, cut to the image, and None; or no boxes and what is wrong.

    None, an empty text, `null` and an empty list mean that there are none. One box alone may stand without the
    outer list. Parts outside of the image are ignored, a box that is outside as a whole is a problem: its
    numbers may be pixels.
    """
    if text is None or not text.strip():
        return [], None
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return [], f"boxes are not JSON: {EXPECTED}"
    if value is None:
        return [], None
    if isinstance(value, list) and value and not isinstance(value[0], list):
        value = [value]
    if not isinstance(value, list):
        return [], f"boxes are no list: {EXPECTED}"
    boxes = [_box(each) for each in value]
    found = [box for box in boxes if box is not None]
    if len(found) < len(boxes):
        return [], f"box {boxes.index(None) + 1} of {len(boxes)} cannot be used: {EXPECTED}"
    return found, None


def used_boxes(text: str | None, use: BoxesUse) -> tuple[list[Box], str | None]:
    """Return the boxes of a row that are blurred, or the one that is cut out, and None; or none and what is wrong."""
    boxes, problem = parse_boxes(text)
    if use == "blur" or problem is not None:
        return boxes, problem
    if not boxes:
        return [], "there is no box to crop to"
    return [boxes[0] if use == "crop_first" else max(boxes, key=_area)], None


def _area(box: Box) -> float:
    left, top, right, bottom = box
    return (right - left) * (bottom - top)


def _box(value: Any) -> Box | None:
    if not isinstance(value, list) or len(value) != 4:
        return None
    if not all(type(side) in {int, float} and math.isfinite(side) for side in value):
        return None
    left, top, right, bottom = (min(max(float(side), 0.0), 1.0) for side in value)
    return (left, top, right, bottom) if left < right and top < bottom else None
