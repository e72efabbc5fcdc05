"""Weights & Biases: one W&B run per stage and run, grouped by the run's name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from turbo_fetch.monitor.trackers import scalars, step_of


class WeightsAndBiases:
    """Logs scalars to a W&B run, on the server or, if `offline`, into files that `wandb sync` sends later."""

    def __init__(self, folder: Path, project: str, run: str, stage: str, offline: bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=project,
            name=f"{run} {stage}",
            group=run,
            job_type=stage,
            dir=str(folder),
            mode="offline" if offline else "online",
            settings=wandb.Settings(silent=True, console="off", disable_git=True, save_code=False),
        )

    def take(self, line: Mapping[str, Any]) -> None:
        """See Tracker."""
        self._run.log(dict(scalars(line)), step=step_of(line))

    def close(self) -> None:
        """See Tracker."""
        self._run.finish()
