"""Whether the network and the resolver of this side work, as the attempts of a pool show.

An attempt that ends in silence (no connection, no name, no more bytes) says nothing of its host as long as nobody else
is heard. So its row is held until somebody answers who was asked after it had failed, or until witnesses are found that
say whose fault it was (:mod:`turbo_fetch.fetch.witnesses`). If it was the host's, the attempt counts. If it was the
network's, there is an outage: no request starts, witnesses are asked again and again, and when one answers, all rows
that met the outage are asked again as if nothing had been.

A process that is stopped, or a loop that is held up, sees deadlines go by that no host missed, and connections end that
nobody attended to: what was under way then is asked again as after an outage.

Where no witness can tell and the failure is of a kind that has its cause on this side, rows are held as long as nobody
answers; when they become many, the parent stops the run (:mod:`turbo_fetch.progress.outage`).
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice, takewhile
from time import monotonic
from typing import Final, Protocol

from turbo_fetch.causes import Cause, Reason, local_cause, reason_of
from turbo_fetch.fetch.request import Fetched, Row
from turbo_fetch.fetch.witnesses import Witnesses
from turbo_fetch.outcomes import Outcome

GRACE_S: Final = 0.5
"""How long a row is held before witnesses are asked; not at all if its failure is one of this side."""
SLOW_S: Final = 0.9
"""A witness that takes so long to answer was found at the second attempt: there was an outage, which just ended."""
QUIET_S: Final = 1.0
"""So long without any answer, while requests are under way, is looked into; then twice as long each time."""
LONGEST_QUIET_S: Final = 8.0
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 5.0
"""Between two questions to witnesses in an outage."""
PROBE_EVERY_S: Final = 2.0
"""Between two questions where no witness can tell."""
STANDSTILL_S: Final = 2.0
"""The loop looks around at least every GRACE_S: where so much passes between two looks, this process stood still."""
FEW: Final = 100
"""So few rows at the end of a list are not waited with where no witness can tell."""
MANY: Final = 1000
"""So many are waited with for longer than the parent waits before it stops a run."""
BURST_DOMAINS: Final = 5
"""Domains that fail in the same moment, by a failure of this side: a short outage that no witness saw."""
DOMAINS_COUNTED: Final = 16

_UNASKED: Final = frozenset({Outcome.URL, Outcome.ADDRESS, Outcome.ROBOTS, Outcome.DENIED, Outcome.DUPLICATE})
"""Outcomes that are known without an answer of anybody."""
_CUT: Final = frozenset({Outcome.CONNECT, Outcome.TRUNCATED})
"""How an attempt also ends whose connection nobody attended to for a while."""
_REQUEST_TIMEOUT: Final = 408


def is_silent(fetched: Fetched) -> bool:
    """Whether an attempt ended without a sign of life, so that the network may have been gone."""
    if fetched.outcome is Outcome.SUCCESS:
        return False
    if fetched.outcome is Outcome.STALLED:
        return True
    if fetched.outcome is Outcome.TIMEOUT:
        return fetched.http_status != _REQUEST_TIMEOUT
    return local_cause(fetched.outcome, fetched.detail) is not None


@dataclass(slots=True)
class HeldRow:
    """A row, how it failed, and when: by how many attempts of all rows had begun."""

    row: Row
    fetched: Fetched
    begun: int
    was_quiet: bool
    """Whether nobody had answered for a while, so that what is heard later may have come through at a second try."""

    @property
    def cause(self) -> Cause | None:
        """Return the cause on this side that its failure has, or may have."""
        return local_cause(self.fetched.outcome, self.fetched.detail)


class Pool(Protocol):
    """What a pool does for its network."""

    in_flight: int

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way and no row could start."""

    @property
    def is_last(self) -> bool:
        """Whether no further rows will come."""

    def settle(self, row: Row, fetched: Fetched) -> None:
        """Take a failure that is the host's."""

    def ask_again(self, row: Row) -> None:
        """Let a row be asked again; the attempt that met an outage does not count."""

    def let_one_ask(self) -> None:
        """Let a row start in spite of an outage."""

    def returned(self) -> None:
        """Take note of the end of an outage."""


