"""Where the tasks run: a LocalCluster of this machine, a scheduler that is there, or a cluster that is started."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import dask
import psutil
import yaml
from distributed import Client, LocalCluster
from distributed.utils import silence_logging_cmgr

from stpipe.core.sizes import gib
from stpipe.errors import OptionError, RunError
from stpipe.execution.clusters.plan import ClusterPlan
from stpipe.execution.clusters.start import dashboard as dashboard_of
from stpipe.execution.clusters.start import describe, started
from stpipe.execution.steady import keep_time
from stpipe.resources import shipped


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine_memory() -> int:
    """Return this machine's memory in bytes, or what a control group leaves of it."""
    total = int(psutil.virtual_memory().total)
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, int(Path(limit).read_text()))
        except (OSError, ValueError):
            continue
    return total


def share_of_memory(workers: int) -> int:
    """Return what each of some workers may take of this machine's memory."""
    return int(0.9 * machine_memory()) // workers


def worker_memory(plan: ClusterPlan) -> int:
    """Return what a worker of a planned cluster may take, in bytes."""
    return share_of_memory(plan.maximum) if plan.worker_memory is None else plan.worker_memory


def check_workers(workers: int) -> int:
    """Refuse a number of workers that makes no sense."""
    if workers < 1:
        raise OptionError(f"need at least 1 worker, got --workers {workers}")
    return workers


def check_cluster(client: Client, needed: int) -> None:
    """Refuse a cluster whose workers can't hold a task, or would run several in one process.

    Parameters
    ----------
    client : distributed.Client
        A client of the cluster.
    needed : int
        Projected peak of a worker in bytes.
    """
    for address, worker in client.scheduler_info(n_workers=-1)["workers"].items():
        if worker["nthreads"] > 1:
            raise OptionError(
                f"the worker at {address} has {worker['nthreads']} threads; a task takes the memory of a whole worker: "
                "start workers with --nthreads 1, and more of them"
            )
        if 0 < worker["memory_limit"] < needed:
            raise OptionError(
                f"the worker at {address} may take {gib(worker['memory_limit'])}, but the plan needs {gib(needed)}; "
                "give its limit with --memory-limit, so that the plan keeps to it, or start workers with more memory"
            )


def local_settings() -> dict[str, Any]:
    """Return Dask's settings for workers of this machine, as shipped in cluster/local."""
    settings = yaml.safe_load(shipped("cluster", "local/dask.yaml").read_text())
    return dict(_dotted(settings))


def _dotted(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Give nested settings as dotted names, which are set beside Dask's other ones and not in place of them."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


TRY, TRIES = 4, 5
"""Seconds that a scheduler has to answer, and how often it is asked."""

KEPT_BYTES = 2**28
"""What glibc's allocator keeps at the end of the memory that a worker gives back, if it is told to keep more."""

LARGE_BYTES = 2**24
"""Arrays from this size on go back all the same: each finds a hole of its own in what is kept, which then grows."""


def _keeping() -> dict[str, Any]:
    """Return settings for workers that keep more memory; what the user's environment says goes before."""
    bounds = {"MALLOC_TRIM_THRESHOLD_": KEPT_BYTES, "MALLOC_MMAP_THRESHOLD_": LARGE_BYTES}
    return {f"distributed.nanny.pre-spawn-environ.{name}": size for name, size in bounds.items()}


def _preloads(settings: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return what each of Dask's processes is to load: what is shipped, and what the site or a cluster's file names."""
    named: dict[str, list[str]] = {}
    for key, shipped_ones in local_settings().items():
        if key.endswith(".preload"):
            own = [dask.config.get(key, []), settings.get(key, [])]
            lists = [[one] if isinstance(one, str) else list(one or []) for one in own]
            named[key] = list(dict.fromkeys([*shipped_ones, *lists[0], *lists[1]]))
    return named


def _client_of(scheduler: str) -> Client:
    """Return a client of a scheduler that was there already, which may take a moment to answer.

    A client that has lost its scheduler looks for it as long as it was told to when it was made, and holds up the end
    of the run meanwhile: hence several short tries in place of a long one.
    """
    for tries_left in reversed(range(TRIES)):
        try:
            return Client(scheduler, timeout=TRY, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            if tries_left and isinstance(error, TimeoutError | OSError):
                continue
            raise OptionError(
                f"no scheduler answers at {scheduler!r} ({type(error).__name__}); start one with "
                "`dask scheduler` and give its address, or leave --scheduler out"
            ) from error
    raise AssertionError("the last try returns or raises")


LEAKED = "ignore:resource_tracker:UserWarning"
"""What Python would warn of after a run whose worker was killed: locks, of its codecs, that were not given back."""


def _start_tracker() -> None:
    """Start the process that follows the locks of this process and its workers, before anything else does, quietly."""
    sys.warnoptions.append(LEAKED)  # it takes them from here, and has no other ear
    try:
        resource_tracker.ensure_running()
    finally:
        sys.warnoptions.remove(LEAKED)


@contextmanager
def connect(
    *,
    scheduler: str | None,
    workers: int,
    memory_limit: int,
    dashboard: str = "127.0.0.1:0",
    keep_memory: bool = False,
    cluster: ClusterPlan | None = None,
    announce: Callable[[str], None] | None = None,
) -> Iterator[Client]:
    """Give a client of the scheduler at an address, of a planned cluster, or of a LocalCluster; the last two end here.

    With `keep_memory`, workers of a LocalCluster keep more of what they give back for the next array, and larger ones,
    than cluster/local says: right for tasks of less than a second.
    `announce` is told where a planned cluster can be watched. Its workers may come later, or not at once as many.
    """
    settings = (
        local_settings() | (_keeping() if keep_memory else {}) | ({} if cluster is None else dict(cluster.settings))
    )
    settings |= _preloads(settings)
    keep_time()  # at once: schedulers and nannies call what they load only when they have begun
    with dask.config.set(settings):
        if cluster is not None:
            _start_tracker()
            with (
                started(cluster, settings, memory_limit) as here,
                Client(here, set_as_default=False) as client,
            ):
                if announce is not None:
                    watched = dashboard_of(cluster, here) or "none"
                    announce(f"cluster {cluster.name}: {describe(cluster)}; dashboard at {watched}")
                yield client
            return
        if scheduler is not None:
            with silence_logging_cmgr(logging.CRITICAL), _client_of(scheduler) as client:
                if not client.scheduler_info()["workers"]:
                    try:
                        client.wait_for_workers(1, timeout=60)
                    except TimeoutError as error:
                        raise RunError(f"the scheduler at {scheduler} has no workers after 60 s; start some") from error
                yield client
            return
        _start_tracker()
        with (
            LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                memory_limit=memory_limit,
                dashboard_address=dashboard,
                silence_logs=50,
            ) as here,
            Client(here, set_as_default=False) as client,
        ):
            yield client
