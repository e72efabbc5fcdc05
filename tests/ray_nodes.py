"""A real Ray cluster of several nodes on loopback, and its processes."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

# Read by Ray when it is imported and by every process it starts.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(16))
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

from ray.cluster_utils import Cluster

NODE = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}


@contextmanager
def ray_cluster(nodes: int) -> Iterator[Cluster]:
    """Run a head without cores and `nodes` nodes of one core each."""
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0})
    try:
        for _ in range(nodes):
            cluster.add_node(**NODE)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        cluster.shutdown()


def worker_processes() -> list[psutil.Process]:
    """Return the processes of turbo-fetch's actors."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or [""]
        if words[0].startswith("ray::") and ("RayWorker" in words[0] or "turbo-fetch" in words[0]):
            found.append(process)
    return found
