"""The short form of `make faults`: one or two schedules of faults for each engine."""

from __future__ import annotations

from collections import Counter

import pytest

from fault_schedules import FAULTS, ROWS, Local, Machines, Ray, Spark, scene, schedule
from namespaces import may_use_namespaces


@pytest.mark.parametrize("machines", [Local, Ray, Spark])
def test_twenty_schedules_have_each_fault_equally_often(machines: type[Machines]) -> None:
    drawn = [schedule(seed, "engine", machines.faults) for seed in range(20)]
    assert drawn == [schedule(seed, "engine", machines.faults) for seed in range(20)]
    counts = Counter(fault for faults in drawn for _, fault in faults)
    assert counts.keys() == set(machines.faults)
    wanted = Counter(machines.faults)
    packs = 20 * FAULTS / len(machines.faults)
    assert all(abs(counts[fault] - packs * wanted[fault]) < wanted[fault] for fault in counts)
    assert all(0 < moment < ROWS for faults in drawn for moment, _ in faults)


@pytest.mark.cluster
@pytest.mark.timeout(600)
@pytest.mark.skipif(not may_use_namespaces(), reason="network namespaces need root")
@pytest.mark.parametrize(("engine", "seed"), [("local", 3), ("ray", 1), ("spark", 2)])
def test_a_run_ends_with_the_bytes_of_an_undisturbed_one_whatever_happens(engine: str, seed: int) -> None:
    with scene(engine) as attempted:
        trial = attempted(seed)
    assert trial.went_on_s, "something is to have happened"
    assert (trial.failure, trial.lost, trial.doubled) == (None, 0, 0)
