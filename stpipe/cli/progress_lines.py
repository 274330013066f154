"""How a stage stands, as a value and as a line of text."""

from __future__ import annotations

from dataclasses import dataclass

from stpipe.core.sizes import GIB, MIB

NOUNS = {"survey": "tile", "learn": "variable", "fill": "block", "blend": "tile"}
"""What the tasks of a stage are, where users have a word for it."""

QUICK = 10.0
"""Seconds below which a stage without tasks is not worth a line."""

BRIEF = 0.001
"""Seconds below which there is no rate."""

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0

SPEEDS = ((1.0, "a second"), (MINUTE, "a minute"), (HOUR, "an hour"))

MILLION = 1_000_000
MANY = 10 * MILLION
"""What is as many as that is told in millions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a stage stands."""

    stage: str
    """What users call it."""

    seconds: float = 0.0
    """How long it has been worked at."""

    total: int = 0
    """Its tasks; 0 for a stage that is all one."""

    ended: int = 0
    """Tasks that have ended, one way or another, whoever did them."""

    done: int = 0
    """Tasks that this run has done."""

    had: int = 0
    """Tasks whose work was there."""

    failed: int = 0
    """Tasks that failed."""

    rate: float | None = None
    """Tasks made a second, if that can be told."""

    left: float | None = None
    """Seconds that the rest will take, if that can be told."""

    workers: int | None = None
    """Workers that are there, where there is a cluster."""

    workers_seen: int = 0
    """Workers, or processes, that have been there."""

    memory: int = 0
    """Most memory of a worker in bytes that was seen at any time; 0 if that is not known."""

    peak: int = 0
    """Most memory of a worker in bytes that the end of a task told; 0 without tasks."""

    limit: int = 0
    """What it may take; 0 if that is not known."""

    retries: int = 0
    """Tasks that were handed out again because the worker that had them was gone."""

    @property
    def mean_rate(self) -> float | None:
        """Tasks that this run has done a second, over all of the stage's time; None if there is nothing to divide."""
        return self.done / self.seconds if self.done and self.seconds >= BRIEF else None

    @property
    def worth_telling(self) -> bool:
        """Whether its end is worth a line."""
        return self.total > 0 or self.seconds >= QUICK


def running_line(at: Standing) -> str:
    """Return how a stage goes.

    >>> running_line(Standing(stage="fill", seconds=133, total=5120, ended=412, rate=3.1, left=1518, workers=16,
    ...     memory=2040109466, limit=2**32, retries=2))
    'fill 412 of 5,120 blocks (8 %), 3.1 a second, about 25 min left, 16 workers, 1.9 of 4.0 GiB, 2 retries'
    >>> running_line(Standing(stage="digests", seconds=65))
    'digests, 65 s so far'
    """
    return ", ".join([f"{at.stage} {amount(at)}", *details(at)] if at.total else [at.stage, *details(at)])


def amount(at: Standing) -> str:
    """Return how much of a stage has ended.

    >>> amount(Standing(stage="mosaic", total=1000, ended=999))
    '999 of 1,000 (99 %)'
    """
    some = f"{at.ended / MILLION:,.0f} of {at.total / MILLION:,.0f} million"  # samples, where there are no tasks
    if at.total < MANY:
        some = f"{at.ended:,} of {at.total:,}{_noun(at)}"
    return f"{some} ({100 * at.ended // at.total} %)"


def details(at: Standing) -> list[str]:
    """Return what else there is to say of a stage that goes on; what is not known is left out."""
    parts = []
    if at.rate is not None:
        parts.append(speed(at.rate))
    if at.left is not None and at.ended < at.total:
        parts.append(f"about {duration(at.left)} left")
    if at.rate is None or not at.total:
        parts.append(f"{duration(at.seconds)} so far")
    if at.workers is not None:
        parts.append(_counted(at.workers, "worker"))
    return parts + _troubles(at)


def ended_line(at: Standing) -> str:
    """Return how a stage went.

    >>> ended_line(Standing(stage="fill", seconds=1650, total=5120, ended=5120, done=4708, had=412, workers=16,
    ...     workers_seen=17, memory=2040109466, limit=2**32, retries=1))
    'fill: 5,120 blocks in 28 min, 412 of them there before, 2.9 a second, 17 workers, 1.9 of 4.0 GiB, 1 retry'
    """
    if not at.total:
        return f"{at.stage}: {duration(at.seconds)}"
    some = f"{at.ended:,} of {at.total:,}" if at.ended < at.total else f"{at.total:,}"
    parts = [f"{at.stage}: {some}{_noun(at)} in {duration(at.seconds)}"]
    if at.had:
        parts.append(f"{at.had:,} of them there before")
    if at.mean_rate is not None:
        parts.append(speed(at.mean_rate))
    if at.workers is not None:
        parts.append(_counted(at.workers_seen, "worker"))
    return ", ".join(parts + _troubles(at))


def _noun(at: Standing) -> str:
    return f" {NOUNS[at.stage]}{'' if at.total == 1 else 's'}" if at.stage in NOUNS else ""


def _troubles(at: Standing) -> list[str]:
    parts = [memory(at.memory, at.limit)] if at.memory else []
    if at.retries:
        parts.append("1 retry" if at.retries == 1 else f"{at.retries:,} retries")
    if at.failed:
        parts.append(f"{at.failed:,} failed")
    return parts


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Return a time as people say it: to a sixth of itself or better, and never in numbers of four digits.

    >>> [duration(s) for s in (0.31, 42, 170, 1518, 27000, 400000)]
    ['0.3 s', '42 s', '170 s', '25 min', '7.5 h', '4.6 days']
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    for unit, name, most, digits in ((1.0, "s", 180.0, 0), (MINUTE, "min", 180.0, 0), (HOUR, "h", 48.0, 1)):
        if seconds < most * unit:
            return f"{seconds / unit:.{digits}f} {name}"
    return f"{seconds / DAY:,.1f} days"


def speed(rate: float) -> str:
    """Return a rate in the unit of time in which it is 1 or more, up to hours.

    >>> speed(2.1e7), speed(312.4), speed(3.14), speed(0.2), speed(0.004)
    ('21 million a second', '312 a second', '3.1 a second', '12 a minute', '14 an hour')
    """
    if rate >= MANY:
        return f"{rate / MILLION:,.0f} million a second"
    unit, name = next(((unit, name) for unit, name in SPEEDS if rate * unit >= 1), SPEEDS[-1])
    return f"{rate * unit:,.{0 if rate * unit >= 9.95 else 1}f} {name}"


def memory(most: int, limit: int) -> str:
    """Return what a worker takes, and of how much.

    >>> memory(2040109466, 2**32), memory(300 * 2**20, 2**32), memory(300 * 2**20, 0)
    ('1.9 of 4.0 GiB', '300 MiB of 4.0 GiB', '300 MiB')
    """
    if not limit:
        return _size(most)
    taken, may = _size(most), _size(limit)
    return f"{taken.removesuffix(may[-4:])} of {may}"


def _size(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB / 2 else f"{size / MIB:.0f} MiB"
