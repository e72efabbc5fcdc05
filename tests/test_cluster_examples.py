"""The cluster files of examples/ are what Ray and Kubernetes read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml

FOLDER = Path(__file__).parents[1] / "examples" / "cluster"


def _read(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text())


def test_the_autoscaler_takes_the_cloud_cluster() -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(_read("aws.yaml"), schema)


@pytest.mark.parametrize("key", ["InstanceType", "InstanceMarketOptions"])
def test_workers_in_the_cloud_are_spot_instances(key: str) -> None:
    assert key in _read("aws.yaml")["available_node_types"]["spot"]["node_config"]


def test_the_kuberay_job_runs_turbo_fetch_on_a_head_without_cores() -> None:
    job = _read("kuberay.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert job["spec"]["entrypoint"].startswith("python -m turbo_fetch run ")
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    group = cluster["workerGroupSpecs"][0]
    assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for pod in (cluster["headGroupSpec"], group):
        mounts = {mount["name"] for mount in pod["template"]["spec"]["containers"][0]["volumeMounts"]}
        assert mounts == {volume["name"] for volume in pod["template"]["spec"]["volumes"]}
