"""Runs in which a seed kills workers, nodes and drivers and cuts links: they end as if nothing had been.

    python tests/fault_schedules.py local ray spark --seeds 20

makes twenty schedules for each engine, prints what came of each, and a table of all faults; with `--save` that is kept
in bench/results. Needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from random import Random
from statistics import median
from typing import Any, ClassVar, Final, Literal, Protocol

import psutil

import processes
from album import album
from jobs import content_hashes, job_spec, ledger, wait_for_hits, write_list
from namespaces import Cut, Web, address, node_address
from origin import Origin
from processes import descendants, kill
from ray_nodes import worker_processes
from spark_runs import executors, start_on_spark
from turbo_fetch.spec import Spec
from turbo_fetch.spec.specfile import dump_spec

ROWS: Final = 600
HOSTS: Final = 150
SHARD: Final = 60
FAULTS: Final = 3
"""In a run."""
CUTS_S: Final = (1, 20)
WENT_ON: Final = 5
"""Requests after a fault by which a run has gone on."""
PATIENCE_S: Final = 170
PICTURES: Final = album(40, side=48)
ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = """\
# Faults, and what came of them

`make faults` makes twenty runs of {rows} rows on each engine, with three faults each that a seed draws, at moments
that it draws. A run has to end with the bytes of an undisturbed local run. Of the runs here ({runs}), {bad} did not.
Requests that were made once more: {again:.0f} a run (at most {most_again}). Lost are rows without an image, doubled
those that are there twice. A run has gone on when it made five requests after the fault, or, of a cut, after the link
was mended; a driver that was killed is started again by hand, which is counted.

{table}

