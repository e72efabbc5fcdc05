"""What hosts ask of crawlers, learnt once per host: robots.txt and TDM reservations, cached and coalesced."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Final, TypeVar

from turbo_fetch.causes import RULES_FAULT
from turbo_fetch.fetch.consent import SILENT, TDMREP_JSON, HostRules, Reservations, parse_reservations
from turbo_fetch.fetch.documents import LIFETIME_S, Document, failure_lasts_s
from turbo_fetch.fetch.failures import Failure
from turbo_fetch.fetch.robots import ROBOTS_TXT, Robots
from turbo_fetch.fetch.shared_documents import Ask, SharedDocuments
from turbo_fetch.outcomes import Outcome
from turbo_fetch.spec import HttpSpec

MAX_HOSTS: Final = 16_384
MAX_RULE_BYTES: Final = 32_000_000
"""Memory that the rules of all known hosts may take together; those not needed for longest are forgotten."""

LONG_TEXT: Final = 4_000
"""Characters of a document from which on it is parsed in a thread, for it would stop the loop."""

_OF_HOST: Final = frozenset({Outcome.ADDRESS, Outcome.DNS, Outcome.URL})

R = TypeVar("R", Robots, Reservations)


@dataclass(frozen=True, slots=True)
class Host:
    """What is known of a host: its rules, or why they cannot be had, which is why it may not be asked."""

    rules: HostRules
    failure: Failure | None
    expires_s: float
    failures: int = 0
    """Failures in a row."""

    @property
    def memory_bytes(self) -> int:
        """About how much memory the rules take."""
        return sum(
            each.memory_bytes for each in (self.rules.robots, self.rules.reservations) if each is not None
        )

    @property
    def crawl_delay_s(self) -> float | None:
        """Seconds that the host asks to leave between two requests."""
        return self.rules.robots.crawl_delay_s if self.rules.robots is not None else None


class Hosts:
    """Asks hosts for their rules, each once at a time; belongs to one event loop."""

    def __init__(
        self,
        http: HttpSpec,
        token: str,
        ask: Ask,
        shared: SharedDocuments | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._http = http
        self._token = token
        self._ask = ask
        self._shared = shared
        self._clock = clock
        self._known: OrderedDict[str, Host] = OrderedDict()
        self._rule_bytes = 0
        self._asking: dict[str, asyncio.Task[Host]] = {}

    @property
    def are_asked(self) -> bool:
        """Whether the spec wants anything to be known of hosts."""
        return self._http.robots == "respect" or self._http.tdm == "respect"

    def known(self, origin: str) -> Host | None:
        """Return what is known of a host and still holds."""
        host = self._known.get(origin)
        return host if host is not None and self._clock() < host.expires_s else None

    def lasts_s(self, host: Host) -> float:
        """Return for how long what is known of a host still holds."""
        return max(0.0, host.expires_s - self._clock())

    async def learn(self, origin: str) -> Host:
        """Return what is known of a host, asking it if need be."""
        host = self.known(origin)
        if host is not None:
            self._known.move_to_end(origin)
            return host
        task = self._asking.get(origin)
        if task is None:
            task = self._asking[origin] = asyncio.ensure_future(self._learn(origin))
            task.add_done_callback(lambda _: self._asking.pop(origin))
        # One waiter's cancellation must not end the question for the others.
        return await asyncio.shield(task)

    def forget_failures(self) -> None:
        """Forget the hosts whose rules could not be had: the network was to blame."""
        for origin in [origin for origin, host in self._known.items() if host.failure is not None]:
            del self._known[origin]

    async def close(self) -> None:
        """End all questions."""
        for task in self._asking.values():
            task.cancel()
        await asyncio.gather(*self._asking.values(), return_exceptions=True)

    async def _learn(self, origin: str) -> Host:
        # One after the other: the row that asks has a single place.
        robots_txt = await self._document(origin + ROBOTS_TXT, self._http.robots == "respect")
        tdmrep = await self._document(origin + TDMREP_JSON, self._http.tdm == "respect")
        before = self._known.get(origin)
        host = await self._host(robots_txt, tdmrep, before.failures if before is not None else 0)
        self._remember(origin, host)
        return host

    def _remember(self, origin: str, host: Host) -> None:
        before = self._known.pop(origin, None)
        self._rule_bytes += host.memory_bytes - (before.memory_bytes if before is not None else 0)
        self._known[origin] = host
        while len(self._known) > MAX_HOSTS or (self._rule_bytes > MAX_RULE_BYTES and len(self._known) > 1):
            _, forgotten = self._known.popitem(last=False)
            self._rule_bytes -= forgotten.memory_bytes

    async def _document(self, url: str, is_wanted: bool) -> Document | None:
        if not is_wanted:
            return None
        return await (self._shared.get(url, self._ask) if self._shared is not None else self._ask(url))

    async def _host(self, robots_txt: Document | None, tdmrep: Document | None, failures: int) -> Host:
        if robots_txt is not None and robots_txt.failure is not None:
            outcome, detail = robots_txt.failure
            lasts_s = failure_lasts_s(failures + 1, robots_txt.lasts_s)
            # What is said of the host alone is true of its images as well.
            failure = (outcome, detail if outcome in _OF_HOST else f"{RULES_FAULT}{detail}")
            return Host(SILENT, failure, self._clock() + lasts_s, failures + 1)
        rules = HostRules(
            await self._parsed(robots_txt, lambda text: Robots(text, self._token)),
            await self._parsed(tdmrep, parse_reservations),
        )
        return Host(rules, None, self._clock() + LIFETIME_S)

    async def _parsed(self, document: Document | None, parse: Callable[[str], R]) -> R | None:
        """Return what a document says, None if it says nothing; a long one is read in a thread."""
        if document is None or not document.text:
            return None
        is_long = len(document.text) > LONG_TEXT
        found = await asyncio.to_thread(parse, document.text) if is_long else parse(document.text)
        return None if found.is_silent else found
