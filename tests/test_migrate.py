"""Datasets of earlier versions: every command names the one that moves their records, which can be killed anywhere."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from typer.testing import CliRunner

import turbo_fetch
from jobs import job_spec, write_list
from object_store import configured, empty_bucket, filesystem, s3_server
from old_layout import put_back, recorded
from origin import Origin
from sample_images import encoded, scene
from turbo_fetch.cli.commands import app
from turbo_fetch.dataset.lock import held
from turbo_fetch.errors import InputError
from turbo_fetch.maintenance import migrate as migrate_module
from turbo_fetch.maintenance.migrate import migrate
from turbo_fetch.stop import StopRequest
from turbo_fetch.storage import Storage

FORMATS = ("webdataset", "files", "parquet")
SAYS = "`turbo-fetch migrate {}` moves them to .turbo-fetch/, once"


class _Unseen:
    def advance(self, rows: int) -> None:
        """See Progress."""

    def refresh(self) -> None:
        """See Progress."""

    def note(self, text: str) -> None:
        """See Progress."""


class _Killed(BaseException):
    pass


def _migrate(place: Path | str) -> None:
    migrate(str(place), _Unseen(), StopRequest())


def _contents(folder: Path) -> dict[str, str]:
    """Return the hash of every file but the lock."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.parent.name != "lease"
    }


def _invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin({f"{number}.jpg": encoded(scene(40 + number, 30), "JPEG") for number in range(6)}) as origin:
        yield origin


