"""Exports: every format into every other, the same samples, resumable, refused where they make no sense."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import datasets
import lmdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from typer.testing import CliRunner

import turbo_fetch
from album import album, encoded
from jobs import Silent, content_hashes, job_spec, ledger, manifest, write_list
from kept_columns import every_column
from object_store import configured, empty_bucket, filesystem, s3_server
from origin import Origin
from processes import files_below
from turbo_fetch.cli.commands import app
from turbo_fetch.dataset.reader import Sample, open_dataset
from turbo_fetch.errors import DatasetError, InputError, Interrupted, OutputExists, SpecError
from turbo_fetch.maintenance.export import Export, export
from turbo_fetch.maintenance.merge import merge
from turbo_fetch.spec import EngineSpec, OutputFormat
from turbo_fetch.stop import StopRequest

FORMATS: tuple[OutputFormat, ...] = tuple(name for name in get_args(OutputFormat) if name != "dummy")


@pytest.fixture
def stop() -> Iterator[StopRequest]:
    request = StopRequest()
    yield request
    request.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of 53 rows in three shards, with failures, original bytes of several formats and kept columns."""
    folder = tmp_path_factory.mktemp("made")
    images = {
        **album(50, side=40),
        "a.png": encoded(40, 40, 1, "PNG"),
        "b.webp": encoded(40, 40, 2, "WEBP"),
    }
    with Origin(images) as origin:
        rows = [origin.url(name) for name in images]
        rows[3], rows[20] = origin.url("missing.jpg"), origin.url("x.jpg", "status", code=503)
        urls = write_list(folder / "list.parquet", [*rows, None], score=[row / 7 for row in range(53)])
        spec = job_spec(
            urls,
            folder / "out",
            input={"keep_columns": ["score"]},
            image={"encode": "original"},
            output={"samples_per_shard": 20},
        )
        turbo_fetch.run(spec)
    return folder / "out"


def _export(
    source: Path, destination: Path | str, output_format: OutputFormat, stop: StopRequest, **options: Any
) -> Any:
    return export(Export(str(source), str(destination), output_format, **options), Silent(stop), stop)


def _samples(place: Path | str) -> list[Sample]:
    return list(open_dataset(str(place)).samples())


@pytest.mark.parametrize("output_format", FORMATS)
def test_there_and_back_again_the_files_are_byte_identical(
    made: Path, tmp_path: Path, stop: StopRequest, output_format: OutputFormat
) -> None:
    _export(made, tmp_path / "there", output_format, stop)
    assert _samples(tmp_path / "there") == _samples(made)
    _export(tmp_path / "there", tmp_path / "back", "webdataset", stop)
    assert content_hashes(tmp_path / "back") == content_hashes(made)
    assert ledger(tmp_path / "back") == ledger(made)
    for before, after in zip(manifest(made), manifest(tmp_path / "back"), strict=True):
        after.pop("exported_from")
        # Shards are hashed alike but for their ledgers, which were written anew with the same rows.
        assert before == after


def test_the_samples_are_those_that_the_metadata_promise(made: Path) -> None:
    rows = [
        row
        for path in sorted(made.glob("0000?.parquet"))
        for row in pq.read_table(path).to_pylist()
        if row["status"] == "success"
    ]
    samples = _samples(made)
    assert [sample.metadata for sample in samples] == rows
    assert [sample.caption for sample in samples] == [row["caption"] for row in rows]
    assert {sample.extension for sample in samples} == {"jpg", "png", "webp"}
    assert len(samples) == 50


def test_dummy_has_the_metadata_and_no_samples(made: Path, tmp_path: Path, stop: StopRequest) -> None:
    _export(made, tmp_path / "out", "dummy", stop)
    dataset = open_dataset(str(tmp_path / "out"))
    assert not list(dataset.samples())
    assert sum(dataset.metadata(shard).num_rows for shard in dataset.shards) == 53


def test_other_shards_have_the_same_rows_under_new_keys(
    made: Path, tmp_path: Path, stop: StopRequest
) -> None:
    summary = _export(made, tmp_path / "out", "tfrecord", stop, samples_per_shard=30)
    assert (summary.shards, summary.rows, summary.successes) == (2, 53, 50)
    before, after = _samples(made), _samples(tmp_path / "out")
    assert [sample.image for sample in after] == [sample.image for sample in before]
    # Rows 3, 20 and 52 failed; keys count all rows of their shard, two digits of index.
    good = [row for row in range(53) if row not in {3, 20, 52}]
    assert [sample.key for sample in after] == [f"{row // 30:05d}{row % 30:02d}" for row in good]
    assert [row["key"] for row in ledger(tmp_path / "out")] == [
        f"{row // 30:05d}{row % 30:02d}" for row in range(53)
    ]
    assert [row["url"] for row in ledger(tmp_path / "out")] == [row["url"] for row in ledger(made)]


