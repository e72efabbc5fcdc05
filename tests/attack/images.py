"""Damaged images between good ones: nothing of one reaches the next, and no good one is lost."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from random import Random

from attack.campaign import Attack
from damage import broken_jpegs, damaged
from test_neighbours import JPEGS, SOUND, WAYS, records


def attacks(stack: ExitStack, folder: Path) -> list[Attack]:
    """Return an attack for each way in which images are made."""
    return [Attack(f"damaged images, {way}", partial(_attempt, way)) for way in WAYS]


def _attempt(way: str, random: Random, folder: Path) -> str | None:
    good = random.choices(list(SOUND.values()), k=24)
    alone = {body: records(way, [body], 1)[0] for body in good}
    broken = broken_jpegs(SOUND[random.choice(JPEGS)])
    bad = [
        damaged(random.choice(good), random.choice(good), random)
        if random.random() < 0.8
        else random.choice(list(broken.values()))
        for _ in good
    ]
    bodies = [body for pair in zip(good, bad, strict=True) for body in pair]
    found = records(way, bodies, random.choice((1, 4)))
    changed = sum(record != alone[body] for body, record in zip(good, found[::2], strict=True))
    if changed:
        return f"{changed} of {len(good)} good images are others beside damaged ones"
    again = records(way, bodies[::-1], 1)[::-1]
    if again != found:
        return "in another order, damaged images end otherwise"
    return None
