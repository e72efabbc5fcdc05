"""The page about billions of URLs, from bench/results/scaling.json, which `python bench/scaling.py` makes."""

from __future__ import annotations

import json
from typing import Any

from docs.generate.performance import RESULTS

RESOURCES = {
    "cores_days": "Cores",
    "loops_days": "Loops",
    "network_days": "Network",
    "in_flight_days": "In flight",
    "lookups_days": "Lookups",
    "driver_days": "Driver",
    "without_tail_days": "All but the busiest hosts",
}

PAGE = """\
# Billions of URLs

What to provision, where the limits are, and how certain that is. The figures come from `python
bench/scaling.py` and `python bench/micro/driver_cost.py`, which measure one machine and feed a model of a large
cluster (`bench/scale_model.py`).

Hours that each resource alone needs for 5 billion rows (500,000 shards), and the resulting total:

{table}

The driver then uses {driver_mb:.0f} MB of memory and a manifest of {manifest_mb:.0f} MB; cutting the list into
shards by reference takes {plan_s:.0f} s.

Measured on {date} ({cpu}, {cores} cores):

- One worker, and two, local and on two Ray nodes, with 200 ms latency and {concurrency} requests in flight
  each:

{points}

- On {steady_date}, one row of a list of {steady_rows:,} with tiny images, latency {steady_latency} ms:
  {loop_ms:.2f} ms of CPU, or {per_core:,.0f} rows a second per core. The first, a middle and the last tenth
  of the rows differ by a factor of {flat:.2f}, and memory peaks at {steady_mb:.0f} MB. A list of 10 million
  rows was not run to its end.

## What limits a run

A run takes as long as its scarcest resource. For 5 billion rows on nodes of 16 cores and 10 Gbit/s:

- **Cores** decode. An image of 135 KB takes about {cpu_ms:.1f} ms of one core, so 16 cores decode
  {node_images:,.0f} images/s.
- **Loops**: a worker has one Python interpreter, which takes {loop_ms:.2f} ms at most for a row, whatever its
  image. A node of 16 cores has two workers, so {node_rows:,.0f} rows/s. Where images are small, set
  `engine.workers` higher.
- **Requests in flight** wait. At half a second per request on average, dead servers included, 1,024 requests in
  flight per worker give 2,048 requests/s. Set `fetch.http.concurrency = 1024` on a cluster: the default of 256
  leaves the cores idle.
- **The network** carries 135 KB per image: 10 Gbit/s carry 9,200 images/s.
- **Name resolution** is spread over the workers, 64 lookups at a time in each, and cached. Run a caching
  resolver on every node (unbound, dnsmasq, systemd-resolved): a shared cloud resolver refuses thousands of
  queries per second.
- **The driver** hands out and commits shards. A commit to an object store is {commit_requests:.0f} requests, 16
  shards at a time, and {commit_ms:.0f} ms of CPU. It holds one number per shard in memory.
- **Lists that only the driver has** go through it row by row: about 7 ms of its CPU for a shard of 10,000 rows in the
  order `spread`, 2 ms in the order `position`, also from row groups of a million rows. Put a large list where all
  machines see it, as Parquet in an object store or on the shared disk of the output: then a shard is half a kilobyte to
  the driver.
- **The busiest host** is the limit that no hardware lifts. A registrable domain with 1 % of 5 billion rows has
  50 million of them; at 8 requests in flight and half a second each that takes {tail:.0f} days, whatever the
  cluster. Everything else may finish on the first day. The order `spread` starts such hosts early. The only way
  to shorten the tail is to get their operators' permission for a higher `per_domain`; removing the limit
  (`per_domain = 0`) is an attack. `per_domain` holds for the whole cluster.
- **The driver issues permits for domains** to workers: about 5 µs for each domain of each shard. A shard of
  10,000 rows with 4,000 domains costs 20 ms, so one driver serves 50 such shards, half a million rows, per
  second.

## What to provision

| | |
|---|---|
| Driver | 2 cores, 1 GB of memory and 0.1 GB per billion rows, 1 GB of disk per 10 billion rows for the manifest |
| Node | 8 cores, 1 GB of memory and 20 GB of disk per worker; `ulimit -n` of at least four times the concurrency |
| Samples per shard | 10,000; fewer mean more files, more mean that a lost machine costs more |
| Output | an object store; about 20 KB per image of 256 pixels |
| Outgoing address | one per node, so that hosts see a cluster as many clients; say who you are in `user_agent` |

## How certain

- Rates of 1 and 2 workers, local and on Ray, are measured. That hundreds of nodes scale like two is an
  assumption of the model: workers share only the driver, whose cost per shard is measured on 20,000 shards.
- Latency, body sizes, hosts and their distribution (Zipf) are assumptions about the list, in `World` in
  `bench/scale_model.py`. Change them there and run it again.
- A commit is measured against a server on loopback, which keeps connections, as stores do, and answers at once; the
  time that a real store takes to answer is not in it, and 16 commits wait at a time.
- A run that resumes reads the manifest and lists the output: {resumed_s:.0f} s for {records:,} shards in a folder.
- Object stores limit requests per prefix; four puts and four copies per shard of 10,000 are far below that
  limit.
"""


