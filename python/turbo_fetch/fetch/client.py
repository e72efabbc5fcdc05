"""One HTTP request: redirects, deadlines, limits, and a record of how it ended."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from turbo_fetch import __version__
from turbo_fetch.errors import SpecError
from turbo_fetch.fetch.addresses import any_socket, is_special_host, public_socket
from turbo_fetch.fetch.budget import BodyReader, ByteBudget
from turbo_fetch.fetch.connections import BoundedConnector
from turbo_fetch.fetch.consent import SILENT, Consent, HostRules
from turbo_fetch.fetch.deadline import Deadline, DeadlineExpired
from turbo_fetch.fetch.documents import Document, SharedDocuments
from turbo_fetch.fetch.failures import Failure, deadline_failure, error_failure, status_failure
from turbo_fetch.fetch.fetched import Draft, Fetched
from turbo_fetch.fetch.hosts import Hosts, origin_of
from turbo_fetch.fetch.ports import port_problem
from turbo_fetch.fetch.resolver import Resolver
from turbo_fetch.fetch.robots import MAX_BYTES
from turbo_fetch.outcomes import Outcome
from turbo_fetch.redaction import MASK, is_secret_header, redact
from turbo_fetch.spec import HttpSpec

__all__ = ["Client", "Fetched"]

ACCEPT: Final = "image/jpeg,image/png,image/*;q=0.9,*/*;q=0.5"
"""Does not name webp or avif: servers that convert on demand would send those instead of the original."""

READ_BUFFER_BYTES: Final = 65_536
"""A connection is paused when twice this much waits to be read; it is held besides the budget."""

WHOLE_BYTES: Final = 1_000_000
"""A body announced to be no larger is charged as a whole in advance, and its connection is never paused."""

KEEP_ALIVE_S: Final = 15.0
SPARE_CONNECTIONS: Final = 32
"""Idle connections that are kept when every slot is in use."""

DRAIN_BYTES: Final = 16_384
"""An error page up to this size is read, for a connection costs more than its bytes."""

_NOT_MODIFIED: Final = 304
DOCUMENT_REDIRECTS: Final = 5
"""RFC 9309, 2.3.1.2."""

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a request says beside the headers of all requests."""

    conditions: Mapping[str, str] | None
    own: dict[str, str] | None
    """Headers for the host of the row alone: they do not follow redirects elsewhere."""

    @property
    def has_conditions(self) -> bool:
        return bool(self.conditions)

    def headers(self, is_own_host: bool) -> Mapping[str, str] | None:
        """Return the headers for one hop."""
        if self.own is None or not is_own_host:
            return self.conditions
        return {**(self.conditions or {}), **self.own}


