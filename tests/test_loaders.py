"""The datasets load in the libraries that people train with, and the pixels are those that went in."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow.dataset as arrow_dataset
import pytest

from shard_data import fails, picture, pixels, samples
from turbo_fetch.dataset.formats import write_shard
from turbo_fetch.dataset.names import sample_key, shard_name
from turbo_fetch.dataset.place import open_place
from turbo_fetch.spec import ImageSpec, OutputFormat

IMAGE = ImageSpec(encode="png", quality=6)
COUNT = 25
SHARDS = 2
WHOLE = [(shard, row) for shard in range(SHARDS) for row in range(COUNT)]
GOOD = [(shard, row) for shard, row in WHOLE if not fails(row)]


@pytest.fixture(autouse=True)
def _others_may_warn() -> Iterator[None]:
    # Warnings of other people's libraries are theirs; ours still fail the other tests.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _dataset(folder: Path, output_format: OutputFormat) -> Path:
    place = open_place(str(folder / "out"))
    for shard in range(SHARDS):
        batches = samples(COUNT, IMAGE, shard)
        for file in write_shard(output_format, batches, place.make_work(), shard_name(shard), IMAGE):
            place.publish(file.path, file.name)
    return folder / "out"


def _load(folder: Path, kind: str, **options: Any) -> Any:
    import datasets

    return datasets.load_dataset(kind, cache_dir=str(folder / "cache"), split="train", **options)


def test_webdataset_reads_the_tars(tmp_path: Path) -> None:
    import webdataset

    out = _dataset(tmp_path, "webdataset")
    urls = [str(path) for path in sorted(out.glob("*.tar"))]
    loaded = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode("rgb8"))
    assert [sample["__key__"] for sample in loaded] == [sample_key(shard, row, 1000) for shard, row in GOOD]
    for sample, (_, row) in zip(loaded, GOOD, strict=True):
        assert np.array_equal(sample["png"], pixels(row))
        assert sample["json"]["sha256"] == f"{row:064x}"
        assert sample["txt"] == ("" if row % 5 == 4 else f"a ünï {row}")


def test_hugging_face_reads_the_tars(tmp_path: Path) -> None:
    out = _dataset(tmp_path, "webdataset")
    loaded = _load(tmp_path, "webdataset", data_files=[str(path) for path in sorted(out.glob("*.tar"))])
    assert loaded["__key__"][:] == [sample_key(shard, row, 1000) for shard, row in GOOD]
    for sample, (_, row) in zip(loaded, GOOD, strict=True):
        assert np.array_equal(np.asarray(sample["png"].convert("RGB")), pixels(row))
        assert sample["json"]["key"] == sample["__key__"]


def test_hugging_face_decodes_the_images_of_parquet(tmp_path: Path) -> None:
    out = _dataset(tmp_path, "parquet")
    loaded = _load(tmp_path, "parquet", data_files=[str(path) for path in sorted(out.glob("*.parquet"))])
    assert type(loaded.features["image"]).__name__ == "Image"
    assert len(loaded) == len(WHOLE)
    for sample, (_, row) in zip(loaded, WHOLE, strict=True):
        if fails(row):
            assert sample["image"] is None
        else:
            assert np.array_equal(np.asarray(sample["image"].convert("RGB")), pixels(row))


def test_hugging_face_reads_the_folders(tmp_path: Path) -> None:
    out = _dataset(tmp_path, "files")
    loaded = _load(tmp_path, "imagefolder", data_files=[str(out / "0*" / "*.png")], drop_labels=True)
    assert len(loaded) == len(GOOD)
    for sample, (_, row) in zip(loaded, GOOD, strict=True):
        assert np.array_equal(np.asarray(sample["image"].convert("RGB")), pixels(row))


def test_hugging_face_finds_the_captions_of_the_folders(tmp_path: Path) -> None:
    out = _dataset(tmp_path, "files")
    loaded = _load(tmp_path, "imagefolder", data_dir=str(out)).sort("key")
    assert loaded["key"][:] == [sample_key(shard, row, 1000) for shard, row in GOOD]
    assert loaded["caption"][:] == [None if row % 5 == 4 else f"a ünï {row}" for _, row in GOOD]
    for sample, (_, row) in zip(loaded, GOOD, strict=True):
        assert np.array_equal(np.asarray(sample["image"].convert("RGB")), pixels(row))


def test_a_torch_data_loader_reads_the_tars_and_the_environments(tmp_path: Path) -> None:
    import lmdb
    import torch
    import webdataset

    tars = [str(path) for path in sorted(_dataset(tmp_path / "tars", "webdataset").glob("*.tar"))]
    stream = webdataset.WebDataset(tars, shardshuffle=False, empty_check=False)
    loader = torch.utils.data.DataLoader(stream.decode("rgb8").to_tuple("__key__", "png"), batch_size=None)
    found = [(key, torch.as_tensor(picture)) for key, picture in loader]
    assert [key for key, _ in found] == [sample_key(shard, row, 1000) for shard, row in GOOD]
    assert all(
        np.array_equal(seen.numpy(), pixels(row)) for (_, seen), (_, row) in zip(found, GOOD, strict=True)
    )

    class Environment(torch.utils.data.Dataset[bytes]):
        """Random access by index, as the documentation shows it."""

        def __init__(self, path: Path) -> None:
            self.environment = lmdb.open(str(path), subdir=False, readonly=True, lock=False)
            with self.environment.begin() as transaction:
                self.keys = transaction.get(b"__keys__" + path.stem.encode()).decode().split()  # type: ignore[union-attr]

        def __len__(self) -> int:
            return len(self.keys)

        def __getitem__(self, index: int) -> bytes:
            with self.environment.begin() as transaction:
                return bytes(transaction.get(f"{self.keys[index]}.png".encode()))  # type: ignore[arg-type]

    dataset = Environment(_dataset(tmp_path / "lmdb", "lmdb") / "00000.lmdb")
    order = torch.utils.data.DataLoader(dataset, batch_size=4, shuffle=True, collate_fn=list)
    rows = [row for shard, row in GOOD if shard == 0]
    assert sorted(picture for batch in order for picture in batch) == sorted(map(picture, rows))
    dataset.environment.close()


@pytest.mark.parametrize("output_format", get_args(OutputFormat))
def test_duckdb_and_pyarrow_read_the_metadata(tmp_path: Path, output_format: OutputFormat) -> None:
    import duckdb

    out = _dataset(tmp_path, output_format)
    relation = duckdb.sql(
        f"select status, count(*), sum(width) from '{out}/0*.parquet' group by status order by status"
    )
    assert relation is not None
    good, bad = len(GOOD), len(WHOLE) - len(GOOD)
    assert relation.fetchall() == [("failed_to_download", bad, None), ("success", good, 9 * good)]
    table = arrow_dataset.dataset([str(path) for path in sorted(out.glob("0*.parquet"))]).to_table(
        columns=["key"]
    )
    assert table.column("key").to_pylist() == [sample_key(shard, row, 1000) for shard, row in WHOLE]
