"""What the driver of a cluster hands out: rows themselves, unless every worker sees where they are."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs import job_spec, write_list
from namespaces import may_use_namespaces
from shares import Shares
from turbo_fetch.plan.sharder import InlineRows, Plan, Rows
from turbo_fetch.runners.driver import Driver
from turbo_fetch.shard.task import ShardTask


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, as one that is shared is mounted."""
    if not may_use_namespaces():
        pytest.skip("to mount a disk needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return write_list(tmp_path / "list.parquet", [f"http://host.example/{row}" for row in range(120)])


def _handed_out(listed: Path, output: Path, order: str = "position") -> list[Rows]:
    fetch = job_spec(listed, output, input={"order": order}).fetch
    assert fetch is not None
    driver = Driver(fetch, Shares())
    tasks = map(ShardTask, Plan.of(fetch.input, 50).shards(0))
    return [driver.portable(task).shard.rows for task in tasks]


@pytest.mark.parametrize("order", ["position", "spread"])
def test_a_list_on_the_disk_of_the_output_is_read_by_the_workers(here: Path, disk: Path, order: str) -> None:
    listed = Path(shutil.copy(here, disk))
    rows = _handed_out(listed, disk / "out", order)
    assert len(rows) == 3
    assert all(each.local_path == listed for each in rows)


def test_a_list_elsewhere_is_sent(here: Path, disk: Path) -> None:
    assert all(isinstance(rows, InlineRows) for rows in _handed_out(here, disk / "out"))
    assert all(isinstance(rows, InlineRows) for rows in _handed_out(here, here.parent / "out"))


def test_a_link_to_a_list_on_another_disk_is_sent(here: Path, disk: Path) -> None:
    link = disk / "linked.parquet"
    link.symlink_to(here)
    assert all(isinstance(rows, InlineRows) for rows in _handed_out(link, disk / "out"))
    there = here.with_name("there.parquet")
    there.symlink_to(shutil.copy(here, disk))
    assert all(isinstance(rows, InlineRows) for rows in _handed_out(there, disk / "out"))
