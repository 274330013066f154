"""How fast tasks are made, and when the rest will be: from when tasks ended, with no clock of its own."""

from __future__ import annotations

from collections import deque

STEP = 1.0
"""Seconds between two moments that are kept: tasks of 10 ms cost no memory."""

WINDOW = 300.0
"""Seconds that the rate looks back, or longer, until enough tasks are in it."""

ENOUGH = 30
"""Tasks that tell a rate well, where so many have been made; at least `ROUNDS` a worker."""

ROUNDS = 4

LEAST = 4
"""Tasks below which no rate is told, and at least one a worker."""

SETTLED = 5.0
"""Seconds below which no rate is told."""


class Pace:
    """The rate at which the workers of a stage make tasks.

    Only tasks that were made count, not those whose work was there already: these end a hundred times as fast, and
    would promise a run that was taken up again an end that it can't keep. The first task of each worker is left out: it
    loads libraries and compiles. Workers that end their tasks at the same moment, as they do when all tasks are alike,
    are why a rate wants several tasks of each.

    Examples
    --------
    >>> pace = Pace()
    >>> for second in range(8):
    ...     pace.see(60.0 + second, made=2 * second, hands=2)  # after a minute of compiling
    >>> pace.rate(67.0), pace.seconds_for(100, 67.0)
    (2.0, 50.0)
    """

    def __init__(self) -> None:
        self._kept: deque[tuple[float, int]] = deque()
        self._last = (0.0, 0)
        self._hands = 1

    def see(self, now: float, *, made: int, hands: int) -> None:
        """Take in how many tasks have been made.

        Parameters
        ----------
        now : float
            Seconds by a clock that never jumps.
        made : int
            Tasks that have been made since the stage began; never fewer than before.
        hands : int
            Tasks that are worked on at a time.
        """
        self._hands = max(hands, 1)
        if made <= self._last[1]:
            return
        self._last = (now, made)
        if not self._kept:
            if made >= self._hands:
                self._kept.append(self._last)
            return
        if now - self._kept[-1][0] >= STEP:
            self._kept.append(self._last)
        wanted = max(ENOUGH, ROUNDS * self._hands)
        while len(self._kept) > 1 and now - self._kept[1][0] >= WINDOW and made - self._kept[1][1] >= wanted:
            self._kept.popleft()

    def rate(self, now: float) -> float | None:
        """Return tasks made a second, or None while there is too little to go by.

        It falls when no task ends for longer than the workers' tasks in hand would take.
        """
        if not self._kept:
            return None
        since, before = self._kept[0]
        until, made = self._last
        n = made - before
        if n < max(LEAST, self._hands) or now - since < SETTLED:
            return None
        # If what is in hand ended this moment, there would be as many tasks more.
        return n / max(until - since, (now - since) * n / (n + self._hands))

    def seconds_for(self, tasks: int, now: float) -> float | None:
        """Return how long so many more tasks will take, or None while there is too little to go by."""
        rate = self.rate(now)
        return None if rate is None else tasks / rate
