"""Workers of this machine, as a file says them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from dask.utils import parse_bytes

from stpipe.execution.clusters.keys import Check, Place, a_count, a_size, a_text, a_time, bounds_of, checked
from stpipe.execution.clusters.plan import DASHBOARD, ClusterPlan

LOCAL: Mapping[str, Check] = {
    "n_workers": a_count,
    "threads_per_worker": a_count,
    "memory_limit": a_size,
    "local_directory": a_text,
    "host": a_text,
    "interface": a_text,
    "protocol": a_text,
    "scheduler_port": partial(a_count, least=0),
    "dashboard_address": a_text,
    "worker_dashboard_address": a_text,
    "death_timeout": a_time,
}
"""Keywords of `distributed.LocalCluster` that a file may give."""


def read_local(place: Place, table: dict[str, Any], settings: dict[str, Any], cores: int) -> ClusterPlan:
    """Return what ``local`` says."""
    keywords = checked(place, ("local",), table, LOCAL)
    if keywords.get("threads_per_worker", 1) != 1:
        raise place.refuse(("local", "threads_per_worker"), "has to be 1: a task takes the memory of a whole worker")
    bounds = bounds_of(place, settings)
    count = keywords.pop("n_workers", None)
    if bounds is not None and count is not None:
        raise place.refuse(("local", "n_workers"), "is a fixed number, and distributed.adaptive has bounds; leave one")
    memory = keywords.pop("memory_limit", None)
    low, high = bounds or (count or cores, count or cores)
    return ClusterPlan(
        name=place.name,
        system="local",
        keywords={"dashboard_address": DASHBOARD, **keywords, "threads_per_worker": 1},
        settings=settings,
        minimum=low,
        maximum=high,
        worker_memory=None if memory is None else int(parse_bytes(memory)),
    )
