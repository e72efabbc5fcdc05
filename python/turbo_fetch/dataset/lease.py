"""The lease of an output: of all runs, on whatever machines, one works on a dataset, or on a part of it.

A lease is a file in the output, which holds who has it. It has a number, its token, one more than the one before;
making the file of the next number, which the place lets one alone do, is taking the lease. Its holder writes it anew
every few seconds, and has lost it when there is one of a higher number. Who wants it takes it from a holder that let
it go, from one whose process on the same machine is gone, and from one that it has seen say nothing for as long as the
lease itself names. No clock is compared with another's: silence is what the waiting one measures by its own.

Every change to the output looks at the lease first (`Storage.fence`). That a holder was silent for too long it sees by
its own clock, which runs on while it is stopped; then it must be confirmed before anything else is done.
"""

from __future__ import annotations

import copy
import os
import secrets
import select
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from turbo_fetch.dataset import names
from turbo_fetch.dataset.process_identity import ProcessIdentity
from turbo_fetch.errors import Interrupted, OutputError, OutputHeld
from turbo_fetch.stop import StopRequest
from turbo_fetch.storage import Storage

SILENCE_S: Final = 60.0
"""After so long without a sign of its holder a lease may be taken."""
BEATS: Final = 6
"""Signs that a holder gives in that time."""
LOOKS: Final = 40
"""How often who waits looks in that time."""
WORKER_LOOKS_S: Final = 1.0
"""What a worker saw of the lease holds for so long."""

WHOLE: Final = "all"
"""The scope of a lease on the whole dataset; a part of it has the scope `1-of-8`."""


@dataclass(frozen=True, slots=True)
class Holder:
    """What a lease says of the run that has it."""

    nonce: str
    host: str
    process: ProcessIdentity
    since: str
    silence_s: float
    beats: int = 0
    is_released: bool = False
    is_complete: bool = False
    """Whether it has done all that is to be done in its scope."""

    @classmethod
    def new(cls, storage: Storage) -> Holder:
        """Return this process as a holder of a lease on a place."""
        since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return cls(
            secrets.token_hex(8), os.uname().nodename, ProcessIdentity.of_this(), since, _silence_s(storage)
        )

    @property
    def text(self) -> str:
        """Who it is, for a sentence."""
        return f"process {self.process.pid} on {self.host}, since {self.since}"


@dataclass(frozen=True, slots=True)
class Claim:
    """That a run has a lease, as a worker of it, another process, is told; it can be pickled."""

    scope: str
    token: int

    @property
    def holder(self) -> str:
        """Who has it, in names of files."""
        return f"{self.token:06d}"

    def fence(self, storage: Storage) -> Callable[[], None]:
        """Return the fence of a worker at this place: raises OutputHeld when the lease was lost."""
        bare, seen_s = _bare(storage), float("-inf")
        looks_s = max(WORKER_LOOKS_S, storage.change_every_s / 4)

        def check() -> None:
            nonlocal seen_s
            if _now_s() - seen_s > looks_s:
                begun_s = _now_s()
                _confirm(bare, self)
                seen_s = begun_s

        return check


@dataclass(slots=True)
class Lease:
    """A lease that this process has. `take` gets it; it is kept by a thread until it is released."""

    storage: Storage
    """Without a fence."""
    claim: Claim
    holder: Holder
    stop: StopRequest | None
    """Asked to stop when it is lost."""
    loss: OutputHeld | None = None
    """Who has it now, once that is known."""
    _confirmed_s: float = 0.0
    _ended: threading.Event = field(default_factory=threading.Event)
    _renewing: threading.Lock = field(default_factory=threading.Lock)

    @property
    def name(self) -> str:
        """The name of its file."""
        return names.lease(self.claim.scope, self.claim.token)

    def check(self) -> None:
        """Raise OutputHeld if another run has the lease; what is known for certain costs nothing."""
        while self.loss is None and self._is_stale() and not self._ended.is_set():
            self._renew()
        if self.loss is not None:
            raise self.loss

    def keep(self) -> None:
        """Give signs of life until it is released or lost; for a thread."""
        while not self._ended.wait(self.holder.silence_s / BEATS):
            try:
                self._renew()
            except OutputError:
                # Told by whoever needs the lease while it cannot be renewed.
                continue
            if self.loss is not None:
                if self.stop is not None:
                    self.stop.ask()
                return

    def complete(self) -> None:
        """Note that all is done in its scope; others see that when it is released."""
        with self._renewing:
            self.holder = replace(self.holder, is_complete=True)

    def release(self) -> None:
        """Let it go, so that the next one need not wait."""
        self._ended.set()
        with self._renewing:
            if self.loss is None:
                self.storage.write_bytes(self.name, _content(replace(self.holder, is_released=True)))

    def _is_stale(self) -> bool:
        """Return whether somebody who waits may have seen more than half of the silence that is allowed."""
        return _now_s() - self._confirmed_s > self.holder.silence_s / 2

    def confirm(self) -> None:
        """Raise OutputHeld if another run has the lease now, by a look at the place."""
        _confirm(self.storage, self.claim)

    def _renew(self) -> None:
        with self._renewing:
            if self._ended.is_set():
                return
            begun_s, was_stale = _now_s(), self._is_stale()
            self.holder = replace(self.holder, beats=self.holder.beats + 1)
            try:
                self.storage.write_while(self.name, _content(self.holder), self.confirm)
                if was_stale:
                    # Who had waited long enough just before may be making the next lease now.
                    time.sleep(4 * self.holder.silence_s / LOOKS)
                self.confirm()
                self._confirmed_s = begun_s
            except OutputHeld as loss:
                self.loss = loss


