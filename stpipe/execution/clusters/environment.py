"""What workers and schedulers elsewhere are told: Dask's settings, as variables of their environment."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

_DRIVERS = ("distributed.adaptive.", "distributed.deploy.", "distributed.comm.tls.client.")
_SCHEDULERS = ("distributed.scheduler.", "distributed.comm.tls.scheduler.")
_ENVIRON = re.compile(r"distributed\.nanny\.(?:pre-spawn-)?environ\.(.+)")


def environment(settings: Mapping[str, Any], *, scheduler: bool) -> dict[str, str]:
    """Return Dask's settings as variables of the environment, which is how processes elsewhere learn of them.

    Those of the driver are left out, and those of the scheduler unless asked for. What nannies give to their workers is
    given to both: names of settings lose their case on this way.

    >>> environment({"distributed.worker.memory.spill": False, "distributed.adaptive.maximum": 9}, scheduler=False)
    {'DASK_DISTRIBUTED__WORKER__MEMORY__SPILL': 'False'}
    """
    away = _DRIVERS if scheduler else _DRIVERS + _SCHEDULERS
    variables: dict[str, str] = {}
    for name, value in settings.items():
        if value is None or name.startswith(away):
            continue
        match = _ENVIRON.fullmatch(name)
        key = match[1] if match else "DASK_" + name.replace(".", "__").replace("-", "_").upper()
        variables[key] = str(value)
    return variables


def exports(variables: Mapping[str, str]) -> list[str]:
    """Return lines of a shell script that set variables.

    >>> exports({"A": "1", "B": "a b"})
    ['export A=1', "export B='a b'"]
    """
    return [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]


def with_environment(spec: Mapping[str, Any], variables: Mapping[str, str]) -> dict[str, Any]:
    """Return a DaskCluster of Kubernetes whose containers have variables, save those that they have already.

    >>> part = {"spec": {"containers": [{"env": [{"name": "A", "value": "mine"}]}]}}
    >>> told = with_environment({"spec": {"worker": part, "scheduler": part}}, {"A": "1", "B": "2"})
    >>> [one["value"] for one in told["spec"]["worker"]["spec"]["containers"][0]["env"]]
    ['mine', '2']
    """
    parts = {}
    for part in ("worker", "scheduler"):
        whole = spec["spec"][part]
        containers = [_told(container, variables) for container in whole["spec"]["containers"]]
        parts[part] = {**whole, "spec": {**whole["spec"], "containers": containers}}
    return {**spec, "spec": {**spec["spec"], **parts}}


def _told(container: Mapping[str, Any], variables: Mapping[str, str]) -> dict[str, Any]:
    own = list(container.get("env") or [])
    names = {one["name"] for one in own}
    return {**container, "env": own + [{"name": n, "value": v} for n, v in variables.items() if n not in names]}