class Client:
    """One aiohttp session for all requests of an event loop; an async context manager.

    Bodies are charged to `budget`; whoever takes a body releases its length when done with it. Raises
    SpecError if `http.ca_file` cannot be read, or a header is masked.
    """

    gate = staticmethod(public_socket)
    """Makes the socket of every connection, or raises AddressRefused."""

    def __init__(
        self,
        http: HttpSpec,
        budget: ByteBudget,
        resolver: Resolver | None = None,
        documents: SharedDocuments | None = None,
    ) -> None:
        self.http = http
        self.budget = budget
        self._resolver = resolver or Resolver()
        self._tls = _tls_context(http)
        self._headers = _request_headers(http)
        self._max_body_bytes = int(http.max_body_mb * 1e6)
        self._secrets = {name: value for name, value in http.headers.items() if _is_secret(name, http)}
        self._consent = Consent.of(http, self._headers["User-Agent"])
        self.hosts = Hosts(http, self._consent.token, self._document, documents)
        self._asks_hosts = self.hosts.are_asked
        self._session: aiohttp.ClientSession
        self._loop: asyncio.AbstractEventLoop

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        connector = BoundedConnector(
            max_connections=self.http.concurrency + SPARE_CONNECTIONS,
            resolver=self._resolver,
            use_dns_cache=False,
            keepalive_timeout=KEEP_ALIVE_S,
            ssl=self._tls,
            socket_factory=self.gate if self._filters_connections else any_socket,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers=self._headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            proxy=self.http.proxy,
            read_bufsize=READ_BUFFER_BYTES,
            timeout=aiohttp.ClientTimeout(
                total=None, connect=self.http.connect_timeout_s, ceil_threshold=float("inf")
            ),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.hosts.close()
        await self._session.close()
        await self._resolver.close()

    @property
    def _filters_connections(self) -> bool:
        """Whether sockets are for public addresses only. A proxy connects for us, and is usually a neighbour."""
        return not self.http.allow_private_addresses and self.http.proxy is None

    async def get(self, url: str, headers: Mapping[str, str] | None = None, domain: str = "") -> Fetched:
        """Make one attempt at a normalised http or https URL; every failure is an outcome.

        With further `headers`, which may be conditions, 304 Not Modified is a success without a body.
        `domain` is the registrable domain, by which presets are found.

        aiohttp repeats a request by itself, once, whose connection ends without a response (RFC 9112, 9.3.1).
        """
        draft = Draft()
        try:
            with Deadline(self._loop, self.http.timeout_s, self.http.stall_timeout_s) as deadline:
                wanted = _Wanted(headers, self._own_headers(domain))
                return await self._follow(URL(url, encoded=True), wanted, draft, deadline)
        except DeadlineExpired as expired:
            outcome, detail = deadline_failure(expired.limit, self.http)
        except Exception as error:
            outcome, detail = error_failure(error, self.http)
            if draft.redirects and outcome is Outcome.URL:
                outcome = Outcome.REDIRECT
        return draft.end(outcome, detail)

    async def _follow(self, url: URL, wanted: _Wanted, draft: Draft, deadline: Deadline) -> Fetched:
        """Request `url` and whatever it redirects to."""
        visited = {url}
        origin = url.origin() if wanted.own else None
        while True:
            rules = SILENT
            if self._asks_hosts:
                host_origin = origin_of(str(url))
                host = self.hosts.known(host_origin) or await self.hosts.learn(host_origin)
                rules = host.rules
                problem = host.failure or (self._host_refuses(rules, url) if rules.robots else None)
                if problem is not None:
                    return draft.end(*problem)
            if url.explicit_port is not None or self.http.proxy is not None:
                problem = self._address_problem(url)
                if problem is not None:
                    return draft.end(*problem)
            headers = wanted.headers(origin is not None and url.origin() == origin)
            response = await self._session.get(url, headers=headers, allow_redirects=False)
            try:
                draft.answered(url, response.status, response.headers)
                if response.status not in _REDIRECTS:
                    return await self._receive(response, wanted.has_conditions, rules, draft, deadline)
                onward = _redirect_target(url, response.headers.get("Location"))
                await _drain(response)
            finally:
                response.close()
            problem_text = self._redirect_problem(onward, visited)
            if problem_text is not None or onward is None:
                return draft.end(Outcome.REDIRECT, problem_text)
            draft.redirects.append(redact(str(onward)))
            visited.add(onward)
            url = onward

    def _host_refuses(self, rules: HostRules, url: URL) -> Failure | None:
        """Return why a host does not want an address asked for, or used."""
        if rules.robots is None:
            return None
        refusal = rules.robots.refusal(str(url))
        if refusal is not None:
            return Outcome.ROBOTS, refusal
        objection = self._consent.host_objects(rules, url.raw_path_qs)
        return None if objection is None else (Outcome.OPT_OUT, objection)

    def _address_problem(self, url: URL) -> Failure | None:
        """Return why an address is not asked for: its port, or a special address that a proxy would reach."""
        problem = port_problem(url, self.http)
        if problem is not None:
            return Outcome.ADDRESS, problem
        if self.http.proxy is None or self.http.allow_private_addresses:
            return None
        return (Outcome.ADDRESS, "not a public address") if is_special_host(url.raw_host or "") else None

    async def _document(self, url: str) -> Document:
        """Request a document of a host itself, such as robots.txt, with up to five redirects."""
        try:
            with Deadline(self._loop, self.http.timeout_s, self.http.stall_timeout_s) as deadline:
                return await self._read_document(URL(url, encoded=True), deadline)
        except DeadlineExpired as expired:
            return Document(failure=deadline_failure(expired.limit, self.http))
        except Exception as error:
            return Document(failure=error_failure(error, self.http))

    async def _read_document(self, url: URL, deadline: Deadline) -> Document:
        for _ in range(DOCUMENT_REDIRECTS + 1):
            problem = self._address_problem(url)
            if problem is not None:
                return Document(failure=problem)
            response = await self._session.get(url, headers={"Accept": "*/*"}, allow_redirects=False)
            try:
                if response.status in _REDIRECTS:
                    onward = _redirect_target(url, response.headers.get("Location"))
                    await _drain(response)
                    if onward is None or onward.scheme not in {"http", "https"}:
                        break
                    url = onward
                    continue
                if response.status == 429 or response.status >= 500:
                    outcome, detail = status_failure(response.status, response.reason)
                    return Document(failure=(outcome, f"robots.txt: {detail}"))
                if not 200 <= response.status < 300:
                    await _drain(response)
                    return Document(response.status)
                deadline.progress()
                return Document(response.status, await _beginning(response, deadline))
            finally:
                response.close()
        # RFC 9309, 2.3.1.2 and 2.3.1.3: what redirects further is as good as not there.
        return Document(404)

    def _own_headers(self, domain: str) -> dict[str, str] | None:
        """Return the headers that are for the host of a row alone: secrets, and those of its domain."""
        preset = self.http.domains.get(domain) if self.http.domains else None
        if preset is not None and preset.headers:
            return {**self._secrets, **preset.headers}
        return self._secrets or None

    def _redirect_problem(self, onward: URL | None, visited: set[URL]) -> str | None:
        if onward is None:
            return "redirect without a usable Location"
        if onward.scheme not in {"http", "https"}:
            return f"redirect to the scheme {onward.scheme}, expected http or https"
        if onward in visited:
            return "redirect loop"
        if len(visited) > self.http.max_redirects:
            return f"more than {self.http.max_redirects} redirects"
        return None

    async def _receive(
        self,
        response: aiohttp.ClientResponse,
        is_conditional: bool,
        rules: HostRules,
        draft: Draft,
        deadline: Deadline,
    ) -> Fetched:
        """Judge the head of a final response and read its body if it is wanted."""
        if not 200 <= response.status < 300 and response.status != _NOT_MODIFIED:
            await _drain(response)
            return draft.end(*status_failure(response.status, response.reason))
        objection = self._consent.response_objects(response.headers, rules, response.url)
        if objection is not None:
            return draft.end(Outcome.OPT_OUT, objection)
        if response.status == _NOT_MODIFIED:
            if is_conditional:
                return draft.end(Outcome.SUCCESS, None)
            return draft.end(*status_failure(response.status, response.reason))
        if (response.content_length or 0) > self._max_body_bytes:
            return draft.end(Outcome.TOO_LARGE, self._too_large_detail())
        body = await self._read(response, draft, deadline)
        if body is None:
            return draft.end(Outcome.TOO_LARGE, self._too_large_detail())
        return draft.end(Outcome.SUCCESS, None, body)

    async def _read(self, response: aiohttp.ClientResponse, draft: Draft, deadline: Deadline) -> bytes | None:
        """Read a body, charged to the budget; return None if it is larger than allowed."""
        reader = self.budget.reader()
        chunks: list[bytes] = []
        is_whole = False
        try:
            content = response.content
            announced_bytes = response.content_length or 0
            if 0 < announced_bytes <= WHOLE_BYTES:
                await _turn(reader, deadline)
                reader.charge_up_to(announced_bytes)
                content.set_read_chunk_size(announced_bytes)
            deadline.progress()
            while chunk := await content.readany():
                deadline.progress()
                draft.body_bytes += len(chunk)
                if draft.body_bytes > self._max_body_bytes:
                    return None
                chunks.append(chunk)
                if draft.body_bytes > announced_bytes or announced_bytes > WHOLE_BYTES:
                    reader.charge_up_to(draft.body_bytes)
                    if not content.at_eof():
                        await _turn(reader, deadline)
            is_whole = True
        finally:
            if is_whole:
                reader.finish(draft.body_bytes)
            else:
                reader.abandon()
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _too_large_detail(self) -> str:
        return f"body larger than {self.http.max_body_mb:g} MB"


async def _turn(reader: BodyReader, deadline: Deadline) -> None:
    """Wait until the budget lets a body go on; the deadline stands still meanwhile."""
    if reader.may_read:
        return
    deadline.pause()
    try:
        await reader.turn()
    finally:
        deadline.resume()


def _redirect_target(url: URL, location: str | None) -> URL | None:
    """Return the address that a Location header names, without fragment, or None if it names none."""
    if not location:
        return None
    try:
        onward = url.join(URL(location)).with_fragment(None)
    except ValueError:
        return None
    return onward if onward.raw_host or onward.scheme not in {"http", "https"} else None


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Read a short unwanted body, so that its connection can be used again."""
    length = response.content_length
    if length is None or length > DRAIN_BYTES:
        return
    try:
        await response.read()
    except (aiohttp.ClientError, OSError):
        return


async def _beginning(response: aiohttp.ClientResponse, deadline: Deadline) -> str:
    """Read as much of a document as counts."""
    data = bytearray()
    while len(data) < MAX_BYTES and (chunk := await response.content.readany()):
        deadline.progress()
        data += chunk
    return bytes(data[:MAX_BYTES]).decode("utf-8-sig", "replace")


def _is_secret(name: str, http: HttpSpec) -> bool:
    return is_secret_header(name) or name.lower() in map(str.lower, http.secret_headers)


def _request_headers(http: HttpSpec) -> CIMultiDict[str]:
    headers = CIMultiDict(
        {
            "User-Agent": http.user_agent.replace("{version}", __version__),
            "Accept": ACCEPT,
            "Accept-Encoding": "identity",
        }
    )
    for table in (http.headers, *(preset.headers for preset in http.domains.values())):
        for name, value in table.items():
            if value == MASK:
                raise SpecError(f"the request header {name} is masked ({MASK}); give its value, or ${{NAME}}")
    headers.update({name: value for name, value in http.headers.items() if not is_secret_header(name)})
    return headers


def _tls_context(http: HttpSpec) -> ssl.SSLContext:
    """Return the one context of all connections; reading the certificate store for each would cost 20 ms."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    if http.ca_file is not None:
        try:
            context.load_verify_locations(cafile=http.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise SpecError(
                f"fetch.http.ca_file is {http.ca_file!r}, expected a PEM file of certificates: {error}"
            ) from error
    if not http.verify_tls:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
