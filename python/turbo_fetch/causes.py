"""Failures whose cause is on this side: the network of this machine, its resolver or its proxy, not the host.

A failure is known by its outcome and its detail, the same text for the same failure, so that whoever has these two can
tell: the pool of a worker, a report, a summary.
"""

from __future__ import annotations

import errno
import os
from typing import Final, Literal

from turbo_fetch.outcomes import BY_LABEL, Outcome

Cause = Literal["proxy", "tunnel", "resolver", "network"]
"""`proxy`: the proxy itself failed. `tunnel`: nothing came through it, for which the host may be to blame, too.
`resolver`: a name could not be looked up, which is not to say that it does not exist. `network`: no way out."""

PROXY_FAULT: Final = "proxy"
"""Begins the details of failures of the proxy itself."""
TUNNEL_FAULT: Final = "through the proxy"
"""Begins the details of failures that are the proxy's or the host's: only the proxy knows."""
RULES_FAULT: Final = "robots.txt: "
"""Begins the details of failures to get the rules of a host, without which it is not asked for images."""
GIVEN_UP: Final = "; the host was given up"
"""Ends the details of rows that were not asked for after others had met that failure."""

Reason = str
"""An outcome and a detail, as they are counted: `dns: name resolution failed`."""

_NO_WAY: Final = frozenset(
    os.strerror(number).lower()
    for number in (
        errno.ENETUNREACH,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.EADDRNOTAVAIL,
        errno.EACCES,
        errno.EPERM,
    )
)


def local_cause(outcome: Outcome, detail: str | None) -> Cause | None:
    """Return the cause on this side that a failure has, or may have; None if it is the host's."""
    if outcome is Outcome.DNS:
        return "resolver"
    if outcome is not Outcome.CONNECT and outcome is not Outcome.TIMEOUT:
        return None
    detail = (detail or "").removesuffix(GIVEN_UP).removeprefix(RULES_FAULT)
    if detail.startswith(PROXY_FAULT):
        return "proxy"
    if detail.startswith(TUNNEL_FAULT):
        return "tunnel"
    return "network" if detail in _NO_WAY else None


def reason_of(outcome: Outcome, detail: str | None) -> Reason:
    """Return the reason that an outcome and a detail make."""
    return f"{outcome.label}: {detail or ''}"


def cause_of(reason: Reason) -> Cause | None:
    """Return the cause on this side that a reason has, or may have."""
    label, _, detail = reason.partition(": ")
    return local_cause(BY_LABEL[label], detail)
