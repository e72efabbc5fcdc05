"""A whole spec: its stages, one after the other, each of which resumes where it stopped."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Final, Protocol, cast

from turbo_fetch.errors import Interrupted, MissingExtra, SpecError
from turbo_fetch.monitor.recorder import tracked
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.progress.summary import Summary
from turbo_fetch.spec import STAGES, Spec
from turbo_fetch.stop import StopRequest, stop_on_signals


class Report(Protocol):
    """What a stage says of itself when it is complete."""

    def text(self) -> str:
        """Return the report as lines for a person."""


Stage = Callable[[Spec, ProgressListener, StopRequest], Report]
"""Runs one stage of a spec, or finds that its output is complete; raises TurboFetchError."""

_HOMES: Final[Mapping[str, str]] = {
    "prior": "turbo_fetch.dreambooth.sampling.prior",
    "train": "turbo_fetch.dreambooth.training.launch",
    "generate": "turbo_fetch.dreambooth.sampling.generate",
    "evaluate": "turbo_fetch.dreambooth.scoring.evaluate",
}


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What the stages of a spec came to, by name and in order."""

    reports: dict[str, Report] = field(default_factory=dict)

    @property
    def fetch(self) -> Summary:
        """The account of the dataset. Raises KeyError if the spec has no `[fetch]`."""
        return cast(Summary, self.reports["fetch"])

    def text(self) -> str:
        """Return all reports as lines for a person."""
        return "\n".join(report.text() for report in self.reports.values())


def run(
    spec: Spec,
    listener: ProgressListener | None = None,
    stop: StopRequest | None = None,
    names: Sequence[str] = STAGES,
) -> RunSummary:
    """Run every stage that the spec has, or of them only those of `names`; blocks until done.

    Progress goes to `listener`: if None it is shown on standard error, live on a terminal and in a notebook, a line
    every ten seconds elsewhere; `ProgressListener()` shows nothing. Called in the main thread, SIGINT, SIGTERM and
    SIGHUP stop it within seconds; `stop` stops it from elsewhere.
    Raises SpecError, InputError, OutputError, OutputExists, ShardFailed, MissingExtra, or Interrupted, after
    which the same call resumes where it stopped.
    """
    if listener is None:
        # It imports rich; the command line has done so before, while workers start.
        from turbo_fetch.progress.display import Display

        with Display(sys.stderr) as display:
            return run(spec, display, stop, names)
    if stop is not None:
        return _run(spec, listener, stop, names)
    with stop_on_signals(listener.note) as stop_on_signal:
        return _run(spec, listener, stop_on_signal, names)


async def arun(spec: Spec, listener: ProgressListener | None = None) -> RunSummary:
    """Run the stages without blocking the loop; cancelling saves their state, as Ctrl-C does.

    Progress and errors are as for `run`.
    """
    # Who awaits this has it already; `run` starts sooner without.
    import asyncio

    stop = StopRequest()
    running = asyncio.create_task(asyncio.to_thread(run, spec, listener, stop))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stop.ask()
        await asyncio.wait({running})
        # Interrupted is what was asked for; anything else is news.
        if not isinstance(running.exception(), Interrupted | None):
            await running
        raise
    finally:
        stop.close()


def _run(spec: Spec, listener: ProgressListener, stop: StopRequest, names: Sequence[str]) -> RunSummary:
    summary = RunSummary()
    if spec.engine.shards is not None and spec.fetch is None:
        raise SpecError(
            f'engine.shards = "{spec.engine.shards}" is a part of a fetch, but the spec has no [fetch]'
        )
    # What follows needs all of the dataset, of which this is to make a part.
    wanted = names if spec.engine.shards is None else ("fetch",)
    ahead = [name for name in wanted if getattr(spec, name) is not None]
    models = [name for name in ahead if name != "fetch"]
    if models and ahead[0] == "fetch":
        _imported("turbo_fetch.dreambooth.ahead", models[0]).check_ahead(spec, models)
        # Its libraries are for stages that run a model alone.
        from turbo_fetch.stages.checks import checked_beside

        homes = [_HOMES[name] for name in models]
        with checked_beside(spec, homes, stop, lambda: _check(spec, models)):
            summary.reports["fetch"] = _report("fetch", spec, listener, stop)
        ahead = models
    else:
        _check(spec, models)
    with _quiet(models):
        for name in ahead:
            summary.reports[name] = _report(name, spec, listener, stop)
    return summary


def _check(spec: Spec, models: Sequence[str]) -> None:
    """Raise what these stages would fail for, before one before them takes hours."""
    with _quiet(models):
        for name in models:
            _module(name).check(spec)


def _report(name: str, spec: Spec, listener: ProgressListener, stop: StopRequest) -> Report:
    """Run one stage."""
    listener.stage(name)
    stop.second_raises = name != "fetch"
    stage, output = _stage(name, spec), _records(spec, name)
    if output is None:
        return stage(spec, listener, stop)
    with tracked(spec.track, name, output, listener) as recorder:
        return stage(spec, recorder, stop)


def _quiet(models: Sequence[str]) -> AbstractContextManager[None]:
    """Keep the libraries of models from telling what no user can change, in stages that run one."""
    if not models:
        return nullcontext()
    return cast(AbstractContextManager[None], _imported("turbo_fetch.dreambooth.quiet", models[0]).quiet())


def _records(spec: Spec, name: str) -> str | None:
    """Return the place for what trackers write of a stage: the model, or what is made of it; None if it sees to that.

    A folder of class images is to hold nothing else.
    """
    if name == "fetch":
        return None
    if spec.train is not None:
        return spec.train.output
    return str(getattr(spec, name).output or ".")


def _stage(name: str, spec: Spec) -> Stage:
    if name == "fetch" and spec.engine.shards is not None:
        from turbo_fetch.stages import part

        return part.run
    if (output := _far_output(name, spec)) is not None:
        # Needs an extra that a run on this machine does without.
        from turbo_fetch.runners.ray.stage import run_on_ray

        return partial(run_on_ray, name, _HOMES[name], output)
    if name == "fetch":
        # Here, since it imports Arrow, which training has no use for: 70 MB.
        from turbo_fetch.stages import fetch as job

        return job.run
    return cast(Stage, _module(name).run)


def _far_output(name: str, spec: Spec) -> str | None:
    """Return where a stage writes that runs on a cluster as a whole; None for one that runs here, or sees to that."""
    if spec.engine.kind != "ray" or name in {"fetch", "train"}:
        return None
    if name == "prior" and spec.prior is not None and spec.prior.source != "generate":
        return None
    output: str | None = getattr(spec, name).output
    if output is None:
        # Class images lie beside the model; without one, the stage says what is missing.
        output = "." if spec.train is None else spec.train.output
    return output


def _module(name: str) -> ModuleType:
    return _imported(_HOMES[name], name)


def _imported(home: str, name: str) -> ModuleType:
    """Import what a stage needs. Raises MissingExtra."""
    try:
        return import_module(home)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("turbo_fetch"):
            raise
        raise MissingExtra(error.name, "train", f"the stage [{name}]") from error
