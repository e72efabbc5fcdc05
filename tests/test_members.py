"""JSON and text of samples: every Arrow type has one form, and none stops a shard."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from turbo_fetch.arrow.python_values import json_values, python_values
from turbo_fetch.dataset.formats.members import json_members, text_members

MOMENT = datetime(2024, 2, 29, 12, 34, 56, 789012, tzinfo=UTC)
NAIVE = MOMENT.replace(tzinfo=None)

CASES: list[tuple[pa.DataType, list[Any], list[Any]]] = [
    (pa.null(), [None], [None]),
    (pa.bool_(), [True, None], [True, None]),
    (pa.uint64(), [2**64 - 1, None], [2**64 - 1, None]),
    (pa.int64(), [-(2**63)], [-(2**63)]),
    (pa.float64(), [1.5, float("nan"), float("inf"), float("-inf"), None], [1.5, None, None, None, None]),
    (pa.float16(), [0.5], [0.5]),
    (pa.string_view(), ["ünï", None], ["ünï", None]),
    (pa.large_string(), ['quote " and \n'], ['quote " and \n']),
    (pa.decimal128(38, 10), [Decimal("1234567890123456789.0123456789")], ["1234567890123456789.0123456789"]),
    (pa.decimal256(60, 2), [Decimal("-0.05"), None], ["-0.05", None]),
    (pa.date32(), [date(1, 1, 1), None], ["0001-01-01", None]),
    (pa.date64(), [date(2024, 2, 29)], ["2024-02-29"]),
    (pa.timestamp("s"), [NAIVE.replace(microsecond=0), None], ["2024-02-29T12:34:56", None]),
    (pa.timestamp("us"), [NAIVE], ["2024-02-29T12:34:56.789012"]),
    (pa.timestamp("ns"), [1_709_210_096_789_012_345], ["2024-02-29T12:34:56.789012345"]),
    (pa.timestamp("us", "Asia/Tokyo"), [MOMENT, None], ["2024-02-29T12:34:56.789012Z", None]),
    (pa.timestamp("s", "No/Such_Zone"), [0], ["1970-01-01T00:00:00Z"]),
    (pa.timestamp("s"), [2**40], ["36812-02-20T00:36:16"]),
    (pa.time32("s"), [time(1, 2, 3)], ["01:02:03"]),
    (pa.time64("ns"), [3_723_000_000_001], ["01:02:03.000000001"]),
    (pa.duration("ms"), [timedelta(seconds=2), None], [2000, None]),
    (pa.duration("ns"), [5], [5]),
    (pa.binary(), [b"\xff\x00", None], ["/wA=", None]),
    (pa.binary(2), [b"ab"], ["YWI="]),
    (pa.list_(pa.float32()), [[1.0, None], None, []], [[1.0, None], None, []]),
    (pa.list_(pa.int8(), 2), [[1, 2], None, [3, 4]], [[1, 2], None, [3, 4]]),
    (pa.large_list_view(pa.binary()), [[b"a"], None], [["YQ=="], None]),
    (
        pa.struct([("at", pa.timestamp("s")), ("n", pa.int8())]),
        [{"at": 0, "n": 1}, None],
        [{"at": "1970-01-01T00:00:00", "n": 1}, None],
    ),
    (
        pa.list_(pa.struct([("d", pa.date32())])),
        [[{"d": date(2024, 1, 1)}, None]],
        [[{"d": "2024-01-01"}, None]],
    ),
    (pa.map_(pa.string(), pa.binary()), [[("k", b"a")], None], [[{"key": "k", "value": "YQ=="}], None]),
    (pa.dictionary(pa.int8(), pa.string()), ["a", None, "a"], ["a", None, "a"]),
    (pa.uuid(), [uuid.UUID(int=5).bytes], ["00000000-0000-0000-0000-000000000005"]),
    (pa.json_(), ['{"a": 1}'], ['{"a": 1}']),
]


@pytest.mark.parametrize(("kind", "values", "expected"), CASES, ids=lambda value: str(value)[:40])
def test_every_type_has_its_json(kind: pa.DataType, values: list[Any], expected: list[Any]) -> None:
    array = pa.array(values, kind)
    batch = pa.RecordBatch.from_arrays([array], ["x"])
    assert [json.loads(text)["x"] for text in json_members(batch)] == expected
    padded = pa.concat_arrays([array, array, array])
    cut = pa.RecordBatch.from_arrays([padded.slice(len(values), len(values))], ["x"])
    assert list(json_members(cut)) == list(json_members(batch))


def test_bytes_that_are_not_utf8_are_replaced() -> None:
    broken = pa.StringArray.from_buffers(2, *pa.array([b"a\xffb", b""]).buffers()[1:])
    (text, _) = json_members(pa.RecordBatch.from_arrays([broken], ["x"]))
    assert json.loads(text) == {"x": "a\ufffdb"}


@given(st.lists(st.lists(st.lists(st.integers(-(2**63), 2**63 - 1) | st.none()) | st.none()) | st.none()))
def test_nested_lists_keep_their_shape(values: list[Any]) -> None:
    assert json_values(pa.array(values, pa.list_(pa.list_(pa.int64())))) == values


def test_captions_are_text_and_never_missing() -> None:
    batch = pa.RecordBatch.from_pydict({"caption": ["ünï", None, ""]})
    texts = text_members(batch)
    assert texts is not None
    assert list(texts) == ["ünï".encode(), b"", b""]
    assert text_members(pa.RecordBatch.from_pydict({"url": ["a"]})) is None


def test_a_caption_of_another_type_is_its_json() -> None:
    texts = text_members(pa.RecordBatch.from_pydict({"caption": [["a", "b"], None]}))
    assert texts is not None
    assert list(texts) == [b'["a","b"]', b""]


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        (
            pa.timestamp("ns"),
            [1_709_210_096_789_012_345, 1_709_210_096_789_012_000, None],
            ["2024-02-29T12:34:56.789012345", NAIVE, None],
        ),
        (pa.timestamp("s"), [2**40, 0], ["36812-02-20T00:36:16", datetime(1970, 1, 1)]),
        (pa.timestamp("us", "UTC"), [2**62], ["148108-07-06T14:00:27.387904Z"]),
        (pa.time64("ns"), [3_723_000_000_001, 3_723_000_000_000], ["01:02:03.000000001", time(1, 2, 3)]),
        (pa.duration("ns"), [-1_500_000_001, 2000], ["-PT1.500000001S", timedelta(microseconds=2)]),
        (pa.duration("s"), [2**50], ["PT1125899906842624S"]),
        (pa.date32(), [2**31 - 1, 0], ["5881580-07-11", date(1970, 1, 1)]),
        (pa.list_(pa.date32()), [[2**31 - 1], [0]], [["5881580-07-11"], [date(1970, 1, 1)]]),
        (pa.struct([("a", pa.timestamp("s"))]), [{"a": 2**40}], [{"a": "36812-02-20T00:36:16"}]),
    ],
)
def test_what_python_has_no_object_for_is_text(
    kind: pa.DataType, values: list[Any], expected: list[Any]
) -> None:
    assert python_values(pa.array(values, kind)) == expected
    assert python_values(pa.chunked_array([pa.array(values, kind)])) == expected
