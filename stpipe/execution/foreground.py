"""What Dask loads first in each worker process: Ctrl-C is for the driver, which ends its workers in order.

A terminal sends it to all processes in front. Workers that end by themselves leave tracebacks, and the driver would
hand their tasks out again before it hears of it.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
from typing import Any


def dask_setup(worker: Any) -> None:  # noqa: ARG001 - what Dask calls, and how
    """Leave Ctrl-C to the driver, if this is a process of its own."""
    if multiprocessing.parent_process() is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
