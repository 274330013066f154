"""After a fault: the exit code and the message are right, nothing is half there, and going on gives the same bytes."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.cli.test_fill_scene import digests
from tests.integration.faults.inject import STORIES, Shelf, check_fine
from tests.integration.faults.plan import Fault, faults
from tests.integration.faults.runs import Bench
from tests.integration.faults.scene import left_over

pytestmark = pytest.mark.integration

PLAN = faults()


def case(fault: Fault) -> object:
    marks = [pytest.mark.xfail(run=False, reason=fault.endless)] if fault.endless else []
    marks += [pytest.mark.xfail(strict=True, reason=fault.known)] if fault.known else []
    # One process makes the network's undisturbed run, for all of these.
    marks += [pytest.mark.xdist_group("network")] if fault.method == "pconv" else []
    return pytest.param(fault, id=fault.name, marks=marks)


def test_there_are_a_hundred_faults_and_each_has_its_name() -> None:
    assert len(PLAN) >= 100
    assert max(Counter(fault.name for fault in PLAN).values()) == 1
    assert {fault.story for fault in PLAN} == set(STORIES)


@pytest.mark.parametrize("fault", [case(fault) for fault in PLAN])
def test_a_fault_costs_nothing_but_time(fault: Fault, bench: Bench, shelf: Shelf, seen: dict[str, object]) -> None:
    ends = STORIES[fault.story](fault, bench, shelf)
    seen["codes"] = tuple(end.code for end in ends)
    seen["said"] = ends[-1].said.strip() if ends and ends[-1].code > 0 else ""
    bench.scene.check_cube()
    if ends:  # before anything mends it
        there = bench.scene.check_products(bench.out)
        assert ("run.json" in there) == (ends[-1].code == 0)

    # Half of the drivers are followed by a driver; a share goes on with what either left.
    alike = (fault.story, fault.how) == ("ended", "driver") and fault.seed % 2
    how = "driver" if alike or bench.advice or bench.driven else "share"
    last = bench.resume(*bench.advice, how=how)
    if not ends:
        seen["codes"] = (last.code,)
    check_fine(last, bench)
    assert digests(bench.out) == bench.scene.products
    assert set(bench.scene.check_products(bench.out)) >= {*bench.scene.products, "run.json"}
    assert left_over(bench.out) == []
    bench.scene.check_cube()
    seen["resumed"] = "nothing left to do, the same bytes" if ends and ends[-1].code == 0 else "went on, the same bytes"
