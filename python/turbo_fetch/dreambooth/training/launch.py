"""Where a run takes place: in this process, in one for each device of this machine, or on a Ray cluster.

As `python -m turbo_fetch.dreambooth.training.launch` it is one of the processes that the DDP launcher starts.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import torch.distributed
from lightning.fabric.plugins.environments.lightning import LightningEnvironment

from turbo_fetch.dataset.lock import locked
from turbo_fetch.dataset.place import open_place
from turbo_fetch.dreambooth.quiet import quiet
from turbo_fetch.dreambooth.run_folder import tidy
from turbo_fetch.dreambooth.training.history import TrainReport
from turbo_fetch.dreambooth.training.preconditions import check_training
from turbo_fetch.dreambooth.training.train import train_here
from turbo_fetch.dreambooth.training.trainer import TrainerFactory
from turbo_fetch.errors import SpecError, TurboFetchError
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.spec import Spec, TrainSpec
from turbo_fetch.spec.specfile import dump_spec, load_spec
from turbo_fetch.stop import StopRequest, leave_signals_to_parent

_END_S: Final = 30.0


def run(spec: Spec, listener: ProgressListener, stop: StopRequest) -> TrainReport:
    """Train what `[train]` says, from where an earlier run stopped; blocks until done. What `check` refuses, it did.

    Raises SpecError, PicturesError, ModelError, OutputError, OutputExists, MissingExtra, TrainingFailed, or
    Interrupted, after which the same call resumes exactly where it stopped.
    """
    train = spec.train
    if train is None:
        raise SpecError("the spec has no table [train]")
    with locked(open_place(train.output), listener.note, stop), quiet():
        tidy(Path(train.output))
        if spec.engine.kind == "ray":
            # Needs an extra that a run on this machine does without.
            from turbo_fetch.dreambooth.training.on_ray import train_on_ray

            return train_on_ray(spec, train, listener, stop)
        with ddp_launcher(spec, train) as factory:
            return train_here(spec, train, listener, stop, factory)


def check(spec: Spec) -> None:
    """Raise before anything is made what the stage would, see `preconditions`."""
    check_training(spec)


class LocalGroup(LightningEnvironment):
    """The processes of a run on several devices of this machine, as Lightning asks for them."""

    creates_processes_externally = True
    main_address = "127.0.0.1"

    def __init__(self, port: int, rank: int) -> None:
        super().__init__()
        self.port = port
        self.rank = rank

    @property
    def main_port(self) -> int:
        """Where the first process listens for the others."""
        return self.port

    def local_rank(self) -> int:
        """Return the number of this process, which is that of its device."""
        return self.rank


@contextmanager
def ddp_launcher(spec: Spec, train: TrainSpec) -> Iterator[TrainerFactory]:
    """Run a process for every device but the first while the context lasts; this one becomes the first.

    Lightning would start the whole command again, with its other stages and its lock.
    """
    if train.devices == 1:
        yield TrainerFactory(train.strategy)
        return
    with ExitStack() as stack:
        path = Path(stack.enter_context(TemporaryDirectory())) / "spec.toml"
        path.write_text(dump_spec(spec, root=Path.cwd()), encoding="utf-8")
        port = _free_port()
        stack.callback(_leave_group)
        for rank in range(1, train.devices):
            command = [sys.executable, "-m", __name__, str(path), str(port), str(rank)]
            # Ctrl-C reaches the whole group of a terminal, but they stop when the first tells them to.
            process = subprocess.Popen(command, start_new_session=True, stdin=subprocess.PIPE)
            stack.callback(_end, process)
        yield _in_group(train, port, 0)


def _in_group(train: TrainSpec, port: int, rank: int) -> TrainerFactory:
    strategy = "ddp" if train.strategy == "auto" else train.strategy
    return TrainerFactory(strategy, train.devices, (LocalGroup(port, rank),), rank, train.devices)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _leave_group() -> None:
    """Be a process of its own again: readers of data ask the group, which Lightning leaves open, for their share."""
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
    assert process.stdin is not None
    process.stdin.close()


def _end_with_parent() -> None:
    """End this process when the one that started it is gone: it would wait for it, and keep its device."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


def _main(path: str, port: str, rank: str) -> None:
    """Train on one device, together with the others; what there is to tell, the first tells."""
    leave_signals_to_parent()
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    spec = load_spec(Path(path))
    assert spec.train is not None
    try:
        with quiet():
            train_here(
                spec,
                spec.train,
                ProgressListener(),
                StopRequest(),
                _in_group(spec.train, int(port), int(rank)),
            )
    except TurboFetchError as error:
        sys.exit(error.exit_code)


if __name__ == "__main__":
    _main(*sys.argv[1:])
