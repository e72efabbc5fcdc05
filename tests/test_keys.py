"""Keys with a prefix and from a column: safe as file names, each once in a shard, in every format."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st

import turbo_fetch
from album import album
from jobs import Silent, content_hashes, job_spec, ledger, write_list
from origin import Origin
from turbo_fetch.dataset.keys import ShardKeys
from turbo_fetch.errors import DatasetError, InputError, OutputExists, SpecError
from turbo_fetch.maintenance.export import Export, export
from turbo_fetch.maintenance.merge import merge
from turbo_fetch.maintenance.verify import verify
from turbo_fetch.spec import EngineSpec, OutputSpec
from turbo_fetch.stop import StopRequest

ALBUM = album(12, side=40)
IDS = ["cat", "dog/1.5", "Cat", None, "é", "cat", *(f"id{number}" for number in range(6))]


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin(ALBUM) as origin:
        yield origin


def _run(folder: Path, origin: Origin, out: Path, ids: list[Any] = IDS, /, **output: object) -> Any:
    urls = folder / "list.parquet"
    if not urls.exists():
        write_list(urls, [origin.url(name) for name in ALBUM], id=ids)
    changes: dict[str, Any] = {
        "input": {"keep_columns": ["id"]},
        "output": {"samples_per_shard": 6, **output},
    }
    return turbo_fetch.run(job_spec(urls, out, engine={"threads": 1, "workers": 1}, **changes)).fetch


@given(
    st.lists(
        st.one_of(st.none(), st.text(max_size=90), st.sampled_from(["a", "A", "a-0000000", "a_"])),
        max_size=40,
    ),
    st.from_regex(r"([A-Za-z0-9][A-Za-z0-9_-]{0,15})?", fullmatch=True),
)
def test_keys_are_safe_names_of_which_no_two_are_one(values: list[str | None], prefix: str) -> None:
    source = pa.record_batch({"id": pa.array(values, pa.string())})
    output = OutputSpec(path="out", samples_per_shard=100, key_prefix=prefix, key_column="id")
    keys = ShardKeys.of(source, 0, output)
    found = keys.take(np.arange(len(values), dtype=np.uint32)).to_pylist()
    assert len({key.lower() for key in found}) == len(values)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,94}", key) and key.startswith(prefix) for key in found)
    # Whatever batch a row comes in, its key is the same.
    assert keys.take(np.arange(len(values), dtype=np.uint32)[::-1]).to_pylist() == found[::-1]
    plain = [key == f"{prefix}{value}" for key, value in zip(found, values, strict=True)]
    changed = 0 if keys.notes is None else next(iter(keys.notes.values()))[0]
    assert changed <= len(values) - sum(plain)


@pytest.mark.parametrize("kind", ["webdataset", "parquet", "files", "lmdb", "tfrecord"])
def test_a_column_names_the_samples_in_every_format(kind: str, tmp_path: Path, origin: Origin) -> None:
    out = tmp_path / "out"
    summary = _run(tmp_path, origin, out, format=kind, key_column="id", key_prefix="p-")
    expected = ["p-cat", "p-dog_1_5", "p-Cat-000002", "p-000003", "p-000004", "p-cat-000005"]
    expected += [f"p-id{number}" for number in range(6)]
    dataset = turbo_fetch.open_dataset(str(out))
    assert [sample.key for sample in dataset.samples()] == expected
    assert [row["key"] for row in ledger(out)] == expected
    assert [sample.metadata["id"] for sample in dataset.samples()] == IDS
    assert "4 rows: no usable key" in summary.text()
    assert verify(str(out), "full", EngineSpec(workers=1), Silent(), StopRequest()).problems == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_samples_by_these_names(tmp_path: Path, origin: Origin) -> None:
    _run(tmp_path, origin, tmp_path / "out", key_column="id")
    samples = list(
        webdataset.WebDataset(str(tmp_path / "out/00001.tar"), shardshuffle=False, empty_check=False)
    )
    assert [sample["__key__"] for sample in samples] == [f"id{number}" for number in range(6)]
    assert json.loads(samples[2]["json"])["key"] == "id2"


def test_a_prefix_alone_leaves_the_numbers_and_nothing_else_changes(tmp_path: Path, origin: Origin) -> None:
    _run(tmp_path, origin, tmp_path / "out", key_prefix="train_")
    with tarfile.open(tmp_path / "out/00001.tar") as tar:
        assert tar.getnames()[:3] == ["train_000010.jpg", "train_000010.json", "train_000010.txt"]
    with pytest.raises(OutputExists, match="key_prefix"):
        _run(tmp_path, origin, tmp_path / "out")


def test_other_shards_have_the_same_keys_and_one_file_refuses_a_key_of_two_shards(
    tmp_path: Path, origin: Origin
) -> None:
    ids: list[Any] = [*range(6), 0, *range(7, 12)]
    _run(tmp_path, origin, tmp_path / "out", ids, key_column="id")
    recut = Export(str(tmp_path / "out"), str(tmp_path / "recut"), "webdataset", samples_per_shard=12)
    export(recut, Silent(), StopRequest())
    keys = [sample.key for sample in turbo_fetch.open_dataset(str(tmp_path / "recut")).samples()]
    assert keys == [*map(str, range(6)), "0-0000006", *map(str, range(7, 12))]
    with pytest.raises(DatasetError, match=r"0\.jpg is in two shards"):
        merge(str(tmp_path / "out"), str(tmp_path / "all.lmdb"), "lmdb", Silent(), StopRequest())


def test_a_retry_gives_the_keys_that_a_lucky_run_gives(tmp_path: Path, origin: Origin) -> None:
    rows = [origin.url(name) for name in ALBUM]
    rows[5] = origin.url("00005.jpg", "status", code=503, times=1)
    urls = write_list(tmp_path / "list.parquet", rows, id=IDS)
    for name in ("out", "lucky"):
        spec = job_spec(
            urls,
            tmp_path / name,
            input={"keep_columns": ["id"]},
            http={"retries": 0},
            output={"samples_per_shard": 6, "key_column": "id"},
            engine={"threads": 1, "workers": 1},
        )
        turbo_fetch.run(spec)
        if name == "out":
            from turbo_fetch.maintenance.retry import retry
            from turbo_fetch.progress.listener import ProgressListener

            assert retry(spec, ProgressListener(), StopRequest()).recovered == 1
    assert content_hashes(tmp_path / "out") == content_hashes(tmp_path / "lucky")


def test_a_column_that_cannot_name_samples_is_refused_before_the_first_request(
    tmp_path: Path, origin: Origin
) -> None:
    with pytest.raises(InputError, match=r"key_column.* double; expected strings or integers"):
        _run(tmp_path, origin, tmp_path / "out", [number / 3 for number in range(12)], key_column="id")
    with pytest.raises(SpecError, match=r"expected the name of a column of input\.keep_columns"):
        _run(tmp_path, origin, tmp_path / "out", key_column="other")
    assert not origin.hits.total()
