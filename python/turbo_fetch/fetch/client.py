"""One HTTP request: redirects, deadlines, limits, and a record of how it ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from types import TracebackType
from typing import Final, Self

from turbo_fetch.fetch.addresses import any_socket, is_special_host, port_problem, public_socket
from turbo_fetch.fetch.bodies import read_body
from turbo_fetch.fetch.budget import ByteBudget
from turbo_fetch.fetch.consent import SILENT, Consent
from turbo_fetch.fetch.deadline import Deadline, DeadlineExpired
from turbo_fetch.fetch.document_reader import read_document
from turbo_fetch.fetch.documents import Document
from turbo_fetch.fetch.failures import Failure, deadline_failure, error_failure, status_failure, too_large
from turbo_fetch.fetch.hosts import Hosts
from turbo_fetch.fetch.origins import Origin, domain_of, origin_of, path_of
from turbo_fetch.fetch.proxies import Proxies
from turbo_fetch.fetch.redirects import (
    drain,
    is_redirect,
    redirect_problem,
    redirect_target,
)
from turbo_fetch.fetch.request import Draft, Fetched, Hop
from turbo_fetch.fetch.resolver import Resolver
from turbo_fetch.fetch.response import Response
from turbo_fetch.fetch.robots import Robots
from turbo_fetch.fetch.session import Session, is_secret, make_ready, request_headers, tls_context
from turbo_fetch.fetch.shared_documents import SharedDocuments
from turbo_fetch.fetch.witnesses import Witnesses
from turbo_fetch.outcomes import Outcome
from turbo_fetch.redaction import redact
from turbo_fetch.spec import HttpSpec

__all__ = ["Client", "Fetched"]

_NOT_MODIFIED: Final = 304
_PARTIAL: Final = 206
_NO_PARTS: Final = (Outcome.NO_RECORD, "the server does not send parts of files")


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a request says beside the headers of all requests."""

    conditions: Mapping[str, str] | None
    more: Mapping[str, str]
    """Those of the spec that are not for all requests."""

    @property
    def has_conditions(self) -> bool:
        return bool(self.conditions)

    @property
    def part_bytes(self) -> int | None:
        """How many bytes are asked for, if not all."""
        if self.conditions is None or "Range" not in self.conditions:
            return None
        first, _, last = self.conditions["Range"].removeprefix("bytes=").partition("-")
        return int(last) + 1 - int(first)

    @property
    def headers(self) -> Mapping[str, str] | None:
        return {**(self.conditions or {}), **self.more} if self.more else self.conditions


_NOTHING: Final = _Wanted(None, {})


