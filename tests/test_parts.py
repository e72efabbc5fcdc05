"""Several runs that make one dataset side by side, as the tasks of a job array do."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import processes
import turbo_fetch
from album import album
from jobs import asks, content_hashes, job_spec, manifest, undisturbed, write_list
from leases import start_on
from origin import Origin
from processes import descendants, finished, send, wait_until
from turbo_fetch.errors import SpecError
from turbo_fetch.plan.part import Part
from turbo_fetch.spec import DomainSpec, FetchSpec, HttpSpec, InputSpec, OutputSpec, Spec
from turbo_fetch.spec.specfile import dump_spec

ALBUM = album(240, side=48)
SCRIPT = Path(__file__).parents[1] / "examples" / "cluster" / "slurm-array.sh"
PARTS = 3


@given(st.integers(1, 50), st.sets(st.integers(0, 300)))
def test_parts_have_every_shard_once(count: int, committed: set[int]) -> None:
    skipped = [Part(number, count).skipped(committed) for number in range(count)]
    made = [shard for skip in skipped for shard in range(300) if shard not in skip]
    assert sorted(made) == [shard for shard in range(300) if shard not in committed]


@given(st.integers(1, 64), st.integers(0, 64), st.integers(1, 64))
def test_all_parts_together_ask_a_host_no_more_than_one_run_does(
    count: int, per_domain: int, concurrency: int
) -> None:
    http = HttpSpec(
        per_domain=per_domain, domains={"a.example": DomainSpec(concurrency=concurrency, delay_s=2.0)}
    )
    fetch = FetchSpec(input=InputSpec(urls="list.txt"), output=OutputSpec(path="out"), http=http)
    shared = Part(0, count).share(fetch, "spool").http
    # No part can do with less than one.
    assert shared.per_domain * count <= max(per_domain, count)
    assert (shared.per_domain == 0) == (per_domain == 0)
    assert (shared.domains["a.example"].concurrency or 0) * count <= max(concurrency, count)
    assert shared.domains["a.example"].delay_s == 2.0 * count


@pytest.mark.parametrize("text", ["8/8", "1", "-1/8", "a/b", "1/0", ""])
def test_what_is_no_part_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"expected i/n with i from 0 to n - 1"):
        job_spec(tmp_path / "list", tmp_path / "out", engine={"shards": text})


def test_a_part_may_not_overwrite_what_the_others_make(tmp_path: Path) -> None:
    urls = write_list(tmp_path / "list.parquet", ["http://127.0.0.1:1/"])
    spec = job_spec(urls, tmp_path / "out", output={"if_exists": "overwrite"}, engine={"shards": "0/2"})
    with pytest.raises(SpecError, match='expected "resume"'):
        turbo_fetch.run(spec)


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin(ALBUM, latency_s=0.05) as origin:
        yield origin


@pytest.fixture(scope="module")
def quiet(origin: Origin, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The list, and what one run makes of it."""
    return undisturbed(tmp_path_factory.mktemp("quiet"), origin, ALBUM, _spec)


def _spec(urls: Path, output: Path) -> Spec:
    return job_spec(
        urls,
        output,
        # Those that are held until another task has begun are to wait.
        http={"concurrency": 4, "timeout_s": 500, "stall_timeout_s": 500},
        output={"samples_per_shard": 20},
        engine={"workers": 1, "threads": 1},
    )


def _check_whole(output: Path, expected: dict[str, str]) -> None:
    assert content_hashes(output) == expected
    assert [record["shard"] for record in manifest(output)] == list(range(12))
    assert [
        entry["complete"] for entry in json.loads((output / ".turbo-fetch/job").read_text())["lists"]
    ] == [True]
    assert (output / "README.md").exists()
    assert not [path for path in (output / ".turbo-fetch").iterdir() if "part" in path.name]


def test_each_part_tells_its_own_rows_and_the_last_one_the_whole(
    quiet: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    spec = _spec(quiet[0], tmp_path / "out")
    for number in range(PARTS):
        engine = spec.engine.model_copy(update={"shards": f"{number}/{PARTS}"})
        summary = turbo_fetch.run(spec.model_copy(update={"engine": engine})).fetch
        assert summary.run_rows == len(ALBUM) // PARTS
        assert summary.downloaded_bytes > 0
        is_last = number == PARTS - 1
        assert summary.rows == (len(ALBUM) if is_last else len(ALBUM) // PARTS)


@pytest.mark.timeout(600)
def test_parts_that_are_killed_at_random_make_what_one_run_makes(
    quiet: tuple[Path, dict[str, str]], origin: Origin, tmp_path: Path
) -> None:
    urls, expected = quiet
    chance = random.Random(13)
    spec = _spec(urls, tmp_path / "out")

    def begin(number: int, node: int) -> subprocess.Popen[str]:
        # The first task begins again on its machine, the others on other ones.
        machine = "" if number == 0 else f"node-{number}-{node}"
        return start_on(machine, spec, tmp_path, "--shards", f"{number}/{PARTS}")

    tasks = {number: begin(number, 0) for number in range(PARTS)}

    def end(number: int, how: int) -> None:
        _, err = finished(tasks[number])
        assert tasks[number].returncode == how, err
        tasks[number] = begin(number, 1)

    for kill in range(PARTS):
        with origin.holding_after(chance.randrange(10, 30)):
            # Its own: a task that has not begun yet does not know the signal.
            wait_until("a request of the task", partial(asks, tasks[kill], origin), tasks[kill])
            os.killpg(tasks[kill].pid, signal.SIGKILL if kill < 2 else signal.SIGUSR1)
            # Before the others go on, which might be over else before it is their turn.
            end(kill, -signal.SIGKILL if kill < 2 else 130)
    for task in tasks.values():
        _, err = finished(task)
        assert task.returncode == 0, err
    _check_whole(tmp_path / "out", expected)


@pytest.mark.timeout(600)
def test_the_submission_file_for_slurm_ends_with_the_dataset(
    quiet: tuple[Path, dict[str, str]], origin: Origin, tmp_path: Path
) -> None:
    urls, expected = quiet
    spec = tmp_path / "spec.toml"
    spec.write_text(dump_spec(_spec(urls, tmp_path / "out")))
    # What Slurm has on its nodes: srun runs the command, and what scontrol is asked for is written down.
    for name, does in {"srun": 'exec "$@"', "scontrol": f'echo "$@" >> {tmp_path}/requeued'}.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{does}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "turbo-fetch").write_text(f'#!/bin/bash\nexec {sys.executable} -m turbo_fetch "$@"\n')
    (tmp_path / "turbo-fetch").chmod(0o755)

    def submit(number: int) -> subprocess.Popen[str]:
        slurm = {"TASK_ID": number, "JOB_ID": 7}
        return processes.start(
            ["bash", str(SCRIPT), str(spec)],
            env={
                **os.environ,
                "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
                "PARTS": str(PARTS),
                **{f"SLURM_ARRAY_{name}": str(value) for name, value in slurm.items()},
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    tasks = [submit(number) for number in range(PARTS)]
    with origin.holding_after(20):
        wait_until("a request of the task", partial(asks, tasks[0], origin), tasks[0])
        # As at the time limit: the signal goes to the processes of the steps, not to the script.
        send(signal.SIGUSR1, *descendants(tasks[0]))
        _, err = finished(tasks[0])
    assert tasks[0].returncode == 130, err
    assert (tmp_path / "requeued").read_text() == "requeue 7_0\n"
    tasks[0] = submit(0)
    for task in tasks:
        _, err = finished(task)
        assert task.returncode == 0, err
    _check_whole(tmp_path / "out", expected)
