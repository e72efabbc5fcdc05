"""Measure how rates scale with workers and nodes, and forecast billions of URLs: `python bench/scaling.py`.

The origin answers after a latency, and images are tiny, so that requests in flight are the bound and not the cores,
of which every simulated node would need its own. `--quick` measures less and keeps nothing. Rows of `throughput.py`
that it needs: http, steady-cost; and `micro/driver_cost.py`. `python -m docs.generate` makes docs/scale.md of the
result.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

ROOT = Path(__file__).resolve().parents[1]
LATENCY_MS: Final = 200
CONCURRENCY: Final = 64
STEADY_S: Final = 12
NODES: Final = (10, 30, 100, 300, 1000)
SHARDS: Final = 20_000


def main() -> int:
    """Measure, forecast, print and save."""
    os.chdir(ROOT)
    sys.path[0] = str(ROOT)
    os.environ.update(
        RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(16), RAY_USAGE_STATS_ENABLED="0"
    )
    from bench.machine import describe_machine, now, our_versions
    from bench.scale_model import Cluster, World, forecast, scaled

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter runs, results not kept")
    arguments = parser.parse_args()
    result: dict[str, Any] = {
        "row": "scaling",
        "date": now(),
        "command": shlex.join(["python", "bench/scaling.py", *sys.argv[1:]]),
        "machine": describe_machine(),
        "versions": {"ours": our_versions()},
        "parameters": {"latency_ms": LATENCY_MS, "concurrency": CONCURRENCY},
        "points": measure_points(3 if arguments.quick else STEADY_S),
    }
    costs = measure_costs()
    world, cluster = World(), Cluster(nodes=1)
    result["costs"], result["world"], result["cluster"] = asdict(costs), asdict(world), asdict(cluster)
    forecasts = {nodes: forecast(costs, world, scaled(cluster, nodes)) for nodes in NODES}
    result["forecast"] = {
        nodes: {
            **asdict(each),
            "days": each.days,
            "without_tail_days": each.without_tail_days,
            "bound": each.bound,
        }
        for nodes, each in forecasts.items()
    }
    text = json.dumps(result, indent=1) + "\n"
    print(text)
    if not arguments.quick:
        Path("bench/results/scaling.json").write_text(text)
    return 0


def measure_points(steady_s: int) -> list[dict[str, Any]]:
    """Run one and two workers, local and on one and two Ray nodes; return rates and scaling efficiencies."""
    from bench.corpus import SMALL, build_corpus
    from bench.faulty_origin import serve_faulty
    from bench.latency import tiny_corpus

    work = Path(".cache/bench")
    corpus = tiny_corpus(build_corpus(SMALL, Path(".cache")), work / "tiny-few")
    points = []
    with serve_faulty(corpus.folder, LATENCY_MS) as origin:
        for engine in ("local", "ray"):
            alone_per_s = 0.0
            for workers in (1, 2):
                with _engine(engine, workers) as changes:
                    rate_per_s = _rate(corpus, origin, work, changes, workers, steady_s)
                alone_per_s = alone_per_s or rate_per_s
                possible_per_s = workers * CONCURRENCY * 1000 / LATENCY_MS
                point = {
                    "engine": engine,
                    "workers": workers,
                    "requests_per_s": rate_per_s,
                    "of_possible": rate_per_s / possible_per_s,
                    "efficiency": rate_per_s / (workers * alone_per_s),
                }
                print(point, flush=True)
                points.append(point)
    return points


@contextmanager
def _engine(kind: str, workers: int) -> Iterator[list[str]]:
    """Yield the overrides for an engine with workers; for Ray, on as many nodes of one core."""
    if kind == "local":
        yield [f"engine.workers={workers}", "engine.threads=1"]
        return
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "num_cpus": 0})
    try:
        for _ in range(workers):
            cluster.add_node(**node)
        cluster.wait_for_nodes()
        yield ["engine.kind=ray", f"engine.address={cluster.address}"]
    finally:
        cluster.shutdown()


def _rate(corpus: Any, origin: Any, work: Path, changes: list[str], workers: int, steady_s: int) -> float:
    from bench.job import Job, write_list
    from bench.measure import measure
    from bench.ours import our_command, write_spec
    from bench.rate import steady_rate

    rows = int(workers * CONCURRENCY * 1000 / LATENCY_MS * steady_s)
    urls = write_list(work / "scaling.parquet", origin.url, corpus, rows)
    output = work / "output" / "scaling"
    shutil.rmtree(output, ignore_errors=True)
    job = Job(urls, output, samples_per_shard=500, reencode=False)
    http = {"concurrency": CONCURRENCY}
    spec = write_spec(work / "scaling.toml", job, {"http": http, "output": {"format": "dummy"}})
    command = our_command(spec)
    for change in changes:
        command += ["--set", change]
    origin.reset()
    measurement = measure(command, work / "scaling.log", timeout_s=240)
    if measurement.exit_code != 0:
        raise ValueError(f"scaling: exit code {measurement.exit_code}; see {work / 'scaling.log'}")
    return steady_rate(origin.marks().arrivals_monotonic_s)


def measure_costs() -> Any:
    """Measure what a shard costs the driver; what a row and a commit cost is read from other results."""
    import psutil

    from bench.scale_model import Costs
    from turbo_fetch.dataset.manifest import Manifest
    from turbo_fetch.dataset.place import open_place

    http, steady = (
        json.loads(Path(f"bench/results/{row}.json").read_text())["figures"]["turbo-fetch"]
        for row in ("http", "steady-cost")
    )
    moved = json.loads(Path("bench/results/micro-driver-cost.json").read_text())["figures"]["commit"]
    process = psutil.Process()
    with tempfile.TemporaryDirectory() as folder:
        storage = open_place(folder)
        base_bytes = process.memory_info().rss
        begun_s = time.process_time()
        with Manifest.open(storage) as manifest:
            for shard in range(SHARDS):
                manifest.commit(_record(shard))
            spent_s = time.process_time() - begun_s
            grown_bytes = process.memory_info().rss - base_bytes
        manifest_bytes = (Path(folder) / ".turbo-fetch/manifest").stat().st_size
    return Costs(
        cpu_ms_per_row=http["cpu_s_per_1000"],
        loop_ms_per_row=steady["cpu_ms_per_row"],
        # Moving it to where it belongs is most of that on an object store.
        driver_ms_per_shard=spent_s / SHARDS * 1000 + moved["cpu_ms"],
        driver_bytes_per_shard=max(0, grown_bytes) / SHARDS,
        driver_base_bytes=base_bytes,
        manifest_bytes_per_shard=manifest_bytes / SHARDS,
        plan_ms_per_shard=_plan_ms_per_shard(),
    )


def _record(shard: int) -> dict[str, Any]:
    files = [
        {"name": name, "bytes": 1_000_000_000, "sha256": secrets.token_hex(32)}
        for name in (f"{shard:05d}.tar", f"{shard:05d}.parquet", f".turbo-fetch/ledger/{shard:05d}.ledger")
    ]
    return {
        "shard": shard,
        "name": f"{shard:05d}",
        "rows": 10_000,
        "outcomes": {"success": 8_000, "http-4xx": 1_200, "dns": 500, "timeout": 300},
        "body_bytes": 1_000_000_000,
        "failing_hosts": {f"host-{number}.example": 10 for number in range(20)},
        "files": files,
        "rows_digest": secrets.token_hex(32),
    }


def _plan_ms_per_shard() -> float:
    """Cut a 10-million-row Parquet list into shards of 10,000."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from turbo_fetch.plan.sharder import plan_shards
    from turbo_fetch.spec import InputSpec

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "list.parquet"
        block = pa.table({"url": [f"http://host{row % 5000}.example/{row}.jpg" for row in range(1_000_000)]})
        with pq.ParquetWriter(path, block.schema) as writer:
            for _ in range(10):
                writer.write_table(block)
        begun_s = time.process_time()
        shards = sum(1 for _ in plan_shards(InputSpec(urls=str(path)), 10_000))
        return (time.process_time() - begun_s) / shards * 1000


if __name__ == "__main__":
    sys.exit(main())
