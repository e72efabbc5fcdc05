"""The messages between parent and worker, pickled over one socket pair per worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from turbo_fetch.dataset.attempts import Replaced
from turbo_fetch.dataset.lease import Claim
from turbo_fetch.fetch.allocations import Demand, Grant
from turbo_fetch.fetch.documents import DocumentAnswers, DocumentNews
from turbo_fetch.fetch.proxies import NO_PROXIES, Proxies
from turbo_fetch.progress.tally import Tally
from turbo_fetch.score.messages import ScoreJob
from turbo_fetch.shard.task import ShardTask
from turbo_fetch.sources.landmarks import Landmark
from turbo_fetch.spec import FetchSpec


@dataclass(frozen=True, slots=True)
class Setup:
    """Parent → worker, first: what the job is and how many decoding threads to use."""

    fetch: FetchSpec
    threads: int
    shares_limits: bool = True
    """Whether other workers may ask the same domains, so that their limits are shared (`fetch/allocations.py`)."""
    attempt: str | None = None
    """Name under which the worker publishes its shards, for the parent to move them to where they belong; None
    if it publishes straight there. See :mod:`turbo_fetch.dataset.attempts`."""
    claim: Claim | None = None
    """The parent's lease on the output, where the worker publishes straight there."""
    score: ScoreJob | None = None
    """What a function of the user's is to say of the images."""
    proxies: Proxies = NO_PROXIES
    """The proxies that lead to hosts, as the parent's environment or the spec names them."""
    landmarks: tuple[Landmark, ...] = ()
    """What a worker on another machine has to see there."""


@dataclass(frozen=True, slots=True)
class WantShard:
    """Worker → parent: there is room for one more shard; answered by a ShardTask or NoMoreShards, the sooner the less
    the worker has to do."""


@dataclass(frozen=True, slots=True)
class GiveBack:
    """Parent → worker: another one has less to do, and could have this shard; answered by GivenBack or Kept."""

    shard: int


@dataclass(frozen=True, slots=True)
class GivenBack:
    """Worker → parent: nothing of the shard was begun, nothing is left of it here, and it may be handed out again."""

    shard: int


@dataclass(frozen=True, slots=True)
class Kept:
    """Worker → parent: the shard is begun, or done."""

    shard: int


@dataclass(frozen=True, slots=True)
class NoMoreShards:
    """Parent → worker: finish what is open, then end."""


@dataclass(frozen=True, slots=True)
class Alive:
    """Parent → worker, at its start and every few seconds: the parent is there. A worker that hears nothing for
    `CUT_OFF_S` starts no request until it does, for the parent may have given its permits to others."""

    answered: Mapping[str, str] = field(default_factory=dict)
    """Hosts that answered some worker lately, by domain: one that has just begun knows none of its own."""


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Parent → worker: its share of what may be downloaded, where that is limited; there is none before the first."""

    bytes_per_s: float


@dataclass(frozen=True, slots=True)
class Stop:
    """Parent → worker: save what has arrived, then end, within seconds."""


@dataclass(frozen=True, slots=True)
class ShardDone:
    """Worker → parent: the shard is published; `record` is its commit record."""

    shard: int
    record: dict[str, Any]
    attempt: str | None = None
    """The attempt of the worker's Setup."""
    replaced: Replaced | None = None
    """The version of the shard that was committed before, if one was."""


@dataclass(frozen=True, slots=True)
class JobError:
    """Worker → parent: the job cannot go on; `kind` names a class of :mod:`turbo_fetch.errors`."""

    kind: str
    message: str


ALIVE_EVERY_S: Final = 5.0
CUT_OFF_S: Final = 30.0
GIVEN_UP_S: Final = 600.0
"""A worker that has heard nothing for so long saves what it has, and ends."""

ToWorker = Setup | ShardTask | NoMoreShards | GiveBack | Grant | DocumentAnswers | Bandwidth | Alive | Stop
ToParent = WantShard | GivenBack | Kept | Demand | DocumentNews | Tally | ShardDone | JobError
