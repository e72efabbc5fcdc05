"""What a shard costs the driver of a cluster: `python bench/micro/driver_cost.py`.

Told are the requests and the CPU time of a commit to an object store (a small one on loopback, as a process of its
own, so that only the client's share is counted): four files that a worker published aside are moved to where they
belong, and the record goes into the manifest. And how long a manifest of 500,000 records takes to be opened by a run
that resumes, with all its files there (`--shards` for fewer), and what the driver does for a shard of a list in the
order `spread`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import secrets
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

ROOT = Path(__file__).resolve().parents[2]
COMMITS: Final = 100
RECORDS: Final = 500_000
SPREAD_ROWS: Final = 2_000_000


def main() -> None:
    """Measure, print and save."""
    os.chdir(ROOT)
    sys.path[:1] = [str(ROOT), str(ROOT / "tests")]
    from bench.machine import describe_machine, now, our_versions

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=RECORDS, help="records of the manifest that is opened")
    parser.add_argument("--print-only", action="store_true", help="do not keep the result")
    arguments = parser.parse_args()
    figures = {
        "commit": measure_commits(),
        "manifest": measure_manifest(arguments.shards),
        "spread": measure_spread(),
    }
    result = {
        "micro": "driver-cost",
        "date": now(),
        "command": shlex.join(["python", "bench/micro/driver_cost.py", *sys.argv[1:]]),
        "machine": describe_machine(),
        "versions": our_versions(),
        "figures": figures,
    }
    if not arguments.print_only:
        Path("bench/results/micro-driver-cost.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(figures, indent=1))


def measure_commits() -> dict[str, float]:
    """Return requests, CPU and wall time per shard, of shards that are committed as the driver of a cluster does."""
    import urllib.request

    from bench.object_store import keeping_store

    from object_store import configured
    from turbo_fetch.dataset.attempts import light_beacon, new_attempt
    from turbo_fetch.dataset.lock import locked
    from turbo_fetch.dataset.place import open_place

    with keeping_store() as address, configured(address), tempfile.TemporaryDirectory() as work:
        storage = open_place("s3://data/set", work)
        attempt = new_attempt(light_beacon(storage))
        aside = storage.inside(f".turbo-fetch/attempts/{attempt}", Path(work))
        records = [_published(aside, shard) for shard in range(COMMITS)]

        def asked() -> int:
            with urllib.request.urlopen(f"{address}/requests") as answer:
                return int(answer.read())

        with locked(storage):
            before, begun_s, begun_cpu_s = asked(), time.monotonic(), time.process_time()
            _commit_all(storage, attempt, records)
            cpu_s, wall_s = time.process_time() - begun_cpu_s, time.monotonic() - begun_s
            requests = asked() - before
        assert all(storage.exists(f"{record['name']}_stats.json") for record in (records[0], records[-1]))
    return {
        "requests": requests / COMMITS,
        "cpu_ms": cpu_s / COMMITS * 1000,
        "wall_ms": wall_s / COMMITS * 1000,
    }


def _commit_all(storage: Any, attempt: str, records: list[dict[str, Any]]) -> None:
    from turbo_fetch.dataset.manifest import Manifest
    from turbo_fetch.dataset.moves import Moves

    with Manifest.open(storage) as manifest:
        moves: Moves[dict[str, Any]] = Moves(storage)
        for made in records:
            moves.begin(made, attempt, made)
        for made in moves.rest():
            manifest.commit(made)


def measure_manifest(shards: int) -> dict[str, float]:
    """Return how long a manifest takes to be opened, the memory for it, and its size."""
    from turbo_fetch.dataset.manifest import Manifest
    from turbo_fetch.dataset.place import open_place
    from turbo_fetch.dataset.seal import sealed

    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_FOLDER")) as folder:
        storage = open_place(folder)
        (Path(folder) / ".turbo-fetch/ledger").mkdir(parents=True)
        with (Path(folder) / ".turbo-fetch/manifest").open("wb") as file:
            for shard in range(shards):
                made = record(shard)
                file.write(sealed(made))
                for each in made["files"]:
                    os.truncate(_touched(Path(folder) / each["name"]), each["bytes"])
                (Path(folder) / f"{made['name']}_stats.json").write_bytes(b"{}")
        before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        begun_s, begun_cpu_s = time.monotonic(), time.process_time()
        with Manifest.open(storage) as manifest:
            opened_s = time.monotonic() - begun_s
            cpu_s = time.process_time() - begun_cpu_s
            assert len(manifest.committed) == shards
            rows = sum(each["rows"] for each in manifest.records())
            assert rows == shards * 10_000
            resumed_s = time.monotonic() - begun_s
    return {
        "records": shards,
        "opened_s": opened_s,
        "opened_cpu_s": cpu_s,
        "resumed_s": resumed_s,
        "grown_mb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb) / 1000,
    }


def _touched(path: Path) -> Path:
    path.touch()
    return path


def measure_spread() -> dict[str, float]:
    """Return what cutting a Parquet list in the order `spread` costs for a shard, and what is sent to its worker."""
    import pickle

    import pyarrow as pa
    import pyarrow.parquet as pq

    from turbo_fetch.plan.sharder import plan_shards
    from turbo_fetch.spec import InputSpec

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "list.parquet"
        urls = [f"http://host{row * 7919 % 5000}.example/{row}.jpg" for row in range(SPREAD_ROWS)]
        pq.write_table(
            pa.table({"url": urls, "caption": ["a caption of some length " * 4] * SPREAD_ROWS}), path
        )
        spec = InputSpec(urls=str(path), caption_column="caption", order="spread")
        begun_s = time.process_time()
        sent = [len(pickle.dumps(shard)) for shard in plan_shards(spec, 10_000)]
        cpu_s = time.process_time() - begun_s
    return {"cpu_ms": cpu_s / len(sent) * 1000, "sent_bytes": sum(sent) / len(sent)}


def record(shard: int) -> dict[str, Any]:
    """Return a commit record of the usual size."""
    name = f"{shard:05d}"
    files = (f"{name}.tar", f"{name}.parquet", f".turbo-fetch/ledger/{name}.ledger")
    return {
        "shard": shard,
        "name": name,
        "rows": 10_000,
        "outcomes": {"success": 8_000, "http-4xx": 1_200, "dns": 500, "timeout": 300},
        "body_bytes": 1_000_000_000,
        "failing_hosts": {f"host-{number}.example": 10 for number in range(20)},
        "files": [{"name": file, "bytes": 1000, "sha256": secrets.token_hex(32)} for file in files],
        "rows_digest": secrets.token_hex(32),
    }


def _published(aside: Any, shard: int) -> dict[str, Any]:
    """Publish a shard as a worker does."""
    made = record(shard)
    for file in made["files"]:
        aside.write_bytes(file["name"], bytes(file["bytes"]))
    aside.write_bytes(f"{made['name']}_stats.json", json.dumps(made).encode())
    return made


if __name__ == "__main__":
    main()
