"""Stages without a scheduler: processes, such as the tasks of a job array, that share out the work among themselves.

Each one begins with its own share of a stage's tasks, and then takes what others have not begun, or have begun and died
at. A stage is over when every task has its record, whoever made it, so that any number of processes, started in any
order and at any time, even one alone, comes to the end.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from stpipe.errors import OptionError
from stpipe.execution.claims import Claims
from stpipe.execution.runners import Tasks
from stpipe.execution.stages import Failure, Progress, StageResult, attempt, count, untold

POLL = 1.0
"""Seconds between two looks at what others do."""

LOOK = 5.0
"""Seconds between two counts of what all of them have done."""

LOOKS_SHARE = 0.02
"""Share of the time that such counts may take, where folders are slow."""

MOST_TRIES = 3
"""Processes that may die at a task before it is given up."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One of several equal shares."""

    number: int
    """Which one, from 1."""

    shares: int
    """How many there are."""

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``K/N``.

        >>> Shard.parse("2/3")
        Shard(number=2, shares=3)
        """
        first, slash, second = text.partition("/")
        if not (slash and first.strip().isdigit() and second.strip().isdigit()):
            raise OptionError(f"--shard is K/N, such as 3/16 for the third of sixteen, got {text!r}")
        number, shares = int(first), int(second)
        if not 1 <= number <= shares:
            raise OptionError(f"--shard K/N has K from 1 to N, got {text}; job arrays may count from 0: add 1")
        return cls(number, shares)

    def order(self, numbers: Sequence[int]) -> list[int]:
        """Return a stage's tasks with this share first, and then those of the shares after it.

        >>> Shard(2, 3).order(range(7))
        [1, 4, 2, 5, 0, 3, 6]
        """
        shares = [list(numbers[start :: self.shares]) for start in range(self.shares)]
        return [number for share in shares[self.number - 1 :] + shares[: self.number - 1] for number in share]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRunner:
    """Runs stages in this process, together with others like it."""

    shard: Shard
    """What this process begins with."""

    claims: Claims
    """Who is at what."""

    over: Callable[[str], bool]
    """Whether a stage needs no more work, since others have made of it what it is for and moved that away."""

    progress: Progress | None = None
    """Told about tasks that have ended."""

    limit: float | None = None
    """Seconds that a task may take; this process ends with one that takes longer, and others go on."""

    poll: float = POLL
    """Seconds between two looks at what others do."""

    def run(self, tasks: Tasks, *, context: Any, name: str, start: Callable[[Any], None]) -> StageResult:  # noqa: ARG002
        """Do tasks, first those of this share; return when all have a record, or have failed here too."""
        start(context)
        result, recorded = StageResult(), _Recorded(tasks)
        left = self.shard.order(tasks.numbers)
        own = {*tasks.numbers[self.shard.number - 1 :: self.shard.shares]}  # what was there before is checked by them
        while left:
            left = [
                number
                for number in left
                if result.hopeless or not self._ended(tasks, context, number, result, own, recorded)
            ]
            if result.hopeless:
                break
            if left and self.over(tasks.stage):
                result.had += len(left)
                break
            if left:
                time.sleep(self.poll)
        if self.over(tasks.stage):  # what failed did so because it was no longer there
            result.failures.clear()
        result.failures.sort(key=lambda failure: failure.number)
        return result

    def _ended(
        self, tasks: Tasks, context: Any, number: int, result: StageResult, own: set[int], recorded: _Recorded
    ) -> bool:
        """Whether a task has ended, after doing it if nobody else does."""
        tell = self.progress or untold
        if self.progress is not None and recorded.look(result):
            tell(tasks.stage, result, len(tasks.numbers))
        record = tasks.record(number)
        if number not in own and tasks.book.read(record) is not None:
            result.had += 1
        else:
            claim = f"{tasks.book.stage}-{record}"
            tries = self.claims.take(claim)
            if tries is None:
                return False
            try:
                if tries > MOST_TRIES:
                    message = f"{MOST_TRIES} processes died at it"
                    count(result, Failure(number=number, message=message))
                else:
                    result.retries += tries > 1
                    count(result, attempt(tasks.task, context, number, tasks.bound(self.limit))[0])
            finally:
                self.claims.drop(claim)
            own.discard(number)
        tell(tasks.stage, result, len(tasks.numbers))
        return True


class _Recorded:
    """Counts the tasks of a stage that have a record, now and then: how far all processes together have come."""

    def __init__(self, tasks: Tasks) -> None:
        self._folder = tasks.book.folder
        self._prefix = tasks.name.partition("{")[0]
        self._first: int | None = None
        self._next = 0.0

    def look(self, result: StageResult) -> bool:
        """Write down in a result what there is, if it is time to look again; say whether it was."""
        began = time.monotonic()
        if began < self._next:
            return False
        count = self._count()
        self._first = count if self._first is None else self._first
        result.recorded = (self._first, count)
        now = time.monotonic()
        self._next = now + max(LOOK, (now - began) / LOOKS_SHARE)
        return True

    def _count(self) -> int:
        try:
            with os.scandir(self._folder) as entries:
                return sum(self._is_record(entry.name) for entry in entries)
        except FileNotFoundError:
            return 0

    def _is_record(self, name: str) -> bool:
        """Whether a file is a record of these tasks, and not of others that share the folder."""
        return name.startswith(self._prefix) and name[len(self._prefix) :].removesuffix(".json").isdigit()
