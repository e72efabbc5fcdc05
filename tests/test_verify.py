"""Verify: a whole dataset has no problem, and every damage is found and named."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import turbo_fetch
from album import album
from browser import viewed
from jobs import content_hashes, job_spec, manifest, write_list
from many_shards import multiply
from origin import Origin
from turbo_fetch.cli.commands import app
from turbo_fetch.dataset.reader import StoredDataset, open_dataset
from turbo_fetch.errors import InputError
from turbo_fetch.maintenance.shard_check import check_shard
from turbo_fetch.spec import OutputFormat

ALBUM = album(30, side=40)
FORMATS = get_args(OutputFormat)


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin(ALBUM) as origin:
        yield origin


@pytest.fixture(scope="module")
def whole(origin: Origin, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    rows = [origin.url(name) for name in ALBUM]
    rows[4] = origin.url("missing.jpg")
    turbo_fetch.run(
        job_spec(write_list(folder / "l.parquet", rows), folder / "out", output={"samples_per_shard": 10})
    )
    return folder / "out"


@pytest.fixture
def out(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "out"))


def _verify(place: Path, *options: str) -> tuple[int, str, dict[str, str]]:
    ended = CliRunner().invoke(app, ["verify", str(place), "--json", "--quiet", "--workers", "1", *options])
    assert ended.exit_code in {0, 1}, ended.output
    found = json.loads(ended.stdout)
    return ended.exit_code, ended.stdout, {problem["place"]: problem["what"] for problem in found["problems"]}


@pytest.mark.parametrize("output_format", FORMATS)
def test_a_whole_dataset_has_no_problem_at_any_level(
    whole: Path, tmp_path: Path, output_format: OutputFormat
) -> None:
    place = whole
    if output_format != "webdataset":
        place = tmp_path / "out"
        command = ["export", str(whole), str(place), "-f", output_format, "--workers", "1", "--quiet"]
        assert CliRunner().invoke(app, command).exit_code == 0
    before = content_hashes(place)
    for level in ([], ["--quick"], ["--deep"]):
        assert _verify(place, *level)[::2] == (0, {})
    assert content_hashes(place) == before


def test_times_that_python_lacks_hinder_nobody_who_reads_a_dataset(origin: Origin, tmp_path: Path) -> None:
    columns = {
        "moment": pa.array([1, 2**40], pa.timestamp("ns")),
        "far": pa.array([2**60, 0], pa.timestamp("us", "UTC")),
        "time": pa.array([1, 2000], pa.time64("ns")),
        "span": pa.array([1, 2**62], pa.duration("us")),
        "day": pa.array([2**31 - 1, 0], pa.date32()),
        "nested": pa.array([[2**31 - 1], None], pa.list_(pa.date32())),
    }
    urls = [origin.url(name) for name in list(ALBUM)[:2]]
    pq.write_table(pa.table({"url": urls, "caption": urls, **columns}), tmp_path / "l.parquet")
    out = tmp_path / "out"
    turbo_fetch.run(job_spec(tmp_path / "l.parquet", out, input={"keep_columns": list(columns)}))
    assert (out / "report.html").exists()
    code, _, problems = _verify(out, "--deep")
    assert (code, problems) == (0, {})
    assert CliRunner().invoke(app, ["report", str(out)]).exit_code == 0
    first, second = open_dataset(str(out)).samples()
    assert first.metadata["moment"] == "1970-01-01T00:00:00.000000001"
    assert first.metadata["nested"] == [first.metadata["day"]] == ["5881580-07-11"]
    assert second.metadata["day"] == date(1970, 1, 1)
    with viewed(out) as address, urllib.request.urlopen(f"{address}api/rows?limit=2", timeout=60) as answer:
        rows = json.load(answer)["rows"]
    assert [row["time"] for row in rows] == ["00:00:00.000000001", "00:00:00.000002"]


def _flip(path: Path, place: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 0x10
    path.write_bytes(content)


@pytest.mark.parametrize("place", [0.0, 0.3, 0.7, 0.999])
@pytest.mark.parametrize("name", ["00001.tar", "00001.parquet", ".turbo-fetch/ledger/00001.ledger"])
def test_a_flipped_bit_anywhere_is_found(out: Path, name: str, place: float) -> None:
    _flip(out / name, place)
    code, _, problems = _verify(out)
    assert code == 1
    assert list(problems) == [name]
    assert "altered" in problems[name]


@pytest.mark.parametrize("name", ["00001.tar", "00001.parquet", ".turbo-fetch/ledger/00001.ledger"])
def test_truncated_and_missing_files_are_found_even_by_a_quick_look(out: Path, name: str) -> None:
    os.truncate(out / name, (out / name).stat().st_size - 1)
    assert "bytes; expected" in _verify(out, "--quick")[2][name]
    (out / name).unlink()
    assert _verify(out, "--quick")[2] == {name: "is missing"}


@pytest.mark.parametrize(
    ("damage", "place", "what"),
    [
        (lambda out: (out / ".turbo-fetch/manifest").unlink(), ".turbo-fetch/manifest", "is missing"),
        (lambda out: _flip(out / ".turbo-fetch/manifest", 0.0), ".turbo-fetch/manifest", "line 1 is damaged"),
        (lambda out: (out / "00001_stats.json").unlink(), "00001_stats.json", "missing or garbled"),
        (lambda out: _flip(out / "00001_stats.json", 0.0), "00001_stats.json", "missing or garbled"),
        (lambda out: (out / "00007.tar").write_bytes(b"x"), "00007", "not finished"),
        (
            lambda out: (out / ".turbo-fetch" / "00008.spool").write_bytes(b"x" * 99),
            "00008.spool",
            "not a spool",
        ),
    ],
)
def test_manifests_records_and_partial_files_are_checked(
    out: Path, damage: Callable[[Path], object], place: str, what: str
) -> None:
    damage(out)
    ended = CliRunner().invoke(app, ["verify", str(out), "--json", "--quiet", "--workers", "1"])
    assert ended.exit_code == 1
    problems = {problem["place"]: problem["what"] for problem in json.loads(ended.stdout)["problems"]}
    assert any(found.endswith(place) and what in text for found, text in problems.items()), problems


def test_images_that_contradict_the_metadata_are_found(out: Path) -> None:
    """Files that are exactly what the record says, but do not agree with each other."""
    table = pq.read_table(out / "00001.parquet")
    widths = pa.array([63, *table["width"].to_pylist()[1:]], pa.int32())
    _rewrite(out, table.set_column(table.schema.get_field_index("width"), "width", widths))
    assert _verify(out)[0] == 0
    code, _, problems = _verify(out, "--deep")
    assert (code, problems) == (1, {"00001 000010": "is 64 x 64 pixels; expected 63 x 64"})
    _rewrite(out, table.slice(1))
    assert "has 9 rows; expected 10" in _verify(out, "--quick")[2]["00001.parquet"]


def _rewrite(out: Path, table: pa.Table) -> None:
    """Replace the metadata of shard 1, with a record and a manifest that agree."""
    import hashlib

    pq.write_table(table, out / "00001.parquet")
    content = (out / "00001.parquet").read_bytes()
    new = {"name": "00001.parquet", "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    record = json.loads((out / "00001_stats.json").read_text())
    record.pop("sha256", None)
    record["files"] = [new if file["name"] == new["name"] else file for file in record["files"]]
    (out / "00001_stats.json").write_text(json.dumps(record))
    lines = [record if line["shard"] == 1 else line for line in manifest(out)]
    (out / ".turbo-fetch/manifest").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize("name", [".turbo-fetch/manifest", "00001_stats.json"])
@pytest.mark.parametrize("key", ["body_bytes", "rows_digest", "hosts", "outcomes", "reasons", "shapes"])
def test_whatever_a_record_says_is_compared_with_the_manifest(out: Path, name: str, key: str) -> None:
    lines = (out / name).read_text()
    records = list(map(json.loads, lines.splitlines() if name.endswith("manifest") else [lines]))
    record = next(each for each in records if each["shard"] == 1)
    # As in earlier versions, which did not seal records.
    for each in records:
        each.pop("sha256")
    record[key] = {"other": 1} if isinstance(record[key], dict) else "other"
    (out / name).write_text("".join(json.dumps(each) + "\n" for each in records))
    code, _, problems = _verify(out)
    assert (code, list(problems)) == (1, ["00001_stats.json"])


@pytest.mark.parametrize("damaged", [[".turbo-fetch/manifest"], ["00001_stats.json"], [".turbo-fetch/job"]])
def test_a_changed_digit_in_the_books_is_told_with_its_place(out: Path, damaged: list[str]) -> None:
    """Whatever it says: also what no other file says again, such as times."""
    for name in damaged:
        _change_digits(out / name)
    ended = CliRunner().invoke(app, ["verify", str(out), "--quiet", "--workers", "1"])
    assert ended.exit_code == 1
    assert damaged[0] in " ".join((ended.stdout + ended.stderr).split())


def test_where_both_books_are_damaged_both_are_named_and_the_shard_is_repaired(
    out: Path, whole: Path
) -> None:
    _change_digits(out / ".turbo-fetch/manifest")
    _change_digits(out / "00001_stats.json")
    code, _, problems = _verify(out)
    assert code == 1
    assert "line 3 is damaged" in problems[".turbo-fetch/manifest"]
    assert "no line of the manifest is intact" in problems["00001_stats.json"]
    assert CliRunner().invoke(app, ["verify", str(out), "--repair", "--quiet"]).exit_code == 1
    command = ["run", str(out / ".turbo-fetch/spec.toml"), "--set", f"fetch.output.path={out}", "--quiet"]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert content_hashes(out) == content_hashes(whole)
    assert _verify(out)[0] == 0


def test_what_reads_a_dataset_reads_shards_whose_line_of_the_manifest_is_damaged(out: Path) -> None:
    _change_digits(out / ".turbo-fetch/manifest")
    assert [shard.name for shard in open_dataset(str(out)).shards] == ["00000", "00001", "00002"]


def _change_digits(path: Path) -> None:
    """Change the last digit of each number of bytes, and of each time, as one bit would."""
    before = path.read_text()
    after = re.sub(
        r'("(?:bytes|size|end_time)": ?[\d.]+)(\d)', lambda found: found[1] + str(int(found[2]) ^ 1), before
    )
    assert after != before
    path.write_text(after)


def test_bytes_of_bodies_are_counted_anew(out: Path) -> None:
    lines = manifest(out)
    lines[1]["body_bytes"] += 1
    (out / "00001_stats.json").write_text(json.dumps(lines[1]))
    (out / ".turbo-fetch/manifest").write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, _, problems = _verify(out)
    assert code == 1
    assert "has bodies of" in problems[".turbo-fetch/ledger/00001.ledger"]


@pytest.mark.parametrize(
    "content", [b"", b"null", b'{"essentials": {"fetch": {"output": {"format": 7}}}, "lists": []}']
)
def test_a_garbled_job_is_made_again_by_a_run_with_the_same_list(
    out: Path, whole: Path, content: bytes
) -> None:
    (out / ".turbo-fetch/job").write_bytes(content)
    told = CliRunner().invoke(app, ["verify", str(out), "--quiet"])
    assert told.exit_code == 1
    assert "makes it again" in " ".join(told.stderr.split())
    command = ["run", str(out / ".turbo-fetch/spec.toml"), "--set", f"fetch.output.path={out}", "--quiet"]
    ended = CliRunner().invoke(app, command)
    assert ended.exit_code == 0, ended.output
    assert content_hashes(out) == content_hashes(whole)
    assert _verify(out)[0] == 0


def test_damaged_metadata_end_a_run_with_what_helps(out: Path) -> None:
    path = out / "00000.parquet"
    path.write_bytes(bytes(path.stat().st_size))
    (out / "README.md").unlink()
    command = ["run", str(out / ".turbo-fetch/spec.toml"), "--set", f"fetch.output.path={out}", "--quiet"]
    ended = CliRunner().invoke(app, command)
    assert ended.exit_code == 1
    assert "verify --repair" in " ".join(ended.stderr.split())


def test_a_dataset_without_a_finished_shard_is_called_unfinished(out: Path) -> None:
    for path in [*out.glob("0*"), out / ".turbo-fetch/manifest"]:
        path.unlink()
    told = CliRunner().invoke(app, ["verify", str(out)])
    assert told.exit_code == 2
    assert "no shard of this dataset is finished yet; `turbo-fetch run` with its spec resumes it" in " ".join(
        told.stderr.split()
    )


def test_samples_are_those_of_a_shard_given_by_its_name(out: Path) -> None:
    dataset = open_dataset(str(out))
    named = [sample.key for sample in dataset.samples(["00001"])]
    assert named == [sample.key for sample in dataset.samples([dataset.shards[1]])]
    with pytest.raises(InputError, match="there is no shard '7'"):
        next(dataset.samples(["7"]))


def test_a_repaired_dataset_is_made_whole_by_the_next_run(out: Path, whole: Path) -> None:
    _flip(out / "00001.tar", 0.5)
    ended = CliRunner().invoke(app, ["verify", str(out), "--repair", "--quiet", "--workers", "2"])
    assert ended.exit_code == 1
    assert "problem   00001.tar: is altered" in ended.stdout
    assert "1 shard removed" in ended.stdout
    assert [record["shard"] for record in manifest(out)] == [0, 2]
    override = f"fetch.output.path={out}"
    ended = CliRunner().invoke(
        app, ["run", str(out / ".turbo-fetch/spec.toml"), "--set", override, "--quiet"]
    )
    assert ended.exit_code == 0, ended.output
    assert content_hashes(out) == content_hashes(whole)
    assert _verify(out)[0] == 0


def test_a_repair_adopts_a_published_shard_that_the_manifest_lacks(out: Path, whole: Path) -> None:
    lines = (out / ".turbo-fetch/manifest").read_text().splitlines(keepends=True)
    (out / ".turbo-fetch/manifest").write_text(lines[0] + lines[2])
    assert "lacks shard 00001" in _verify(out)[2][".turbo-fetch/manifest"]
    ended = CliRunner().invoke(app, ["verify", str(out), "--repair", "--quiet", "--workers", "1"])
    assert (ended.exit_code, "shards removed" in ended.stdout) == (1, False), ended.output
    assert [record["shard"] for record in manifest(out)] == [0, 1, 2]
    assert content_hashes(out) == content_hashes(whole)
    assert _verify(out)[0] == 0


def test_a_place_without_a_dataset_is_refused(tmp_path: Path) -> None:
    ended = CliRunner().invoke(app, ["verify", str(tmp_path)])
    assert ended.exit_code == 2
    assert "there is no dataset" in " ".join(ended.stderr.split())


def test_the_check_of_a_shard_costs_the_same_whatever_the_number_of_shards(out: Path) -> None:
    dataset = open_dataset(str(out))
    shard = dataset.shards[0]
    alone = len(pickle.dumps((dataset.without_shards(), shard)))
    multiplied = StoredDataset(
        dataset.storage, json.loads((out / ".turbo-fetch/job").read_bytes()), dataset.shards * 1000
    )
    assert len(pickle.dumps((multiplied.without_shards(), shard))) == alone
    # Neither the manifest nor the folder is read for it.
    (out / ".turbo-fetch/manifest").unlink()
    assert check_shard("deep", (multiplied.without_shards(), shard)).problems == []


def test_a_dataset_of_very_many_shards_is_checked_and_exported(out: Path, tmp_path: Path) -> None:
    for path in [*out.glob("00001*"), *out.glob("00002*")]:
        path.unlink()
    multiply(out, 150)
    code, _, problems = _verify(out)
    assert (code, problems) == (0, {})
    command = ["export", str(out), str(tmp_path / "other"), "--format", "dummy", "--workers", "1", "--quiet"]
    ended = CliRunner().invoke(app, command)
    assert ended.exit_code == 0, ended.output
    assert len(manifest(tmp_path / "other")) == 150
