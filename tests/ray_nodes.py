"""A real Ray cluster of several nodes on loopback, and its processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
from ray.cluster_utils import Cluster

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


def worker_processes() -> list[psutil.Process]:
    """Return the processes of turbo-fetch's actors."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or [""]
        if words[0].startswith("ray::") and ("RayWorker" in words[0] or "turbo-fetch" in words[0]):
            found.append(process)
    return found