def _file_bytes(place: Path, output_format: str) -> list[int]:
    suffix = {"webdataset": "tar"}.get(output_format, output_format)
    return [path.stat().st_size for path in sorted(place.glob(f"0*.{suffix}"))]


@pytest.mark.parametrize("output_format", ["webdataset", "parquet", "tfrecord"])
def test_no_shard_has_more_bytes_than_allowed_and_none_has_room_for_the_next_row(
    made: Path, tmp_path: Path, stop: StopRequest, output_format: OutputFormat
) -> None:
    most = 60_000
    summary = _export(
        made, tmp_path / "out", output_format, stop, max_shard_bytes=most, engine=EngineSpec(workers=2)
    )
    sizes = _file_bytes(tmp_path / "out", output_format)
    assert max(sizes) <= most
    if output_format == "webdataset":
        # A sample here has 3 members of 5 kB together, and the end of a tar up to 10 kB.
        assert min(sizes[:-1]) > most - 20_000
    assert (summary.rows, summary.successes) == (53, 50)
    before, after = _samples(made), _samples(tmp_path / "out")
    assert [sample.image for sample in after] == [sample.image for sample in before]
    keys = [row["key"] for row in ledger(tmp_path / "out")]
    assert len(set(keys)) == 53
    assert keys == sorted(keys)
    assert [row["url"] for row in ledger(tmp_path / "out")] == [row["url"] for row in ledger(made)]
    verified = CliRunner().invoke(app, ["verify", str(tmp_path / "out"), "--deep", "--quiet"])
    assert verified.exit_code == 0, verified.stdout


@pytest.mark.usefixtures("others_may_warn")
def test_shards_by_bytes_are_read_by_webdataset_and_hugging_face(
    made: Path, tmp_path: Path, stop: StopRequest
) -> None:
    _export(made, tmp_path / "out", "webdataset", stop, max_shard_bytes=60_000)
    tars = sorted(map(str, (tmp_path / "out").glob("*.tar")))
    assert len(tars) > 3
    expected = [(sample.key, sample.image) for sample in _samples(tmp_path / "out")]
    found = webdataset.WebDataset(tars, shardshuffle=False)
    assert [(sample["__key__"].rpartition("/")[2], sample["jpg"]) for sample in found] == expected
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"), split="train")
    assert [row["json"]["key"] for row in loaded.remove_columns("jpg")] == [key for key, _ in expected]


def test_an_export_by_bytes_goes_on_after_an_interruption_and_refuses_another_limit(
    made: Path, tmp_path: Path, stop: StopRequest
) -> None:
    job = Export(str(made), str(tmp_path / "out"), "webdataset", max_shard_bytes=60_000)
    export(job, Silent(stop), stop)
    whole = content_hashes(tmp_path / "out")
    asked, fresh = StopRequest(), StopRequest()
    halted = dataclasses.replace(job, destination=str(tmp_path / "halted"))
    with pytest.raises(Interrupted):
        export(halted, Silent(asked, after=53 + 20), asked)
    assert 0 < len(manifest(tmp_path / "halted")) < len(manifest(tmp_path / "out"))
    export(halted, Silent(fresh), fresh)
    assert content_hashes(tmp_path / "halted") == whole
    with pytest.raises(OutputExists, match="with these options"):
        export(dataclasses.replace(halted, max_shard_bytes=61_000), Silent(fresh), fresh)
    for request in (asked, fresh):
        request.close()


def test_several_processes_make_the_same_as_one(made: Path, tmp_path: Path, stop: StopRequest) -> None:
    _export(made, tmp_path / "one", "parquet", stop)
    _export(made, tmp_path / "two", "parquet", stop, engine=EngineSpec(workers=2))
    assert content_hashes(tmp_path / "one") == content_hashes(tmp_path / "two")


def test_an_interrupted_export_goes_on_and_leaves_what_it_had_alone(
    made: Path, tmp_path: Path, stop: StopRequest
) -> None:
    job = Export(str(made), str(tmp_path / "out"), "parquet")
    with pytest.raises(Interrupted, match="Run the same command again"):
        export(job, Silent(stop, after=20), stop)
    first = (tmp_path / "out" / "00000.parquet").stat().st_mtime_ns
    assert len(manifest(tmp_path / "out")) == 1
    fresh = StopRequest()
    summary = export(job, Silent(fresh), fresh)
    fresh.close()
    assert (summary.run_rows, summary.rows) == (33, 53)
    assert (tmp_path / "out" / "00000.parquet").stat().st_mtime_ns == first
    assert _samples(tmp_path / "out") == _samples(made)


