"""Columns of every type and value load from every format in what people load it with, or are refused by name."""

from __future__ import annotations

import json
import tarfile
import warnings
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from kept_columns import (
    NULLS,
    ODD_NAMES,
    PER_SHARD,
    REFUSED,
    as_json,
    column,
    dataset,
    every_column,
    kinds_and_values,
    plain,
)
from shard_data import fails
from turbo_fetch.dataset.formats import check_columns
from turbo_fetch.errors import InputError
from turbo_fetch.spec import ImageSpec, OutputFormat

SHARDS = 2
ROWS = SHARDS * PER_SHARD
GOOD = [row for row in range(ROWS) if not fails(row % PER_SHARD)]
FORMATS = get_args(OutputFormat)


@pytest.fixture(autouse=True)
def _others_may_warn() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def load(folder: Path, **options: Any) -> Any:
    import datasets

    return datasets.load_dataset(str(folder), split="train", cache_dir=str(folder / ".cache"), **options)


def tar_samples(out: Path) -> Iterator[dict[str, bytes]]:
    """Yield the members of each sample by extension, in the order in which they stand in the tars."""
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as tar:
            for key, entries in groupby(tar, key=lambda entry: entry.name.partition(".")[0]):
                assert key.isdigit()
                opened = [(entry.name.partition(".")[2], tar.extractfile(entry)) for entry in entries]
                yield {extension: file.read() for extension, file in opened if file is not None}


