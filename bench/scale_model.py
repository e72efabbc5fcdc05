"""What a run of billions of URLs takes on a cluster: a model of what bounds it, from figures measured on one machine.

A run is bounded by the largest of the times that each resource needs by itself: cores that decode, the event loops of
the workers, the network of the nodes, requests in flight, name resolution, the driver that hands out and commits
shards, and the busiest host, which may not be asked more often than politeness allows. Pure functions; `python
bench/scaling.py` measures and prints.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Costs:
    """What was measured on one machine."""

    cpu_ms_per_row: float
    """CPU time of a worker per row: request, decode, resize, encode, write."""
    loop_ms_per_row: float
    """CPU time of a row whose image is no work: an upper bound of what the one Python interpreter of a worker does."""
    driver_ms_per_shard: float
    """CPU time of the driver, which is one process, to hand out a shard and commit it to an object store."""
    driver_bytes_per_shard: float
    """Memory that the driver keeps for a committed shard."""
    driver_base_bytes: float
    manifest_bytes_per_shard: float
    plan_ms_per_shard: float
    """Time of the driver to cut a shard from a Parquet list by reference."""


@dataclass(frozen=True)
class World:
    """The list and the servers behind it; assumptions, not measurements."""

    rows: int = 5_000_000_000
    body_bytes: float = 135_000
    latency_s: float = 0.5
    """Mean time of a request, dead servers and slow bodies included."""
    lookup_s: float = 0.05
    hosts: int = 20_000_000
    largest_host_share: float = 0.01
    """Share of the rows that the busiest registrable domain has; the others follow Zipf's law."""
    per_domain: int = 8
    """Requests in flight per registrable domain, over the whole cluster."""


@dataclass(frozen=True)
class Cluster:
    """The machines."""

    nodes: int
    cores: int = 16
    gigabit_per_s: float = 10.0
    concurrency: int = 1024
    """Requests in flight per worker."""
    cores_per_worker: int = 8
    samples_per_shard: int = 10_000
    lookups_at_once: int = 64
    """Resolver threads per worker."""


@dataclass(frozen=True)
class Forecast:
    """Days that each resource needs by itself; the run takes the largest of them."""

    cores_days: float
    loops_days: float
    network_days: float
    in_flight_days: float
    lookups_days: float
    driver_days: float
    busiest_host_days: float
    driver_bytes: float
    manifest_bytes: float
    plan_s: float

    @property
    def days(self) -> float:
        """How long the run takes with every host asked politely to the end."""
        return max(self.without_tail_days, self.busiest_host_days)

    @property
    def without_tail_days(self) -> float:
        """How long it takes until only rows of the busiest hosts are left."""
        return max(
            self.cores_days,
            self.loops_days,
            self.network_days,
            self.in_flight_days,
            self.lookups_days,
            self.driver_days,
        )

    @property
    def bound(self) -> str:
        """What the run waits for."""
        names = ("cores", "loops", "network", "in_flight", "lookups", "driver", "busiest_host")
        return max(names, key=lambda name: getattr(self, f"{name}_days"))


def forecast(costs: Costs, world: World, cluster: Cluster) -> Forecast:
    """Return what a run takes."""
    workers = cluster.nodes * ceil(cluster.cores / cluster.cores_per_worker)
    shards = ceil(world.rows / cluster.samples_per_shard)
    day_s = 86_400.0
    return Forecast(
        cores_days=world.rows * costs.cpu_ms_per_row / 1000 / (cluster.nodes * cluster.cores) / day_s,
        loops_days=world.rows * costs.loop_ms_per_row / 1000 / workers / day_s,
        network_days=world.rows
        * world.body_bytes
        * 8
        / (cluster.nodes * cluster.gigabit_per_s * 1e9)
        / day_s,
        in_flight_days=world.rows * world.latency_s / (workers * cluster.concurrency) / day_s,
        # Every worker meets most hosts again and again, and remembers the 65,536 last ones: a bound from above.
        lookups_days=hosts_met(world, workers) * world.lookup_s / cluster.lookups_at_once / day_s,
        driver_days=shards * (costs.driver_ms_per_shard + costs.plan_ms_per_shard) / 1000 / day_s,
        busiest_host_days=world.rows
        * world.largest_host_share
        * world.latency_s
        / (world.per_domain or float("inf"))
        / day_s,
        driver_bytes=costs.driver_base_bytes + shards * costs.driver_bytes_per_shard,
        manifest_bytes=shards * costs.manifest_bytes_per_shard,
        plan_s=shards * costs.plan_ms_per_shard / 1000,
    )


def hosts_met(world: World, workers: int) -> float:
    """Return how many different hosts one worker of many meets: those of which it has at least one row."""
    hosts, rows = host_rows(world)
    return float(np.sum(hosts * -np.expm1(-rows / workers)))


def host_rows(world: World) -> tuple[Floats, Floats]:
    """Return numbers of hosts and the rows that each of them has, most first.

    Zipf's law with the exponent that gives the busiest host its share; hosts of nearly equal rank are put together.
    """
    edges = np.unique(np.geomspace(1, world.hosts + 1, 5_000).astype(np.int64))
    hosts = np.diff(edges).astype(np.float64)
    ranks = (edges[:-1] + edges[1:] - 1) / 2
    low, high = 0.0, 5.0
    for _ in range(60):
        exponent = (low + high) / 2
        weights = ranks**-exponent
        is_too_flat = weights[0] / np.sum(hosts * weights) < world.largest_host_share
        low, high = (exponent, high) if is_too_flat else (low, exponent)
    return hosts, world.rows * weights / np.sum(hosts * weights)


def scaled(cluster: Cluster, nodes: int) -> Cluster:
    """Return the cluster with another number of nodes."""
    return replace(cluster, nodes=nodes)
