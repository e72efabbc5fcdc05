"""Lists with columns of any type and value, the datasets made of them, and values in a form that can be compared."""

from __future__ import annotations

import base64
import datetime
import math
import uuid
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from shard_data import results
from turbo_fetch.dataset.card import write_card
from turbo_fetch.dataset.formats import check_columns
from turbo_fetch.dataset.keys import ShardKeys
from turbo_fetch.dataset.ledger import ledger_batch
from turbo_fetch.dataset.manifest import Manifest
from turbo_fetch.dataset.names import PROBE, shard_name
from turbo_fetch.dataset.place import open_place
from turbo_fetch.dataset.samples import Samples, metadata_batch
from turbo_fetch.plan.reader import read_rows
from turbo_fetch.shard.commit import Rows, ShardFiles, publish_shard
from turbo_fetch.spec import FetchSpec, OutputFormat, Spec
from turbo_fetch.spec.specfile import dump_spec, parse_spec

PER_SHARD = 12
_DIGITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}
NULLS = 8
"""Rows at the start in which every column is null: more than readers look at to find types."""

NOW = datetime.datetime(2024, 2, 29, 12, 34, 56, 789012)
ODD_TEXTS = ["", "ünï 😀", "a\0b", 'quote " \\ \n\r\t', "\u2028\u0085\ufeff", "x" * 9_000, "---\nnull: ~"]

VALUES: dict[pa.DataType, list[Any]] = {
    pa.null(): [None],
    pa.bool_(): [True, False],
    pa.int8(): [-128, 127],
    pa.int16(): [-(2**15)],
    pa.int32(): [-(2**31)],
    pa.int64(): [-(2**63), 2**53 + 1, 0],
    pa.uint8(): [255],
    pa.uint16(): [2**16 - 1],
    pa.uint32(): [2**32 - 1],
    pa.uint64(): [2**64 - 1, 2**63, 1],
    pa.float16(): [0.5, math.nan],
    pa.float32(): [0.1, math.inf, -math.inf, math.nan, 1.0],
    pa.float64(): [0.1, math.nan, 1e300, -0.0, 1.0, 5e-324],
    pa.decimal32(5, 2): [Decimal("-1.25")],
    pa.decimal64(12, 2): [Decimal("1.25")],
    pa.decimal128(38, 10): [Decimal("1234567890123456789.0123456789")],
    pa.decimal128(5, -2): [Decimal("12300")],
    pa.decimal256(20, 4): [Decimal("1.0625")],
    pa.decimal256(60, 2): [Decimal("1" + "0" * 40 + ".25")],
    pa.date32(): [datetime.date(1, 1, 1), datetime.date(1900, 1, 1), datetime.date(9999, 12, 31)],
    pa.date64(): [datetime.date(1900, 1, 1), datetime.date(2024, 2, 29)],
    pa.time32("s"): [datetime.time(1, 2, 3)],
    pa.time32("ms"): [datetime.time(1, 2, 3, 4000)],
    pa.time64("us"): [datetime.time(1, 2, 3, 4)],
    pa.time64("ns"): [datetime.time(1, 2, 3, 4)],
    pa.timestamp("s"): [NOW.replace(microsecond=0), datetime.datetime(1900, 1, 1)],
    pa.timestamp("ms"): [NOW.replace(microsecond=789000), datetime.datetime(9999, 12, 31)],
    pa.timestamp("us"): [NOW, datetime.datetime(1900, 1, 1)],
    pa.timestamp("ns"): [1_709_210_096_789_012_000, -1000],
    pa.timestamp("us", "UTC"): [NOW],
    pa.timestamp("ms", "Asia/Tokyo"): [NOW.replace(microsecond=789000)],
    pa.timestamp("us", "+05:30"): [NOW],
    pa.duration("s"): [datetime.timedelta(seconds=-5)],
    pa.duration("ms"): [datetime.timedelta(milliseconds=5)],
    pa.duration("us"): [datetime.timedelta(microseconds=5)],
    pa.duration("ns"): [5000],
    pa.string(): ODD_TEXTS,
    pa.large_string(): ODD_TEXTS,
    pa.string_view(): ODD_TEXTS,
    pa.binary(): [b"", b"\0\xff"],
    pa.large_binary(): [b"\xff"],
    pa.binary_view(): [b"\xff", b"longer than a view"],
    pa.binary(3): [b"\0\xffa"],
    pa.list_(pa.int32()): [[], [1, None]],
    pa.large_list(pa.string()): [[], ["a", None]],
    pa.list_(pa.int8(), 2): [[1, None]],
    pa.list_view(pa.int32()): [[1], [], [2, 3]],
    pa.large_list_view(pa.string_view()): [["a"], [], ["b", "c"]],
    pa.list_(pa.null()): [[], [None]],
    pa.list_(pa.list_(pa.string())): [[], [[]], [None, ["a"]]],
    pa.struct([("a", pa.int8()), ("b", pa.string())]): [{"a": None, "b": "x"}, {"a": 1, "b": None}],
    pa.struct([("_type", pa.string()), ("x: [", pa.list_(pa.struct([("name", pa.float32())])))]): [
        {"_type": None, "x: [": None},
        {"_type": "t", "x: [": [{"name": 0.5}, None]},
    ],
    pa.struct([pa.field("a", pa.int8(), nullable=False)]): [{"a": 1}],
    pa.map_(pa.string(), pa.int32()): [[], [("k", 1), ("l", None)]],
    pa.struct([("m", pa.map_(pa.string(), pa.list_(pa.date32())))]): [
        {"m": [("k", [datetime.date(2024, 1, 1)])]}
    ],
    pa.dictionary(pa.int8(), pa.string()): ["a", "b"],
    pa.dictionary(pa.int32(), pa.int64()): [7],
    pa.list_(pa.dictionary(pa.int8(), pa.string())): [["a"]],
    pa.uuid(): [uuid.UUID(int=5).bytes],
    pa.json_(): ['{"a": 1}', "not JSON"],
    pa.bool8(): [1, 0],
    pa.fixed_shape_tensor(pa.float32(), [2, 2]): [[1, 2, 3, 4]],
    pa.opaque(pa.binary(), "geometry", "nobody"): [b"\x01"],
}
"""Every type that a list may have and a dataset can keep, with values that some reader once did not take."""

