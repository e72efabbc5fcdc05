"""Why many rows of a dataset failed, in sentences that name what to change: a pure function of counts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from turbo_fetch.causes import GIVEN_UP, Reason, cause_of

MOST: Final = 3
"""Sentences that are given, those about most rows first."""
LARGE: Final = 0.5
"""The share of all rows from which on a cause is named, unless its rule says otherwise."""
FEWEST_ROWS: Final = 3
"""Fewer rows than this show nothing, unless they are all."""

UNKNOWN: Final = "several reasons"
"""The detail of failures whose details are too many to be counted."""

Test = Callable[[str, str], bool]
"""Whether a rule is about an outcome and a detail."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A cause: which rows it is about, from which share on it is named, and what to do.

    In `text`, `{share}` is the share with the count, and `{often}` the most frequent detail.
    """

    is_about: Test
    text: str
    share: float = LARGE
    below: float = 2.0
    """The share from which on another rule says more."""


def _outcome(*labels: str) -> Test:
    return lambda label, detail: label in labels


def _detail(label: str, pattern: str) -> Test:
    found = re.compile(pattern).search
    return lambda each, detail: each == label and found(detail) is not None


def _cause(*causes: str) -> Test:
    return lambda label, detail: cause_of(f"{label}: {detail}") in causes


_WEB_STATUS: Final = r"^HTTP Error (401|403|405|406|418|451):"
_EXPIRED: Final = r"not yet valid|has expired"
_LATE_CONNECTION: Final = r"^no connection within|^connection timed out"

RULES: Final = (
    Rule(
        _cause("proxy"),
        "{share} failed at the proxy, not at their hosts ({often}): check it with turbo-fetch doctor, and check "
        "fetch.http.proxy or HTTP_PROXY and HTTPS_PROXY; then run turbo-fetch retry",
        share=0.05,
    ),
    Rule(
        _cause("tunnel"),
        "{share} did not get through the proxy ({often}): if this affects all hosts, the cause is the proxy; check it "
        "with turbo-fetch doctor, and check fetch.http.proxy; then run turbo-fetch retry",
    ),
    Rule(
        _cause("network"),
        "{share} had no route to their hosts ({often}): check the network and the firewall of this machine; if the "
        "internet is only reachable through a proxy, set fetch.http.proxy; then run turbo-fetch retry",
        share=0.2,
    ),
    Rule(
        _outcome("dns"),
        "{share} had host names that could not be resolved ({often}): the resolver of this machine does not work; "
        "check /etc/resolv.conf and run turbo-fetch doctor; if the internet is only reachable through a proxy, set "
        "fetch.http.proxy; then run turbo-fetch retry",
        share=0.9,
    ),
    Rule(
        _outcome("dns"),
        "{share} had host names that could not be resolved in time ({often}), often because the local resolver is "
        "overloaded: turbo-fetch doctor measures it; use a caching resolver (unbound) or lower "
        "fetch.http.concurrency, then run turbo-fetch retry",
        share=0.05,
        below=0.9,
    ),
    Rule(
        _outcome("no-such-host"),
        "{share} have hosts that do not exist: the list is old, or its URLs are incomplete",
    ),
    Rule(
        _detail("address", "^not a public address"),
        "{share} are at private addresses, which are refused: set fetch.http.allow_private_addresses = true if these "
        "servers are yours",
    ),
    Rule(
        _detail("address", "^port "),
        '{share} are at ports that are refused ({often}): set fetch.http.ports to "any" or to the ports you want',
    ),
    Rule(
        _detail("address", r"fetch\.sources"),
        "{share} are not read, since the spec does not open what they name ({often}): if you trust the list, open it "
        "in fetch.sources",
    ),
    Rule(
        _outcome("not-found"),
        "{share} are not there ({often}): check the list, and where the paths in it begin (fetch.sources.files)",
    ),
    Rule(
        _outcome("no-access"),
        "{share} may not be read ({often}): check permissions, or the credentials of this machine",
    ),
    Rule(
        _outcome("unreadable"),
        "{share} could not be read ({often}): check the disk, or the store, its endpoint and the credentials of this "
        "machine; then run turbo-fetch retry",
    ),
    Rule(
        _outcome("no-record"),
        "{share} have no record ({often}): check the columns and the prefix of fetch.input.warc",
    ),
    Rule(
        _detail("url", "^no scheme|^no URL"),
        "{share} have no URL ({often}): check that fetch.input.url_column names the column of the URLs, and that "
        "they begin with http:// or https://; to read paths of files, set fetch.sources.files",
    ),
    Rule(_outcome("url"), "{share} have a URL that cannot be used ({often}): check fetch.input.url_column"),
    Rule(
        _outcome("robots"),
        '{share} are disallowed by the robots.txt of their sites; set fetch.http.robots = "ignore" only if the sites '
        "are yours or you have permission",
    ),
    Rule(
        _outcome("opt-out"),
        "{share} have opted out of this use ({often}); fetch.http.opt_out, content_usage and tdm set which signals "
        "are obeyed",
    ),
    Rule(
        _detail("http-4xx", _WEB_STATUS),
        "{share} were refused by their servers ({often}), as often happens to programs that do not identify "
        "themselves: put your name and a contact into fetch.http.user_agent, or ask for permission",
    ),
    Rule(
        _detail("http-4xx", r"^HTTP Error (404|410):"),
        "{share} no longer exist ({often}): the list is old, or its URLs are incomplete",
    ),
    Rule(
        _outcome("rate-limited"),
        "{share} hit the rate limits of their servers: lower fetch.http.per_domain, raise fetch.http.max_backoff_s, "
        "then run turbo-fetch retry",
        share=0.2,
    ),
    Rule(
        _detail("tls", _EXPIRED),
        "{share} failed because of certificate dates ({often}): check the clock of this machine",
    ),
    Rule(
        _detail("tls", "unable to get local issuer|self-signed|self signed"),
        "{share} failed because the certificate authority is unknown ({often}): if your proxy or organisation has its "
        "own, set fetch.http.ca_file to its file",
    ),
    Rule(
        _outcome("tls"),
        "{share} failed during TLS ({often}): see fetch.http.ca_file and fetch.http.verify_tls",
    ),
    Rule(
        _detail("timeout", _LATE_CONNECTION),
        "{share} got no connection in time ({often}): lower fetch.http.concurrency or raise "
        "fetch.http.connect_timeout_s; if this affects all hosts, a firewall blocks them; if the internet is only "
        "reachable through a proxy, set fetch.http.proxy; then run turbo-fetch retry",
        share=0.3,
    ),
    Rule(
        _outcome("timeout", "stalled"),
        "{share} took too long ({often}): lower fetch.http.concurrency or raise fetch.http.timeout_s and "
        "stall_timeout_s, then run turbo-fetch retry",
        share=0.3,
    ),
    Rule(
        _detail("connect", "^the store"),
        "{share} are in a store that cannot be reached ({often}): check its endpoint and the network of this machine; "
        "then run turbo-fetch retry",
    ),
    Rule(
        _outcome("connect"),
        "{share} could not connect to their hosts ({often}): if these servers are up, they or a firewall block you",
    ),
    Rule(
        _outcome("not-an-image"),
        "{share} are not images ({often}): their URLs lead to web pages, or the sites respond with a login or consent "
        "page; check fetch.input.url_column",
    ),
    Rule(
        _outcome("unsupported", "corrupt", "truncated"),
        "{share} were downloaded but could not be decoded ({often})",
    ),
    Rule(_outcome("too-small"), "{share} are smaller than fetch.image.min_side"),
    Rule(_outcome("aspect"), "{share} have an aspect ratio above fetch.image.max_aspect"),
    Rule(_outcome("too-many-pixels"), "{share} have more pixels than fetch.image.max_pixels"),
    Rule(_outcome("too-large"), "{share} have more bytes than fetch.http.max_body_mb"),
    Rule(
        _outcome("hash-mismatch"),
        "{share} do not have the hash given in the list: check fetch.input.hash_column and hash_kind",
    ),
    Rule(
        _outcome("bad-boxes"),
        "{share} have boxes that cannot be parsed, or none to crop to: check fetch.input.boxes_column",
    ),
    Rule(
        _outcome("out-of-memory"),
        "{share} need more memory than this machine has: raise its limit, or lower fetch.image.max_pixels, "
        "engine.workers or fetch.http.memory_mb, then run turbo-fetch retry",
    ),
    Rule(_outcome("denied"), "{share} are on the deny lists of fetch.deny"),
    Rule(_outcome("duplicate"), "{share} are duplicates by fetch.duplicates.by"),
    Rule(_outcome("http-5xx"), "{share} failed with server errors ({often}); run turbo-fetch retry"),
    Rule(_outcome("redirect", "protocol", "http-4xx"), "{share} failed with: {often}"),
)


def diagnosis(
    outcomes: Mapping[str, int], reasons: Mapping[Reason, int], failing_hosts: Mapping[str, int]
) -> list[str]:
    """Return why many rows failed, the most important first; an empty list if there is no one reason.

    `outcomes` are all rows by label; `reasons` are failed rows by label and detail, or the most of them, and
    `failing_hosts` by domain. Each failure counts for the first rule that is about it.
    """
    rows = sum(outcomes.values())
    found = sorted(_found(rows, _complete(outcomes, reasons)), key=lambda pair: -pair[0])
    sentences = [sentence for _, sentence in found[:MOST]]
    host, count = max(failing_hosts.items(), key=lambda pair: pair[1], default=("", 0))
    if sentences and rows > FEWEST_ROWS and count > 0.9 * rows:
        sentences[0] += f". Nearly all of them are from {host}"
    return sentences


def _complete(outcomes: Mapping[str, int], reasons: Mapping[Reason, int]) -> Counter[Reason]:
    """Return the reasons, with an unknown one for the failures that have none."""
    complete = Counter(dict(reasons))
    unknown = Counter({label: count for label, count in outcomes.items() if label != "success"})
    for reason, count in reasons.items():
        unknown[reason.partition(": ")[0]] -= count
    complete.update({f"{label}: {UNKNOWN}": count for label, count in unknown.items() if count > 0})
    return complete


def _found(rows: int, left: Counter[Reason]) -> Iterator[tuple[int, str]]:
    for rule in RULES:
        about = Counter({reason: count for reason, count in left.items() if _is_about(rule, reason)})
        count = about.total()
        share = count / rows if rows else 0.0
        if not rule.share <= share < rule.below or (count < FEWEST_ROWS and count < rows):
            continue
        left -= about
        often = about.most_common(1)[0][0].partition(": ")[2].removesuffix(GIVEN_UP)
        whole = "all rows" if count == rows else f"{share:.0%} of the rows ({count:,})"
        yield count, rule.text.format(share=whole, often=often)


def _is_about(rule: Rule, reason: Reason) -> bool:
    label, _, detail = reason.partition(": ")
    return rule.is_about(label, detail)
