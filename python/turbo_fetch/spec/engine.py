"""`[engine]`: where the work runs."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt, model_validator

from turbo_fetch.spec.table import Table


class EngineSpec(Table):
    """`[engine]`: where the work runs."""

    kind: Literal["local", "ray", "spark"] = "local"
    """`local`: worker processes on this machine; `ray`, `spark`: workers on a cluster."""
    workers: PositiveInt | Literal["auto"] = "auto"
    """Number of workers. One event loop feeds about eight decoding cores, so `auto` is one per eight cores of this
    machine, or of each machine of the cluster, including those that join later."""
    threads: PositiveInt | Literal["auto"] = "auto"
    """Decoding threads per worker; `auto` shares the cores of a machine among its workers."""
    address: str | None = None
    """Ray: address of the cluster, `host:6379`, `ray://host:10001`, or `auto` for the one that this machine
    belongs to; by default that one if it exists, otherwise a new one on this machine. Spark: the master, such as
    `spark://host:7077`; by default what `spark-submit` or the Spark configuration says."""

    @model_validator(mode="after")
    def _address_has_a_use(self) -> EngineSpec:
        if self.kind == "local" and self.address is not None:
            raise ValueError(
                f'address is {self.address!r}, but kind is "local"; expected kind = "ray" or "spark"'
            )
        return self