@pytest.fixture(scope="module")
def new(origin: Origin, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of today, with a report of a refresh."""
    folder: Path = tmp_path_factory.mktemp("new")
    urls = write_list(folder / "list.parquet", [origin.url(f"{number}.jpg") for number in range(7)])
    spec = job_spec(urls, folder / "out", output={"samples_per_shard": 3})
    assert turbo_fetch.run(spec).fetch.successes == 6
    assert _invoke("refresh", str(folder / "out"), "--quiet").exit_code == 0
    return folder / "out"


@pytest.mark.parametrize("output_format", FORMATS)
def test_a_dataset_of_an_earlier_version_is_migrated_and_verified(output_format: str, tmp_path: Path) -> None:
    place = recorded(output_format, tmp_path)
    before = _contents(place)
    ended = _invoke("migrate", str(place))
    assert (ended.exit_code, "2 shards, 8 rows" in ended.stdout) == (0, True), ended.output
    after = _contents(place)
    outside = {name for name in after if not name.startswith(".turbo-fetch/")}
    assert not [name for name in outside if "ledger" in name or name in {"job.json", "manifest.jsonl"}]
    changed = {name for name in outside if after[name] != before[name]}
    assert changed == {"README.md", "croissant.json", "00000_stats.json", "00001_stats.json"}
    assert after[".turbo-fetch/ledger/00001.ledger"] == before["00001.ledger.parquet"]
    verified = _invoke("verify", "--deep", "--quiet", str(place))
    assert verified.exit_code == 0, verified.output
    dataset = turbo_fetch.open_dataset(str(place))
    assert (dataset.rows, dataset.ledger().num_rows, sum(1 for _ in dataset.samples())) == (8, 8, 6)
    again = _invoke("migrate", str(place))
    assert (again.exit_code, "nothing" in again.stdout) == (0, True)


def test_a_migrated_dataset_is_byte_for_byte_one_written_today(new: Path, tmp_path: Path) -> None:
    place = shutil.copytree(new, tmp_path / "out")
    put_back(place)
    # The records of the shards that were made say the same, in the same form.
    assert not (place / ".turbo-fetch" / "job").exists()
    _migrate(place)
    assert _contents(place) == _contents(new)


@pytest.mark.parametrize(
    "arguments",
    [
        ["verify", "OUT"],
        ["verify", "OUT", "--repair"],
        ["retry", "OUT"],
        ["refresh", "OUT"],
        ["report", "OUT"],
        ["view", "OUT"],
        ["ledger", "OUT"],
        ["export", "OUT", "OTHER", "--format", "parquet"],
        ["export", "OUT", "OTHER.lmdb", "--format", "lmdb", "--merge"],
        ["run", "OUT/spec.toml"],
        ["run", "OUT/spec.toml", "--set", "fetch.output.if_exists=overwrite"],
        ["run", "OUT/spec.toml", "--set", "fetch.output.if_exists=extend"],
        ["retry", "OUT/spec.toml"],
        ["refresh", "OUT/spec.toml"],
        ["img2dataset", "--url_list=LIST", "--output_folder=OUT"],
    ],
    ids=" ".join,
)
def test_every_other_command_names_it_and_touches_nothing(
    arguments: list[str], new: Path, tmp_path: Path
) -> None:
    place = shutil.copytree(new, tmp_path / "out")
    put_back(place)
    (tmp_path / "list.txt").write_text("http://127.0.0.1:9/a.jpg\n")
    before = _contents(tmp_path)
    names = {"OUT": str(place), "OTHER": str(tmp_path / "other"), "LIST": str(tmp_path / "list.txt")}
    for name, path in names.items():
        arguments = [argument.replace(name, path) for argument in arguments]
    ended = _invoke(*arguments)
    assert ended.exit_code == 2, ended.output
    assert SAYS.format(place) in ended.stderr
    assert ended.stderr.strip().count("\n") == 0
    assert _contents(tmp_path) == before


def test_a_program_meets_the_same_sentence(tmp_path: Path) -> None:
    place = recorded("webdataset", tmp_path)
    with pytest.raises(InputError, match="turbo-fetch migrate"):
        turbo_fetch.open_dataset(str(place))


def test_killed_before_any_change_to_the_disk_it_goes_on(new: Path, tmp_path: Path) -> None:
    """The process ends before each call that changes a file, at every one of them in turn."""
    changes = {"rename", "replace", "unlink", "rmtree", "write_bytes", "move", "delete", "replace_with"}
    goal, kill_at, calls = _contents(new), 0, 0

    def watch(frame: FrameType, event: str, _: object) -> None:
        nonlocal calls
        if event == "call" and frame.f_code.co_name in changes and "turbo_fetch" in frame.f_code.co_filename:
            calls += 1
            if calls > kill_at:
                sys.setprofile(None)
                raise _Killed

    while True:
        place = shutil.copytree(new, tmp_path / str(kill_at) / "out")
        put_back(place)
        calls = 0
        sys.setprofile(watch)
        try:
            _migrate(place)
        except _Killed:
            # With its job in place it is whole; only the old one is still to be deleted.
            if not (place / ".turbo-fetch" / "job").exists():
                with pytest.raises(InputError, match="turbo-fetch migrate"):
                    turbo_fetch.open_dataset(str(place))
        finally:
            sys.setprofile(None)
        if calls <= kill_at:
            break
        _migrate(place)
        assert _contents(place) == goal, kill_at
        shutil.rmtree(place)
        kill_at += 1
    assert kill_at > 10


def test_a_migrated_dataset_is_retried_and_resumed(origin: Origin, new: Path, tmp_path: Path) -> None:
    place = shutil.copytree(new, tmp_path / "out")
    put_back(place)
    (place / "00002_stats.json").unlink()
    _migrate(place)
    spec = place / ".turbo-fetch" / "spec.toml"
    resumed = _invoke("run", "--quiet", str(spec))
    assert resumed.exit_code == 0, resumed.output
    retried = _invoke("retry", "--quiet", str(place))
    assert retried.exit_code == 0, retried.output
    assert _invoke("verify", "--quiet", str(place)).exit_code == 0
    assert turbo_fetch.open_dataset(str(place)).rows == 7


def test_a_dataset_in_an_object_store_is_migrated(new: Path, tmp_path: Path) -> None:
    place = shutil.copytree(new, tmp_path / "out")
    put_back(place)
    with s3_server() as address, configured(address):
        empty_bucket(address)
        store = filesystem(address)
        shutil.rmtree(place / ".turbo-fetch" / "lease", ignore_errors=True)
        store.put(f"{place}/", "data/set/", recursive=True)
        _migrate("s3://data/set")
        kept = (name for name in store.find("data/set") if "/lease/" not in name)
        found = {name.removeprefix("data/set/"): store.cat(name) for name in kept}
        expected = {name: (new / name).read_bytes() for name in _contents(new)}
        named = {"README.md", "croissant.json"}
        assert found.keys() == expected.keys()
        assert {name for name in found if found[name] != expected[name]} <= named
        assert json.loads(found[".turbo-fetch/job"])["format"] == 1


def test_one_that_stood_still_until_another_had_migrated_finds_nothing_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = recorded("webdataset", tmp_path)

    @contextmanager
    def held_late(storage: Storage, stop: StopRequest) -> Iterator[None]:
        monkeypatch.undo()
        assert _invoke("migrate", str(place)).exit_code == 0
        with held(storage, stop=stop):
            yield

    monkeypatch.setattr(migrate_module, "held", held_late)
    ended = _invoke("migrate", str(place))
    assert (ended.exit_code, "migrated  nothing" in ended.stdout) == (0, True), ended.output


def test_a_ledger_that_was_missing_before_is_told(tmp_path: Path) -> None:
    place = recorded("webdataset", tmp_path)
    (place / "00001.ledger.parquet").unlink()
    ended = _invoke("migrate", str(place))
    assert (ended.exit_code, "1 shard had lost their ledger (00001)" in ended.stdout) == (0, True), (
        ended.output
    )


def test_what_is_no_dataset_is_told(tmp_path: Path) -> None:
    ended = _invoke("migrate", str(tmp_path))
    assert (ended.exit_code, "there is no dataset" in ended.stderr) == (2, True)
