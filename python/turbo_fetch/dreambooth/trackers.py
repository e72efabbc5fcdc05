"""The trackers of `[track]` as Lightning's loggers, which get losses, rates and sample grids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from turbo_fetch.spec import TrackSpec


def loggers(track: TrackSpec, output: Path) -> list[Any]:
    """Return the loggers of a run; an empty list if there are none. The packages are checked by `run`."""
    folder = Path(track.folder) if track.folder else output / "logs"
    made: list[Any] = []
    if "tensorboard" in track.to:
        from lightning.pytorch.loggers import TensorBoardLogger

        made.append(TensorBoardLogger(folder, name="", version=track.run or "train"))
    if "wandb" in track.to:
        from lightning.pytorch.loggers import WandbLogger

        folder.mkdir(parents=True, exist_ok=True)
        made.append(
            WandbLogger(
                project=track.project,
                name=track.run or output.name,
                save_dir=folder,
                offline=track.wandb_mode == "offline",
            )
        )
    return made
