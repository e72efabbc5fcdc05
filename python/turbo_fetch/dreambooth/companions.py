"""The other processes of a run on several devices of this machine: one each, ended with the first."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.spec import Spec, TrainSpec
from turbo_fetch.spec.specfile import dump_spec, load_spec
from turbo_fetch.stop import StopRequest, leave_signals_to_parent

_END_S: Final = 30.0


@contextmanager
def companions(spec: Spec, train: TrainSpec) -> Iterator[None]:
    """Run a process for every device but the first while the context lasts; this one becomes the first.

    Lightning would start the whole command again, with its other stages and its lock.
    """
    if train.devices == 1:
        yield
        return
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        (folder / "spec.toml").write_text(dump_spec(spec, root=Path.cwd()), encoding="utf-8")
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
        stack.enter_context(_environment(meeting | {"LOCAL_RANK": "0"}))
        stack.callback(_leave_group)
        for rank in range(1, train.devices):
            command = [sys.executable, "-m", "turbo_fetch.dreambooth.companions", str(folder / "spec.toml")]
            # Ctrl-C reaches the whole group of a terminal, but they stop when the first tells them to.
            process = subprocess.Popen(
                command, env=os.environ | {"LOCAL_RANK": str(rank)}, start_new_session=True
            )
            stack.callback(_end, process)
        yield


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def _environment(added: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in added}
    os.environ.update(added)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _leave_group() -> None:
    """Be a process of its own again: readers of data ask the group, which Lightning leaves open, for their share."""
    import torch.distributed

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Wait for a process that is ending by itself; kill it if it is not."""
    failing = sys.exc_info()[0] is not None
    try:
        process.wait(0 if failing else _END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _main(path: str) -> None:
    """Train on one device, together with the others; what there is to tell, the first tells."""
    from turbo_fetch.dreambooth.placement import here, quiet
    from turbo_fetch.dreambooth.train import train_here
    from turbo_fetch.errors import TurboFetchError

    leave_signals_to_parent()
    spec = load_spec(Path(path))
    assert spec.train is not None
    try:
        with quiet():
            train_here(spec, spec.train, ProgressListener(), StopRequest(), here(spec.train))
    except TurboFetchError as error:
        sys.exit(error.exit_code)


if __name__ == "__main__":
    _main(sys.argv[1])
