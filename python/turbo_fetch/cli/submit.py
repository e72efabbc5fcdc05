"""`turbo-fetch submit`: a run on a Ray cluster through its Jobs API; `ray job` does all else with it."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from turbo_fetch.cli.run import Overrides, SpecPath
from turbo_fetch.cli.usage import load_job

if TYPE_CHECKING:
    from turbo_fetch.runners.ray.submission import Jobs

Address = Annotated[
    Optional[str],  # noqa: UP045 - typer reads it at run time
    typer.Option(
        help="Address of the cluster's dashboard, such as http://127.0.0.1:8265.",
        envvar="RAY_API_SERVER_ADDRESS",
    ),
]


def submit(
    spec: SpecPath,
    overrides: Overrides = None,
    address: Address = None,
    name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--id", help="Id of the job; by default Ray chooses one."),
    ] = None,
    install: Annotated[
        bool, typer.Option("--install", help="Have the nodes install the packages that turbo-fetch needs.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the job until it ends.")] = True,
) -> None:
    """Run SPEC.TOML on a Ray cluster; submit it again to resume where a job stopped.

    The spec, local lists, the file of `fetch.score.function` and this version of turbo-fetch are sent along. The output
    must be an object store or a folder that all machines share. Exit codes as for `run`; Ctrl-C leaves the job running.
    `ray job` lists, follows and stops jobs.
    """
    loaded = load_job(spec, overrides)
    from turbo_fetch.runners.ray.submission import Jobs, check_output
    from turbo_fetch.spec.specfile import given

    if loaded.fetch is not None and spec.is_file():
        check_output(given(spec, overrides or (), "fetch.output.path"))
    jobs = Jobs(address)
    started = jobs.submit(loaded, name, install=install)
    typer.echo(f"job       {started}")
    if wait:
        _follow(jobs, started, "" if address is None else f" --address {address}")


def _follow(jobs: Jobs, name: str, where: str) -> None:
    """Print a job's output until it is over, then exit with its code; `where` is what `ray job` has to be told."""
    import asyncio

    async def tail() -> None:
        async for lines in jobs.logs(name):
            sys.stdout.write(lines)
            sys.stdout.flush()

    async def tail_until_interrupted() -> None:
        # Asked for by a cancellation, which whoever is at work in there may lose, the end would not come.
        interrupted = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupted.set)
        following = asyncio.ensure_future(tail())
        stopping = asyncio.ensure_future(interrupted.wait())
        await asyncio.wait({following, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if interrupted.is_set():
            raise KeyboardInterrupt
        await following

    try:
        asyncio.run(tail_until_interrupted())
    except KeyboardInterrupt:
        typer.echo(
            f"\nthe job continues: `ray job logs {name} --follow{where}` follows it, "
            f"`ray job stop {name}{where}` stops it",
            err=True,
        )
        raise SystemExit(130) from None
    state = jobs.state(name)
    if state.status == "STOPPED":
        raise SystemExit(130)
    if state.status != "SUCCEEDED":
        if state.exit_code is None and state.message:
            typer.echo(f"turbo-fetch: the job failed: {state.message[-1000:]}", err=True)
        raise SystemExit(state.exit_code or 1)