{told}
Measured on {date}: {machine}. Runs by commit: {commits}.
Ray: a head and two nodes of one core, each in a network namespace; Spark: `local-cluster[2,1,700]` in one.
"""

Kill = Literal["worker", "node", "driver"]


@dataclass(frozen=True, slots=True)
class Fault:
    """A kill, or a link that is cut in some way for seconds."""

    kill: Kill | None = None
    cut: Cut | None = None
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """Return what it is called in the table."""
        return f"{self.kill} killed" if self.kill else f"link cut for {self.seconds:.0f} s ({self.cut})"


def cuts(*kinds: Cut) -> tuple[Fault, ...]:
    """Return cuts of each kind, short ones and long ones."""
    return tuple(Fault(cut=kind, seconds=seconds) for seconds in CUTS_S for kind in kinds)


def kills(*kinds: Kill) -> tuple[Fault, ...]:
    """Return kills of each kind, twice, since there are more ways in which they can meet a run."""
    return tuple(Fault(kill=kind) for kind in kinds) * 2


@dataclass(slots=True)
class Trial:
    """What came of a schedule."""

    engine: str
    seed: int
    faults: list[tuple[int, Fault]]
    """After how many requests which happens."""
    went_on_s: list[float] = field(default_factory=list)
    """For each fault, after how many seconds the run went on."""
    lost: int = 0
    doubled: int = 0
    again: int = 0
    """Requests that were made once more."""
    failure: str | None = None
    seconds: float = 0.0
    commit: str = ""
    """Of what was tried, as it was when this was kept."""


class Machines(Protocol):
    """Where runs of an engine take place."""

    faults: ClassVar[tuple[Fault, ...]]
    """Those that can be made."""

    def start(self, listed: Path, folder: Path) -> subprocess.Popen[str]:
        """Start the run of a folder, or resume it."""

    def workers(self, driver: subprocess.Popen[str]) -> list[psutil.Process]:
        """Return the processes that work for a run."""

    def kill_node(self, driver: subprocess.Popen[str], random: Random) -> None:
        """Kill all of a machine, which comes back."""


@dataclass
class Local:
    """Worker processes of one machine."""

    faults: ClassVar = (*kills("worker", "driver"), *cuts("silent", "unreachable", "carrier", "interface"))
    web: Web

    def start(self, listed: Path, folder: Path) -> subprocess.Popen[str]:
        return started(spec_of(listed, folder, {"workers": 3, "threads": 1}), folder, self.web.node)

    def workers(self, driver: subprocess.Popen[str]) -> list[psutil.Process]:
        return descendants(driver, "turbo_fetch.runners")

    def kill_node(self, driver: subprocess.Popen[str], random: Random) -> None:
        raise AssertionError("one machine has no other")


@dataclass
class Spark:
    """Executors on one machine; its driver goes on after whatever Spark bears."""

    faults: ClassVar = (*kills("worker", "node", "driver"), *cuts("silent", "carrier"))
    web: Web

    def start(self, listed: Path, folder: Path) -> subprocess.Popen[str]:
        spec = spec_of(listed, folder, {"kind": "spark", "address": "local-cluster[2,1,700]"})
        return start_on_spark(spec, folder, command=tuple(self.web.node))

    def workers(self, driver: subprocess.Popen[str]) -> list[psutil.Process]:
        return [each for one in executors(driver) for each in descendants(one)]

    def kill_node(self, driver: subprocess.Popen[str], random: Random) -> None:
        found = executors(driver)
        if found:
            kill(random.choice(found))


@dataclass
class Ray:
    """Machines that are namespaces: a head without cores, on which the driver runs, and nodes of one core each."""

    faults: ClassVar = (
        *kills("worker", "node", "driver"),
        *cuts("silent", "unreachable", "carrier", "interface"),
    )
    web: Web
    token: str = field(default_factory=lambda: secrets.token_hex(16))

    @contextmanager
    def running(self) -> Iterator[Ray]:
        """Run the cluster while the context lasts."""
        try:
            self._ray(0, "--head", "--port=6379", "--num-cpus=0", "--include-dashboard=false")
            for node in (1, 2):
                self._join(node)
            yield self
        finally:
            for node in (0, 1, 2):
                for process in _on(node):
                    kill(process)

    def start(self, listed: Path, folder: Path) -> subprocess.Popen[str]:
        spec = spec_of(listed, folder, {"kind": "ray", "address": f"{node_address(0)}:6379"})
        return started(spec, folder, self.web.node, self._environment)

    def workers(self, driver: subprocess.Popen[str]) -> list[psutil.Process]:
        return worker_processes(each for node in (1, 2) for one in _on(node) for each in descendants(one))

    def kill_node(self, driver: subprocess.Popen[str], random: Random) -> None:
        node = random.choice((1, 2))
        for process in _on(node):
            kill(process)
        self._join(node)

    @property
    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_USAGE_STATS_ENABLED": "0",
        }

    def _join(self, node: int) -> None:
        self._ray(node, f"--address={node_address(0)}:6379", "--num-cpus=1")

    def _ray(self, node: int, *arguments: str) -> None:
        ray = str(Path(sys.executable).parent / "ray")
        here = (f"--node-ip-address={node_address(node)}", "--object-store-memory=80000000")
        done = subprocess.run(
            [*self.web.on(node), ray, "start", *arguments, *here],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def _on(node: int) -> list[psutil.Process]:
    """Return the processes of Ray that belong to a machine, by the address in their command line."""
    mark = f"={node_address(node)}"
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(mark in word for word in process.info["cmdline"] or ())
        and any("ray" in word for word in process.info["cmdline"])
    ]


def spec_of(listed: Path, folder: Path, engine: Mapping[str, Any]) -> Spec:
    """Return the spec of a run, the same for all engines but for where it runs."""
    return job_spec(
        listed,
        folder / "out",
        http={
            "concurrency": 5,
            "timeout_s": 8,
            "connect_timeout_s": 3,
            "retries": 1,
            "network_patience_s": 120,
        },
        output={"samples_per_shard": SHARD},
        engine=dict(engine),
    )


def started(
    spec: Spec, folder: Path, command: Iterable[str], environment: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start a run on a machine that `command` leads to."""
    job = folder / "job.toml"
    job.write_text(dump_spec(spec))
    return processes.start(
        [*command, sys.executable, "-m", "turbo_fetch", "run", str(job)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env=None if environment is None else dict(environment),
    )


def schedule(seed: int, engine: str, faults: Sequence[Fault]) -> list[tuple[int, Fault]]:
    """Return the faults of a seed, each with the number of requests after which it happens, in that order.

    Seeds that follow each other draw from one pack until it is empty: some seeds have every fault equally often.
    """
    random = Random(f"{engine} {seed}")
    moments = sorted(random.sample(range(ROWS // 20, ROWS * 17 // 20), FAULTS))
    first = seed * FAULTS
    return [(moment, _drawn(first + place, engine, faults)) for place, moment in enumerate(moments)]


def _drawn(place: int, engine: str, faults: Sequence[Fault]) -> Fault:
    pack, place = divmod(place, len(faults))
    return Random(f"{engine} pack {pack}").sample(faults, len(faults))[place]


def attempt(
    engine: str,
    seed: int,
    machines: Machines,
    web: Web,
    origin: Origin,
    listed: Path,
    quiet: Mapping[str, str],
) -> Trial:
    """Make one run with the faults of a seed, and compare what it leaves."""
    began_s = time.monotonic()
    trial = Trial(engine, seed, schedule(seed, engine, machines.faults))
    before = origin.hits.total()
    random = Random(f"{seed} victims")
    with tempfile.TemporaryDirectory(prefix="faults-") as name, processes.ended():
        folder = Path(name)
        driver = machines.start(listed, folder)
        for moment, fault in trial.faults:
            wait_for_hits(driver, origin, before + moment - origin.hits.total())
            if driver.poll() is not None:
                break
            driver = _happen(fault, driver, machines, web, random, lambda: machines.start(listed, folder))
            mended_s = time.monotonic()
            wait_for_hits(driver, origin, WENT_ON)
            trial.went_on_s.append(round(time.monotonic() - mended_s, 2))
        trial.failure = _end(driver, folder)
        if trial.failure is None:
            _compare(trial, folder / "out", quiet)
    trial.again = origin.hits.total() - before - ROWS
    trial.seconds = round(time.monotonic() - began_s, 1)
    return trial


def _happen(
    fault: Fault,
    driver: subprocess.Popen[str],
    machines: Machines,
    web: Web,
    random: Random,
    resume: Callable[[], subprocess.Popen[str]],
) -> subprocess.Popen[str]:
    """Do what the fault says, and what mends it; return the driver that goes on."""
    match fault.kill:
        case "worker":
            workers = machines.workers(driver)
            if workers:
                kill(random.choice(workers))
        case "node":
            machines.kill_node(driver, random)
        case "driver":
            driver.kill()
            driver.communicate()
            return resume()
        case None:
            assert fault.cut is not None
            # On Ray the head is a machine of its own, whose link is the driver's.
            web.cut(fault.cut, random.choice((1, 2)) if isinstance(machines, Ray) else 0)
            with suppress(subprocess.TimeoutExpired):
                driver.wait(fault.seconds)
            web.mend()
    return driver


def _end(driver: subprocess.Popen[str], folder: Path) -> str | None:
    try:
        out, err = driver.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        driver.kill()
        out, err = driver.communicate()
        return f"did not end: {err[-1500:]}"
    return None if driver.returncode == 0 else f"ended with {driver.returncode}: {err[-1500:]}{out[-500:]}"


def _compare(trial: Trial, output: Path, quiet: Mapping[str, str]) -> None:
    found = ledger(output)
    rows = Counter(row["url"] for row in found if row["outcome"] == "success")
    trial.lost = ROWS - len(rows)
    trial.doubled = len(found) - len(rows) - trial.lost
    if content_hashes(output) != quiet:
        lost_by = Counter(
            f"{row['outcome']}: {row['detail']}" for row in found if row["outcome"] != "success"
        )
        trial.failure = f"other bytes than those of an undisturbed local run; {dict(lost_by)}"


@contextmanager
def scene(engine: str) -> Iterator[Callable[[int], Trial]]:
    """Yield what makes the trial of a seed on an engine."""
    with ExitStack() as stack:
        stack.enter_context(processes.ended())
        web = stack.enter_context(Web(nodes=3 if engine == "ray" else 1))
        origin = Origin(PICTURES, latency_s=0.15, address="0.0.0.0")
        web.inside(origin.__enter__)
        stack.callback(origin.__exit__, None, None, None)
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="faults-quiet-")))
        names = list(PICTURES)
        urls = [
            f"http://{address(row % HOSTS)}:{origin.port}/{names[row % len(names)]}?{row}"
            for row in range(ROWS)
        ]
        listed = write_list(place / "list.parquet", urls)
        driver = started(spec_of(listed, place, {"workers": 1, "threads": 1}), place, web.node)
        assert _end(driver, place) is None
        quiet = content_hashes(place / "out")
        machines: Machines
        match engine:
            case "local":
                machines = Local(web)
            case "spark":
                machines = Spark(web)
            case _:
                machines = stack.enter_context(Ray(web).running())
        yield lambda seed: attempt(engine, seed, machines, web, origin, listed, quiet)


def table(trials: Iterable[Trial]) -> str:
    """Return what came of all faults, as a table of Markdown."""
    found: dict[tuple[str, str], list[tuple[Trial, float]]] = {}
    for trial in trials:
        for (_, fault), seconds in zip(trial.faults, trial.went_on_s, strict=False):
            found.setdefault((trial.engine, fault.name), []).append((trial, seconds))
    lines = [
        "| Engine | Fault | Times tried | Rows lost | Rows doubled | Seconds until the run went on, median (most) |",
        "|---|---|---|---|---|---|",
    ]
    for (engine, name), tried in sorted(found.items()):
        runs = {id(trial): trial for trial, _ in tried}.values()
        lost, doubled = sum(trial.lost for trial in runs), sum(trial.doubled for trial in runs)
        waits = [each for _, each in tried]
        lines.append(
            f"| {engine} | {name} | {len(tried)} | {lost} | {doubled} | {median(waits):.1f} ({max(waits):.1f}) |"
        )
    return "\n".join(lines)


def failed(trials: Iterable[Trial]) -> list[Trial]:
    """Return the trials that did not end as if nothing had been."""
    return [trial for trial in trials if trial.failure is not None or trial.lost or trial.doubled]


def save(trials: Iterable[Trial]) -> None:
    """Keep trials, in place of earlier ones of the same engine and seed, and the page that is made of all."""
    from bench.machine import describe_machine, now, our_versions

    path = ROOT / "bench/results/faults.json"
    before = json.loads(path.read_text())["trials"] if path.exists() else []
    kept = {(each["engine"], each["seed"]): each for each in before}
    versions, machine, date = our_versions(), describe_machine(), now()
    kept |= {(trial.engine, trial.seed): asdict(trial) | {"commit": versions["commit"]} for trial in trials}
    in_order = [kept[key] for key in sorted(kept)]
    result = {
        "row": "faults",
        "date": date,
        "command": "make faults",
        "machine": machine,
        "versions": versions | {name: metadata.version(name) for name in ("ray", "pyspark")},
        "trials": in_order,
    }
    path.write_text(json.dumps(result, indent=1) + "\n")
    all_trials = [_restored(each) for each in in_order]
    path.with_suffix(".md").write_text(
        PAGE.format(
            runs=", ".join(
                f"{n} {engine}" for engine, n in Counter(each.engine for each in all_trials).items()
            ),
            bad=len(failed(all_trials)),
            rows=ROWS,
            again=median(trial.again for trial in all_trials),
            most_again=max(trial.again for trial in all_trials),
            table=table(all_trials),
            told="".join(map(_told, failed(all_trials))),
            machine=f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}, with other work beside",
            date=date[:10],
            commits=", ".join(
                f"{engine} {commit} ({n})"
                for (engine, commit), n in sorted(
                    Counter((each.engine, each.commit) for each in all_trials).items()
                )
            ),
        )
    )


