"""Processes that share out a stage: each task is done, once where nobody dies, and what kills is given up."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stpipe.core.windows import Window
from stpipe.errors import OptionError
from stpipe.execution import shards
from stpipe.execution.claims import Claims
from stpipe.execution.records import RecordBook
from stpipe.execution.run import run_blocks
from stpipe.execution.runners import Tasks
from stpipe.execution.shards import MOST_TRIES, Shard, ShardRunner
from stpipe.execution.stages import StageResult
from tests.execution.fillers import SceneMeanFiller, SumFiller
from tests.execution.test_run import SHAPE, cube, make_context, start, whole

__all__ = ["cube"]


@given(st.integers(0, 60), st.integers(1, 9))
def test_shares_are_all_tasks_and_no_task_twice(size: int, shares: int) -> None:
    orders = [Shard(number, shares).order(range(size)) for number in range(1, shares + 1)]
    assert all(sorted(order) == list(range(size)) for order in orders)
    firsts = [order[: len(range(number, size, shares))] for number, order in enumerate(orders)]
    assert sorted(number for first in firsts for number in first) == list(range(size))
    assert max(map(len, firsts)) - min(map(len, firsts)) <= 1


@pytest.mark.parametrize("text", ["", "3", "0/4", "5/4", "-1/4", "1/0", "a/b", "1/2/3", "1.5/2"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="--shard"):
        Shard.parse(text)


def runner(folder: Path, number: int, shares: int, *, patience: float = 60.0) -> tuple[ShardRunner, Claims]:
    claims = Claims(folder / "claims", patience=patience)
    return ShardRunner(shard=Shard(number, shares), claims=claims, over=lambda _: False, poll=0.01), claims


def tasks_of(folder: Path, size: int, task: Callable[[Any, int], str]) -> Tasks:
    return Tasks(stage="work", task=task, numbers=range(size), book=RecordBook(str(folder / "work"), "key"))


def share_out(folder: Path, size: int, task: Callable[[Any, int], str], shares: int, **more: Any) -> list[StageResult]:
    """Let so many runners work at the same time, each in a thread."""

    def one(number: int) -> StageResult:
        own, claims = runner(folder, number, shares, **more)
        with claims:
            return own.run(tasks_of(folder, size, task), context=None, name="run", start=lambda _: None)

    with ThreadPoolExecutor(shares) as pool:
        return list(pool.map(one, range(1, shares + 1)))


@pytest.mark.parametrize("shares", [1, 2, 5])
def test_every_task_is_done_once(tmp_path: Path, shares: int) -> None:
    book, done = RecordBook(str(tmp_path / "work"), "key"), Counter[int]()

    def task(_: object, number: int) -> str:
        if book.read(f"{number:07d}") is not None:
            return "had"
        done[number] += 1
        time.sleep(0.002 * (number % 3))
        book.write(f"{number:07d}", {})
        return "done"

    results = share_out(tmp_path, 40, task, shares)
    assert done == Counter(range(40))
    assert sum(result.done for result in results) == 40
    assert all(result.done + result.had == 40 and not result.failures for result in results)
    assert not [path for path in (tmp_path / "claims").iterdir() if not path.name.startswith(".")]


def test_each_tells_how_far_all_of_them_have_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "LOOK", 0.0)
    monkeypatch.setattr(shards, "LOOKS_SHARE", 1e9)
    book, told = RecordBook(str(tmp_path / "work"), "key"), list[tuple[int, int, int]]()
    for number in range(5):
        book.write(f"{number:07d}", {})
    for other in ("level1-0000001", "variable-0000001"):  # records of other tasks in the same folder
        book.write(other, {})

    def task(_: object, number: int) -> str:
        if number < 5:
            return "had"
        if number == 7:  # another process does two meanwhile
            for done in (18, 19):
                book.write(f"{done:07d}", {})
        book.write(f"{number:07d}", {})
        return "done"

    def see(_: str, result: StageResult, total: int) -> None:
        assert total == 20
        told.append((*result.recorded, result.ended))

    with Claims(tmp_path / "claims") as claims:
        own = ShardRunner(shard=Shard(1, 2), claims=claims, over=lambda _: False, progress=see, poll=0.01)
        result = own.run(tasks_of(tmp_path, 20, task), context=None, name="run", start=lambda _: None)
    assert {first for first, _, _ in told} == {5}
    assert told[0] == (5, 5, 0)
    assert [now for _, now, _ in told] == sorted(now for _, now, _ in told)
    # What others did counts as soon as it is recorded, and not when this process comes upon it.
    assert any(now - 5 - max(0, ended - 5) >= 2 for _, now, ended in told)
    assert told[-1][2] == result.ended == 20
    assert result.done + result.had == 20


def test_one_alone_does_the_shares_of_all(tmp_path: Path) -> None:
    book = RecordBook(str(tmp_path / "work"), "key")

    def task(_: object, number: int) -> str:
        book.write(f"{number:07d}", {})
        return "done"

    own, claims = runner(tmp_path, 3, 7)
    with claims:
        result = own.run(tasks_of(tmp_path, 20, task), context=None, name="run", start=lambda _: None)
    assert (result.done, result.had) == (20, 0)


def test_a_task_that_fails_is_told_by_each_and_all_others_are_done(tmp_path: Path) -> None:
    book = RecordBook(str(tmp_path / "work"), "key")

    def task(_: object, number: int) -> str:
        if number == 4:
            raise ValueError("made to fail")
        book.write(f"{number:07d}", {})
        return "done"

    for result in share_out(tmp_path, 9, task, 3):
        assert [failure.number for failure in result.failures] == [4]
        assert "made to fail" in result.failures[0].message
    assert all(book.read(f"{number:07d}") is not None for number in range(9) if number != 4)


def test_claims_of_the_dead_are_taken_over_and_those_of_the_living_are_not(tmp_path: Path) -> None:
    with Claims(tmp_path, patience=0.3) as living, Claims(tmp_path, patience=0.3) as other:
        assert living.take("a") == 1
        time.sleep(0.6)  # its heart beats
        assert other.take("a") is None
        dead = tmp_path / "b"
        dead.write_text("1")
        os.utime(dead, (0, 0))
        assert other.take("b") == 2
        assert living.take("b") is None


def test_a_claim_of_the_dead_that_is_dated_ahead_is_taken_over_and_one_of_the_living_is_not(tmp_path: Path) -> None:
    with Claims(tmp_path, patience=0.6) as living, Claims(tmp_path, patience=0.6) as other:
        assert living.take("a") == 1
        dead, ahead = tmp_path / "b", time.time() + 86400
        dead.write_text("1")
        for path in (dead, tmp_path / "a"):  # the file system's clock jumps back by a day
            os.utime(path, (ahead, ahead))
        assert (other.take("a"), other.take("b")) == (None, None)
        time.sleep(0.8)
        assert (other.take("a"), other.take("b")) == (None, 2)


def test_only_one_takes_over_what_is_left(tmp_path: Path) -> None:
    claims = [Claims(tmp_path, patience=5.0) for _ in range(8)]
    for each in claims:
        each.__enter__()
    try:
        for turn in range(20):
            left = tmp_path / f"{turn}"
            left.write_text("1")
            os.utime(left, (0, 0))
            together = threading.Barrier(len(claims))

            def take(one: Claims, name: str = f"{turn}", together: threading.Barrier = together) -> int | None:
                together.wait()
                return one.take(name)

            with ThreadPoolExecutor(len(claims)) as pool:
                taken = [tries for tries in pool.map(take, claims) if tries is not None]
            assert taken == [2]
    finally:
        for each in claims:
            each.__exit__()


def test_who_was_thought_dead_does_not_give_back_what_another_one_has(tmp_path: Path) -> None:
    slow, other = Claims(tmp_path, patience=60.0), Claims(tmp_path, patience=60.0)
    with slow, other:
        assert slow.take("a") == 1
        os.utime(tmp_path / "a", (0, 0))
        assert other.take("a") == 2
        slow.drop("a")
        assert slow.take("a") is None


def test_what_kills_its_process_is_given_up(tmp_path: Path) -> None:
    book = RecordBook(str(tmp_path / "work"), "key")
    folder = tmp_path / "claims"
    folder.mkdir()
    grave = folder / "work-0000002"
    grave.write_text(str(MOST_TRIES))
    os.utime(grave, (0, 0))
    left = folder / "work-0000001"
    left.write_text("1")
    os.utime(left, (0, 0))

    def task(_: object, number: int) -> str:
        assert number != 2, "it was tried once more"
        book.write(f"{number:07d}", {})
        return "done"

    (result,) = share_out(tmp_path, 4, task, 1)
    assert result.retries == 1  # that which was left, and not that which was given up
    assert [(failure.number, failure.message) for failure in result.failures] == [(2, "3 processes died at it")]


def test_who_comes_when_all_is_over_goes(tmp_path: Path) -> None:
    with Claims(tmp_path / "claims") as other, Claims(tmp_path / "claims") as own:
        assert other.take("work-0000001") == 1  # it will not end this
        late = ShardRunner(shard=Shard(1, 2), claims=own, over=lambda _: True, poll=0.01)
        tasks = tasks_of(tmp_path, 2, lambda _, __: "done")
        result = late.run(tasks, context=None, name="run", start=lambda _: None)
    assert (result.done, result.had) == (1, 1)


def test_what_fails_because_others_have_moved_it_away_has_not_failed(tmp_path: Path) -> None:
    gone: list[bool] = []

    def task(_: Any, number: int) -> str:
        gone.append(True)  # the others finish the stage while this one looks
        raise FileNotFoundError(f"number {number} is not here")

    for stages, failures in ((("work",), 0), (("another",), 2)):
        with Claims(tmp_path / "claims") as claims:
            late = ShardRunner(
                shard=Shard(1, 1), claims=claims, over=lambda stage, of=stages: bool(gone) and stage in of, poll=0.01
            )
            gone.clear()
            result = late.run(tasks_of(tmp_path, 2, task), context=None, name="run", start=lambda _: None)
        assert len(result.failures) == failures


@pytest.mark.parametrize("filler", [SumFiller, SceneMeanFiller])
def test_a_run_that_is_shared_out_is_the_run_of_one(tmp_path: Path, cube: Any, filler: Any) -> None:
    context = make_context(tmp_path, cube, filler())

    def one(number: int) -> None:
        own, claims = runner(tmp_path, number, 3)
        with claims:
            run_blocks(own, context, start_worker=start)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(one, (1, 2, 3)))
    stored = context.product.read("v", Window.of(SHAPE))[0]
    alone = make_context(tmp_path / "alone", cube, filler())
    own, claims = runner(tmp_path / "alone", 1, 1)
    with claims:
        run_blocks(own, alone, start_worker=start)
    np.testing.assert_array_equal(stored, alone.product.read("v", Window.of(SHAPE))[0])
    if filler is SumFiller:
        np.testing.assert_allclose(stored, whole(cube), rtol=1e-5)
