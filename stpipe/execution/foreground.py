"""What Dask loads first in each worker process: Ctrl-C is for the driver, which ends its workers in order, and quietly.

A terminal sends it to all processes in front. Workers that end by themselves leave tracebacks, and the driver would
hand their tasks out again before it hears of it.
"""

from __future__ import annotations

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
    """Let a process that ends say nothing of requests to a store that were under way, as when that has gone.

    zarr closes its event loop at exit, whatever waits in it; Python tells of each with a traceback. The error itself
    has come to the driver before.
    """
    if multiprocessing.parent_process() is not None:
        logging.getLogger("asyncio").setLevel(logging.CRITICAL + 1)
        sys.unraisablehook = lambda _: None
