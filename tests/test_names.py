"""Names on disk are made in one module."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import turbo_fetch
from turbo_fetch.dataset import names
from turbo_fetch.dataset.formats import data_suffixes

PACKAGE = Path(turbo_fetch.__file__).parent
NAMES = re.compile(
    r"_stats\.json|\.turbo-fetch(?!/\{)|\.ledger|\.refresh|\.spool|\.part\b|\.begun|\.keys\b"
    r"|^(manifest|metrics)\.jsonl|^(job|run|croissant)\.json|metadata\.parquet|^README\.md|^report\.html|^\.parquet$"
    r"|^spec\.toml|documents\.sqlite|^monitor\.log|^beacon$|^lock$"
)
ELSEWHERE = {
    # Pages of scores, and the template of the report in the package.
    ("dreambooth/scoring/page.py", "report.html"),
    ("monitor/report/page.py", "report.html"),
    # What is sent with a job, and what the command line gives a process.
    ("runners/ray/submission.py", "spec.toml"),
    ("dreambooth/training/launch.py", "spec.toml"),
    # What `init` and the demonstration leave to edit.
    ("cli/init.py", "spec.toml"),
    ("dreambooth/toy/demo.py", "spec.toml"),
}


def _literals(path: Path) -> Iterator[str]:
    """Yield the texts of a module that are no documentation."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documentation = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.value


def test_no_other_module_makes_a_name_of_a_dataset() -> None:
    found = {
        (path.relative_to(PACKAGE).as_posix(), text)
        for path in PACKAGE.rglob("*.py")
        if path != Path(names.__file__)
        for text in _literals(path)
        # Messages for people have spaces.
        if NAMES.search(text) and " " not in text
    }
    assert found == ELSEWHERE


def test_no_name_among_our_records_ends_as_data_do() -> None:
    data = {*data_suffixes(), ".json", ".jsonl", ".csv", ".txt", ".jpg", ".png", ".webp"} - {""}
    shard = names.shard_name(3)
    ours = [names.JOB, names.MANIFEST, names.METRICS, names.BEACON, names.PROBE, names.REFRESH_STATE]
    ours += [names.ledger(shard), names.refresh_report(shard), names.spool(shard), names.refresh_spool(shard)]
    ours += [names.staged(f"{shard}{suffix}") for suffix in data_suffixes()]
    assert not [name for name in ours if name.endswith(tuple(data))]


@pytest.mark.parametrize("digits", [1, 5, 12])
def test_a_name_leads_back_to_its_shard(digits: int, tmp_path: Path) -> None:
    shard = names.shard_name(7, digits)
    assert names.shard_of_stats(names.stats(shard)) == shard
    assert names.shard_of_metadata(names.metadata(shard)) == shard
    assert names.shard_of_refresh_report(names.refresh_report(shard).rpartition("/")[2]) == shard
    for name in (names.spool(shard), names.refresh_spool(shard), "notes.spool"):
        (tmp_path / name).touch()
    assert [found for found, _ in names.spools(tmp_path)] == [shard]
    assert [path.name for _, path in names.spools(tmp_path, of_refresh=True)] == [names.refresh_spool(shard)]
    assert names.spools(tmp_path / "nowhere") == []


def test_files_of_shards_are_told_from_those_of_others() -> None:
    pattern = names.shard_files(data_suffixes(), 5)
    ours = ["00000.tar", "00000", "00000.parquet", "00000_stats.json", "123456.lmdb", "00000.tfrecord"]
    others = [
        "0000.tar",
        "00000.tar.gz",
        "a00000.tar",
        "00000_stats.txt",
        "README.md",
        ".turbo-fetch",
        "00000.json",
    ]
    assert all(pattern.fullmatch(name) for name in ours)
    assert not any(pattern.fullmatch(name) for name in others)
