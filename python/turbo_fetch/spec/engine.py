"""`[engine]`: where the work runs."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, model_validator

from turbo_fetch.spec.numbers import Threads, Workers
from turbo_fetch.spec.table import Table

MOST_LOCAL_WORKERS: Final = 1024


def _part(text: str) -> str:
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
    if match is None or int(match[1]) >= int(match[2]):
        raise ValueError(f"{text!r} is no part; expected i/n with i from 0 to n - 1, such as 0/8 or 7/8")
    return text


class EngineSpec(Table):
    """`[engine]`: where the work runs, that of `retry` and `refresh` too."""

    kind: Literal["local", "ray", "spark"] = "local"
    """`local`: worker processes on this machine; `ray`, `spark`: workers on a cluster."""
    workers: Workers | Literal["auto"] = "auto"
    """Number of workers. One event loop feeds about eight decoding cores, so `auto` is one per eight cores of this
    machine, or of each machine of the cluster, including those that join later."""
    threads: Threads | Literal["auto"] = "auto"
    """Decoding threads per worker; `auto` shares the cores of a machine among its workers."""
    address: str | None = None
    """Ray: address of the cluster, `host:6379`, `ray://host:10001`, or `auto` for the one that this machine
    belongs to; by default that one if it exists, otherwise a new one on this machine. Spark: the master, such as
    `spark://host:7077`; by default what `spark-submit` or the Spark configuration says."""
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Spark: the port of the driver at which workers call, beside `spark.driver.port` and
    `spark.driver.blockManager.port`, where a firewall lets only some through; 0: one that is free."""

    shards: Annotated[str, AfterValidator(_part)] | None = None
    """`i/n`: make only every n-th shard, from the i-th on, counted from 0, while other runs make the others into the
    same dataset, as the tasks of a job array do. Each has an n-th part of `per_domain`. Stages after `[fetch]` are left
    out."""

    @model_validator(mode="after")
    def _shards_are_made_here(self) -> EngineSpec:
        if self.shards is not None and self.kind != "local":
            raise ValueError(f'shards is {self.shards!r}, but kind is {self.kind!r}; expected kind = "local"')
        return self

    @model_validator(mode="after")
    def _workers_fit_this_machine(self) -> EngineSpec:
        if self.kind == "local" and self.workers != "auto" and self.workers > MOST_LOCAL_WORKERS:
            raise ValueError(
                f'workers is {self.workers}, but kind is "local"; expected at most {MOST_LOCAL_WORKERS} processes on a '
                "machine"
            )
        return self

    @model_validator(mode="after")
    def _address_has_a_use(self) -> EngineSpec:
        if self.kind == "local" and self.address is not None:
            raise ValueError(
                f'address is {self.address!r}, but kind is "local"; expected kind = "ray" or "spark"'
            )
        return self

    @model_validator(mode="after")
    def _port_has_a_use(self) -> EngineSpec:
        if self.kind != "spark" and self.port:
            raise ValueError(
                f'port is {self.port}, but kind is "{self.kind}"; it is where the workers of kind = "spark" call'
            )
        return self
