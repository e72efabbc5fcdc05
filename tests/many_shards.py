"""A dataset of any number of shards, copied from one that a run made: for tests and measurements of scale."""

from __future__ import annotations

import json
import shutil
from pathlib import Path


def multiply(dataset: Path, shards: int) -> None:
    """Give a dataset that has one shard so many of them, of the same rows."""
    stats = json.loads((dataset / "00000_stats.json").read_text())
    stats.pop("sha256", None)
    lines = []
    for number in range(shards):
        name = f"{number:05d}"
        record = {**stats, "shard": number, "name": name, "files": []}
        for file in stats["files"]:
            copy = {**file, "name": file["name"].replace("00000", name)}
            if number:
                shutil.copyfile(dataset / file["name"], dataset / copy["name"])
            record["files"].append(copy)
        (dataset / f"{name}_stats.json").write_text(json.dumps(record))
        lines.append(json.dumps(record))
    (dataset / ".turbo-fetch/manifest").write_text("".join(f"{line}\n" for line in lines))
