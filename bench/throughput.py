"""Measure rows of the speed table: `python bench/throughput.py ROW …`, or `all`.

Results go to bench/results, and with `--quick` (fewer requests, one repeat, not for publication) to the
cache. `python bench/report.py` makes the table of them.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.bench import Bench

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Measure what the arguments name; return 1 when a target was missed or a row could not be measured."""
    # All commands and paths in the results are relative to the repository.
    os.chdir(ROOT)
    sys.path[0] = str(ROOT)
    from bench.bench import PROGRAMS, Bench
    from bench.results import COMMITTED
    from bench.rows import ROWS

    parser = argparse.ArgumentParser(description="Measure rows of the speed table.")
    parser.add_argument("rows", nargs="+", choices=["all", *ROWS], metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--quick", action="store_true", help="fewer requests, one repeat, results not kept")
    parser.add_argument("--repeats", type=int, help="runs of each program")
    parser.add_argument("--only", choices=PROGRAMS, help="run one program; results not kept")
    parser.add_argument("--cache", type=Path, default=Path(".cache"))
    arguments = parser.parse_args()
    kept = not arguments.quick and arguments.only is None
    bench = Bench(
        cache=arguments.cache,
        results=COMMITTED if kept else arguments.cache / "bench" / "results",
        quick=arguments.quick,
        repeats=arguments.repeats,
        programs=PROGRAMS if arguments.only is None else (arguments.only,),
        command=shlex.join(["python", "bench/throughput.py", *sys.argv[1:]]),
    )
    with alone(bench.work):
        return measure_all(list(ROWS) if "all" in arguments.rows else arguments.rows, bench)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait until no other benchmark runs: two at once would spoil each other's figures and files."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another benchmark is running; waiting for its end", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def measure_all(names: list[str], bench: Bench) -> int:
    """Measure rows in turn and save their results; return 1 if any was missed or not measured."""
    from bench.rows import ROWS

    missed = 0
    for row in names:
        print(f"-- {row}", flush=True)
        try:
            results = ROWS[row](bench)
        except (ValueError, RuntimeError, OSError) as error:
            print(f"not measured: {error}", file=sys.stderr)
            missed += 1
            continue
        for result in results:
            path = result.save(bench.results)
            verdict = "met" if result.met else "MISSED"
            print(
                f"{result.row}: {result.measure} {result.value:.3f} {result.unit}, "
                f"target {result.relation} {result.target:.3f}: {verdict} ({path})"
            )
            missed += not result.met
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