def strict(text: bytes | str) -> Any:
    """Parse JSON as the standard says, without NaN."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("output_format", FORMATS)
@pytest.mark.parametrize("values", [True, False], ids=["values", "nulls"])
def test_hugging_face_loads_the_folder(tmp_path: Path, output_format: OutputFormat, values: bool) -> None:
    columns = every_column(ROWS, values=values)
    out = dataset(tmp_path, output_format, columns)
    rows, streamed = list(load(out)), list(load(out, streaming=True))
    if output_format == "files":
        # Of several folders imagefolder takes the metadata in no certain order.
        rows, streamed = (sorted(found, key=lambda row: str(row["key"])) for found in (rows, streamed))
    kept = GOOD if output_format in {"webdataset", "files"} else range(ROWS)
    assert len(rows) == len(streamed) == len(kept)
    for name, array in columns.items():
        expected = array.to_pylist()
        for found in (rows, streamed):
            if output_format == "webdataset":
                wanted = [as_json(array.type, expected[row]) for row in kept]
                seen = [row["json"][name] for row in found]
            else:
                wanted = [plain(expected[row]) for row in kept]
                seen = [plain(row[name]) for row in found]
            if array.type == pa.uint64() and output_format in {"webdataset", "files"}:
                wanted = [None if value is None else str(value) for value in wanted]
            assert seen == wanted, name


def test_hugging_face_loads_some_of_the_tars_with_the_features_of_the_card(tmp_path: Path) -> None:
    import datasets

    out = dataset(tmp_path, "webdataset", every_column(ROWS))
    options = {"data_files": str(out / "00001.tar"), "split": "train", "cache_dir": str(tmp_path / "cache")}
    features = datasets.load_dataset_builder(str(out)).info.features
    assert len(datasets.load_dataset("webdataset", features=features, **options)) == len(GOOD) // SHARDS


@pytest.mark.parametrize("output_format", ["webdataset", "parquet", "parquet_bytes"])
def test_the_metadata_load_in_pandas_polars_duckdb_and_pyarrow(
    tmp_path: Path, output_format: OutputFormat
) -> None:
    import duckdb
    import pandas
    import polars

    columns = every_column(ROWS)
    out = dataset(tmp_path, output_format, columns)
    paths = [str(path) for path in sorted(out.glob("0000?.parquet"))]
    found: dict[str, dict[Any, list[Any]]] = {
        "pyarrow": pq.read_table(paths).to_pydict(),
        "pandas": {
            name: [None if value is pandas.NA else value for value in values]
            for name, values in pandas.concat(
                [pandas.read_parquet(path, dtype_backend="pyarrow") for path in paths]
            ).items()
        },
        "polars": polars.read_parquet(paths).to_dict(as_series=False),
    }
    relation = duckdb.sql(f"select * from read_parquet({paths})")
    assert relation is not None
    values_by_column = map(list, zip(*relation.fetchall(), strict=True))
    found["duckdb"] = dict(zip(relation.columns, values_by_column, strict=True))
    for name, array in columns.items():
        expected = [plain(value) for value in array.to_pylist()]
        for reader, values in found.items():
            # Durations are an Arrow type that Parquet has as integers.
            if not (reader == "duckdb" and pa.types.is_duration(array.type)):
                assert [plain(value) for value in values[name]] == expected, (reader, name)


def test_json_members_are_strict_and_have_the_same_keys_in_every_sample(tmp_path: Path) -> None:
    columns = every_column(ROWS)
    samples = list(tar_samples(dataset(tmp_path, "webdataset", columns)))
    assert {tuple(sample) for sample in samples} == {("png", "json", "txt")}
    rows = [strict(sample["json"]) for sample in samples]
    assert len({tuple(row) for row in rows}) == 1
    for name, array in columns.items():
        expected = array.to_pylist()
        assert [row[name] for row in rows] == [as_json(array.type, expected[row]) for row in GOOD], name
    assert [sample["txt"].decode() for sample in samples] == [row["caption"] or "" for row in rows]


def test_every_format_has_the_same_json(tmp_path: Path) -> None:
    import lmdb

    columns = every_column(ROWS)
    tars = [sample["json"] for sample in tar_samples(dataset(tmp_path / "t", "webdataset", columns))]
    files = dataset(tmp_path / "f", "files", columns)
    assert [path.read_bytes() for path in sorted(files.glob("*/*.json"))] == tars
    found = []
    for path in sorted(dataset(tmp_path / "l", "lmdb", columns).glob("*.lmdb")):
        with (
            lmdb.open(str(path), subdir=False, readonly=True, lock=False) as environment,
            environment.begin() as transaction,
        ):
            found += [bytes(value) for key, value in transaction.cursor() if key.endswith(b".json")]
    assert found == tars


def test_webdataset_reads_the_samples(tmp_path: Path) -> None:
    import webdataset

    out = dataset(tmp_path, "webdataset", every_column(ROWS))
    urls = [str(path) for path in sorted(out.glob("*.tar"))]
    loaded = list(
        webdataset.WebDataset(urls, shardshuffle=False).decode("pil").to_tuple("png", "json", "txt")
    )
    expected = [strict(sample["json"]) for sample in tar_samples(out)]
    assert [found for _, found, _ in loaded] == expected
    assert [text for _, _, text in loaded] == [row["caption"] or "" for row in expected]


def test_tfrecord_reads_the_records(tmp_path: Path) -> None:
    from tfrecord.reader import tfrecord_loader

    columns = every_column(ROWS)
    out = dataset(tmp_path, "tfrecord", columns)
    found = [sample for path in sorted(out.glob("*.tfrecord")) for sample in tfrecord_loader(str(path), None)]
    assert len(found) == len(GOOD)
    name = next(name for name, array in columns.items() if array.type == pa.uint64())
    expected = [columns[name][row].as_py() for row in GOOD]
    seen = [None if name not in sample else int(sample[name].view("uint64")[0]) for sample in found]
    assert seen == expected


@pytest.mark.parametrize("output_format", FORMATS)
@pytest.mark.parametrize("kind", REFUSED, ids=str)
def test_what_no_dataset_can_have_is_refused_before_the_start(
    tmp_path: Path, output_format: OutputFormat, kind: pa.DataType
) -> None:
    schema = pa.schema([("url", pa.string()), ("span", kind)])
    with pytest.raises(InputError, match=r"'span' has the type .*, and .*; expected another type"):
        check_columns(output_format, schema, ImageSpec())


@pytest.mark.parametrize("output_format", FORMATS)
def test_columns_of_any_name_load(tmp_path: Path, output_format: OutputFormat) -> None:
    values = [None] * NULLS + [f"v{row}" for row in range(NULLS, ROWS)]
    names = [name for name in ODD_NAMES if not (name == "jpg" and output_format == "tfrecord")]
    out = dataset(tmp_path, output_format, {name: pa.array(values) for name in names})
    rows = list(load(out))
    for name in names:
        if output_format == "files" and name.endswith("file_name"):
            continue
        found = [row["json"][name] if output_format == "webdataset" else row[name] for row in rows]
        lacking = set(range(ROWS)) - set(GOOD) if output_format in {"webdataset", "files"} else set()
        assert {*found} == {None, *values} - {f"v{row}" for row in lacking}, name


@pytest.mark.parametrize("output_format", FORMATS)
def test_a_dataset_without_any_image_loads(tmp_path: Path, output_format: OutputFormat) -> None:
    out = dataset(tmp_path, output_format, {"n": pa.array([1] * PER_SHARD)}, written=[3, 10])
    rows = list(load(out, streaming=True))
    assert len(rows) == (0 if output_format in {"webdataset", "files"} else 2)


@pytest.mark.parametrize("output_format", ["webdataset", "files"])
def test_numbers_beyond_int64_are_text_where_hugging_face_has_no_room_for_them(
    tmp_path: Path, output_format: OutputFormat
) -> None:
    kinds = {"l": pa.list_(pa.uint64()), "s": pa.struct([("u", pa.uint64())])}
    values = {"l": [1, None, 2**64 - 1], "s": {"u": 2**64 - 1}}
    columns = {name: pa.array([None] * NULLS + [values[name]] * 4, kind) for name, kind in kinds.items()}
    rows = list(load(dataset(tmp_path, output_format, columns)))
    found = [row["json"] if output_format == "webdataset" else row for row in rows]
    assert [row["l"] for row in found if row["l"]] == [["1", None, str(2**64 - 1)]] * 3
    assert [row["s"] for row in found if row["s"]] == [{"u": str(2**64 - 1)}] * 3


def test_folders_of_original_images_load(tmp_path: Path) -> None:
    out = dataset(tmp_path, "files", {"n": pa.array(range(ROWS))}, encode="original")
    rows = sorted(load(out), key=lambda row: int(row["n"]))
    assert [row["n"] for row in rows] == GOOD
    assert {row["image"].format for row in rows} == {"PNG"}


def test_moments_that_python_does_not_know_do_not_stop_imagefolder(tmp_path: Path) -> None:
    kinds: list[tuple[pa.DataType, int]] = [
        (pa.date32(), 2_932_897),
        (pa.date32(), -719_163),
        (pa.timestamp("s"), 253_402_300_800),
        (pa.timestamp("ms", "UTC"), 2**62),
        (pa.timestamp("us"), -(2**62)),
        (pa.duration("s"), 2**60),
    ]
    columns = {f"c{n}": pa.array([1, value] * PER_SHARD, kind) for n, (kind, value) in enumerate(kinds)}
    columns["nested"] = pa.array([[1, 2_932_897]] * ROWS, pa.list_(pa.date32()))
    out = dataset(tmp_path, "files", columns)
    rows = sorted(load(out), key=lambda row: str(row["key"]))
    kept = pq.read_table(sorted(out.glob("0000?.parquet")))
    for name in columns:
        is_known = [row % 2 == 0 or name == "nested" for row in GOOD]
        assert [row[name] is not None for row in rows] == is_known
        assert kept.column(name).null_count == 0
    assert [row["nested"][1] for row in rows] == [None] * len(GOOD)


# To explain a failure, Hypothesis would trace all that `datasets` does.
@settings(max_examples=settings().max_examples // 8, phases=set(Phase) - {Phase.explain})
@given(columns=st.lists(kinds_and_values(), min_size=1, max_size=4))
@pytest.mark.parametrize("output_format", ["webdataset", "files", "parquet"])
def test_nested_columns_load(
    tmp_path_factory: pytest.TempPathFactory, output_format: OutputFormat, columns: list[Any]
) -> None:
    arrays = {
        f"c{number}": column(kind, [None] * NULLS + values) for number, (kind, values) in enumerate(columns)
    }
    out = dataset(tmp_path_factory.mktemp("d"), output_format, arrays)
    rows = sorted(load(out), key=lambda row: str(row.get("key", row.get("__key__"))))
    kept = range(PER_SHARD) if output_format == "parquet" else [row for row in GOOD if row < PER_SHARD]
    for name, array in arrays.items():
        expected = array.to_pylist()
        if output_format == "webdataset":
            wanted = [as_json(array.type, expected[row]) for row in kept]
            assert [row["json"][name] for row in rows] == wanted, array.type
        else:
            assert [plain(row[name]) for row in rows] == [plain(expected[row]) for row in kept], array.type
