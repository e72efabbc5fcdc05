"""The process that runs the function: one call at a time, for all workers of the machine that connect to it.

It is made ready once, then takes batches from whichever worker asks, and ends when none is connected any more. A call
that kills it, or never returns, costs only the batch of that call.
"""

from __future__ import annotations

import faulthandler
import inspect
import os
import pickle
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from turbo_fetch.arrow.score_types import score_schema
from turbo_fetch.errors import ScoringFailed, SpecError, TurboFetchError
from turbo_fetch.score.columns import BadScores, as_columns
from turbo_fetch.score.messages import FromProcess, NotReady, ProcessJob, Raised, Ready, Scored, YourTurn
from turbo_fetch.score.rendezvous import leave

TRACE_CHARACTERS: Final = 1500
NUMBER: Final = "TURBO_FETCH_SCORER"
LOOK_EVERY_S: Final = 1.0

if TYPE_CHECKING:
    Worker = Connection[FromProcess, None]
Function = Callable[[pa.RecordBatch], object]


def main() -> None:
    """Serve on the listening socket whose descriptor is the first argument; the job comes by standard input."""
    listening = socket.socket(fileno=int(sys.argv[1]))
    listening.set_inheritable(False)
    job: ProcessJob = pickle.load(sys.stdin.buffer)
    # Ctrl-C, and a terminal that is closed, are for the parent; what code prints is none of a command's output.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.dup2(2, 1)
    faulthandler.enable()
    os.environ[NUMBER] = str(job.number)
    workers = Workers(listening)
    threading.Thread(target=_end_when_alone, args=(workers, Path(job.path)), daemon=True).start()
    try:
        function = made_ready(job)
    except TurboFetchError as error:
        workers.greet(NotReady(type(error).__name__, str(error)))
        leave(Path(job.path), listening)
        os._exit(1)
    workers.greet(Ready(os.getpid()))
    serve(workers, function, score_schema(job.columns))
    leave(Path(job.path), listening)
    sys.stdout.flush()
    # Threads of the user's code may still wait for something.
    os._exit(0)


def made_ready(job: ProcessJob) -> Function:
    """Return the function, or the object that a class makes. Raises SpecError, ScoringFailed for what that raises."""
    name = f"{job.code.name}:{job.name}"
    found = getattr(job.code.module(), job.name, None)
    if not callable(found):
        raise SpecError(
            f"{job.code.key} = {name!r}: there is no function or class {job.name}; expected one that takes a record "
            "batch"
        )
    arguments = dict(job.arguments)
    if not inspect.isclass(found):
        return partial(found, **arguments) if arguments else found
    try:
        made = found(**arguments)
    except Exception as error:
        # Whatever the class does: it is the user's.
        raise ScoringFailed(f"{name} cannot be made: {described(error)}\n{trace_of(error)}") from error
    if not callable(made):
        raise SpecError(
            f"{job.code.key} = {name!r}: what it makes cannot be called; expected a method __call__"
        )
    return made


class Workers:
    """The workers that are connected."""

    def __init__(self, listening: socket.socket) -> None:
        self.listening = listening
        self._lock = threading.Lock()
        self._greeting: FromProcess | None = None
        self.connected: list[Worker] = []
        self.has_had_any = False

    @property
    def is_greeting(self) -> bool:
        """Whether it is known what to tell those that come."""
        return self._greeting is not None

    def greet(self, message: FromProcess) -> None:
        """Tell those that have come, and those that will, how things stand."""
        self.take_in()
        with self._lock:
            self._greeting = message
            for worker in list(self.connected):
                self.say(worker, message)

    def take_in(self) -> None:
        """Take those that want to connect."""
        with self._lock:
            while select.select([self.listening], [], [], 0)[0]:
                accepted, _ = self.listening.accept()
                worker: Worker = Connection(accepted.detach())
                self.connected.append(worker)
                self.has_had_any = True
                if self._greeting is not None:
                    self.say(worker, self._greeting)

    def say(self, worker: Worker, message: FromProcess) -> None:
        """Send a message, unless the worker is gone."""
        try:
            worker.send(message)
        except OSError:
            self.gone(worker)

    def gone(self, worker: Worker) -> None:
        """Take note that one has left."""
        if worker in self.connected:
            self.connected.remove(worker)
        worker.close()

    def next_wishes(self) -> list[Any]:
        """Return whoever wants something, in the order of their last turns; nobody if all are gone."""
        while self.connected or not self.has_had_any:
            found = wait([self.listening, *self.connected])
            if self.listening in found:
                self.take_in()
            wishing = [worker for worker in self.connected if worker in found]
            if wishing:
                return wishing
        return []


def serve(workers: Workers, function: Function, schema: pa.Schema) -> None:
    """Call the function for one batch after the other, until nobody is connected."""
    while wishing := workers.next_wishes():
        worker = wishing[0]
        try:
            worker.recv()
            worker.send(YourTurn())
            content = worker.recv_bytes()
        except (EOFError, OSError):
            workers.gone(worker)
            continue
        workers.say(worker, answer(function, content, schema))
        if worker in workers.connected:
            # Whoever had its turn is last from now on.
            workers.connected.remove(worker)
            workers.connected.append(worker)


def answer(function: Function, content: bytes, schema: pa.Schema) -> Scored | Raised:
    """Return what the function says of a batch."""
    with pa.ipc.open_stream(content) as stream:
        batch = stream.read_next_batch()
    try:
        columns = as_columns(function(batch), schema, batch.num_rows)
    except BadScores as error:
        return Raised(str(error), "")
    except Exception as error:
        # Whatever the function does: it is the user's.
        return Raised(f"raised {described(error)}", trace_of(error))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as written:
        written.write_batch(columns)
    return Scored(sink.getvalue().to_pybytes())


def described(error: BaseException) -> str:
    """Return an exception as one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def trace_of(error: BaseException) -> str:
    """Return the end of a traceback, of the frames of the user's code alone."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename in {__file__}:
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames))[-TRACE_CHARACTERS:].strip()


def _end_when_alone(workers: Workers, path: Path) -> None:
    """End the process when all workers are gone, also while the function is made, or in the midst of a call."""
    while True:
        time.sleep(LOOK_EVERY_S)
        if not workers.is_greeting:
            workers.take_in()
        connected = list(workers.connected)
        hung_up = select.poll()
        for worker in connected:
            with suppress(OSError):
                hung_up.register(worker.fileno(), 0)
        if connected and len(hung_up.poll(0)) == len(connected):
            leave(path, workers.listening)
            os._exit(0)
