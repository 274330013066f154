"""How a run goes, kept by a clock that the tests wind: parts and visits of stages add up, whoever asks."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Self

import pytest

from stpipe.cli.progress_lines import Standing
from stpipe.cli.watch import Watch
from stpipe.execution import lookout
from stpipe.execution.lookout import News
from stpipe.execution.stages import Failure, StageResult


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Notes:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.all: list[tuple[Any, ...]] = []

    def begun(self, at: Standing) -> None:
        self.all.append(("begun", at.stage))

    def ended(self, at: Standing) -> None:
        self.all.append(("ended", at.stage, at.ended, at.total))

    def failed(self, stage: str, number: int, message: str) -> None:
        self.all.append(("failed", stage, number, message))

    def look(self, at: Standing | None, news: Sequence[News]) -> None:
        self.all.append(("look", None if at is None else at.stage, *(one.worker for one in news)))


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_parts_of_a_stage_add_up_and_a_stage_that_is_visited_again_goes_on(clock: Clock) -> None:
    watch, notes = Watch(clock=clock), Notes()
    watch.tell(notes)
    for size in (10, 3):  # a stage in two parts
        result = StageResult(had=2)
        watch.progress("survey", result, size)
        for _ in range(size - 2):
            clock.now += 1
            result.done += 1
            result.peak_bytes = max(result.peak_bytes, 100 * size)
            watch.progress("survey", result, size)
    blended = StageResult(done=4, failures=[Failure(number=7, message="bad")])
    clock.now += 5
    watch.progress("blend", blended, 5)
    clock.now += 2
    watch.progress("survey", StageResult(done=1), 1)  # what the blend found wanting
    clock.now += 3
    watch.progress("blend", StageResult(done=1), 1)
    clock.now += 4
    watch.close()
    rows = watch.rows()
    assert {key: rows["survey"][key] for key in ("tasks", "done", "had", "failed", "peak_bytes", "seconds")} == {
        "tasks": 14,
        "done": 10,
        "had": 4,
        "failed": 0,
        "peak_bytes": 1000,
        "seconds": 9 + 5 + 3,
    }
    assert {key: rows["blend"][key] for key in ("tasks", "done", "failed", "seconds")} == {
        "tasks": 6,
        "done": 5,
        "failed": 1,
        "seconds": 2 + 4,
    }
    assert notes.all == [
        ("begun", "survey"),
        ("ended", "survey", 13, 13),
        ("begun", "blend"),
        ("failed", "blend", 7, "bad"),
        ("ended", "blend", 5, 5),
        ("begun", "survey"),
        ("ended", "survey", 14, 14),
        ("begun", "blend"),
        ("ended", "blend", 6, 6),
    ]


def test_the_time_left_of_a_run_that_was_taken_up_again_goes_by_what_is_made(clock: Clock) -> None:
    lefts = []
    for had in (0, 700):
        watch, result = Watch(clock=clock), StageResult()
        watch.progress("fill", result, 1000 + had)
        result.had = had
        clock.now += 0.5
        for _ in range(100):
            clock.now += 2.0
            result.done += 1
            watch.progress("fill", result, 1000 + had)
        at = watch.standing()
        assert at is not None
        assert at.rate == pytest.approx(0.5, rel=0.02)
        assert at.ended == 100 + had
        lefts.append(at.left)
    assert lefts[0] == pytest.approx(1800, rel=0.02)
    assert lefts[1] == pytest.approx(lefts[0])


def test_with_shares_all_that_has_a_record_has_ended(clock: Clock) -> None:
    watch, result = Watch(clock=clock), StageResult(recorded=(40, 40))
    for second in range(1, 101):
        clock.now += 1.0
        result.done += 1
        result.recorded = (40, 40 + 8 * second)  # eight processes
        watch.progress("fill", result, 2000)
    at = watch.standing()
    assert at is not None
    assert (at.ended, at.done) == (840, 100)
    assert at.rate == pytest.approx(8, rel=0.05)
    assert at.left == pytest.approx((2000 - 840) / 8, rel=0.05)


class FakeLookout:
    """A cluster's workers, as the test says."""

    def __init__(self, client: object) -> None:
        self.came, self.retries, self.memory, self.limit, self.looks, self.workers = 2, 0, 0, 0, 1, 2
        self.news: deque[News] = deque()

    def check_scheduler(self) -> None:
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None


def test_each_stage_has_its_own_workers_retries_and_memory(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    there = FakeLookout(None)
    monkeypatch.setattr(lookout, "Lookout", lambda client: there)
    watch, notes = Watch(clock=clock, limit=500), Notes()
    watch.tell(notes)
    watch.stage("start")
    client: Any = None
    with watch.following(client):
        watch.progress("survey", StageResult(), 4)
        there.came, there.retries, there.workers = 5, 3, 2  # three died and were started again
        there.memory, there.limit, there.looks = 300, 400, 2
        there.news.append(News(worker="tcp://a", came=True, workers=2))
        watch.look()
        at = watch.standing()
        assert at is not None
        assert (at.workers, at.workers_seen, at.retries, at.memory, at.limit) == (2, 5, 3, 300, 400)
        watch.progress("fill", StageResult(retries=1), 4)
        watch.look()
        at = watch.standing()
        assert at is not None
        assert (at.workers_seen, at.retries, at.memory, at.limit) == (2, 1, 0, 400)  # nobody has looked since
        there.came, there.retries = 6, 4
        rows = watch.rows()
    assert [(row["workers_seen"], row["retries"]) for row in rows.values()] == [(2, 0), (5, 3), (3, 2)]
    watch.close()
    assert watch.rows()["fill"]["retries"] == 2
    assert ("look", "survey", "tcp://a") in notes.all
    assert sum(note[-1] == "tcp://a" for note in notes.all) == 1


def test_a_result_that_comes_where_another_one_was_is_another_part(clock: Clock) -> None:
    watch = Watch(clock=clock)
    for _ in range(50):  # each is gone when the next one is made, which may take its very place in memory
        watch.progress("add", StageResult(done=1), 1)
    assert watch.rows()["add"]["tasks"] == 50
