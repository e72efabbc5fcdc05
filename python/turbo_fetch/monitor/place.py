"""Where the records of a run go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from turbo_fetch.dataset import names
from turbo_fetch.spec import TrackSpec
from turbo_fetch.storage import Storage


@dataclass(frozen=True, slots=True)
class Place:
    """Where the records of a stage go, all on this machine."""

    url: str
    """The output of the stage."""
    path: Path
    """The metrics: in the output if that is local."""
    folder: Path
    """For what trackers write."""
    log: Path
    """What the monitor process prints, which is nothing unless it fails."""

    @property
    def run(self) -> str:
        """Name of the run, unless the spec gives one: the last part of the output's address."""
        return self.url.rstrip("/").rpartition("/")[2] or "run"


def place_in(storage: Storage, track: TrackSpec) -> Place:
    """Return where the records of a run into `storage` go; those of earlier runs into it are brought there."""
    work = storage.make_work()
    home = storage.path or work
    path = home / names.METRICS
    path.parent.mkdir(parents=True, exist_ok=True)
    if storage.path is None:
        try:
            path.write_bytes(storage.read_bytes(names.METRICS))
        except FileNotFoundError:
            path.unlink(missing_ok=True)
    return Place(
        url=storage.url,
        path=path,
        folder=Path(track.folder) if track.folder else home / names.LOGS,
        log=work / names.MONITOR_LOG,
    )


def publish(storage: Storage, place: Place) -> None:
    """Publish the records of a remote output; those of a local one are there already."""
    if storage.path is None and place.path.exists():
        storage.write_bytes(names.METRICS, place.path.read_bytes())