def test_a_source_shard_that_changed_since_is_exported_anew(
    made: Path, tmp_path: Path, stop: StopRequest
) -> None:
    _export(made, tmp_path / "a", "parquet", stop)
    _export(tmp_path / "a", tmp_path / "b", "files", stop)
    record = manifest(tmp_path / "a")[1]
    record["files"][0]["sha256"] = "0" * 64
    lines = [*manifest(tmp_path / "a")[:1], record, *manifest(tmp_path / "a")[2:]]
    (tmp_path / "a" / ".turbo-fetch/manifest").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert _export(tmp_path / "a", tmp_path / "b", "files", stop).run_rows == 20


def test_another_destination_is_not_overwritten(made: Path, tmp_path: Path, stop: StopRequest) -> None:
    _export(made, tmp_path / "out", "parquet", stop)
    with pytest.raises(OutputExists, match="not an export of"):
        _export(made, tmp_path / "out", "files", stop)


@pytest.mark.parametrize("output_format", ["webdataset", "lmdb", "tfrecord", "parquet"])
def test_a_damaged_source_is_named_and_nothing_of_its_shard_is_published(
    made: Path, tmp_path: Path, stop: StopRequest, output_format: OutputFormat
) -> None:
    _export(made, tmp_path / "src", output_format, stop)
    suffix = {"webdataset": "tar"}.get(output_format, output_format)
    path = tmp_path / "src" / f"00001.{suffix}"
    os.truncate(path, path.stat().st_size * 2 // 3 // 512 * 512)
    with pytest.raises(DatasetError, match="00001"):
        _export(tmp_path / "src", tmp_path / "out", "files", stop)
    assert not (tmp_path / "out" / "00001_stats.json").exists()
    assert [record["shard"] for record in manifest(tmp_path / "out")] == [0]


def _interrupted_merge(made: Path, folder: Path, stop: StopRequest) -> Path:
    """Merge 20 rows and more, and return the file that it was to become."""
    target = folder / "all.lmdb"
    with pytest.raises(Interrupted):
        merge(str(made), str(target), "lmdb", Silent(stop, after=20), stop)
    return target


def _merged(made: Path, target: Path) -> int:
    """Merge to the end, and return how many samples there are."""
    stop = StopRequest()
    try:
        return merge(str(made), str(target), "lmdb", Silent(stop), stop).samples
    finally:
        stop.close()


def test_a_merged_environment_has_all_samples_and_goes_on_after_an_interruption(
    made: Path, tmp_path: Path, stop: StopRequest
) -> None:
    target = _interrupted_merge(made, tmp_path, stop)
    assert not target.exists()
    assert _merged(made, target) == _merged(made, tmp_path / "at-once.lmdb") == 50
    assert target.read_bytes() == (tmp_path / "at-once.lmdb").read_bytes()
    with (
        lmdb.open(str(target), subdir=False, readonly=True, lock=False) as opened,
        opened.begin() as transaction,
    ):
        records = dict(transaction.cursor())
    keys = [key for number in range(3) for key in records[b"__keys__%05d" % number].decode().split()]
    samples = _samples(made)
    assert keys == [sample.key for sample in samples]
    assert [records[f"{key}.jpg".encode()] for key in keys] == [sample.image for sample in samples]
    assert json.loads(records[b"__meta__"])["samples"] == 50
    assert len(records) == 3 * 50 + 3 + 1


def test_a_merge_leaves_what_another_process_has_open_to_that_and_goes_on_with_the_rest(
    made: Path, tmp_path: Path, stop: StopRequest
) -> None:
    target = _interrupted_merge(made, tmp_path, stop)
    (left,) = files_below(tmp_path, ".turbo-fetch/*.all.lmdb")
    with left.open("r+b") as standing_still:
        fcntl.flock(standing_still, fcntl.LOCK_EX)
        _merged(made, target)
        _merged(made, tmp_path / "at-once.lmdb")
        os.pwrite(standing_still.fileno(), bytes(1000), 5000)
    assert target.read_bytes() == (tmp_path / "at-once.lmdb").read_bytes()
    assert not files_below(tmp_path, ".turbo-fetch/*.lmdb")


def test_a_remote_dataset_is_exported_to_a_remote_place(
    made: Path, stop: StopRequest, tmp_path: Path
) -> None:
    with s3_server() as address, configured(address):
        empty_bucket(address)
        for output_format in ("lmdb", "parquet", "webdataset"):
            place = f"s3://data/{output_format}"
            export(Export(str(made), place, output_format), Silent(stop), stop)
            assert list(open_dataset(place).samples()) == _samples(made)
        export(Export("s3://data/lmdb", "s3://data/files", "files"), Silent(stop), stop)
        assert list(open_dataset("s3://data/files").samples()) == _samples(made)
        assert filesystem(address).exists("data/files/.turbo-fetch/manifest")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["{made}", "x", "-f", "tfrecrod"], "did you mean 'tfrecord'"),
        (["{made}", "x", "-f", "parquet", "--merge"], "expected the format lmdb"),
        (["{made}", "x", "-f", "lmdb", "--merge"], "whose name ends in .lmdb"),
        (["{made}", "{made}", "-f", "lmdb"], "is the source"),
        (["nowhere", "x", "-f", "lmdb"], "there is no dataset"),
        (["{made}", "x", "-f", "lmdb", "--merge", "--max-shard-mb", "9"], "--merge with --max-shard-mb"),
        (
            ["{made}", "x", "-f", "files", "--samples-per-shard", "9", "--max-shard-mb", "9"],
            "expected one of them",
        ),
        (["{made}", "x", "-f", "files", "--max-shard-mb", "0"], "expected a number of megabytes above 0"),
        (["{made}", "x", "-f", "files", "--max-shard-mb", "nan"], "expected a number of megabytes above 0"),
    ],
)
def test_what_makes_no_sense_is_refused(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = CliRunner().invoke(app, ["export", *(argument.format(made=made) for argument in arguments)])
    assert ended.exit_code == 2
    assert expected in " ".join(ended.stderr.split())


@pytest.mark.parametrize(("name", "output_format"), [("jpg", "tfrecord"), ("image", "parquet")])
def test_a_column_whose_name_the_other_format_needs_is_refused_with_what_an_export_can_do(
    tmp_path: Path, stop: StopRequest, name: str, output_format: OutputFormat
) -> None:
    with Origin(album(1, side=40)) as origin:
        urls = write_list(
            tmp_path / "list.parquet", [origin.url(name) for name in album(1, side=40)], x=["a"]
        )
        kept = job_spec(urls, tmp_path / "out", input={"keep_columns": {"x": name}})
        turbo_fetch.run(kept)
    with pytest.raises(InputError, match=f"column '{name}' has the name .* in {output_format}") as refused:
        _export(tmp_path / "out", tmp_path / "x", output_format, stop)
    assert "keep_columns" not in str(refused.value)
    with pytest.raises(InputError, match=r"fetch\.input\.keep_columns"):
        turbo_fetch.run(
            job_spec(
                urls, tmp_path / "y", input={"keep_columns": {"x": name}}, output={"format": output_format}
            )
        )


def test_a_place_in_the_memory_of_a_process_is_refused(made: Path, tmp_path: Path, stop: StopRequest) -> None:
    with pytest.raises(SpecError, match="memory://there is in the memory of one process"):
        _export(made, "memory://there", "files", stop)
    urls = write_list(tmp_path / "list.parquet", ["http://a.example/"])
    with pytest.raises(SpecError, match="memory://there is in the memory of one process"):
        turbo_fetch.run(job_spec(urls, tmp_path, output={"path": "memory://there"}))


def test_the_command_prints_its_account_as_json(made: Path, tmp_path: Path) -> None:
    command = [
        "export",
        str(made),
        str(tmp_path / "x"),
        "-f",
        "parquet",
        "--workers",
        "1",
        "--json",
        "--quiet",
    ]
    ended = CliRunner().invoke(app, command)
    assert ended.exit_code == 0, ended.stderr
    assert json.loads(ended.stdout)["outcomes"]["success"] == 50


@pytest.mark.parametrize("order", ["position", "spread"])
def test_columns_of_every_type_are_the_same_after_a_run_and_two_exports(
    tmp_path: Path, stop: StopRequest, order: str
) -> None:
    images = album(24, side=40)
    columns = every_column(24)
    with Origin(images) as origin:
        table = pa.table({"url": [origin.url(name) for name in images], **columns})
        with pa.ipc.new_file(tmp_path / "list.arrow", table.schema) as writer:
            writer.write_table(table)
        spec = job_spec(
            tmp_path / "list.arrow",
            tmp_path / "tars",
            input={"caption_column": None, "keep_columns": list(columns), "order": order},
        )
        turbo_fetch.run(spec)
    export(Export(str(tmp_path / "tars"), str(tmp_path / "table"), "parquet"), Silent(stop), stop)
    export(Export(str(tmp_path / "table"), str(tmp_path / "again"), "webdataset"), Silent(stop), stop)
    assert (tmp_path / "again" / "00000.tar").read_bytes() == (tmp_path / "tars" / "00000.tar").read_bytes()
