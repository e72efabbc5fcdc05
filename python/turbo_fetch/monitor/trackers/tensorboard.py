"""TensorBoard: event files, written without torch or TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from turbo_fetch.monitor.trackers import scalars, step_of


class TensorBoard:
    """Writes scalars and images into event files in a folder of the run's name."""

    def __init__(self, folder: Path, run: str) -> None:
        self._writer = EventFileWriter(str(folder / "tensorboard" / run), flush_secs=10)

    def take(self, line: Mapping[str, Any]) -> None:
        """See Tracker."""
        if line["kind"] == "picture":
            values = [_picture(line)]
        else:
            values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars(line)]
        if values:
            self._writer.add_event(
                Event(wall_time=line["time"], step=step_of(line), summary=Summary(value=values))
            )

    def close(self) -> None:
        """See Tracker."""
        self._writer.close()


def _picture(line: Mapping[str, Any]) -> Summary.Value:
    image = Summary.Image(encoded_image_string=Path(line["path"]).read_bytes())
    return Summary.Value(tag=f"{line['stage']}/{line['name']}", image=image)
