"""What Dask loads first in each worker process: how it takes Ctrl-C, and how it ends.

A terminal sends Ctrl-C to all processes in front. It is for the driver, which ends its workers in order: workers that
end by themselves leave tracebacks, and the driver would hand their tasks out again before it hears of it.

At its end a process may have requests under way to a store that has gone. zarr closes the event loop that they wait in,
and Python would tell of each, with a traceback, though the error itself has long come to the driver.
"""

from __future__ import annotations

import inspect
import logging
import multiprocessing
import signal
import sys
import threading
from typing import Any


def dask_setup(worker: Any) -> None:  # noqa: ARG001 - what Dask calls, and how
    """Leave Ctrl-C to the driver, if this is a process of its own."""
    if multiprocessing.parent_process() is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def dask_teardown(worker: Any) -> None:  # noqa: ARG001 - what Dask calls, and how
    """Say nothing of what still waits when this process ends, if it is one of its own."""
    if multiprocessing.parent_process() is not None:
        logging.getLogger("asyncio").setLevel(logging.CRITICAL + 1)
        sys.unraisablehook = _unless_waiting


def _unless_waiting(unraisable: Any) -> None:
    if not inspect.iscoroutine(unraisable.object):
        sys.__unraisablehook__(unraisable)
