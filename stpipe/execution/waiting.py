"""Waiting for a cluster's work, without waiting for ever: for a scheduler that is gone, or workers that can't come."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from distributed import Client, Future, as_completed
from distributed.comm.core import CommClosedError

from stpipe.errors import RunError

LOST_AFTER = 5.0
"""Seconds without the scheduler after which a run ends. What it had in hand is lost, should it come back."""

UNDONE = ("pending", "lost")
"""What a future is again whose worker went before anyone had fetched what it had made; the scheduler sees to it."""

BROKEN = (CommClosedError, ConnectionError, TimeoutError)
"""What calls of a scheduler or a worker raise that is gone."""

PAUSE = 0.01
"""Seconds between two looks at whether tasks have ended."""


class SchedulerLostError(RunError):
    """The scheduler is gone."""


def check_jobs(client: Client) -> None:
    """Refuse to wait on for workers of a cluster that says of itself that none can come.

    Raises
    ------
    RunError
        With the reason.
    """
    amiss = getattr(client.cluster, "amiss", None)
    if amiss is not None and (reason := amiss()) is not None:
        raise RunError(reason)


@contextmanager
def needed(client: Client) -> Iterator[None]:
    """Tell whatever goes wrong because the scheduler is gone as that.

    Raises
    ------
    SchedulerLostError
        If the client is without its scheduler.
    """
    where = client.scheduler.address if client.scheduler else "its address"
    try:
        yield
    except Exception as error:
        if not _is_lost(client, error):
            raise
        raise SchedulerLostError(
            f"the scheduler at {where} is gone; what is done is kept: start another one and run the same command again "
            "to go on from here"
        ) from error


def _is_lost(client: Client, error: Exception) -> bool:
    """Whether a client is without its scheduler.

    Of a connection that broke one of its calls may hear before the client itself does, who is then about to.
    """
    end = time.monotonic() + (LOST_AFTER if isinstance(error, BROKEN) else 0.0)
    while client.status == "running" and time.monotonic() < end:
        time.sleep(PAUSE)
    return client.status != "running"


def as_they_end(client: Client, futures: Sequence[Future[Any]]) -> Iterator[Future[Any]]:
    """Give futures as they end, as long as the scheduler is there and the cluster has, or may yet have, workers.

    Raises
    ------
    SchedulerLostError
        If the scheduler is gone.
    RunError
        If no worker can come.
    """
    waiting = as_completed(futures, loop=client.loop)
    lost: float | None = None
    while not waiting.is_empty():
        if waiting.has_ready():
            for future in waiting.next_batch(block=False):
                if future.status in UNDONE:
                    waiting.add(future)
                else:
                    yield future
            continue
        check_jobs(client)
        if client.status == "running":
            lost = None
        else:
            now = time.monotonic()
            lost = now if lost is None else lost
            if now - lost >= LOST_AFTER:
                raise SchedulerLostError("the scheduler is gone")
        time.sleep(PAUSE)
