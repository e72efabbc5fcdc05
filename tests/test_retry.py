"""Retry: only what may pass is asked for again, everything else stays, whenever it is killed."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import processes
import turbo_fetch
from album import album
from jobs import content_hashes, job_spec, ledger, manifest, write_list
from origin import Origin
from processes import finished, wait_until
from turbo_fetch.cli.commands import app
from turbo_fetch.dataset.reader import stored_shard
from turbo_fetch.maintenance.existing_shard import OF_VERSION, written_spool
from turbo_fetch.spec import OutputFormat
from turbo_fetch.spec.specfile import parse_spec
from turbo_fetch.spool.spool import Spool

ALBUM = album(60, side=40)
BROKEN = (7, 25, 26)
"""Rows that a run does not get and a retry does; 13 never comes, 31 is refused for good."""


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin(ALBUM) as origin:
        yield origin


def _make(origin: Origin, folder: Path, output_format: OutputFormat = "webdataset") -> tuple[Path, list[str]]:
    """Run a list of three shards of which the last has no failure; each row in BROKEN fails just once."""
    rows = [origin.url(name) for name in ALBUM]
    for row in BROKEN:
        rows[row] = origin.url(f"{row:05d}.jpg", "status", code=503, times=1)
    rows[13] = origin.url("00013.jpg", "status", code=503)
    rows[31] = origin.url("missing.jpg")
    urls = write_list(folder / "list.parquet", rows)
    output = {"samples_per_shard": 20, "format": output_format}
    turbo_fetch.run(job_spec(urls, folder / "out", http={"retries": 0}, output=output))
    return folder / "out", rows


def _retry(place: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "turbo_fetch", "retry", str(place), *arguments]
    return processes.start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)


def _members(out: Path) -> dict[str, bytes]:
    found = {}
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as tar:
            found.update({member.name: tar.extractfile(member).read() for member in tar})  # type: ignore[union-attr]
    return found


@pytest.mark.parametrize("output_format", ["webdataset", "files", "parquet", "lmdb", "tfrecord"])
def test_a_retried_dataset_is_the_one_that_a_lucky_run_makes(
    origin: Origin, tmp_path: Path, output_format: OutputFormat
) -> None:
    out, rows = _make(origin, tmp_path, output_format)
    untouched = {path.name: path.stat().st_mtime_ns for path in out.glob("00002*")}
    hits = origin.targets.total()
    ended = CliRunner().invoke(app, ["retry", str(out), "--quiet", "--json"])
    assert ended.exit_code == 0, ended.output
    result = json.loads(ended.stdout)
    assert (result["asked"], result["shards"], result["recovered"]) == (4, 2, 3)
    assert origin.targets.total() - hits == 4
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("00002*")} == untouched
    # Now that the broken ones answer, a run of the same list from nothing makes the same files.
    output = {"samples_per_shard": 20, "format": output_format}
    lucky = job_spec(tmp_path / "list.parquet", tmp_path / "lucky", http={"retries": 0}, output=output)
    turbo_fetch.run(lucky)
    assert content_hashes(out) == content_hashes(tmp_path / "lucky")
    assert [row["url"] for row in ledger(out)] == rows
    for ours, theirs in zip(manifest(out), manifest(tmp_path / "lucky"), strict=True):
        assert {**ours, "files": 0} == {**theirs, "files": 0}
    assert not list((out / ".turbo-fetch").glob("*.spool"))
    assert "59 images" not in (out / "README.md").read_text()
    assert "58 images" in (out / "README.md").read_text()


@pytest.mark.parametrize("output_format", ["webdataset", "files", "lmdb", "tfrecord"])
def test_where_nothing_is_recovered_the_images_are_not_written_again(
    origin: Origin, tmp_path: Path, output_format: OutputFormat
) -> None:
    out, _ = _make(origin, tmp_path, output_format)
    CliRunner().invoke(app, ["retry", str(out), "--quiet"])
    before = {path: path.stat().st_mtime_ns for path in out.glob("0000*")}
    hashes = content_hashes(out)
    ended = CliRunner().invoke(app, ["retry", str(out), "--quiet", "--json"])
    assert json.loads(ended.stdout)["recovered"] == 0
    changed = {path.name for path in out.glob("0000*") if path.stat().st_mtime_ns != before[path]}
    assert changed == {"00000_stats.json"}
    assert content_hashes(out) == hashes
    assert CliRunner().invoke(app, ["verify", str(out), "--deep", "--quiet"]).exit_code == 0


def test_samples_that_were_there_keep_their_bytes_even_if_the_web_has_changed(
    origin: Origin, tmp_path: Path
) -> None:
    out, _ = _make(origin, tmp_path)
    before = _members(out)
    origin.pictures = dict.fromkeys(ALBUM, ALBUM["00000.jpg"])
    ended = CliRunner().invoke(app, ["retry", str(out), "--quiet"])
    assert ended.exit_code == 0, ended.output
    after = _members(out)
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 3 * len(BROKEN)


def test_nothing_to_retry_makes_no_request(origin: Origin, tmp_path: Path) -> None:
    urls = write_list(tmp_path / "list.parquet", [origin.url(name) for name in list(ALBUM)[:5]])
    turbo_fetch.run(job_spec(urls, tmp_path / "out"))
    hits = origin.hits.total()
    ended = CliRunner().invoke(app, ["retry", str(tmp_path / "out"), "--quiet"])
    assert "nothing" in ended.stdout
    assert origin.hits.total() == hits


def test_an_interrupted_retry_keeps_the_dataset_whole_and_goes_on(origin: Origin, tmp_path: Path) -> None:
    out, _ = _make(origin, tmp_path)
    before = content_hashes(out)
    origin.latency_s = 60
    hits = origin.hits.total()
    process = _retry(out)
    wait_until("a request", lambda: origin.hits.total() > hits, process)
    process.send_signal(signal.SIGINT)
    _, err = finished(process)
    assert process.returncode == 130, err
    assert "Run the same command again" in err
    assert content_hashes(out) == before
    assert len(manifest(out)) == 3
    origin.latency_s = 0
    ended = CliRunner().invoke(app, ["retry", str(out), "--quiet", "--json"])
    assert json.loads(ended.stdout)["recovered"] == 3


@pytest.mark.parametrize("command", ["retry", "run"])
def test_killed_while_it_publishes_a_retry_or_a_run_finishes_the_shard(
    origin: Origin, tmp_path: Path, command: str
) -> None:
    """What a kill between two publications leaves: no commit record, and a spool with the rest of the shard."""
    out, rows = _make(origin, tmp_path)
    origin.latency_s = 60
    asked = origin.hits.total()
    process = _retry(out)
    spool = out / ".turbo-fetch" / "00001.spool"
    wait_until("all requests", lambda: spool.exists() and origin.hits.total() >= asked + 4, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    origin.latency_s = 0
    (out / "00001_stats.json").unlink()
    hits = origin.hits.total()
    place = str(out) if command == "retry" else str(out / ".turbo-fetch/spec.toml")
    ended = CliRunner().invoke(app, [command, place, "--quiet"])
    assert ended.exit_code == 0, ended.output
    assert [record["rows"] for record in manifest(out)] == [20, 20, 20]
    assert manifest(out)[1]["outcomes"] == {"success": 19, "http-4xx": 1}
    assert [row["url"] for row in ledger(out)] == rows
    # Only rows 25 and 26, and for a retry 7 and 13, which wait in the spool of the other shard.
    assert origin.hits.total() - hits == (4 if command == "retry" else 2)


def test_a_part_of_a_spool_that_a_power_loss_left_of_a_retried_shard_goes(
    origin: Origin, tmp_path: Path
) -> None:
    out, _ = _make(origin, tmp_path)
    ended = CliRunner().invoke(app, ["retry", str(out), "--quiet"])
    assert ended.exit_code == 0, ended.output
    before = content_hashes(out)
    # Another shard has a row that is to be retried still.
    shard, facts = stored_shard(manifest(out)[1]), {"rows_digest": manifest(out)[1]["rows_digest"]}
    for version in (shard.record, "earlier"):
        path = out / ".turbo-fetch/00001.spool"
        written_spool(path, shard, {**facts, OF_VERSION: version}, []).close()
        ended = CliRunner().invoke(app, ["retry", str(out), "--quiet"])
        assert ended.exit_code == 0, ended.output
        # That of another command on the shard as it is now stays, to be gone on with.
        assert path.exists() == (version == shard.record)
    assert content_hashes(out) == before


@pytest.mark.parametrize("command", ["run", "retry", "refresh"])
def test_what_a_run_that_lost_its_lease_left_of_a_committed_shard_counts_for_nothing(
    origin: Origin, tmp_path: Path, command: str
) -> None:
    out, _ = _make(origin, tmp_path)
    for record in manifest(out):
        path = out / f".turbo-fetch/{record['name']}.spool"
        Spool.open(path, record["shard"], record["rows"], record["rows_digest"]).close()
    hits = origin.targets.total()
    place = str(out / ".turbo-fetch/spec.toml") if command == "run" else str(out)
    ended = CliRunner().invoke(app, [command, place, "--quiet"])
    assert ended.exit_code == 0, ended.output
    assert origin.targets.total() - hits == {"run": 0, "retry": 4, "refresh": 55}[command]
    assert not list(out.glob(".turbo-fetch/*.spool"))


def test_hashes_that_the_list_demands_are_still_demanded(origin: Origin, tmp_path: Path) -> None:
    names = list(ALBUM)[:4]
    rows = [
        origin.url(name, "status", code=503, times=1) if row > 1 else origin.url(name)
        for row, name in enumerate(names)
    ]
    hashes = [hashlib.sha256(ALBUM[name]).hexdigest() for name in names]
    hashes[3] = "0" * 64
    urls = write_list(tmp_path / "list.parquet", rows, sha256=hashes)
    listed = {"hash_column": "sha256", "hash_kind": "sha256"}
    turbo_fetch.run(
        job_spec(urls, tmp_path / "out", http={"retries": 0}, input=listed, image={"digest": "md5"})
    )
    ended = CliRunner().invoke(app, ["retry", str(tmp_path / "out"), "--quiet"])
    assert ended.exit_code == 0, ended.output
    assert [row["outcome"] for row in ledger(tmp_path / "out")] == ["success"] * 3 + ["hash-mismatch"]


@pytest.mark.parametrize(
    ("place", "expected"),
    [("nowhere", "there is no dataset"), ("nowhere.toml", "no such file")],
)
def test_a_place_without_a_dataset_is_refused(tmp_path: Path, place: str, expected: str) -> None:
    ended = CliRunner().invoke(app, ["retry", str(tmp_path / place)])
    assert ended.exit_code == 2
    assert expected in " ".join(ended.stderr.split())


def test_other_image_options_are_refused(origin: Origin, tmp_path: Path) -> None:
    out, _ = _make(origin, tmp_path)
    ended = CliRunner().invoke(app, ["retry", str(out), "--set", "fetch.image.size=99"])
    assert ended.exit_code == 2
    assert "fetch.image.size was 64, is now 99" in " ".join(ended.stderr.split())


ALL_LATE = {"retries": 0}


def _late(origin: Origin, names: list[str]) -> list[str]:
    """Return addresses that fail at first, and answer when they are asked for again."""
    return [origin.url(name, "status", code=503, times=1) for name in names]


def _again(out: Path, *options: str) -> str:
    ended = CliRunner().invoke(app, ["retry", str(out), "--quiet", *options])
    assert ended.exit_code == 0, ended.output
    return ended.stdout


@pytest.mark.parametrize("order", ["position", "spread"])
def test_boxes_and_hashes_are_read_from_the_list_again(origin: Origin, tmp_path: Path, order: str) -> None:
    names = list(ALBUM)[:8]
    rows = [*_late(origin, names[:5]), *(origin.url(name) for name in names[5:])]
    boxes = [[[0.0, 0.0, 1.0, 0.5]], None, "no boxes", *[[[0.25, 0.25, 0.75, 0.75]]] * 5]
    hashes = [hashlib.sha256(ALBUM[name]).hexdigest() for name in names]
    hashes[3] = "0" * 64
    texts = [None if box is None else json.dumps(box) for box in boxes]
    urls = write_list(tmp_path / "list.parquet", rows, faces=texts, sha256=hashes)
    listed = {"boxes_column": "faces", "hash_column": "sha256", "order": order}
    output = {"samples_per_shard": 3}
    made: dict[str, Any] = {"http": ALL_LATE, "input": listed, "output": output}
    turbo_fetch.run(job_spec(urls, tmp_path / "out", **made))
    _again(tmp_path / "out")
    turbo_fetch.run(job_spec(urls, tmp_path / "lucky", **made))
    assert content_hashes(tmp_path / "out") == content_hashes(tmp_path / "lucky")
    outcomes = {row["url"]: row["outcome"] for row in ledger(tmp_path / "out")}
    assert [outcomes[url] for url in rows] == ["success"] * 2 + ["bad-boxes", "hash-mismatch"] + [
        "success"
    ] * 4
    # What was blurred in a lucky run is blurred, and differs from the same image without boxes.
    plain = job_spec(urls, tmp_path / "plain", input={"order": order}, output=output)
    turbo_fetch.run(plain)
    assert content_hashes(tmp_path / "plain") != content_hashes(tmp_path / "lucky")


def test_each_list_of_an_extended_dataset_is_found_where_it_was(origin: Origin, tmp_path: Path) -> None:
    rows = _late(origin, list(ALBUM)[:6])
    boxes = ["[[0.1, 0.1, 0.5, 0.5]]"] * 3
    first = write_list(tmp_path / "first.parquet", rows[:3], faces=boxes)
    second = write_list(tmp_path / "second.parquet", rows[3:], faces=boxes)
    for urls in (first, second):
        output = {"samples_per_shard": 2, "if_exists": "extend"}
        listed = {"boxes_column": "faces"}
        turbo_fetch.run(job_spec(urls, tmp_path / "out", http=ALL_LATE, input=listed, output=output))
    _again(tmp_path / "out")
    assert [row["outcome"] for row in ledger(tmp_path / "out")] == ["success"] * 6
    assert [row["url"] for row in ledger(tmp_path / "out")] == rows


@pytest.mark.parametrize("command", ["retry", "refresh"])
@pytest.mark.parametrize("harm", ["gone", "changed"])
def test_without_the_list_nothing_is_fetched_that_it_alone_protects(
    origin: Origin, tmp_path: Path, command: str, harm: str
) -> None:
    names = list(ALBUM)[:4]
    rows = [*_late(origin, names[:2]), *(origin.url(name) for name in names[2:])]
    urls = write_list(tmp_path / "list.parquet", rows, faces=["[[0.1, 0.1, 0.5, 0.5]]"] * 4)
    turbo_fetch.run(
        job_spec(
            urls, tmp_path / "out", http=ALL_LATE, input={"boxes_column": "faces"}, image={"digest": "md5"}
        )
    )
    before, hits = content_hashes(tmp_path / "out"), origin.hits.total()
    urls.rename(tmp_path / "aside.parquet")
    if harm == "changed":
        write_list(urls, rows, faces=["[]"] * 4)
    ended = CliRunner().invoke(app, [command, str(tmp_path / "out"), "--quiet"])
    assert ended.exit_code == 2, ended.output
    said = " ".join(ended.stderr.split())
    assert "the boxes (fetch.input.boxes_column = 'faces') are in the list alone" in said
    assert ("there is no such file" if harm == "gone" else "it has changed since") in said
    assert origin.hits.total() == hits
    assert content_hashes(tmp_path / "out") == before
    # Told where it is now, the command does its work.
    moved = f"fetch.input.urls={tmp_path / 'aside.parquet'}"
    ended = CliRunner().invoke(app, [command, str(tmp_path / "out"), "--quiet", "--set", moved])
    assert ended.exit_code == 0, ended.output
    assert origin.hits.total() == hits + 2


def test_deny_lists_and_duplicates_hold_for_what_comes_late(origin: Origin, tmp_path: Path) -> None:
    names = list(ALBUM)
    late = _late(origin, [names[0], names[1], names[2]])
    rows = [*late, origin.url(names[0]), origin.url(names[3]), origin.url(names[3])]
    denied = tmp_path / "hashes.txt"
    denied.write_text(hashlib.sha256(ALBUM[names[1]]).hexdigest())
    urls = write_list(tmp_path / "list.parquet", rows)
    tables = job_spec(urls, tmp_path / "out", http=ALL_LATE, output={"samples_per_shard": 2}).model_dump(
        mode="json", by_alias=True, exclude_none=True
    )
    tables["fetch"]["deny"] = {"hashes": [str(denied)]}
    tables["fetch"]["duplicates"] = {"by": ["url", "hash"]}
    turbo_fetch.run(parse_spec(tables))
    said = json.loads(_again(tmp_path / "out", "--json"))
    assert (said["asked"], said["recovered"]) == (3, 1)
    found = [(row["outcome"], row["detail"]) for row in ledger(tmp_path / "out")]
    assert found == [
        ("success", None),
        ("denied", "sha256 is on a deny list"),
        ("success", None),
        # It was a sample until the first row came.
        ("duplicate", "duplicate of 000000"),
        ("success", None),
        ("duplicate", "duplicate of 000020"),
    ]
    tables["fetch"]["output"]["path"] = str(tmp_path / "lucky")
    turbo_fetch.run(parse_spec(tables))
    assert content_hashes(tmp_path / "out") == content_hashes(tmp_path / "lucky")
