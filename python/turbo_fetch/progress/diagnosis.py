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

UNKNOWN: Final = "no one reason"
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
        "{share} failed at the proxy, not at their hosts ({often}): check it with turbo-fetch doctor, and "
        "fetch.http.proxy or HTTP_PROXY and HTTPS_PROXY; then turbo-fetch retry",
        share=0.05,
    ),
    Rule(
        _cause("tunnel"),
        "{share} did not get through the proxy ({often}): if all hosts are concerned it is the proxy; check it with "
        "turbo-fetch doctor, and fetch.http.proxy; then turbo-fetch retry",
    ),
    Rule(
        _cause("network"),
        "{share} had no way to their hosts ({often}): check the network and the firewall of this machine; if only a "
        "proxy leads out of here, set fetch.http.proxy; then turbo-fetch retry",
        share=0.2,
    ),
    Rule(
        _outcome("dns"),
        "{share} had a name that could not be looked up ({often}): the resolver of this machine does not work; check "
        "/etc/resolv.conf and turbo-fetch doctor; if only a proxy leads out of here, set fetch.http.proxy; then "
        "turbo-fetch retry",
        share=0.9,
    ),
    Rule(
        _outcome("dns"),
        "{share} had a name that could not be looked up in time ({often}), which is often the fault of one's own "
        "resolver: turbo-fetch doctor measures it; run a caching one (unbound) or lower fetch.http.concurrency, then "
        "turbo-fetch retry",
        share=0.05,
        below=0.9,
    ),
    Rule(
        _outcome("no-such-host"),
        "{share} name hosts that do not exist: the list is old, or its addresses are not complete",
    ),
    Rule(
        _detail("address", "^not a public address"),
        "{share} are at private addresses, which are refused: set fetch.http.allow_private_addresses = true if these "
        "servers are yours",
    ),
    Rule(
        _detail("address", "^port "),
        '{share} are at ports that are refused ({often}): set fetch.http.ports, to "any" or to those that you want',
    ),
    Rule(
        _detail("url", "^no scheme|^no URL"),
        "{share} hold no address ({often}): check that fetch.input.url_column names the column of the URLs, and that "
        "they begin with http:// or https://",
    ),
    Rule(
        _outcome("url"), "{share} hold an address that cannot be used ({often}): check fetch.input.url_column"
    ),
    Rule(
        _outcome("robots"),
        '{share} are not allowed by the robots.txt of their sites; fetch.http.robots = "ignore" is for those whose '
        "sites are yours, or who have leave",
    ),
    Rule(
        _outcome("opt-out"),
        "{share} are kept from such use by their sites ({often}); fetch.http.opt_out, content_usage and tdm say which "
        "signals are obeyed",
    ),
    Rule(
        _detail("http-4xx", _WEB_STATUS),
        "{share} were refused by their servers ({often}), as many do to programs that do not say who they are: name "
        "yourself and a contact in fetch.http.user_agent, or ask for leave",
    ),
    Rule(
        _detail("http-4xx", r"^HTTP Error (404|410):"),
        "{share} are not there any more ({often}): the list is old, or its addresses are not complete",
    ),
    Rule(
        _outcome("rate-limited"),
        "{share} were refused as too many: lower fetch.http.per_domain, raise fetch.http.max_backoff_s, then "
        "turbo-fetch retry",
        share=0.2,
    ),
    Rule(
        _detail("tls", _EXPIRED),
        "{share} failed on the dates of certificates ({often}): check the clock of this machine",
    ),
    Rule(
        _detail("tls", "unable to get local issuer|self-signed|self signed"),
        "{share} failed on certificates whose authority is not known ({often}): if a proxy or an organisation has one "
        "of its own, name its file in fetch.http.ca_file",
    ),
    Rule(
        _outcome("tls"),
        "{share} failed on TLS ({often}): see fetch.http.ca_file and fetch.http.verify_tls",
    ),
    Rule(
        _detail("timeout", _LATE_CONNECTION),
        "{share} found no connection in time ({often}): lower fetch.http.concurrency, raise "
        "fetch.http.connect_timeout_s; if all hosts are concerned, a firewall is in the way, and where only a proxy "
        "leads out of here, set fetch.http.proxy; then turbo-fetch retry",
        share=0.3,
    ),
    Rule(
        _outcome("timeout", "stalled"),
        "{share} took too long ({often}): lower fetch.http.concurrency or raise fetch.http.timeout_s and "
        "stall_timeout_s, then turbo-fetch retry",
        share=0.3,
    ),
    Rule(
        _outcome("connect"),
        "{share} found nobody at their hosts ({often}): if these servers live, they or a firewall keep you out",
    ),
    Rule(
        _outcome("not-an-image"),
        "{share} are not pictures but something else ({often}): their addresses lead to pages, or the sites answer "
        "with a page to log in or to consent; check fetch.input.url_column",
    ),
    Rule(_outcome("unsupported", "corrupt", "truncated"), "{share} came, but could not be decoded ({often})"),
    Rule(_outcome("too-small"), "{share} are smaller than fetch.image.min_side"),
    Rule(_outcome("aspect"), "{share} are longer than fetch.image.max_aspect allows"),
    Rule(_outcome("too-many-pixels"), "{share} are larger than fetch.image.max_pixels"),
    Rule(_outcome("too-large"), "{share} have more bytes than fetch.http.max_body_mb"),
    Rule(
        _outcome("hash-mismatch"),
        "{share} have another hash than the list says: check fetch.input.hash_column and hash_kind",
    ),
    Rule(_outcome("bad-boxes"), "{share} have boxes that cannot be read: check fetch.input.boxes_column"),
    Rule(_outcome("denied"), "{share} are on the lists of fetch.deny"),
    Rule(_outcome("duplicate"), "{share} are the same as others by fetch.duplicates.by"),
    Rule(_outcome("http-5xx"), "{share} met servers with a problem ({often}); turbo-fetch retry asks again"),
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
        sentences[0] += f". Nearly all of them are of {host}"
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
