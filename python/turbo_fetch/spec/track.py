"""`[track]`: where progress is recorded."""

from __future__ import annotations

from typing import Literal

from turbo_fetch.spec.table import Table

Tracker = Literal["tensorboard", "wandb", "prometheus"]


class TrackSpec(Table):
    """`[track]`: where progress is recorded, besides the terminal."""

    to: tuple[Tracker, ...] = ()
    """Trackers that get the metrics of all stages."""