def scale_page() -> str:
    """Return the page."""
    scaling, steady = (
        json.loads((RESULTS / f"{row}.json").read_text()) for row in ("scaling", "steady-cost")
    )
    driver = json.loads((RESULTS / "micro-driver-cost.json").read_text())["figures"]
    costs, forecasts = scaling["costs"], scaling["forecast"]
    ten, figures = forecasts["10"], steady["figures"]["turbo-fetch"]
    return PAGE.format(
        table="\n".join(_table(forecasts)),
        points="\n".join(_points(scaling["points"])),
        driver_mb=ten["driver_bytes"] / 1e6,
        manifest_mb=ten["manifest_bytes"] / 1e6,
        plan_s=ten["plan_s"],
        date=scaling["date"][:10],
        cpu=scaling["machine"]["cpu"],
        cores=scaling["machine"]["cores"],
        concurrency=scaling["parameters"]["concurrency"],
        steady_date=steady["date"][:10],
        steady_rows=steady["parameters"]["rows"],
        steady_latency=steady["parameters"]["latency_ms"],
        loop_ms=costs["loop_ms_per_row"],
        per_core=figures["rows_per_core_s"],
        flat=steady["value"],
        steady_mb=figures["peak_pss_mb"],
        cpu_ms=costs["cpu_ms_per_row"],
        node_images=16_000 / costs["cpu_ms_per_row"],
        node_rows=2_000 / costs["loop_ms_per_row"],
        commit_requests=driver["commit"]["requests"],
        commit_ms=driver["commit"]["cpu_ms"],
        resumed_s=driver["manifest"]["resumed_s"],
        records=driver["manifest"]["records"],
        tail=ten["busiest_host_days"],
    )


def _table(forecasts: dict[str, Any]) -> list[str]:
    lines = [
        f"| Nodes | {' | '.join(RESOURCES.values())} | Busiest host, days |",
        "|---" * (len(RESOURCES) + 2) + "|",
    ]
    for nodes, found in forecasts.items():
        hours = [f"{found[name] * 24:.{2 if name == 'driver_days' else 1}f}" for name in RESOURCES]
        lines.append(f"| {int(nodes):,} | {' | '.join(hours)} | {found['busiest_host_days']:.0f} |")
    return lines


def _points(points: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| Engine | Workers | Requests/s | Of what latency and concurrency allow | Per worker, against one |",
        "|---|---|---|---|---|",
    ]
    return lines + [
        f"| {point['engine']} | {point['workers']} | {point['requests_per_s']:.0f} | {point['of_possible']:.0%} "
        f"| {point['efficiency']:.2f} |"
        for point in points
    ]
