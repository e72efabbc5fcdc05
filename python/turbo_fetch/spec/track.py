"""`[track]`: where progress is recorded."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from turbo_fetch.spec.table import Location, Table

Tracker = Literal["tensorboard", "wandb", "prometheus"]


class TrackSpec(Table):
    """`[track]`: where progress is recorded, in addition to the terminal and the metrics in the output."""

    to: tuple[Tracker, ...] = ()
    """Trackers that receive the metrics of all stages; each needs the extra of the same name."""
    project: str = "turbo-fetch"
    """Weights & Biases project of the run."""
    run: str | None = None
    """Name of the run; by default the name of the output folder."""
    interval_s: Annotated[float, Field(ge=0.5, le=86_400)] = 10
    """Seconds between two records of a long run; short runs are recorded more often."""
    report: bool = True
    """Whether to write `report.html` into the dataset at the end of a run."""
    report_every_s: Annotated[float, Field(ge=0, le=31_536_000)] = 900
    """Seconds between updates of the report during a run; 0: only at the end."""
    folder: Location | None = None
    """Local folder for TensorBoard events and W&B files; by default `logs` in a local output, or in the work
    folder of a remote one."""
    wandb_mode: Literal["online", "offline"] = "online"
    """`offline` keeps the W&B run on disk; upload it later with `wandb sync`."""
    host: str = "127.0.0.1"
    """Address of the Prometheus endpoint; `0.0.0.0` lets other machines scrape it."""
    port: Annotated[int, Field(ge=1, le=65_535)] = 9400
    """Port of the Prometheus endpoint, `http://HOST:PORT/metrics`."""