class Service:
    """The network, or the resolver, and the rows that wait to know whether it works; `works` asks witnesses."""

    def __init__(self, works: Callable[[list[str]], Awaitable[bool | None]], network: Network) -> None:
        self.held: deque[HeldRow] = deque()
        self.down_since_s: float | None = None
        self.is_unknown = False
        """Whether no witness could tell when they were asked last."""
        self._works = works
        self._network = network
        self._doubt = asyncio.Event()
        self._is_urgent = asyncio.Event()
        self._returned = asyncio.Event()

    def hold(self, held: HeldRow) -> None:
        """Hold a row until it is known whose fault it was."""
        self.held.append(held)
        self._doubt.set()
        if held.cause is not None:
            self._is_urgent.set()

    def doubt(self) -> None:
        """Let witnesses be asked though no row has failed."""
        self._doubt.set()
        self._is_urgent.set()

    def answered(self, begun: int) -> None:
        """Take note that somebody answered an attempt, the `begun`-th."""
        if self.down_since_s is not None:
            self._returned.set()
            return
        settled = takewhile(lambda held: held.begun < begun and not held.was_quiet, self.held)
        count = sum(1 for _ in settled)
        self._network.settle(self.take(count))

    def take(self, count: int) -> list[HeldRow]:
        """Return the rows that are held for longest, which are held no longer."""
        return [self.held.popleft() for _ in range(min(count, len(self.held)))]

    async def watch(self) -> None:
        """Ask witnesses whenever there is doubt, until cancelled."""
        while True:
            await self._doubt.wait()
            await _wait_for(self._is_urgent, GRACE_S)
            self._doubt.clear()
            self._is_urgent.clear()
            began_s, seen, was_unknown = monotonic(), len(self.held), self.is_unknown
            works = await self._works(self._failed())
            self.is_unknown = works is None
            if works is False:
                await self._outlast()
            elif works and (was_unknown or monotonic() - began_s >= SLOW_S):
                self._network.over()
                self._network.spare(self.take(len(self.held)))
            elif works:
                self._network.settle(self.take(len(self.held) if is_burst(self.held) else seen))
            else:
                self._network.settle(self._take_those_of_hosts())
            if self.held:
                self._doubt.set()
            await asyncio.sleep(PROBE_EVERY_S if self.is_unknown and self.held else GRACE_S)
            if self.is_unknown and self.held:
                self._network.wait_for_answers(self)

    async def _outlast(self) -> None:
        """Wait until the outage is over."""
        self.down_since_s = monotonic()
        self._returned.clear()
        pause_s = FIRST_PAUSE_S
        while not await _wait_for(self._returned, pause_s):
            pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)
            self._network.let_one_ask()
            if await self._works(self._failed()):
                break
        self.down_since_s = None
        self._network.over()
        for held in self.take(len(self.held)):
            self._network.pool.ask_again(held.row)

    def _failed(self) -> list[str]:
        """Return addresses of rows that are held, one per domain."""
        latest = islice(reversed(self.held), MANY)
        return list({held.row.domain: held.row.address for held in latest}.values())

    def _take_those_of_hosts(self) -> list[HeldRow]:
        """Return the rows whose failures are not of this side, for no witness speaks against it."""
        rows = self.take(len(self.held))
        self.held.extend(held for held in rows if held.cause is not None)
        return [held for held in rows if held.cause is None]


