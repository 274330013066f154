"""Workers as pods, as a file says them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from dask.utils import parse_bytes

from stpipe.execution.clusters.keys import (
    Check,
    Place,
    a_count,
    a_flag,
    a_size,
    a_table,
    a_text,
    anything,
    arguments_of,
    checked,
    needed_bounds,
)
from stpipe.execution.clusters.plan import ClusterPlan

CREATE_MODES = ("CREATE_ONLY", "CREATE_OR_CONNECT", "CONNECT_ONLY")


def _create_mode(value: Any) -> str:
    if value not in CREATE_MODES:
        raise ValueError(f"is one of {', '.join(CREATE_MODES)}")
    return str(value)


KUBERNETES: Mapping[str, Check] = {
    "name": a_text,
    "namespace": a_text,
    "image": a_text,
    "n_workers": partial(a_count, least=0),
    "resources": a_table,
    "env": anything,
    "worker_command": anything,
    "port_forward_cluster_ip": a_flag,
    "create_mode": _create_mode,
    "shutdown_on_close": a_flag,
    "idle_timeout": partial(a_count, least=0),
    "resource_timeout": a_count,
    "scheduler_service_type": a_text,
    "custom_cluster_spec": a_table,
    "scheduler_forward_port": a_count,
    "jupyter": a_flag,
}
"""Keywords of dask-kubernetes' `KubeCluster` (of its operator) that a file may give."""

_OF_THE_SPEC = ("name", "image", "n_workers", "resources", "env", "worker_command", "scheduler_service_type", "jupyter")
"""Those that a `custom_cluster_spec` says instead."""


def read_kubernetes(place: Place, table: dict[str, Any], settings: dict[str, Any]) -> ClusterPlan:
    """Return what ``kubernetes`` says."""
    path: tuple[str, ...] = ("kubernetes",)
    keywords = checked(place, path, table, KUBERNETES)
    low, high = needed_bounds(place, settings)
    spec = keywords.get("custom_cluster_spec")
    if spec is not None:
        path = ("kubernetes", "custom_cluster_spec")
        for key in _OF_THE_SPEC:
            if key in keywords:
                raise place.refuse(("kubernetes", key), "is said by custom_cluster_spec too; leave one of them out")
        try:
            container = spec["spec"]["worker"]["spec"]["containers"][0]
            spec["metadata"]["name"], spec["spec"]["scheduler"]["spec"]["containers"][0]["name"]
            resources, command = container.get("resources") or {}, container.get("args") or []
        except (KeyError, IndexError, TypeError, AttributeError):
            raise place.refuse(
                path,
                "has to be a DaskCluster with metadata.name, and a container in spec.worker.spec and "
                "spec.scheduler.spec",
            ) from None
    else:
        resources, command = keywords.get("resources", {}), keywords.get("worker_command", [])
    words = command.split() if isinstance(command, str) else [str(word) for word in command]
    if arguments_of(words).get("--nthreads") != "1":
        raise place.refuse(path, "has to start workers with --nthreads 1: a task takes the memory of a whole worker")
    try:
        memory = int(parse_bytes(a_size(resources["limits"]["memory"])))
    except (KeyError, TypeError, ValueError):
        raise place.refuse(path, "has to say a worker's memory, as resources.limits.memory such as 4Gi") from None
    return ClusterPlan(
        name=place.name,
        system="kubernetes",
        keywords=keywords,
        settings=settings,
        minimum=low,
        maximum=high,
        worker_memory=memory,
    )
