"""A real Ray cluster of several nodes on loopback, and its processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil
from ray.cluster_utils import Cluster

from processes import descendants

NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}


@contextmanager
def ray_cluster(
    nodes: int, dashboard_port: int | None = None, agent_port: int | None = None
) -> Iterator[Cluster]:
    """Run a head without cores, with a dashboard if it has a port, and `nodes` nodes of one core each.

    Its agent takes jobs at any port unless there is one: at the usual one that of another test's cluster may listen.
    """
    dashboard = {
        "include_dashboard": dashboard_port is not None,
        "dashboard_port": dashboard_port,
        "dashboard_agent_listen_port": agent_port,
    }
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0, **dashboard})
    try:
        for _ in range(nodes):
            cluster.add_node(**NODE)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]


def working(*names: str, among: Iterable[psutil.Process] | None = None) -> list[psutil.Process]:
    """Return the processes that work on one of these, as Ray calls it, of the clusters of this test or of some."""
    found = []
    for process in descendants() if among is None else among:
        with suppress(psutil.Error):
            title = "".join(process.cmdline()[:1])
            if title.startswith("ray::") and any(name in title for name in names):
                found.append(process)
    return found


def worker_processes(among: Iterable[psutil.Process] | None = None) -> list[psutil.Process]:
    """Return the processes of turbo-fetch's actors."""
    return working("RayWorker", "turbo-fetch", among=among)
