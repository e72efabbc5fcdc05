"""What programs find in a dataset's folder: each counts the data exactly, and none meets our records."""

from __future__ import annotations

import glob
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

import turbo_fetch
from jobs import job_spec, write_list
from origin import Origin
from readers import other_counts
from sample_images import encoded, scene

ROWS: Final = 8
MISSING: Final = 2
SAMPLES: Final = ROWS - MISSING
SHARDS: Final = 2


class Made(NamedTuple):
    """A dataset, and how many rows all its Parquet files have together."""

    folder: Path
    rows: int
    has_card: bool


FORMATS: Final[dict[str, dict[str, Any]]] = {
    "webdataset": {},
    "parquet": {},
    "parquet_bytes": {},
    # imagefolder asks for a table of its own in each folder, which `**` finds too.
    "files": {},
    "bare files": {"extras": False},
}


@pytest.fixture(scope="module")
def all_made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    """A dataset of each format, with failed rows and two shards."""
    folder: Path = tmp_path_factory.mktemp("datasets")
    found = {}
    with Origin(
        {f"{number}.jpg": encoded(scene(40 + number, 30), "JPEG") for number in range(SAMPLES)}
    ) as origin:
        names = [f"{number}.jpg" for number in range(SAMPLES)]
        names.insert(2, "missing.jpg")
        names.append("missing too.jpg")
        urls = write_list(folder / "list.parquet", [origin.url(name) for name in names])
        for name, options in FORMATS.items():
            output_format = name.rpartition(" ")[2]
            place = folder / name.replace(" ", "-")
            output = {"format": output_format, "samples_per_shard": ROWS // SHARDS, **options}
            summary = turbo_fetch.run(job_spec(urls, place, output=output)).fetch
            assert (summary.rows, summary.successes) == (ROWS, SAMPLES)
            rows = ROWS + SAMPLES if name == "files" else ROWS
            found[name] = Made(place, rows, not options)
    return found


@pytest.fixture(params=FORMATS)
def made(request: pytest.FixtureRequest, all_made: dict[str, Made]) -> Made:
    return all_made[request.param]


@pytest.fixture(autouse=True)
def _others_may_warn() -> Iterator[None]:
    # Warnings of other people's libraries are theirs; ours still fail the other tests.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _parquet_rows(paths: list[str] | list[Path]) -> int:
    import pandas

    return len(pandas.concat([pandas.read_parquet(path) for path in paths]))


def test_globs_and_pandas_count_the_rows(made: Made) -> None:
    # As people write it, and Python follows: not into hidden folders.
    assert _parquet_rows(glob.glob(f"{made.folder}/*.parquet")) == ROWS  # noqa: PTH207
    assert _parquet_rows(glob.glob(f"{made.folder}/**/*.parquet", recursive=True)) == made.rows  # noqa: PTH207
    assert _parquet_rows(list(made.folder.rglob("*.parquet"))) == made.rows


def test_fsspec_counts_the_rows(made: Made) -> None:
    import fsspec

    files = fsspec.filesystem("file")
    assert _parquet_rows(files.glob(f"{made.folder}/*.parquet")) == ROWS
    assert _parquet_rows(files.glob(f"{made.folder}/**/*.parquet")) == made.rows


@pytest.mark.parametrize("pattern", ["*.parquet", "**/*.parquet"])
def test_polars_counts_the_rows(made: Made, pattern: str) -> None:
    import polars

    scanned = polars.scan_parquet(
        f"{made.folder}/{pattern}", missing_columns="insert", extra_columns="ignore"
    )
    expected = ROWS if pattern == "*.parquet" else made.rows
    assert scanned.select(polars.len()).collect().item() == expected


@pytest.mark.parametrize("pattern", ["*.parquet", "**/*.parquet"])
def test_duckdb_counts_the_rows(made: Made, pattern: str) -> None:
    import duckdb

    relation = duckdb.sql(
        f"select count(*) from read_parquet('{made.folder}/{pattern}', union_by_name = true)"
    )
    assert relation is not None
    expected = ROWS if pattern == "*.parquet" else made.rows
    assert relation.fetchall() == [(expected,)]


def test_pyarrow_counts_the_rows_of_a_whole_folder(made: Made) -> None:
    import pyarrow.dataset

    # Statistics are there in a dataset of img2dataset too.
    found = pyarrow.dataset.dataset(str(made.folder), format="parquet", exclude_invalid_files=True)
    assert found.count_rows() == made.rows


@pytest.mark.parametrize("streaming", [False, True])
def test_hugging_face_counts_the_samples_and_the_rows(made: Made, tmp_path: Path, streaming: bool) -> None:
    def count(kind: str, **options: Any) -> int:
        import datasets

        options |= {"split": "train", "streaming": streaming, "cache_dir": str(tmp_path)}
        return sum(1 for _ in datasets.load_dataset(kind, **options))

    assert count("parquet", data_files=f"{made.folder}/*.parquet") == ROWS
    if made.rows == ROWS:
        assert count("parquet", data_files=f"{made.folder}/**/*.parquet") == ROWS
    if made.has_card:
        has_failures = made.folder.name.startswith("parquet")
        assert count(str(made.folder)) == (ROWS if has_failures else SAMPLES)
    if made.folder.name.endswith("files"):
        assert count("imagefolder", data_dir=str(made.folder)) == SAMPLES
        assert count("imagefolder", data_files=f"{made.folder}/**/*.jpg", drop_metadata=True) == SAMPLES
    if made.folder.name == "webdataset":
        assert count("webdataset", data_files=f"{made.folder}/**/*.tar") == SAMPLES


def test_torchvision_counts_the_samples(all_made: dict[str, Made]) -> None:
    from torchvision.datasets import DatasetFolder, ImageFolder

    for name in ("files", "bare files"):
        folder = str(all_made[name].folder)
        # It takes every folder for a class, hidden ones too, and must be told that one may have no image.
        assert len(ImageFolder(folder, allow_empty=True)) == SAMPLES
        everything = DatasetFolder(folder, lambda path: path, extensions=(".jpg",), allow_empty=True)
        assert len(everything) == SAMPLES


def test_webdataset_counts_the_samples(all_made: dict[str, Made]) -> None:
    import webdataset

    for pattern in ("*.tar", "**/*.tar"):
        tars = glob.glob(f"{all_made['webdataset'].folder}/{pattern}", recursive=True)  # noqa: PTH207
        found = webdataset.WebDataset(sorted(tars), shardshuffle=False, empty_check=False)
        assert sum(1 for _ in found) == SAMPLES


def test_daft_and_litdata_count_the_rows_and_the_images(all_made: dict[str, Made], tmp_path: Path) -> None:
    # litdata leaves its index in the folder.
    copies = {name: shutil.copytree(made.folder, tmp_path / name) for name, made in all_made.items()}
    found = other_counts(copies.values(), tmp_path / "answers.json")
    for name, made in all_made.items():
        has_files = name.endswith("files")
        assert found[str(copies[name])] == {
            "daft *.parquet": ROWS,
            "daft **/*.parquet": made.rows,
            "daft **/*.json": SHARDS + made.has_card + has_files * SAMPLES,
            "litdata parquet": ROWS,
            "litdata raw .jpg": has_files * SAMPLES,
        }


def test_no_walk_through_the_folder_meets_a_record_of_ours_by_its_suffix(made: Made) -> None:
    visible = {path for path in made.folder.rglob("*") if ".turbo-fetch" not in path.parts}
    for suffix in (
        "parquet",
        "json",
        "jsonl",
        "tar",
        "csv",
        "txt",
        "jpg",
        "png",
        "webp",
        "tfrecord",
        "lmdb",
        "md",
    ):
        assert set(made.folder.rglob(f"*.{suffix}")) <= visible
    records = {path.name for path in made.folder.glob("*.json")}
    expected = {f"{shard:05d}_stats.json" for shard in range(SHARDS)}
    assert records == (expected | {"croissant.json"} if made.has_card else expected)
