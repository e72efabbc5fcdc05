"""Types of the list's columns become those that every reader takes, with the same values."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.types as kinds
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kept_columns import REFUSED, VALUES, column, kinds_and_values, plain
from turbo_fetch.arrow.kept_types import kept_type, kept_values, type_in_parquet, unkept, valid_texts

KEPT = (
    kinds.is_null,
    kinds.is_boolean,
    kinds.is_integer,
    kinds.is_floating,
    kinds.is_decimal128,
    kinds.is_date32,
    kinds.is_time,
    kinds.is_timestamp,
    kinds.is_duration,
    kinds.is_string,
    kinds.is_large_string,
    kinds.is_binary,
    kinds.is_large_binary,
    kinds.is_fixed_size_binary,
)


def _leaves(kind: Any) -> list[pa.DataType]:
    if kinds.is_struct(kind):
        assert all(field.nullable for field in kind)
        return [leaf for field in kind for leaf in _leaves(field.type)]
    if kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind):
        return _leaves(kind.value_type)
    return [kind]


@pytest.mark.parametrize("kind", VALUES, ids=str)
def test_every_type_has_a_kept_form_with_the_same_values(kind: pa.DataType) -> None:
    array = column(kind, [None, *VALUES[kind], None])
    for part in (array, array.slice(1), array.slice(1, 1), array.slice(0, 0)):
        kept = kept_values(part)
        kept.validate(full=True)
        assert kept.type == kept_type(kind)
        assert [plain(value) for value in kept.to_pylist()] == [plain(value) for value in part.to_pylist()]
    assert unkept(kind) is None


@given(kinds_and_values(), st.integers(0, 3), st.integers(0, 4))
def test_nested_values_stay_the_same_and_a_second_time_changes_nothing(
    drawn: tuple[pa.DataType, list[Any]], start: int, length: int
) -> None:
    kind, values = drawn
    array = column(kind, values).slice(start, length)
    kept = valid_texts(kept_values(array))
    kept.validate(full=True)
    assert [plain(value) for value in kept.to_pylist()] == [plain(value) for value in array.to_pylist()]
    assert all(any(test(leaf) for test in KEPT) for leaf in _leaves(kept.type))
    assert kept_type(kept.type) == kept.type
    assert kept_values(kept) is kept or "timestamp[s" in str(kind)
    assert kept_type(type_in_parquet(kind)) == type_in_parquet(kind)


@pytest.mark.parametrize("kind", REFUSED, ids=str)
def test_some_types_have_none(kind: pa.DataType) -> None:
    assert unkept(kind) is not None


def test_a_decimal_whose_scale_exceeds_its_precision_is_text() -> None:
    assert kept_type(pa.decimal128(3, 7)) == pa.string()


def test_what_is_not_utf8_is_replaced_wherever_it_is() -> None:
    broken = pa.StringArray.from_buffers(3, *pa.array([b"a\xffb", b"", b"\xc3"]).buffers()[1:])
    assert valid_texts(broken).to_pylist() == ["a\ufffdb", "", "\ufffd"]
    listed = pa.ListArray.from_arrays(pa.array([0, 1, 3], pa.int32()), broken)
    nested = pa.StructArray.from_arrays([listed, pa.array([1, 2])], ["l", "n"])
    assert valid_texts(nested).to_pylist() == [{"l": ["a\ufffdb"], "n": 1}, {"l": ["", "\ufffd"], "n": 2}]


@pytest.mark.parametrize("nested", [False, True])
def test_seconds_that_parquet_cannot_hold_are_an_error_of_their_own(nested: bool) -> None:
    array = pa.array([2**60], pa.timestamp("s"))
    if nested:
        array = pa.StructArray.from_arrays([array], ["t"])
    with pytest.raises(pa.ArrowInvalid):
        kept_values(array)