REFUSED: list[pa.DataType] = [
    pa.month_day_nano_interval(),
    pa.run_end_encoded(pa.int32(), pa.string()),
    pa.dense_union([pa.field("a", pa.int8())]),
    pa.sparse_union([pa.field("a", pa.int8())]),
    pa.struct([]),
    pa.list_(pa.struct([])),
    pa.struct([("a", pa.int8()), ("a", pa.int8())]),
    pa.map_(pa.string(), pa.month_day_nano_interval()),
]

ODD_NAMES = [
    'a "quoted": name',
    "- item",
    "ünï 😀",
    "x" * 3000,
    "#c",
    "a\nb\t\\",
    "a.b",
    "null",
    "yes",
    "1",
    "_type",
    "self",
    "features",
    "jpg",
    "json",
    "{a}",
    "\u2028\x7f",
    "bytes",
    "file_name",
    "other_file_name",
    "label",
    "image_url",
    "__key__",
]
"""Names that YAML, Python, JSON or a reader has a meaning for."""


def column(kind: pa.DataType, values: list[Any]) -> pa.Array:
    """Return an array of any type."""
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, pa.array(values, kind.storage_type))
    return pa.array(values, kind)


def every_column(rows: int, *, values: bool = True) -> dict[str, pa.Array]:
    """Return a column of each type: nulls, then its values again and again, or nulls alone."""
    return {
        f"c{number} {str(kind)[:20]}": column(
            kind,
            [
                kept[row % len(kept)] if values and row >= NULLS and row % 5 != 4 else None
                for row in range(rows)
            ],
        )
        for number, (kind, kept) in enumerate(VALUES.items())
    }


def dataset(
    folder: Path,
    output_format: OutputFormat,
    columns: Mapping[str, pa.Array],
    written: Sequence[int] | None = None,
    **image: Any,
) -> Path:
    """Make a dataset of a list with these columns, as a run would; every seventh row of a shard fails.

    `written` are the rows of each shard that it has, by default all.
    """
    rows = len(next(iter(columns.values())))
    captions = [None if row < NULLS else ODD_TEXTS[row % len(ODD_TEXTS)] for row in range(rows)]
    table = pa.table(
        {"url": [f"http://h.example/{row}.png" for row in range(rows)], "caption": captions, **columns}
    )
    folder.mkdir(parents=True, exist_ok=True)
    with pa.ipc.new_file(folder / "list.arrow", table.schema) as writer:
        writer.write_table(table)
    out = folder / "out"
    spec = _spec(folder / "list.arrow", out, output_format, list(columns), image)
    assert spec.fetch is not None
    batches = list(read_rows(spec.fetch.input))
    check_columns(output_format, batches[0].schema, spec.fetch.image)
    listed = pa.Table.from_batches(batches)
    place = open_place(str(out))
    place.probe(PROBE)
    place.write_bytes(".turbo-fetch/spec.toml", dump_spec(spec).encode())
    with Manifest.open(place) as manifest:
        for shard, start in enumerate(range(0, rows, PER_SHARD)):
            part = listed.slice(start, PER_SHARD).combine_chunks().to_batches()[0]
            files = ShardFiles(shard, shard_name(shard), output_format, spec.fetch.image)
            made = _made(part, shard, spec.fetch, range(part.num_rows) if written is None else written)
            manifest.commit(publish_shard(place, files, made, (0.0, 1.0), {}))
    write_card(place)
    return out


def plain(value: Any) -> Any:
    """Return a value in a form that is the same whichever library read it."""
    if value is None or isinstance(value, bool | str | bytes):
        return value
    if isinstance(value, np.ndarray):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, tuple):
        return {"key": plain(value[0]), "value": plain(value[1])}
    if isinstance(value, float):
        return "nan" if math.isnan(value) else float(value)
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, datetime.datetime):
        moment = value if value.tzinfo is None else value.astimezone(datetime.UTC)
        return moment.replace(tzinfo=None).isoformat(timespec="microseconds")
    if isinstance(value, datetime.timedelta):
        return value // datetime.timedelta(microseconds=1)
    return value.isoformat() if isinstance(value, datetime.date | datetime.time) else int(value)


