"""Binary arrays without copies: what goes in comes out, from the same memory."""

from __future__ import annotations

from typing import Final

import numpy as np
import pyarrow as pa
import pytest

from turbo_fetch.arrow.binaries import blobs, contiguous, lengths, view_array

VALUES: Final = [b"", b"a", b"exactly 12 b", None, b"thirteen byte", b"x" * 5000, None, b"last of them all"]


@pytest.mark.parametrize(("start", "count"), [(0, 8), (2, 4), (3, 1), (5, 0)])
def test_values_come_back_from_every_slice(start: int, count: int) -> None:
    wanted = VALUES[start : start + count]
    views = view_array(VALUES)
    views.validate(full=True)
    plain = pa.array(VALUES, pa.binary())
    assert views.cast(pa.binary()).equals(plain)
    for array in (views, plain, view_array([*VALUES, None]), pa.array(VALUES, pa.binary_view())):
        found = blobs(array.slice(start, count))
        assert [None if blob is None else bytes(blob) for blob in found] == wanted
    assert lengths(views.slice(start, count)).tolist() == [len(value or b"") for value in wanted]
    whole = contiguous(views.slice(start, count))
    whole.validate(full=True)
    assert whole.type == pa.binary()
    assert whole.to_pylist() == wanted


@pytest.mark.parametrize(
    "array", [pa.nulls(2, pa.binary_view()), pa.array([], pa.binary_view()), view_array([])]
)
def test_arrays_without_a_value_have_none(array: pa.BinaryViewArray) -> None:
    assert blobs(array) == [None] * len(array)
    assert lengths(array).tolist() == [0] * len(array)
    assert contiguous(array).to_pylist() == [None] * len(array)


def test_large_values_are_not_copied() -> None:
    body = bytes(range(256)) * 10
    blob = blobs(view_array([body]))[0]
    assert blob is not None
    assert np.frombuffer(blob, np.uint8).ctypes.data == np.frombuffer(body, np.uint8).ctypes.data


def test_values_keep_what_they_refer_to_alive() -> None:
    found = blobs(view_array([bytearray(b"y" * 1000) for _ in range(3)]))  # type: ignore[misc]
    assert [bytes(blob or b"") for blob in found] == [b"y" * 1000] * 3
