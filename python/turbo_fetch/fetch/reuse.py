"""Whose connections may be used again: not those of hosts that send bytes which nobody asked for.

Bytes after an answer would be taken for the answer to the next request of their connection. One on which they wait is
never used again, but they may also come late, when the next request is on its way. So the connections of a host rest
a while before they are used again, until enough of them have stayed silent; and a host whose did not is given a new
connection for each request from then on. Servers err by status (a page after a 304, say), so silence counts for its
status alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

QUIET_S: Final = 0.25
"""How long a connection rests before it counts as silent."""
PROOFS: Final = 16
"""After so many silent connections those of a host need no rest any more."""
MAX_HOSTS: Final = 65_536


class ReuseRecord:
    """Remembers the hosts of an event loop; of too many the longest unseen are forgotten."""

    def __init__(self, max_hosts: int = MAX_HOSTS) -> None:
        self._max_hosts = max_hosts
        self._silent: OrderedDict[tuple[Hashable, int], int] = OrderedDict()
        self._resting: dict[tuple[Hashable, int], int] = {}
        self._barred: OrderedDict[Hashable, None] = OrderedDict()

    def is_barred(self, host: Hashable) -> bool:
        """Whether a host has ever sent bytes that nobody asked for."""
        return host in self._barred

    def bar(self, host: Hashable) -> None:
        """Remember that a host has sent bytes that nobody asked for: its connections are used once."""
        self._barred[host] = None
        self._barred.move_to_end(host)
        if len(self._barred) > self._max_hosts:
            self._barred.popitem(last=False)

    def is_trusted(self, host: Hashable, status: int) -> bool:
        """Whether connections of a host may be used again at once after an answer of this status."""
        return self._silent.get((host, status), 0) >= PROOFS

    def begin_rest(self, host: Hashable, status: int) -> bool:
        """Count a connection that is to rest; false if enough of them do, so that it may as well be closed."""
        resting = self._resting.get((host, status), 0)
        if resting >= PROOFS:
            return False
        self._resting[host, status] = resting + 1
        return True

    def end_rest(self, host: Hashable, status: int, *, was_silent: bool) -> None:
        """Count a connection that has rested, or was closed meanwhile."""
        key = (host, status)
        self._resting[key] -= 1
        if not self._resting[key]:
            del self._resting[key]
        if was_silent:
            self._silent[key] = self._silent.get(key, 0) + 1
            self._silent.move_to_end(key)
            if len(self._silent) > self._max_hosts:
                self._silent.popitem(last=False)
