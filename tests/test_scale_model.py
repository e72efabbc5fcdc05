"""The model of runs on large clusters: what bounds a run shows, and more machines never take longer."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.scale_model import Cluster, Costs, World, forecast, host_rows, hosts_met, scaled

COSTS = Costs(
    cpu_ms_per_row=3.3,
    loop_ms_per_row=0.3,
    driver_ms_per_shard=0.2,
    driver_bytes_per_shard=100,
    driver_base_bytes=2e8,
    manifest_bytes_per_shard=1_000,
    plan_ms_per_shard=0.05,
)
WORLD = World(rows=1_000_000_000, hosts=1_000_000)
CLUSTER = Cluster(nodes=10)


def test_rows_of_all_hosts_add_up_and_the_busiest_has_its_share() -> None:
    hosts, rows = host_rows(WORLD)
    assert hosts.sum() == 1_000_000
    assert (hosts * rows).sum() == pytest.approx(1_000_000_000)
    assert rows[0] == pytest.approx(10_000_000, rel=1e-3)


def test_cores_alone_take_as_long_as_arithmetic_says() -> None:
    days = forecast(COSTS, WORLD, CLUSTER).cores_days
    assert days == pytest.approx(1e9 * 3.3e-3 / 160 / 86_400)


@pytest.mark.parametrize(
    ("world", "cluster", "bound"),
    [
        (
            replace(WORLD, largest_host_share=1e-5, per_domain=100),
            replace(CLUSTER, concurrency=4096),
            "cores",
        ),
        (
            replace(WORLD, latency_s=0.01, per_domain=0),
            replace(CLUSTER, cores_per_worker=16),
            "loops",
        ),
        (replace(WORLD, body_bytes=5e6, per_domain=0), CLUSTER, "network"),
        (replace(WORLD, latency_s=60, per_domain=0), CLUSTER, "in_flight"),
        (replace(WORLD, lookup_s=1000, per_domain=0), CLUSTER, "lookups"),
        (replace(WORLD, per_domain=0), scaled(replace(CLUSTER, samples_per_shard=10), 10_000), "driver"),
        (WORLD, CLUSTER, "busiest_host"),
    ],
)
def test_the_scarcest_resource_is_named(world: World, cluster: Cluster, bound: str) -> None:
    assert forecast(COSTS, world, cluster).bound == bound


def test_more_nodes_never_take_longer_and_politeness_sets_the_floor() -> None:
    days = [forecast(COSTS, WORLD, scaled(CLUSTER, nodes)).days for nodes in (1, 10, 100, 1000)]
    assert days == sorted(days, reverse=True)
    assert days[-1] == pytest.approx(1e7 * 0.5 / 8 / 86_400, rel=1e-3)


def test_a_worker_meets_no_more_hosts_than_there_are_nor_than_it_has_rows() -> None:
    assert hosts_met(WORLD, 1) == pytest.approx(1_000_000, rel=1e-2)
    assert hosts_met(WORLD, 1_000_000) <= 1_000