def take(
    storage: Storage,
    scope: str,
    note: Callable[[str], None],
    stop: StopRequest | None,
) -> Lease:
    """Take the lease on `scope` of a place; waits where its holder is silent, as `note` is told.

    Raises OutputHeld if another run that gives signs of life has it, or a part that is in the way; Interrupted when
    asked to stop; OutputError if this user may not write there.
    """
    bare, holder = _bare(storage), Holder.new(storage)
    while True:
        newest = _newest(bare)
        _free(bare, [Claim(rival, newest[rival]) for rival in _rivals(newest, scope)], note, stop)
        begun_s, newest = _now_s(), _newest(bare)
        if any(not _is_free(bare, Claim(rival, newest[rival])) for rival in _rivals(newest, scope)):
            continue
        claim = Claim(scope, newest.get(scope, 0) + 1)
        if bare.create(names.lease(scope, claim.token), _content(holder)):
            break
    lease = Lease(bare, claim, holder, stop, _confirmed_s=begun_s)
    try:
        # Of a run of the whole and one of a part that begin at once, each sees the other now.
        newest = _newest(bare)
        for rival in _rivals(newest, scope) - {scope}:
            if not _is_free(bare, Claim(rival, newest[rival])):
                raise _busy(bare, _read(bare, Claim(rival, newest[rival])))
        _tidy(bare, claim)
    except BaseException:
        lease.release()
        raise
    threading.Thread(target=lease.keep, name="lease", daemon=True).start()
    return lease


kept: Final[dict[str, Lease]] = {}
"""The leases that this process has, by the URL of their place."""


def behind_lease(storage: Storage) -> Storage:
    """Return the place, behind the fence of the lease that this process has on it, if it has one."""
    if storage.url in kept:
        lease = kept[storage.url]
        storage.fence, storage.confirm, storage.holder = lease.check, lease.confirm, lease.claim.holder
    return storage


def behind_claim(storage: Storage, claim: Claim | None) -> Storage:
    """Return the place, behind the fence of the lease that another process has on it, if that has one."""
    if claim is not None:
        storage.fence = storage.confirm = claim.fence(storage)
        storage.holder = claim.holder
    return storage


def claim_on(storage: Storage) -> Claim | None:
    """Return what the workers of this process need to know of its lease on a place, None if it has none."""
    return kept[storage.url].claim if storage.url in kept else None


def are_complete(storage: Storage, scopes: Iterable[str]) -> bool:
    """Return whether the last holders of all these scopes have done all that is to be done, and let go."""
    newest = _newest(storage)
    holders = (_read(storage, Claim(scope, newest.get(scope, 0))) for scope in scopes)
    return all(holder is not None and holder.is_released and holder.is_complete for holder in holders)


def _rivals(newest: Mapping[str, int], scope: str) -> set[str]:
    """Return the scopes, of those that ever were, that must be free: one with rows in common with `scope`.

    Parts of another number of parts are such; parts of the same number are not.
    """
    _, _, count = scope.partition("-of-")
    return {
        each
        for each in newest
        if each == scope or WHOLE in (each, scope) or each.partition("-of-")[2] != count
    }


