"""The short form of `make faults`: one or two schedules of faults for each engine."""

from __future__ import annotations

import pytest

from fault_schedules import ROWS, Local, scene, schedule
from namespaces import Web, may_use_namespaces


def test_a_schedule_is_a_function_of_its_seed() -> None:
    kinds = Local(Web()).kinds
    drawn = [schedule(seed, "local", kinds) for seed in range(20)]
    assert drawn == [schedule(seed, "local", kinds) for seed in range(20)]
    assert {(fault.kind, fault.cut) for faults in drawn for fault in faults} == set(kinds)
    assert all(0 < fault.after < ROWS for faults in drawn for fault in faults)


@pytest.mark.cluster
@pytest.mark.timeout(240)
@pytest.mark.skipif(not may_use_namespaces(), reason="network namespaces need root")
@pytest.mark.parametrize(("engine", "seed"), [("local", 3), ("ray", 1), ("spark", 2)])
def test_a_run_ends_with_the_bytes_of_an_undisturbed_one_whatever_happens(engine: str, seed: int) -> None:
    with scene(engine) as attempted:
        trial = attempted(seed)
    assert trial.went_on_s, "something is to have happened"
    assert (trial.failure, trial.lost, trial.doubled) == (None, 0, 0)
