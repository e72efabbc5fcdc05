"""A dataset on the Hugging Face Hub, written and read through huggingface_hub, against a hub on loopback."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import datasets
import pytest
from typer.testing import CliRunner

import turbo_fetch
from album import album
from dataset_hub import NAME, URL, DatasetHub, Repo, data_of, spec_into
from jobs import amid, content_hashes, job_spec, start, write_list
from origin import Origin
from processes import content_of, files_below, wait_until
from turbo_fetch.cli.commands import app
from turbo_fetch.dataset import lease
from turbo_fetch.dataset.lease import behind_claim, claim_on
from turbo_fetch.dataset.lock import locked
from turbo_fetch.dataset.place import open_place
from turbo_fetch.errors import OutputError, OutputHeld, SpecError
from turbo_fetch.storage import Storage
from turbo_fetch.storage.hub import HubStorage
from turbo_fetch.storage.hub_journal import Change, Journal

# huggingface_hub calls its HTTP client in a way that this announces to end.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

ALBUM = album(80, side=40)


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin(ALBUM) as origin:
        yield origin


@pytest.mark.parametrize("kind", ["webdataset", "files"])
def test_a_run_into_the_hub_makes_the_files_of_a_local_one_in_few_commits(
    kind: str, hub: DatasetHub, tmp_path: Path, origin: Origin
) -> None:
    turbo_fetch.run(spec_into(tmp_path, origin, str(tmp_path / "local"), format=kind))
    summary = turbo_fetch.run(spec_into(tmp_path, origin, URL, format=kind))
    repo = hub.repos[NAME]
    assert summary.fetch.outcomes["success"] == 24
    assert data_of(repo) == content_hashes(tmp_path / "local")
    assert {"README.md", "croissant.json", "report.html", ".turbo-fetch/manifest"} <= repo.files.keys()
    assert repo.visibility == "private"
    # The repository, the lease, the run in two, the lease let go, and what is written after: card and report.
    assert len(repo.commits) <= 7


def test_datasets_loads_it_from_the_hub_by_its_name(
    hub: DatasetHub, tmp_path: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    turbo_fetch.run(spec_into(tmp_path, origin, URL, format="parquet"))
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.address)
    data = datasets.load_dataset(NAME, split="train", cache_dir=str(tmp_path / "read"))
    assert data.num_rows == 24
    assert data[3]["image"].size == (64, 64)
    assert data[3]["caption"] == "image 3"
    assert f"load_dataset('{NAME}'" in hub.repos[NAME].files["README.md"].decode()


def test_a_killed_run_resumes_and_nothing_is_lost(hub: DatasetHub, tmp_path: Path, origin: Origin) -> None:
    turbo_fetch.run(spec_into(tmp_path, origin, str(tmp_path / "local"), rows=80))
    process = start(spec_into(tmp_path, origin, URL), tmp_path, "--quiet")
    with amid(process, origin, 40):
        wait_until("rows that are saved", lambda: _saved_bytes(tmp_path) > 8000, process)
        process.kill()
    process.communicate()
    hits = origin.hits.total()
    summary = turbo_fetch.run(spec_into(tmp_path, origin, URL))
    assert summary.fetch.outcomes["success"] == summary.fetch.rows == 80
    assert data_of(hub.repos[NAME]) == content_hashes(tmp_path / "local")
    # What was in its spools, or waited for a commit, is not asked for again.
    assert origin.hits.total() - hits < 80


def _saved_bytes(folder: Path) -> int:
    """Return how much is in spools."""
    return sum(len(content_of(path)) for path in files_below(folder, "**/*.spool"))


@contextmanager
def _killed_later(storage: Storage, work: Path) -> Iterator[HubStorage]:
    """Hold the lease on a place, and yield one of a worker of the holder, which goes on after the context."""
    with locked(storage):
        worker = behind_claim(open_place(storage.url, str(work)), claim_on(storage))
        assert isinstance(worker, HubStorage)
        yield worker


def test_what_a_killed_run_left_waiting_is_dropped_if_another_machine_has_gone_on(
    hub: DatasetHub, tmp_path: Path
) -> None:
    here = open_place(URL, str(tmp_path / "here"))
    there = open_place(URL, str(tmp_path / "there"))
    with _killed_later(here, tmp_path / "here") as killed:
        killed.write_bytes("first", b"1")
    killed.write_bytes("left", b"by a killed run")
    with locked(there):
        there.write_bytes("second", b"2")
    with _killed_later(here, tmp_path / "here") as killed:
        here.write_bytes("third", b"3")
    assert {"first", "second", "third"} <= hub.repos[NAME].files.keys()
    assert "left" not in hub.repos[NAME].files
    killed.write_bytes("left", b"by a killed run")
    with locked(here):
        assert here.read_bytes("left") == b"by a killed run"
    assert "left" in hub.repos[NAME].files


def test_it_is_dropped_too_if_the_answer_to_the_first_commit_since_is_lost(
    hub: DatasetHub, tmp_path: Path
) -> None:
    here = open_place(URL, str(tmp_path / "here"))
    there = open_place(URL, str(tmp_path / "there"))
    with _killed_later(here, tmp_path / "here") as killed:
        pass
    killed.write_bytes("same", b"by a killed run")
    with locked(there):
        there.write_bytes("same", b"by the last one")
    hub.loses_answers = 1
    with locked(here):
        here.write_bytes("third", b"3")
    assert hub.loses_answers == 0
    assert hub.repos[NAME].files["same"] == b"by the last one"


def test_who_has_lost_the_lease_changes_nothing_that_waits_and_nobody_waits_for_its_locks(
    hub: DatasetHub, tmp_path: Path
) -> None:
    here = open_place(URL, str(tmp_path / "here"))
    with _killed_later(here, tmp_path / "here") as stopped:
        pass
    stopped.write_bytes("taken over", b"1")
    standing_still = stopped.journal.leaving()
    standing_still.__enter__()
    with stopped.journal._locked("mutex"), locked(here):
        with pytest.raises(OutputError, match="mutex"):
            stopped.write_bytes("late", b"2")
        here.write_bytes("next", b"3")
    with pytest.raises(FileNotFoundError):
        standing_still.__exit__(None, None, None)
    assert {"taken over", "next"} <= hub.repos[NAME].files.keys()
    assert "late" not in hub.repos[NAME].files


def test_a_commit_before_which_the_lease_is_to_be_confirmed_does_not_wait_for_itself(
    hub: DatasetHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "SILENCE_S", 2.0)
    monkeypatch.setattr(HubStorage, "change_every_s", 0.1)
    place = open_place(URL, str(tmp_path / "work"))
    with locked(place) as held:
        place.write_bytes("data", b"1")
        # As after a machine was asleep.
        held._confirmed_s = float("-inf")
        place.flush()
        assert hub.repos[NAME].files["data"] == b"1"


def test_who_has_lost_the_lease_just_after_it_got_it_takes_nothing_from_the_next(tmp_path: Path) -> None:
    first, next_one = (Journal(tmp_path, f"{token:06d}") for token in (1, 2))
    next_one.begin("0", "2")
    next_one.put(Change("data", "content", b"1"))
    first.begin("0", "1")
    assert next_one.changes().keys() == {"data"}


def test_a_repository_that_vanishes_in_mid_run_is_an_error(hub: DatasetHub, tmp_path: Path) -> None:
    place = open_place(URL, str(tmp_path / "work"))
    with suppress(OutputHeld), locked(place):
        place.write_bytes("data", b"1")
        hub.repos.clear()
        with pytest.raises(OutputError, match="shows no repository here any more"):
            list(place.list())


def test_a_run_that_lost_its_lease_commits_nothing_more(hub: DatasetHub, tmp_path: Path) -> None:
    here = open_place(URL, str(tmp_path / "here"))

    def takes_over(repo: Repo) -> None:
        hub.before_commit = lambda repo: None
        repo.add({**repo.files, ".turbo-fetch/lease/all.000002": repo.files[".turbo-fetch/lease/all.000001"]})

    context = locked(here)
    held = context.__enter__()
    here.write_bytes("late", b"")
    # The other one takes the lease between this one's look at it and its commit.
    here.fence = held.confirm
    hub.before_commit = takes_over
    with pytest.raises(OutputHeld, match="took over"):
        here.flush()
    with pytest.raises(OutputHeld, match="took over"):
        context.__exit__(None, None, None)
    assert "late" not in hub.repos[NAME].files


def test_commits_of_others_are_kept_and_lost_answers_and_limits_are_waited_out(
    hub: DatasetHub, tmp_path: Path
) -> None:
    place = open_place(URL, str(tmp_path / "work"))
    answers: list[int | None] = [429, 503, None]

    def meddles(repo: Repo) -> int | None:
        if not answers:
            return None
        answer = answers.pop(0)
        if answer is None:
            repo.add({**repo.files, "notes.md": b"by a person"})
        return answer

    with locked(place):
        place.write_bytes("data", b"1")
        hub.before_commit = meddles
        place.flush()
        hub.loses_answers = 1
        place.write_bytes("more", b"2")
    assert {"notes.md", "data", "more"} <= hub.repos[NAME].files.keys()
    assert answers == []


def test_a_file_that_the_hub_leaves_out_is_an_error(hub: DatasetHub, tmp_path: Path) -> None:
    hub.ignored = re.compile("secret")
    place = open_place(URL, str(tmp_path / "work"))
    with locked(place):
        place.write_bytes("secret.txt", b"1")
        with pytest.raises(OutputError, match=r"left out secret.txt .*\.gitignore"):
            place.flush()
        place.delete("secret.txt")


def test_files_and_folders_wait_move_and_go_as_in_any_place(hub: DatasetHub, tmp_path: Path) -> None:
    place = open_place(f"{URL}/inner", str(tmp_path / "work"))
    (folder := tmp_path / "folder").mkdir()
    (folder / "one.txt").write_bytes(b"1")
    (folder / "large.png").write_bytes(bytes(range(256)) * 400)
    with locked(place):
        place.publish(folder, "00000")
        assert not folder.exists()
        assert {entry.name: entry.bytes for entry in place.list("00000")} == {
            "one.txt": 1,
            "large.png": 102_400,
        }
        assert len(hub.repos[NAME].commits) == 2
        place.flush()
        place.delete("00000/one.txt")
        assert not place.exists("00000/one.txt")
        with pytest.raises(FileNotFoundError):
            place.read_bytes("00000/one.txt")
        place.move("00000", "00001")
        assert [entry.name for entry in place.list("00001")] == ["large.png"]
        place.delete("00001")
        assert not place.exists("00001/large.png")
        place.write_bytes("00001/new.txt", b"2")
        assert place.inside("00001", tmp_path / "other").read_bytes("new.txt") == b"2"
        assert [entry.name for entry in place.list("00001")] == ["new.txt"]
    found = [path for path in hub.repos[NAME].files if path.startswith("inner/0")]
    assert found == ["inner/00001/new.txt"]
    assert open_place(f"{URL}/inner").read_bytes("00001/new.txt") == b"2"


def test_who_may_not_write_is_told_before_the_first_request(
    hub: DatasetHub, tmp_path: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repos[NAME] = Repo()
    hub.repos[NAME].add({})
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody_else")
    with pytest.raises(OutputError, match=r"the Hub refuses access .*HF_TOKEN"):
        turbo_fetch.run(spec_into(tmp_path, origin, URL))
    assert not origin.hits.total()


@pytest.mark.parametrize(
    "url", ["hf://datasets/photos", "hf://datasets/", "hf://datasets/a/b@", "hf://datasets//b"]
)
def test_an_address_that_names_no_repository_is_refused(url: str) -> None:
    with pytest.raises(SpecError, match="expected hf://datasets/owner/name"):
        open_place(url)


def test_retry_and_verify_and_export_work_on_it(hub: DatasetHub, tmp_path: Path, origin: Origin) -> None:
    urls = [origin.url(name) for name in [*ALBUM][:20]]
    urls[9] = origin.url("00009.jpg", "status", code=503, times=1)
    write_list(tmp_path / "list.parquet", urls)
    turbo_fetch.run(
        job_spec(
            tmp_path / "list.parquet",
            Path("unused"),
            http={"retries": 0},
            output={"path": URL, "samples_per_shard": 8},
        )
    )

    def call(*arguments: str) -> Any:
        ended = CliRunner().invoke(app, [*arguments, "--quiet", "--json"])
        assert ended.exit_code == 0, ended.output
        return json.loads(ended.stdout)

    assert call("retry", URL)["recovered"] == 1
    assert call("verify", URL, "--workers", "1")["problems"] == []
    call("export", URL, f"{URL}-parquet", "--format", "parquet", "--workers", "1")
    assert call("verify", f"{URL}-parquet", "--workers", "1")["problems"] == []
    assert "00000.parquet" in hub.repos[f"{NAME}-parquet"].files


def test_workers_of_a_cluster_do_not_commit_to_the_hub(tmp_path: Path) -> None:
    table = {"path": URL}
    with pytest.raises(SpecError, match="turbo-fetch push"):
        job_spec(tmp_path / "list.parquet", tmp_path, output=table, engine={"kind": "ray"})