def _told(trial: Trial) -> str:
    why = " ".join(str(trial.failure).split())[-420:]
    return f"- {trial.engine}, seed {trial.seed}: {trial.lost} rows lost; {why}\n"


def _restored(kept: Mapping[str, Any]) -> Trial:
    faults = [(moment, Fault(**fault)) for moment, fault in kept["faults"]]
    return Trial(**{**kept, "faults": faults})


def main() -> int:
    """Make the schedules that the command line asks for."""
    sys.path.insert(0, str(ROOT))
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("engines", nargs="+", choices=("local", "ray", "spark"))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--save", action="store_true", help="into bench/results, in place of earlier ones")
    chosen = parser.parse_args()
    trials = []
    for engine in chosen.engines:
        with scene(engine) as attempted:
            for seed in range(chosen.first, chosen.first + chosen.seeds):
                trials.append(attempted(seed))
                print(json.dumps(asdict(trials[-1])), flush=True)
                if chosen.save:
                    save(trials[-1:])
    print(f"\n{table(trials)}")
    for trial in failed(trials):
        print(
            f"\n{trial.engine}, seed {trial.seed}: {trial.lost} lost, {trial.doubled} doubled; {trial.failure}"
        )
    return int(bool(failed(trials)))


if __name__ == "__main__":
    raise SystemExit(main())
