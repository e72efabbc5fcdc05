"""Shards that get other files, and leftovers: a command that is killed there, and then given again, loses nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import orjson
import pytest

from attack.commands import Command, commands, finished
from attack.kills import give, with_hook
from turbo_fetch.dataset.lease import WHOLE, Claim, Holder, Lease
from turbo_fetch.dataset.leftovers import discard_leftovers
from turbo_fetch.dataset.lock import locked
from turbo_fetch.dataset.place import open_place
from turbo_fetch.dataset.replacement import discard_replacements, finish_replacements, replace_shard
from turbo_fetch.maintenance.merge import _unfinished
from turbo_fetch.storage.disk import unfinished


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Command]]:
    with ExitStack() as stack:
        found = commands(stack, tmp_path_factory.mktemp("commands"))
        yield {command.name: command for command in found}


# The second time that the data of the shard are replaced is when its duplicates are taken out.
@pytest.mark.parametrize(
    ("name", "file", "time"),
    [
        ("run without duplicates by content", "out/00001.tar", 2),
        ("run without duplicates by content", "out/00001_stats.json", 3),
        ("retry", "out/00002.tar", 2),
        ("refresh", "out/00001.tar", 2),
        ("refresh", "out/.turbo-fetch/ledger/00001.ledger", 2),
    ],
)
def test_a_command_killed_while_it_takes_out_duplicates_goes_on_by_itself(
    known: Mapping[str, Command], tmp_path: Path, name: str, file: str, time: int
) -> None:
    command = known[name]
    place = Path(shutil.copytree(command.begin, tmp_path / "place"))
    hook = with_hook(tmp_path / "hook", place) | {"KILL_NAME": f"/{file}", "KILL_AT": str(time)}
    assert give(command, place, hook)
    assert finished(command, place, is_begun=True) is None


@pytest.mark.parametrize("file", ["croissant.json", "README.md", "00002_stats.json"])
def test_a_retry_killed_before_it_renames_a_small_file_leaves_no_temporary_and_the_card_of_what_is_there(
    known: Mapping[str, Command], tmp_path: Path, file: str
) -> None:
    command = known["retry"]
    place = Path(shutil.copytree(command.begin, tmp_path / "place"))
    # As the retried dataset has other counts, so has its card.
    before = (place / "out/README.md").read_text()
    hook = with_hook(tmp_path / "hook", place) | {"KILL_NAME": f"/out/{file}", "KILL_AT": "1"}
    if file.endswith("_stats.json"):
        # The first change is that it is deleted.
        hook["KILL_AT"] = "2"
    assert give(command, place, hook)
    assert (place / "out" / f".{file}.tmp").exists()
    assert finished(command, place, is_begun=True) is None
    assert (place / "out/README.md").read_text() != before


def test_whoever_takes_the_lease_deletes_what_is_unfinished_and_nothing_of_the_users(tmp_path: Path) -> None:
    records = tmp_path / ".turbo-fetch"
    (records / "ledger").mkdir(parents=True)
    ours = [
        *(tmp_path / f".{name}.tmp" for name in ("croissant.json", "README.md", "report.html")),
        *(tmp_path / f".{name}.tmp" for name in ("00000_stats.json", "00001.tar", "123456.parquet.000001")),
        *(records / name for name in (".job.tmp", ".00000.spool.tmp", "ledger/.00000.ledger.tmp")),
        records / ".staged.000001.tmp/00000.tar.part",
    ]
    waiting = [records / f".staged.000002.tmp/00000{end}.part" for end in (".tar", "_stats.json")]
    of_user = [
        tmp_path / name for name in (".notes.tmp", ".tmp", "croissant.json.tmp", ".00000_stats.json", "a.tmp")
    ]
    for path in (*ours, *of_user, *waiting):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    # Of a folder that was being moved from another disk.
    (tmp_path / ".00002.tmp/below").mkdir(parents=True)
    with locked(open_place(str(tmp_path))):
        left = {path for path in tmp_path.rglob("*") if path.is_file() and path.parent.name != "lease"}
        assert left == {*of_user, *waiting}
        assert not (tmp_path / ".00002.tmp").exists()


class _Killed(BaseException):
    pass


def _killed_before(change: int) -> Callable[[], None]:
    """Return a fence that lets through the changes before one."""
    left = iter(range(change - 1))

    def check() -> None:
        if next(left, None) is None:
            raise _Killed

    return check


@pytest.mark.parametrize("kind", ["local", "object store"])
def test_a_shard_whose_replacement_stops_before_any_change_has_all_old_or_all_new_files_in_the_end(
    kind: str, tmp_path: Path
) -> None:
    url = str(tmp_path / "out") if kind == "local" else f"memory://{tmp_path.name}"
    place, change, was_killed = open_place(url, str(tmp_path / "spool")), 0, True
    names_of_files = ["00000/a.jpg", "00000.parquet", ".turbo-fetch/ledger/00000.ledger"]
    while was_killed:
        change += 1
        place.fence = None
        place.delete("00000")
        for name in (*names_of_files, "00000_stats.json"):
            place.write_bytes(name, b"old")
        place.holder = f"{change:06d}"
        staging = place.make_staging()
        staged = [staging / f"{name}.part" for name in ("00000", "00000.parquet", "00000.ledger")]
        staged[0].mkdir()
        (staged[0] / "b.jpg").write_bytes(b"new")
        for path in staged[1:]:
            path.write_bytes(b"new")
        published = ("00000", *names_of_files[1:])
        record = {"name": "00000", "shard": change, "files": [{"name": name} for name in published]}
        place.fence = _killed_before(change)
        try:
            replace_shard(place, staged, record)
            was_killed = False
        except _Killed:
            place.fence, place.holder = None, "999999"
            finish_replacements(place)
            assert not staging.exists()
        # The first change takes the old record away.
        content, image = (b"old", "a.jpg") if change == 1 else (b"new", "b.jpg")
        assert [place.read_bytes(name) for name in names_of_files[1:]] == [content, content]
        assert [entry.name for entry in place.list("00000")] == [image]
        stats = place.read_bytes("00000_stats.json")
        assert stats == b"old" if change == 1 else orjson.loads(stats)["shard"] == change
        assert [path for path in place.work.rglob("*") if path.is_file()] == []
    assert change > 4


def test_who_has_lost_the_lease_takes_away_nothing_of_who_has_it(tmp_path: Path) -> None:
    place = open_place(str(tmp_path / "out"))
    place.holder = "000003"
    staged = place.make_staging() / "00000.tar.part"
    staged.write_bytes(b"new")
    place.fence = _killed_before(2)
    with pytest.raises(_Killed):
        replace_shard(place, [staged], {"name": "00000", "files": [{"name": "00000.tar"}]})
    (begun := unfinished(place.make_work() / "staged", "000005")).mkdir()
    place.holder, place.fence = "000001", _killed_before(1)
    for took_away in (
        partial(discard_leftovers, is_whole=True),
        finish_replacements,
        discard_replacements,
    ):
        with pytest.raises(_Killed):
            took_away(place)
    assert staged.exists()
    assert begun.exists()
    place.fence = None
    finish_replacements(place)
    assert place.read_bytes("00000.tar") == b"new"


def test_who_has_lost_the_lease_merges_into_no_file_of_who_has_it(tmp_path: Path) -> None:
    place = open_place(str(tmp_path / "out"))
    first, last = (
        Lease(place, Claim(WHOLE, token), Holder.new(place), None, _confirmed_s=float("inf"))
        for token in (1, 3)
    )
    with _unfinished(place.make_work(), "all.lmdb", last) as path:
        path.write_bytes(b"of the last")
        with _unfinished(place.work, "all.lmdb", first) as other:
            assert other != path
        assert path.read_bytes() == b"of the last"


def test_what_was_to_replace_a_shard_is_forgotten_when_somebody_else_has_made_it_since(
    tmp_path: Path,
) -> None:
    place = open_place(str(tmp_path / "out"))
    staged = place.make_work() / "00000.tar.part"
    staged.write_bytes(b"new")
    place.fence = _killed_before(2)
    with pytest.raises(_Killed):
        replace_shard(place, [staged], {"name": "00000", "files": [{"name": "00000.tar"}]})
    place.fence = None
    for name in ("00000.tar", "00000_stats.json"):
        place.write_bytes(name, b"made since")
    finish_replacements(place)
    assert place.read_bytes("00000.tar") == place.read_bytes("00000_stats.json") == b"made since"
    assert list(place.work.iterdir()) == []
