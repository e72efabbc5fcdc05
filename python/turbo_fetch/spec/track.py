"""`[track]`: where progress is recorded."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from turbo_fetch.spec.table import Location, Table

Tracker = Literal["tensorboard", "wandb", "prometheus"]


class TrackSpec(Table):
    """`[track]`: where progress is recorded, besides the terminal and `metrics.jsonl` in the output."""

    to: tuple[Tracker, ...] = ()
    """Trackers that get the metrics of all stages; each needs the extra of its name."""
    project: str = "turbo-fetch"
    """Project that Weights & Biases files the run under."""
    run: str | None = None
    """Name of the run; by default the name of the output folder."""
    interval_s: Annotated[float, Field(ge=0.5)] = 10
    """Seconds between two records of a long run; a run of a few minutes is recorded more often."""
    report: bool = True
    """Whether `report.html` is written into the dataset at the end of a run."""
    report_every_s: Annotated[float, Field(ge=0)] = 900
    """Seconds between two renewals of the report while a run goes on; 0 means only at its end."""
    folder: Location | None = None
    """Local folder for TensorBoard events and W&B files; by default `logs` in a local output, or in the work
    folder of a remote one."""
    wandb_mode: Literal["online", "offline"] = "online"
    """`offline` keeps the W&B run on disk, to be sent later with `wandb sync`."""
    host: str = "127.0.0.1"
    """Address on which Prometheus may ask for the metrics; `0.0.0.0` lets other machines ask."""
    port: Annotated[int, Field(ge=1, le=65_535)] = 9400
    """Port of the Prometheus endpoint, `http://HOST:PORT/metrics`."""
