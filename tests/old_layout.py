"""Datasets in the layout of earlier versions: recorded ones, and new ones put back into it.

`old_layout.tar.xz` holds what the last version with that layout made of a list of eight URLs, of which two failed, in
three formats, but for their reports.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

RECORDED = Path(__file__).with_name("old_layout.tar.xz")


def recorded(output_format: str, folder: Path) -> Path:
    """Return a copy of the recorded dataset of a format."""
    with tarfile.open(RECORDED) as archive:
        members = [member for member in archive if member.name.startswith(f"{output_format}/")]
        archive.extractall(folder, members, filter="data")
    return folder / output_format


def put_back(dataset: Path) -> None:
    """Give a dataset of today the layout of earlier versions."""
    ours = dataset / ".turbo-fetch"
    for stats in dataset.glob("*_stats.json"):
        shard = stats.name.partition("_")[0]
        ledger = f"{shard}.ledger.parquet"
        (ours / "ledger" / f"{shard}.ledger").rename(dataset / ledger)
        record = json.loads(stats.read_bytes())
        record["files"][-1]["name"] = ledger
        # The hash of its own content, which earlier versions did not write.
        del record["sha256"]
        stats.write_text(json.dumps(record), encoding="utf-8")
    (ours / "ledger").rmdir()
    (ours / "job").rename(dataset / "job.json")
    (ours / "metrics").rename(dataset / "metrics.jsonl")
    (ours / "spec.toml").rename(dataset / "spec.toml")
    lines = [json.loads(line) for line in (ours / "manifest").read_text().splitlines()]
    for line in lines:
        line["files"][-1]["name"] = f"{line['name']}.ledger.parquet"
        del line["sha256"]
    (dataset / "manifest.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (ours / "manifest").unlink()
    refresh = ours / "refresh"
    if refresh.exists():
        shutil.move(refresh, dataset / "refresh")
        (dataset / "refresh" / "run").rename(dataset / "refresh" / "run.json")
        for report in (dataset / "refresh").glob("*.refresh"):
            report.rename(report.with_suffix(".parquet"))
