"""A part of a list's shards, for one of several runs that make one dataset side by side."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Final

from turbo_fetch.spec import FetchSpec, HttpSpec

SCOPE: Final = "{}-of-{}"


@dataclass(frozen=True, slots=True)
class Part:
    """Every `count`th shard, from shard `number` on: equal shares, whatever the length of the list."""

    number: int
    count: int

    @classmethod
    def of(cls, text: str) -> Part:
        """Return the part that `engine.shards` names: `2/8`."""
        number, _, count = text.partition("/")
        return cls(int(number), int(count))

    @property
    def scope(self) -> str:
        """What its lease is on."""
        return SCOPE.format(self.number, self.count)

    @property
    def all_scopes(self) -> list[str]:
        """What the leases are on of all parts that make the dataset."""
        return [SCOPE.format(number, self.count) for number in range(self.count)]

    def has(self, shard: int) -> bool:
        """Return whether a shard is of this part."""
        return shard % self.count == self.number

    def skipped(self, committed: Container[int]) -> Container[int]:
        """Return what is not to be made: shards of other parts, and those that are `committed`."""
        return _Skipped(self, committed)

    def share(self, fetch: FetchSpec, spool: str) -> FetchSpec:
        """Return what one of the runs may do so that hosts are asked as by one run; with a spool of its own."""
        output = fetch.output.model_copy(update={"spool": spool})
        return fetch.model_copy(update={"http": self._polite(fetch.http), "output": output})

    def _polite(self, http: HttpSpec) -> HttpSpec:
        domains = {
            name: preset.model_copy(
                update={
                    "concurrency": preset.concurrency and max(1, preset.concurrency // self.count),
                    "delay_s": preset.delay_s and preset.delay_s * self.count,
                }
            )
            for name, preset in http.domains.items()
        }
        per_domain = http.per_domain and max(1, http.per_domain // self.count)
        max_mbps = http.max_mbps and http.max_mbps / self.count
        return http.model_copy(update={"per_domain": per_domain, "domains": domains, "max_mbps": max_mbps})


@dataclass(frozen=True, slots=True)
class _Skipped:
    part: Part
    committed: Container[int]

    def __contains__(self, shard: object) -> bool:
        return not (isinstance(shard, int) and self.part.has(shard)) or shard in self.committed
