"""Weights & Biases: one W&B run per stage and run, grouped by the run's name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from turbo_fetch.monitor.trackers import scalars, step_of


class WeightsAndBiases:
    """Logs figures and images to a W&B run, on the server or, if `offline`, into files for `wandb sync`."""

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
        if line["kind"] == "picture":
            figures: dict[str, Any] = {f"{line['stage']}/{line['name']}": wandb.Image(line["path"])}
        else:
            figures = dict(scalars(line))
        # W&B drops what comes under a smaller step than before, and steps without figures are of some other count.
        if figures:
            self._run.log(figures, step=step_of(line))

    def close(self) -> None:
        """See Tracker."""
        self._run.finish()
        # The process that writes the files may not be done before it has ended.
        wandb.teardown()
