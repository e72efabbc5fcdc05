"""Rows that failed for a cause on this side while nobody answered: kept until it shows whose fault it was.

When somebody answers again, the network is there: rows that failed in a moment's quiet end as they had, and those that
waited for longer are asked once more, for an outage was in their way. As long as nobody does, nothing of them is
recorded, so that a run which is stopped for want of a network has lost nothing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

from turbo_fetch.causes import Reason, local_cause, reason_of
from turbo_fetch.fetch.request import Fetched, Row
from turbo_fetch.outcomes import Outcome

QUIET_S: Final = 1.0
"""So long without any answer is an outage."""
PROBE_EVERY_S: Final = 2.0
"""How often one of them asks whether anybody answers now, while there is nothing else to do."""
FEW: Final = 100
"""So few rows at the end of a list are not waited with."""
MANY: Final = 1000
"""So many are waited with for longer than the parent waits before it stops a run."""
DOMAINS_COUNTED: Final = 16

_UNASKED: Final = frozenset({Outcome.URL, Outcome.ADDRESS, Outcome.ROBOTS, Outcome.DENIED, Outcome.DUPLICATE})
"""Outcomes that are known without an answer of anybody."""
_SILENCE: Final = frozenset({Outcome.TIMEOUT, Outcome.STALLED})


@dataclass(slots=True)
class DeferredRow:
    """A row, how it failed, and when."""

    row: Row
    fetched: Fetched
    since_s: float


class DeferredRows:
    """The rows that are deferred; belongs to one event loop, with the clock passed in."""

    def __init__(self) -> None:
        self.answers = 0
        """Attempts that ended in what only a network that works brings about."""
        self._rows: list[DeferredRow] = []

    def __len__(self) -> int:
        return len(self._rows)

    def heard(self, fetched: Fetched) -> bool:
        """Take note of the end of an attempt; return whether it shows that the network works."""
        if fetched.outcome in _UNASKED or (fetched.outcome in _SILENCE and fetched.http_status is None):
            return False
        if local_cause(fetched.outcome, fetched.detail) is not None:
            return False
        self.answers += 1
        return True

    def defers(self, row: Row, fetched: Fetched, now_s: float) -> bool:
        """Defer a row that failed for good, if nobody has answered since it was first asked."""
        if row.was_deferred or row.answers != self.answers:
            return False
        if local_cause(fetched.outcome, fetched.detail) is None:
            return False
        row.was_deferred = True
        self._rows.append(DeferredRow(row, fetched, now_s))
        return True

    def patience_s(self, is_last: bool) -> float:
        """Return how long to wait with them when nothing else is to be done; `is_last` is if no more rows will come.

        Long enough in any case for the parent to hear of them, and to stop the run if it finds no use in going on.
        """
        if is_last and len(self._rows) < FEW:
            return 0.0
        if not self.answers:
            return PROBE_EVERY_S
        return 15.0 if is_last and len(self._rows) < MANY else 90.0

    def pop(self) -> Row:
        """Return one row, which is deferred no longer, but may be again; there is one."""
        row = self._rows.pop(0).row
        row.was_deferred = False
        return row

    def release(self) -> list[DeferredRow]:
        """Return all rows, which are deferred no longer."""
        rows, self._rows = self._rows, []
        return rows

    def reasons(self) -> Counter[Reason]:
        """Return how many are deferred for which reason."""
        return Counter(reason_of(each.fetched.outcome, each.fetched.detail) for each in self._rows)

    def domains(self) -> int:
        """Return how many domains they are of, up to DOMAINS_COUNTED."""
        found: set[str] = set()
        for each in self._rows:
            found.add(each.row.request.domain)
            if len(found) == DOMAINS_COUNTED:
                break
        return len(found)
