"""What Dask loads in each of its processes: a clock that never jumps, for it and for Tornado, below it.

Both reckon what they do next by the time of day. When that is set back by an hour, by NTP or by hand, what Tornado
does every second rests for an hour: workers give no sign of life, jobs are neither asked for nor given up; and a
message that was just about to be sent stays where it is, which may be the one that a whole run waits for. Set ahead,
workers seem to have been silent for as long, and are started anew. Neither has a setting for it (Tornado once had):
hence the name under which their modules know the time is given another function, which agrees with the time of day
when it begins and goes on by itself. Nothing else in the process looks at it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import cache
from typing import Any

from distributed import metrics
from tornado.ioloop import IOLoop


def steady_from(now: float, monotonic: Callable[[], float]) -> Callable[[], float]:
    """Return a clock that shows `now` and goes on as a monotonic one does.

    >>> clock = steady_from(1e9, iter((5.0, 7.5)).__next__)
    >>> clock() - 1e9
    2.5
    """
    since = now - monotonic()
    return lambda: since + monotonic()


@cache
def _clocks() -> tuple[Callable[[], float], Callable[[], float]]:
    """Return Dask's clock as it is at first in this process, and the steady one that takes its place."""
    return metrics.time, steady_from(time.time(), time.monotonic)


def keep_time() -> None:
    """Let Dask and Tornado go by a steady clock in this process, from now on.

    What of Dask is imported afterwards knows the time of day again, until this is called anew.
    """
    known, steady = _clocks()
    for name, module in list(sys.modules.items()):
        if name.startswith("distributed.") and getattr(module, "time", None) is known:
            module.time = steady  # type: ignore[attr-defined]
    setattr(IOLoop, "time", lambda _: steady())  # noqa: B010 - a method, which may not be assigned to


def dask_setup(_: Any) -> None:
    """Begin with it, in a scheduler, a nanny, a worker or a client."""
    keep_time()
