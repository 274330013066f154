"""How a long verb ends when it is told to: with a line that says how to go on."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from stpipe.errors import RunError

RESUMED = "interrupted; what is done is kept: run the same command again to go on from here"

STOPPED = "interrupted; run the same command again to begin anew"


@contextmanager
def interruptible(said: Callable[[], str] = lambda: RESUMED) -> Iterator[None]:
    """Make Ctrl-C and SIGTERM, by which batch systems end jobs, leave with what `said` returns then."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        raise RunError(said()) from None
    finally:
        signal.signal(signal.SIGTERM, before)
