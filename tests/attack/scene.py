"""A run that something disturbs: it ends with a sentence at worst, and in the end with the bytes of a quiet run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import processes
import turbo_fetch
from album import album
from jobs import content_hashes, job_spec, ledger, write_list
from origin import Origin
from processes import PATIENCE_S
from turbo_fetch.errors import OutputHeld
from turbo_fetch.spec import Spec
from turbo_fetch.spec.specfile import dump_spec

SMALL = album(160, side=40)


@dataclass(frozen=True, slots=True)
class Scene:
    """A list, its server, and what a quiet run makes of it."""

    origin: Origin
    listed: Path
    quiet: dict[str, str]
    timeout_s: float = 20

    @classmethod
    def prepared(cls, stack: ExitStack, place: Path, timeout_s: float = 20) -> Scene:
        """Return a scene whose server lives as long as the stack; `timeout_s` is what a request may take."""
        place.mkdir()
        origin = stack.enter_context(Origin(SMALL, latency_s=0.02))
        scene = cls(
            origin, write_list(place / "list.parquet", [origin.url(name) for name in SMALL]), {}, timeout_s
        )
        turbo_fetch.run(scene.spec(place))
        scene.quiet.update(content_hashes(place / "out"))
        return scene

    def spec(self, folder: Path) -> Spec:
        """Return the spec of a run into `folder`."""
        return job_spec(
            self.listed,
            folder / "out",
            http={"concurrency": 4, "retries": 0, "timeout_s": self.timeout_s},
            output={"samples_per_shard": 40},
            engine={"workers": 2, "threads": 1},
        )


@dataclass(frozen=True, slots=True)
class Disturbance:
    """What disturbs a run."""

    before: Callable[[], None] | None = None
    """Done in its process before it starts."""
    meanwhile: Callable[[subprocess.Popen[str]], None] | None = None
    environment: Mapping[str, str] | None = None
    after: Callable[[], None] | None = None
    """Ends the disturbance."""
    ends_well: bool = False
    may_be_killed: bool = False
    goes_on: bool = True


def disturbed(scene: Scene, folder: Path, by: Disturbance) -> str | None:
    """Run in adversity, then in peace; return what is not as it should be. `folder` is the place of the output."""
    spec = scene.spec(folder)
    path = folder.parent / f"{folder.name}.toml"
    path.write_text(dump_spec(spec))
    code, text = run(path, by)
    allowed = {0, 1, 2, OutputHeld.exit_code} | ({-signal.SIGKILL} if by.may_be_killed else set())
    if code not in allowed or "Traceback" in text or "a bug in" in text:
        return f"ended with {code}: {text[-1500:]}"
    if by.ends_well and code:
        return f"ended with {code}: {text[-500:]}"
    if by.after is not None:
        by.after()
    if not by.goes_on:
        return None
    code, text = run(path, Disturbance(environment=by.environment))
    if code:
        return f"the next run ended with {code}: {text[-500:]}"
    if any(row["outcome"] != "success" for row in ledger(folder / "out")):
        # Rows may have failed by what was missing here; that has to be said, and a retry has to get them.
        faults = {
            f"{row['outcome']}: {row['detail']}"
            for row in ledger(folder / "out")
            if row["outcome"] != "success"
        }
        retried = command(["retry", str(folder / "out")])
        if retried.returncode or content_hashes(folder / "out") != scene.quiet:
            return f"a retry does not mend {faults}: {retried.stderr[-500:]}"
    return None if content_hashes(folder / "out") == scene.quiet else "other bytes than those of a quiet run"


def command(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Give a command of turbo-fetch."""
    return subprocess.run(
        [sys.executable, "-m", "turbo_fetch", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def run(spec: Path, by: Disturbance) -> tuple[int, str]:
    """Run a spec; return its exit code and what it said."""
    running = processes.start(
        [sys.executable, "-m", "turbo_fetch", "run", str(spec)],
        env={**os.environ, **(by.environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=by.before,
        start_new_session=True,
    )
    try:
        if by.meanwhile is not None:
            by.meanwhile(running)
        out, _ = running.communicate(timeout=PATIENCE_S)
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()
    return running.returncode, out
