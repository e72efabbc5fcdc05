"""The command line. Workers take longest to start, so one that will be needed is started before anything else."""

from __future__ import annotations

import sys

from turbo_fetch.cli.ahead import start_for
from turbo_fetch.cli.failure import no_traceback
from turbo_fetch.cli.streams import safe_streams
from turbo_fetch.runners.processes import none_left_ahead
from turbo_fetch.startup import importing, without_plugins


def main() -> None:
    """Run the command line."""
    with safe_streams(), no_traceback(), none_left_ahead():
        without_plugins()
        start_for(sys.argv[1:])
        with importing():
            from turbo_fetch.cli.commands import called_by
        called_by(sys.argv[1:])()