def _free(
    storage: Storage, claims: Sequence[Claim], note: Callable[[str], None], stop: StopRequest | None
) -> None:
    """Return when leases are free, by themselves or since they were taken from holders that are gone or silent.

    Raises OutputHeld when one of the holders gives a sign of life.
    """
    first = {claim: _read(storage, claim) for claim in claims}
    waiting = {claim: holder for claim, holder in first.items() if holder is None or not holder.is_released}
    silent = {claim for claim, holder in waiting.items() if holder is None or not _is_gone(storage, holder)}
    if silent:
        holder = first[min(silent, key=str)]
        silence_s = _silence_s(storage) if holder is None else holder.silence_s
        who = "an unknown process" if holder is None else holder.text
        note(
            f"{storage.url}: another run ({who}) has this output; if it gives no sign of life for {silence_s:g} s, "
            "this one takes over"
        )
        # Looks are counted: a machine that slept meanwhile has not seen what the other one did.
        for _ in range(LOOKS):
            _pause(silence_s / LOOKS, stop)
            if stop:
                raise Interrupted("stopped while waiting for another run; nothing was begun")
            for claim in list(silent):
                holder = _read(storage, claim)
                if holder is not None and holder.is_released:
                    del waiting[claim]
                    silent.remove(claim)
                elif holder != first[claim]:
                    raise _busy(storage, holder)
                elif holder is not None and _is_gone(storage, holder):
                    silent.remove(claim)
            if not silent:
                break
    # What was silent must see that it has lost the lease, whichever scope is taken in its place.
    gone = _content(replace(Holder.new(storage), is_released=True))
    for claim in waiting:
        storage.create(names.lease(claim.scope, claim.token + 1), gone)


def _pause(seconds: float, stop: StopRequest | None) -> None:
    """Sleep until asked to stop."""
    if stop is None:
        time.sleep(seconds)
    elif not stop:
        poll = select.poll()
        poll.register(stop, select.POLLIN)
        poll.poll(1000 * seconds)


def _is_gone(storage: Storage, holder: Holder) -> bool:
    """Return whether a holder's process has ended, as far as can be seen from here.

    Raises OutputHeld if it is here and can go on.
    """
    if not holder.process.is_here():
        return False
    if holder.process.is_gone():
        return True
    if not holder.process.is_stopped():
        raise _busy(storage, holder)
    return False


def _busy(storage: Storage, holder: Holder | None) -> OutputHeld:
    who = "an unknown process" if holder is None else holder.text
    return OutputHeld(
        f"{storage.url}: another run ({who}) is working on this output; wait for it, or stop it"
    )


def _confirm(storage: Storage, claim: Claim) -> None:
    """Raise OutputHeld if the lease is not the newest one on its scope."""
    newest = _newest(storage).get(claim.scope, 0)
    if newest == claim.token:
        return
    if newest < claim.token:
        raise OutputHeld(
            f"{storage.url}: {names.lease(claim.scope, claim.token)} is gone; expected it to be there"
        )
    holder = _read(storage, Claim(claim.scope, newest))
    who = "it" if holder is None else f"it ({holder.text})"
    raise OutputHeld(
        f"{storage.url}: this run gave no sign of life for too long, and another run took over; what it had not "
        f"committed belongs to {who}. Nothing is lost: run the same command again when that has ended"
    )


def _newest(storage: Storage) -> dict[str, int]:
    """Return the highest number of a lease on each scope that ever was."""
    found: dict[str, int] = {}
    for entry in storage.list(names.LEASES):
        named = names.scope_of_lease(entry.name)
        if named is not None:
            found[named[0]] = max(named[1], found.get(named[0], 0))
    return found


def _is_free(storage: Storage, claim: Claim) -> bool:
    holder = _read(storage, claim)
    return holder is not None and holder.is_released


def _tidy(storage: Storage, claim: Claim) -> None:
    """Delete the leases before this one on its scope, and what those left who were killed while they made one."""
    for entry in list(storage.list(names.LEASES)):
        begun = entry.name.startswith(".")
        named = names.scope_of_lease(entry.name[1:].rpartition(".")[0] if begun else entry.name)
        if named is not None and named[0] == claim.scope and named[1] < claim.token:
            storage.delete(f"{names.LEASES}/{entry.name}")


def _read(storage: Storage, claim: Claim) -> Holder | None:
    """Return what a lease says, None if it is garbled or gone."""
    try:
        found: dict[str, Any] = orjson.loads(storage.read_bytes(names.lease(claim.scope, claim.token)))
        return Holder(**{**found, "process": ProcessIdentity(**found["process"])})
    except (FileNotFoundError, orjson.JSONDecodeError, KeyError, TypeError):
        return None


def _silence_s(storage: Storage) -> float:
    """Return how long a holder at this place may be silent, who gives signs where changes may be made."""
    return max(SILENCE_S, BEATS * storage.change_every_s)


def _content(holder: Holder) -> bytes:
    return orjson.dumps(holder)


def _bare(storage: Storage) -> Storage:
    bare = copy.copy(storage)
    bare.fence, bare.confirm, bare.holder = None, None, ""
    return bare


def _now_s() -> float:
    """Return a time that also passes while this machine is suspended."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
