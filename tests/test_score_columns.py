"""What a function returns becomes the columns of the spec, or one sentence of what was wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from turbo_fetch.arrow.score_types import score_schema
from turbo_fetch.score.columns import BadScores, as_columns

SCHEMA = score_schema({"beauty": "float32", "look": "float16[3]", "label": "string", "count": "int32"})
RIGHT: dict[str, Any] = {
    "beauty": [0.5, None],
    "look": [[1, 2, 3], None],
    "label": ["cat", None],
    "count": [3, None],
}


def _columns(**changes: Any) -> dict[str, Any]:
    columns: dict[str, Any] = as_columns({**RIGHT, **changes}, SCHEMA, 2).to_pydict()
    return columns


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("beauty", np.array([0.5, np.nan]), [0.5, pytest.approx(np.nan, nan_ok=True)]),
        ("beauty", pa.chunked_array([[0.5], [None]], pa.float64()), [0.5, None]),
        ("beauty", np.array([1, 2]), [1.0, 2.0]),
        ("look", np.arange(6).reshape(2, 3), [[0, 1, 2], [3, 4, 5]]),
        ("look", np.arange(6, dtype=np.float64).reshape(2, 3)[:, ::-1], [[2, 1, 0], [5, 4, 3]]),
        ("look", pa.array([[1.0, 2.0, 3.0], None], pa.list_(pa.float32())), [[1, 2, 3], None]),
        ("look", pa.array([None, [1, 2, 3]], pa.list_(pa.float32(), 3)), [None, [1, 2, 3]]),
        ("look", pa.array([[9, 9, 9], None, [1, 2, 3]], pa.list_(pa.float64(), 3))[1:], [None, [1, 2, 3]]),
        ("count", np.array([1.0, 2.0]), [1, 2]),
        ("label", np.array(["a", "b"]), ["a", "b"]),
    ],
)
def test_arrays_of_many_kinds_are_taken(name: str, values: Any, expected: list[Any]) -> None:
    assert _columns(**{name: values})[name] == expected


def test_tensors_are_taken_with_or_without_gradient() -> None:
    torch = pytest.importorskip("torch")
    found = _columns(
        beauty=torch.tensor([0.5, 1.5], requires_grad=True),
        look=torch.arange(6.0).reshape(2, 3).bfloat16(),
        count=torch.tensor([2**31 - 1, -1]),
    )
    assert found["beauty"] == [0.5, 1.5]
    assert found["look"] == [[0, 1, 2], [3, 4, 5]]
    assert found["count"] == [2**31 - 1, -1]


def test_record_batches_and_tables_are_taken_in_any_order_of_columns() -> None:
    batch = pa.RecordBatch.from_pydict(dict(reversed(RIGHT.items())))
    for returned in (batch, pa.Table.from_batches([batch])):
        assert as_columns(returned, SCHEMA, 2).schema == SCHEMA


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"beauty": [0.5]}, "returned 1 values of 'beauty' for 2 images; expected one for each"),
        ({"beauty": ["a", "b"]}, "returned a list for 'beauty'; expected values of float"),
        ({"beauty": np.zeros((2, 2))}, "the shape is (2, 2), expected (images,)"),
        ({"look": np.zeros((2, 4))}, "the shape is (2, 4), expected (images, 3)"),
        ({"look": pa.array([[1.0], [2.0]], pa.list_(pa.float32(), 1))}, "the lists have 1 values"),
        ({"label": pa.array([1, 2])}, "returned int64 for 'label'; expected values of string"),
        ({"count": np.array([0.5, 1.5])}, "returned a ndarray for 'count'; expected values of int32"),
        ({"count": np.array([2**40, 1])}, "returned a ndarray for 'count'; expected values of int32"),
        ({"more": [1, 2]}, "returned a column 'more', which fetch.score.columns does not name"),
    ],
)
def test_what_cannot_be_taken_is_said(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BadScores) as error:
        _columns(**changes)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("returned", "said"),
    [({"beauty": [1, 2]}, "returned no column 'look'"), ([1, 2], "returned a list; expected a record batch")],
)
def test_what_is_no_set_of_columns_is_said(returned: Any, said: str) -> None:
    with pytest.raises(BadScores, match=said):
        as_columns(returned, SCHEMA, 2)


@given(st.lists(st.none() | st.lists(st.floats(width=16), min_size=4, max_size=4), max_size=20))
def test_lists_of_half_precision_come_back_as_they_were(values: list[list[float] | None]) -> None:
    schema = score_schema({"look": "float16[4]"})
    found = as_columns({"look": values}, schema, len(values)).column("look")
    assert str(found.to_pylist()) == str(values)