class Client:
    """One session for all requests of an event loop; an async context manager.

    Bodies are charged to `budget`; whoever takes a body releases its length when done with it. Raises
    SpecError if `http.ca_file` cannot be read, or a header is masked. `denied` says why a redirect to an address is
    not to be followed, if so.
    """

    gate = staticmethod(public_socket)
    """Makes the socket of every connection, or raises AddressRefused."""

    def __init__(
        self,
        http: HttpSpec,
        budget: ByteBudget,
        resolver: Resolver | None = None,
        documents: SharedDocuments | None = None,
        proxies: Proxies | None = None,
        denied: Callable[[str], str | None] | None = None,
    ) -> None:
        self.http = http
        self.budget = budget
        self._resolver = resolver or Resolver()
        self._tls = tls_context(http)
        self._headers = request_headers(http)
        self._denied = denied
        self._max_body_bytes = int(http.max_body_mb * 1e6)
        self._secrets = {name: value for name, value in http.headers.items() if is_secret(name, http)}
        self._consent = Consent.of(http, self._headers["User-Agent"])
        self.hosts = Hosts(http, self._consent.token, self._document, documents)
        self._asks_hosts = self.hosts.are_asked
        self._proxies = Proxies.of(http.proxy, {}) if proxies is None else proxies
        make_ready(self._proxies)
        self.witnesses = Witnesses(
            self._resolver, self._proxies, any_socket if http.allow_private_addresses else self.gate
        )
        self._session: Session
        self._loop: asyncio.AbstractEventLoop

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        gate = any_socket if self.http.allow_private_addresses else self.gate
        self._session = Session(self.http, self._headers, self._tls, self._resolver, gate, self._proxies)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.hosts.close()
        await self._session.close()
        await self._resolver.close()

    def outage_ended(self) -> None:
        """Forget what was learnt while the network was gone, and the connections of before."""
        self.hosts.forget_failures()
        self._resolver.forget_trouble()
        self._session.close_idle()

    async def get(self, url: str, headers: Mapping[str, str] | None = None, domain: str = "") -> Fetched:
        """Make one attempt at a normalised http or https URL; every failure is an outcome.

        With further `headers`, which may be conditions, 304 Not Modified is a success without a body.
        `domain` is the registrable domain, by which presets are found.
        """
        ended = await self.step(url, headers, domain)
        while isinstance(ended, Hop):
            ended = await self.step(url, headers, domain, ended)
        return ended

    async def step(
        self, url: str, headers: Mapping[str, str] | None, domain: str, hop: Hop | None = None
    ) -> Fetched | Hop:
        """Make one request of an attempt, as `get` makes them; go on from a redirect with the hop."""
        if hop is None:
            hop = Hop(url, domain, Draft(domain), [url], self.http.timeout_s)
        else:
            hop.draft.pause(monotonic() - hop.since_s)
        draft = hop.draft
        try:
            with Deadline(self._loop, hop.left_s, self.http.stall_timeout_s) as deadline:
                return await self._ask(hop, self._wanted(url, headers, domain, hop), deadline)
        except DeadlineExpired as expired:
            outcome, detail = deadline_failure(expired.limit, self.http)
        except Exception as error:
            outcome, detail = error_failure(error, self.http)
            if draft.redirects and outcome is Outcome.URL:
                outcome = Outcome.REDIRECT
        return draft.end(outcome, detail)

    async def _ask(self, hop: Hop, wanted: _Wanted, deadline: Deadline) -> Fetched | Hop:
        """Request the address of a hop."""
        address, draft = hop.address, hop.draft
        origin = self._session.origin(address)
        rules, path = SILENT, ""
        if self._asks_hosts:
            host = self.hosts.known(origin.name) or await self.hosts.learn(origin.name)
            rules, path = host.rules, path_of(address)
            if host.failure is not None:
                draft.held_s = self.hosts.lasts_s(host)
                return draft.end(*host.failure)
            problem = self._host_refuses(rules.robots, path) if rules.robots else None
            if problem is not None:
                return draft.end(*problem)
        if origin.url.explicit_port is not None or self._proxies:
            problem = self._address_problem(origin)
            if problem is not None:
                return draft.end(*problem)
        response = await self._session.get(origin, address, wanted.headers)
        try:
            draft.answered(address, response.status, response.headers)
            if not is_redirect(response):
                objection = self._consent.response_objects(response.headers, rules, path)
                return await self._receive(response, wanted, objection, draft, deadline)
            onward = redirect_target(address, response)
            await drain(response)
        finally:
            response.close()
        problem_text = redirect_problem(onward, hop.visited, self.http)
        if problem_text is not None or onward is None:
            return draft.end(Outcome.REDIRECT, problem_text)
        draft.redirects.append(redact(onward))
        objection = None if self._denied is None else self._denied(onward)
        if objection is not None:
            return draft.end(Outcome.DENIED, objection)
        hop.visited.append(onward)
        leads_to = self._session.origin(onward)
        domain = hop.domain if leads_to.name == origin.name else domain_of(leads_to.name)
        return Hop(onward, domain, draft, hop.visited, deadline.left_s, draft.address)

    def _host_refuses(self, robots: Robots, path: str) -> Failure | None:
        """Return why a host does not want a path asked for, or used."""
        refusal = robots.refusal(path)
        if refusal is not None:
            return Outcome.ROBOTS, refusal
        objection = self._consent.host_objects(robots, path)
        return None if objection is None else (Outcome.OPT_OUT, objection)

    def _address_problem(self, origin: Origin) -> Failure | None:
        """Return why an origin is not asked: its port, or a special address that a proxy would reach."""
        problem = port_problem(origin.url, self.http)
        if problem is not None:
            return Outcome.ADDRESS, problem
        if self.http.allow_private_addresses or origin.proxy is None:
            return None
        host = origin.url.raw_host or ""
        return (Outcome.ADDRESS, "not a public address") if is_special_host(host) else None

    async def _document(self, url: str) -> Document:
        """Request a document of a host itself, such as robots.txt, with up to five redirects."""
        try:
            with Deadline(self._loop, self.http.timeout_s, self.http.stall_timeout_s) as deadline:
                return await read_document(url, self._session, self._address_problem, deadline)
        except DeadlineExpired as expired:
            return Document(failure=deadline_failure(expired.limit, self.http))
        except Exception as error:
            return Document(failure=error_failure(error, self.http))

    def _wanted(self, url: str, headers: Mapping[str, str] | None, domain: str, hop: Hop) -> _Wanted:
        """Return what the request of a hop says besides, for a row with this URL, of this domain.

        The secrets of all requests are for the host of the row alone, those of its domain for this domain, but not
        without TLS where it was asked with it. The other headers of a domain are for whatever leads there.
        """
        if not (headers or self._secrets or self.http.domains):
            return _NOTHING
        more = dict(self._secrets) if origin_of(hop.address) == origin_of(url) else {}
        lost_tls = url.startswith("https:") and not hop.address.startswith("https:")
        keeps_secrets = hop.domain == domain and not lost_tls
        for name, value in self.http.preset(hop.domain).headers.items():
            if keeps_secrets or not is_secret(name, self.http):
                more[name] = value
        return _Wanted(headers, more)

    async def _receive(
        self,
        response: Response,
        wanted: _Wanted,
        objection: str | None,
        draft: Draft,
        deadline: Deadline,
    ) -> Fetched:
        """Judge the head of a final response and read its body if it is wanted, and nobody objects to its use."""
        if not 200 <= response.status < 300 and response.status != _NOT_MODIFIED:
            await drain(response)
            return draft.end(*status_failure(response.status, response.reason))
        if objection is not None:
            return draft.end(Outcome.OPT_OUT, objection)
        if response.status == _NOT_MODIFIED:
            if wanted.has_conditions:
                return draft.end(Outcome.SUCCESS, None)
            return draft.end(*status_failure(response.status, response.reason))
        max_bytes, excess = self._max_body_bytes, too_large(self.http.max_body_mb)
        if wanted.part_bytes is not None:
            if response.status != _PARTIAL:
                return draft.end(*_NO_PARTS)
            if wanted.part_bytes <= max_bytes:
                max_bytes, excess = wanted.part_bytes, _NO_PARTS
        if (response.body.framing.length or 0) > max_bytes:
            return draft.end(*excess)
        body = await read_body(response.body, self.budget, max_bytes, draft, deadline)
        return draft.end(*excess) if body is None else draft.end(Outcome.SUCCESS, None, body)
