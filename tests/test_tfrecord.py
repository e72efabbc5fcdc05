"""TFRecord: Examples that a reader not written here takes, and damage that is found."""

from __future__ import annotations

import hashlib
import io
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shard_data import fails, picture, samples, source
from turbo_fetch.dataset.formats import check_columns, write_shard
from turbo_fetch.dataset.formats.tfrecord import (
    BadRecord,
    decode_example,
    encode_example,
    encode_record,
    read_records,
)
from turbo_fetch.dataset.names import sample_key
from turbo_fetch.errors import InputError
from turbo_fetch.spec import ImageSpec

IMAGE = ImageSpec(encode="png", quality=6)
COUNT = 30
NOW = datetime(2026, 1, 2, tzinfo=UTC)


def _loaded(path: Path) -> list[dict[str, Any]]:
    """Read a file with the package `tfrecord`, which checks neither order nor types."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tfrecord import tfrecord_loader

        return list(tfrecord_loader(str(path), None))


def test_another_reader_finds_every_image_under_the_names_of_img2dataset(tmp_path: Path) -> None:
    file, table = write_shard("tfrecord", samples(COUNT, IMAGE), tmp_path, "00000", IMAGE)
    assert (file.name, table.name) == ("00000.tfrecord", "00000.parquet")
    assert file.sha256 == hashlib.sha256(file.path.read_bytes()).hexdigest()
    rows = [row for row in range(COUNT) if not fails(row)]
    for row, example in zip(rows, _loaded(file.path), strict=True):
        caption = b"" if row % 5 == 4 else f"a ünï {row}".encode()
        assert example["key"] == sample_key(0, row, 1000).encode()
        assert example["png"] == picture(row)
        assert (example["txt"], example["caption"]) == (caption, caption)
        assert (example["width"].tolist(), example["height"].tolist()) == ([9], [8 + row % 5])
        assert example["sha256"] == f"{row:064x}".encode()
        assert example["error_message"] == b""


def test_a_feature_has_the_type_of_its_column_whatever_its_values(tmp_path: Path) -> None:
    columns = {
        "score": pa.array([0.5, None], pa.float64()),
        "safe": pa.array([None, True]),
        "large": pa.array([2**64 - 1, -(0)], pa.uint64()),
        "box": pa.array([[0.25, 0.5], None], pa.list_(pa.float64())),
        "gap": pa.array([[1, None], []], pa.list_(pa.int64())),
        "tags": pa.array([["a", "ü"], []], pa.list_(pa.string())),
        "raw": pa.array([b"\xff\0", None]),
        "when": pa.array([NOW, None], pa.timestamp("s", "UTC")),
        "nested": pa.array([{"a": 1}, None]),
        "colour": pa.array(["red", None]).dictionary_encode(),
    }
    batches = samples(2, IMAGE, listed=source(2, **columns))
    file, _ = write_shard("tfrecord", batches, tmp_path, "00000", IMAGE)
    with file.path.open("rb") as opened:
        first, second = (decode_example(record) for record in read_records(opened))
    assert [first[name] for name in ("score", "large", "box", "tags", "raw", "when", "nested", "colour")] == [
        ("float", (0.5,)),
        ("int64", [-1]),
        ("float", (0.25, 0.5)),
        ("bytes", [b"a", "ü".encode()]),
        ("bytes", [b"\xff\0"]),
        ("bytes", [b"2026-01-02T00:00:00Z"]),
        ("bytes", [b'{"a":1}']),
        ("bytes", [b"red"]),
    ]
    assert not {"safe", "gap"} & first.keys()
    assert not {"score", "box"} & second.keys()
    assert (second["safe"], second["gap"], second["tags"]) == (("int64", [1]), ("int64", []), ("bytes", []))
    assert second["raw"] == second["when"] == second["nested"] == second["colour"] == ("bytes", [b""])


def test_how_the_samples_are_cut_leaves_no_trace(tmp_path: Path) -> None:
    written = set()
    for rows_per_batch in (1, 7, COUNT):
        batches = samples(COUNT, IMAGE, rows_per_batch=rows_per_batch)
        written.add(write_shard("tfrecord", batches, tmp_path, "00000", IMAGE)[0].path.read_bytes())
    assert len(written) == 1


@pytest.mark.parametrize("name", ["png", "txt"])
def test_a_list_column_named_as_a_feature_of_ours_is_refused_beforehand(name: str) -> None:
    listed = source(1, **{name: pa.array(["x"])})
    with pytest.raises(InputError, match=f"'{name}'"):
        check_columns("tfrecord", listed.schema, IMAGE)


def test_every_flipped_bit_of_a_record_is_found() -> None:
    whole = b"".join(encode_record(b"content of a record"))
    assert list(read_records(io.BytesIO(whole))) == [b"content of a record"]
    for bit in range(len(whole) * 8):
        altered = bytearray(whole)
        altered[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BadRecord):
            list(read_records(io.BytesIO(altered)))


def test_a_record_that_is_cut_off_is_found() -> None:
    whole = b"".join(encode_record(b"content"))
    for size in range(1, len(whole)):
        with pytest.raises(BadRecord):
            list(read_records(io.BytesIO(whole[:size])))


@given(
    st.dictionaries(
        st.text(max_size=9),
        st.one_of(
            st.tuples(st.just("bytes"), st.lists(st.binary(max_size=300))),
            st.tuples(st.just("int64"), st.lists(st.integers(-(2**63), 2**63 - 1))),
            st.tuples(st.just("float"), st.lists(st.floats(width=32, allow_nan=False)).map(tuple)),
        ),
        max_size=5,
    )
)
def test_what_is_encoded_is_decoded_and_agrees_with_protocol_buffers(features: dict[str, Any]) -> None:
    encoded = encode_example(features.items())
    assert decode_example(encoded) == features
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tfrecord import example_pb2

        example = example_pb2.Example.FromString(encoded)
    for name, (kind, values) in features.items():
        feature = example.features.feature[name]
        assert list(getattr(feature, f"{kind}_list").value) == list(values)
        assert feature.WhichOneof("kind") == f"{kind}_list"


@given(st.binary(max_size=60))
def test_garbage_is_no_example(content: bytes) -> None:
    try:
        decode_example(content)
    except BadRecord:
        return
