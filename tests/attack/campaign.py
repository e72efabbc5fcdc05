"""The campaign behind `make attack`: every attack in turn until the time is over, and a table of what came of them.

    python -m attack.campaign FOLDER SECONDS SEED [NAME ...]

A trial is a function of its seed, which is made of the campaign's, the attack's name and a number. What failed is kept
in FOLDER/found, a line for each trial, and is tried first by the next campaign.
"""

from __future__ import annotations

import json
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from random import Random

import processes


@dataclass(frozen=True, slots=True)
class Attack:
    """An attack: `attempt` makes it once, in an empty folder, and returns what failed."""

    name: str
    attempt: Callable[[Random, Path], str | None]
    struck: Counter[str] = field(default_factory=Counter)
    """How often it has struck, by its name, where a trial may do so several times; `attempt` counts. Of attacks
    that share it the one that has struck least has the next turn."""


@dataclass(slots=True)
class Outcome:
    """What came of the trials of an attack."""

    tried: int = 0
    struck: int = 0
    seconds: float = 0.0
    failed: dict[str, str] = field(default_factory=dict)
    """What failed, by seed."""


def attempt(attack: Attack, seed: str, outcome: Outcome) -> None:
    """Make one trial, and note what came of it."""
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="attack-", ignore_cleanup_errors=True) as folder,
        processes.ended(),
    ):
        try:
            failure = attack.attempt(Random(seed), Path(folder))
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"
    outcome.tried += 1
    outcome.struck = attack.struck[attack.name]
    outcome.seconds += time.monotonic() - began
    if failure is not None:
        outcome.failed[seed] = failure


def make_war(attacks: Iterable[Attack], found: Path, seconds: float, seed: int) -> dict[str, Outcome]:
    """Try what failed before, then every attack in turn until the time is over, each at least once.

    Of those that share what they have struck the next one is that which has struck least.

    What was tried until then is kept and returned if the campaign is interrupted.
    """
    by_name = {attack.name: attack for attack in attacks}
    outcomes = {name: Outcome() for name in by_name}
    ends = time.monotonic() + seconds
    known = [(name, trial) for name, trial in read_found(found) if name in by_name]
    new = Counter[str]()
    with suppress(KeyboardInterrupt):
        while known:
            attempt(by_name[known[0][0]], known[0][1], outcomes[known[0][0]])
            del known[0]
        for turn, attack in enumerate(cycle(by_name.values())):
            if turn >= len(by_name) and time.monotonic() > ends:
                break
            alike = [each for each in by_name.values() if each.struck is attack.struck]
            chosen = min(alike, key=lambda each: (each.struck[each.name], new[each.name]))
            attempt(chosen, f"{seed} {chosen.name} {new[chosen.name]}", outcomes[chosen.name])
            new[chosen.name] += 1
    keep_found(found, outcomes, known)
    return outcomes


def read_found(found: Path) -> list[tuple[str, str]]:
    """Return name and seed of the trials that failed in earlier campaigns."""
    if not found.exists():
        return []
    lines = map(json.loads, found.read_text().splitlines())
    return [(line["attack"], line["seed"]) for line in lines]


def keep_found(found: Path, outcomes: dict[str, Outcome], untried: Iterable[tuple[str, str]]) -> None:
    """Write what failed, now or before and `untried` since; what was found before and holds now is mended."""
    found.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps({"attack": name, "seed": seed, "failure": failure})
        for name, outcome in outcomes.items()
        for seed, failure in outcome.failed.items()
    ]
    lines += [
        json.dumps({"attack": name, "seed": seed, "failure": "not tried again"}) for name, seed in untried
    ]
    found.write_text("".join(f"{line}\n" for line in lines))


def table(outcomes: dict[str, Outcome]) -> str:
    """Return the outcomes as a table of Markdown, with what failed below it."""
    lines = ["| Attack | Tried | Strikes | Failed | Seconds |", "|---|---|---|---|---|"]
    for name, outcome in outcomes.items():
        strikes = outcome.struck or outcome.tried
        lines.append(
            f"| {name} | {outcome.tried} | {strikes} | {len(outcome.failed)} | {outcome.seconds:.0f} |"
        )
    failed = [
        f"{name}\n  seed: {seed}\n  {failure}"
        for name, outcome in outcomes.items()
        for seed, failure in outcome.failed.items()
    ]
    return "\n".join([*lines, "", *failed]).rstrip()


def main(folder: str, seconds: str, seed: str, *wanted: str) -> int:
    """Run a campaign, to which SIGTERM is an interruption; return the exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    from attack import books, hosts, images, kills, machine, pace, places, power, stops, takeovers

    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="attacks-")))
        attacks = [
            attack
            for module in (images, hosts, pace, books, machine, places, kills, stops, takeovers, power)
            for attack in module.attacks(stack, place)
            if not wanted or any(word in attack.name for word in wanted)
        ]
        outcomes = make_war(attacks, Path(folder) / "found", float(seconds), int(seed))
    print(f"seed {seed}\n\n{table(outcomes)}")
    return int(any(outcome.failed for outcome in outcomes.values()))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    raise SystemExit(main(*sys.argv[1:]))