class Network:
    """What is known of this side; belongs to one event loop."""

    def __init__(self, witnesses: Witnesses, pool: Pool) -> None:
        self.answers = 0
        """Attempts that ended in what only a network that works brings about."""
        self._witnesses = witnesses
        self.pool = pool
        self._begun = 0
        self._spared = 0
        """Attempts up to this one were under way in an outage, or when this process stood still."""
        self._looked_s: float | None = None
        self._heard_s = 0.0
        self._quiet_s = QUIET_S
        self._idle_since_s: float | None = None
        self._may_ask = False
        self._reachable = Service(witnesses.network_works, self)
        self._resolver = Service(witnesses.resolver_works, self)
        self._services = (self._reachable, self._resolver)

    @property
    def is_down(self) -> bool:
        """Whether there is an outage, in which no row starts but those that `may_one_ask` lets."""
        return self._reachable.down_since_s is not None or self._resolver.down_since_s is not None

    @property
    def held(self) -> int:
        """Rows that wait until it is known whose fault it was, or until an outage is over."""
        return len(self._reachable.held) + len(self._resolver.held)

    def may_one_ask(self) -> bool:
        """Whether one row may start in spite of an outage, to see whether it is over; it must then start."""
        may_ask, self._may_ask = self._may_ask, False
        return may_ask

    @property
    def answered(self) -> dict[str, str]:
        """A few hosts that answered lately, by domain."""
        return self._witnesses.latest

    @property
    def has_witnesses(self) -> bool:
        """Whether hosts are known that answered somebody lately."""
        return self._witnesses.are_known

    def hear_of(self, hosts: Mapping[str, str]) -> None:
        """Take hosts that answered others."""
        self._witnesses.hear_of(hosts)

    def let_one_ask(self) -> None:
        """Let one row start in spite of an outage."""
        self._may_ask = True
        self.pool.let_one_ask()

    def begin(self) -> int:
        """Take note that an attempt begins; return its number."""
        self._begun += 1
        return self._begun

    def is_judged(self, begun: int) -> bool:
        """Whether the duration of an attempt says anything of its host: there was no outage meanwhile."""
        return begun > self._spared and not self.is_down

    def ended(self, row: Row, fetched: Fetched, begun: int) -> bool:
        """Take the end of an attempt; return whether its row is held, or asked again already."""
        self._look_around()
        was_disturbed = begun <= self._spared and not self.is_down and not row.was_spared
        if was_disturbed and (is_silent(fetched) or fetched.outcome in _CUT):
            row.was_spared = True
            self.pool.ask_again(row)
            return True
        if is_silent(fetched):
            service = self._resolver if fetched.outcome is Outcome.DNS else self._reachable
            was_quiet = monotonic() - self._heard_s >= QUIET_S / 2
            service.hold(HeldRow(row, fetched, self._begun, was_quiet))
            return True
        if fetched.outcome not in _UNASKED:
            self.answers += 1
        if fetched.http_status is not None:
            self._heard(row, begun)
        return False

    async def watch(self) -> None:
        """Find out what is in doubt, until cancelled."""
        self._looked_s = monotonic()
        async with asyncio.TaskGroup() as watching:
            for service in self._services:
                watching.create_task(service.watch())
            while True:
                await asyncio.sleep(GRACE_S)
                self._look_around()
                self._look_for_quiet()

    def settle(self, batch: list[HeldRow]) -> None:
        """Let failures count, for the network works; but not a burst of a kind that hosts do not fail in together."""
        if is_burst(batch):
            self.pool.returned()
            self.spare([held for held in batch if held.cause is not None])
            batch = [held for held in batch if held.cause is None]
        for held in batch:
            self.pool.settle(held.row, held.fetched)

    def spare(self, batch: list[HeldRow]) -> None:
        """Let rows be asked again as if nothing had been, each once: that there was an outage is likely, not seen."""
        for held in batch:
            if held.row.was_spared:
                self.pool.settle(held.row, held.fetched)
            else:
                held.row.was_spared = True
                self.pool.ask_again(held.row)

    def over(self) -> None:
        """Take note that an outage is over: what was under way says nothing of hosts."""
        self._spared = self._begun
        self._quiet_s = QUIET_S
        self.pool.returned()

    def wait_for_answers(self, service: Service) -> None:
        """Wait with rows of which no witness can tell anything, as long as there is hope; one asks now and then."""
        now_s = monotonic()
        if not self.pool.is_idle:
            self._idle_since_s = None
            return
        self._idle_since_s = now_s if self._idle_since_s is None else self._idle_since_s
        if now_s - self._idle_since_s >= self._patience_s():
            self._idle_since_s = None
            self.settle(service.take(len(service.held)))
        else:
            self.pool.ask_again(service.take(1)[0].row)

    def outage(self) -> tuple[Cause, float] | None:
        """Return what is out of order, and for how many seconds; None if there is no outage."""
        usual: tuple[Cause, ...] = ("network", "resolver")
        for service, cause in zip(self._services, usual, strict=True):
            if service.down_since_s is not None:
                causes = Counter(held.cause for held in service.held if held.cause is not None)
                return causes.most_common(1)[0][0] if causes else cause, monotonic() - service.down_since_s
        return None

    def reasons(self) -> Counter[Reason]:
        """Return how many rows are held for which reason, of those whose cause may be on this side."""
        return Counter(
            reason_of(held.fetched.outcome, held.fetched.detail) for held in self._held() if held.cause
        )

    def domains(self) -> int:
        """Return how many domains those are of, up to DOMAINS_COUNTED."""
        found: set[str] = set()
        for held in self._held():
            if held.cause is not None:
                found.add(held.row.domain)
            if len(found) == DOMAINS_COUNTED:
                break
        return len(found)

    def clear(self) -> None:
        """Forget all rows."""
        for service in self._services:
            service.held.clear()

    def _held(self) -> Iterator[HeldRow]:
        return chain(self._reachable.held, self._resolver.held)

    def _heard(self, row: Row, begun: int) -> None:
        """Take note that a host answered."""
        self._witnesses.answered(row.domain, row.address)
        self._heard_s = monotonic()
        self._quiet_s = QUIET_S
        if self._reachable.held or self._reachable.down_since_s is not None:
            self._reachable.answered(begun)
        if self._resolver.held and self._resolver.is_unknown:
            self._resolver.answered(begun)

    def _look_around(self) -> None:
        """See whether this process stood still, in which case what was under way says nothing of hosts."""
        now_s = monotonic()
        before_s, self._looked_s = self._looked_s, now_s
        if before_s is not None and now_s - before_s >= STANDSTILL_S and not self.is_down:
            self.over()
            for service in self._services:
                self.spare(service.take(len(service.held)))

    def _look_for_quiet(self) -> None:
        if self._heard_s and not self.is_down and monotonic() - self._heard_s >= self._quiet_s:
            self._quiet_s = min(LONGEST_QUIET_S, 2 * self._quiet_s)
            if self.pool.in_flight:
                self._reachable.doubt()

    def _patience_s(self) -> float:
        """Return how long to wait when nothing else is to be done.

        Long enough in any case for the parent to hear of them, and to stop the run if it finds no use in going on.
        """
        if self.pool.is_last and self.held < FEW:
            return 0.0
        if not self.answers:
            return PROBE_EVERY_S
        return 15.0 if self.pool.is_last and self.held < MANY else 90.0


def is_burst(rows: Iterable[HeldRow]) -> bool:
    """Whether rows of so many domains failed for a cause on this side that it was not their hosts'."""
    return len({held.row.domain for held in rows if held.cause is not None}) >= BURST_DOMAINS


async def _wait_for(event: asyncio.Event, seconds: float) -> bool:
    """Wait until an event is set, or the time is over; return whether it is set."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return event.is_set()
    return True