def _spec(urls: Path, out: Path, output_format: OutputFormat, keep: list[str], image: dict[str, Any]) -> Spec:
    return parse_spec(
        {
            "fetch": {
                "input": {"urls": str(urls), "caption_column": "caption", "keep_columns": keep},
                "image": {"encode": "png", "quality": 6, **image},
                "output": {"path": str(out), "format": output_format, "samples_per_shard": PER_SHARD},
            }
        }
    )


def _made(source: pa.RecordBatch, shard: int, fetch: FetchSpec, rows: Sequence[int]) -> Iterator[Rows]:
    for start in range(0, len(rows), 5):
        batch = results(rows[start : start + 5])
        metadata = metadata_batch(source, batch, ShardKeys(shard, fetch.output), fetch.image)
        samples = Samples(metadata, batch.column("image"), batch.column("original_format"))
        yield Rows(samples, ledger_batch(source, batch, ShardKeys(shard, fetch.output)))


def as_json(kind: pa.DataType, value: Any) -> Any:
    """Return a value of a list as JSON has it: what the documentation says, independently of the writer."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(kind, pa.BaseExtensionType):
        return str(value) if isinstance(value, uuid.UUID) else as_json(kind.storage_type, value)
    if pa.types.is_dictionary(kind):
        return as_json(kind.value_type, value)
    if pa.types.is_duration(kind):
        return plain(value) * 1000 // 10 ** (9 - _DIGITS[kind.unit])
    if pa.types.is_timestamp(kind) or pa.types.is_time(kind):
        return _moment(kind, value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {field.name: as_json(field.type, value[field.name]) for field in kind}
    if pa.types.is_map(kind):
        pairs = [(as_json(kind.key_type, key), as_json(kind.item_type, item)) for key, item in value]
        return [{"key": key, "value": item} for key, item in pairs]
    if isinstance(value, list):
        return [as_json(kind.value_type, item) for item in value]
    return plain(value)


def _moment(kind: Any, value: Any) -> str:
    """Return a time in ISO 8601, with as many digits as its unit has."""
    zone = ""
    if isinstance(value, datetime.datetime) and value.tzinfo is not None:
        value, zone = value.astimezone(datetime.UTC).replace(tzinfo=None), "Z"
    digits = _DIGITS[kind.unit]
    whole, _, fraction = value.isoformat(timespec="microseconds").partition(".")
    return f"{whole}.{fraction.ljust(9, '0')[:digits]}{zone}" if digits else f"{whole}{zone}"


def kinds_and_values() -> st.SearchStrategy[tuple[pa.DataType, list[Any]]]:
    """Return types, nested at will, each with values that begin with nulls."""
    leaves = st.sampled_from(
        [
            (kind, values)
            for kind, values in VALUES.items()
            if not (kind == pa.uint64() or isinstance(kind, pa.BaseExtensionType))
        ]
    )
    kinds = st.recursive(leaves.map(_values_of), _nested, max_leaves=4)
    return kinds.flatmap(
        lambda found: st.tuples(st.just(found[0]), st.lists(st.none() | found[1], min_size=4, max_size=4))
    )


def _values_of(
    leaf: tuple[pa.DataType, list[Any]],
) -> tuple[pa.DataType, st.SearchStrategy[Any]]:
    return leaf[0], st.none() | st.sampled_from(leaf[1])


def _nested(
    inner: st.SearchStrategy[tuple[pa.DataType, st.SearchStrategy[Any]]],
) -> st.SearchStrategy[tuple[pa.DataType, st.SearchStrategy[Any]]]:
    names = st.lists(
        st.sampled_from(["a", "b", "_type", "list", "x: y", "ü"]), min_size=1, max_size=3, unique=True
    )
    lists = inner.map(lambda found: (pa.list_(found[0]), st.none() | st.lists(found[1], max_size=3)))
    views = inner.map(lambda found: (pa.list_view(found[0]), st.none() | st.lists(found[1], max_size=3)))
    pairs = inner.map(
        lambda found: (
            pa.list_(found[0], 2),
            st.none() | st.lists(found[1], min_size=2, max_size=2),
        )
    )
    maps = inner.map(
        lambda found: (
            pa.map_(pa.string(), found[0]),
            st.none() | st.lists(st.tuples(st.sampled_from(["k", "l"]), found[1]), max_size=2),
        )
    )
    structs = names.flatmap(
        lambda given: st.tuples(*(inner for _ in given)).map(
            lambda members: (
                pa.struct([(name, member[0]) for name, member in zip(given, members, strict=True)]),
                st.none()
                | st.fixed_dictionaries(
                    {name: member[1] for name, member in zip(given, members, strict=True)}
                ),
            )
        )
    )
    return lists | views | pairs | maps | structs
