"""What a file says of a cluster, read and checked: a `ClusterPlan`, before anything is started.

Files speak Dask's own vocabulary: ``jobqueue.slurm.cores`` as dask-jobqueue's configuration has it, the keywords of
`distributed.LocalCluster` under ``local``, those of dask-kubernetes' `KubeCluster` under ``kubernetes``, and Dask's
settings under ``distributed``. Which keys there are stands here, so that a file can be checked where neither
dask-jobqueue nor dask-kubernetes is installed; tests compare the tables with theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stpipe.execution.clusters.batch import read_jobs
from stpipe.execution.clusters.keys import Place, check_keys, shown, table_of
from stpipe.execution.clusters.kubernetes import read_kubernetes
from stpipe.execution.clusters.local import read_local
from stpipe.execution.clusters.plan import CERTIFICATES, ENCRYPTION, JOB_SYSTEMS, ClusterPlan


def read_cluster(
    content: Any,
    *,
    name: str,
    known: Mapping[str, Any],
    cores: int,
    lines: Mapping[tuple[str, ...], int] | None = None,
) -> ClusterPlan:
    """Return what a file says of a cluster.

    Parameters
    ----------
    content : mapping
        The file as plain values: words, numbers, lists and mappings of them.
    name : str
        What messages call it.
    known : mapping
        Dask's settings under ``distributed`` with their defaults; no other keys are taken.
    cores : int
        Cores of this machine, which a local cluster uses unless its file says otherwise.
    lines : mapping, optional
        The line of each key by its path.

    Raises
    ------
    OptionError
        If a key, a value or what they say together is not right; one line with its place.

    Examples
    --------
    >>> slurm = {"cores": 4, "memory": "16GiB", "walltime": "01:00:00"}
    >>> known = {"adaptive": {"minimum": 0, "maximum": 0}}
    >>> content = {"jobqueue": {"slurm": slurm}, "distributed": {"adaptive": {"maximum": 40}}}
    >>> plan = read_cluster(content, name="my.yaml", known=known, cores=2)
    >>> plan.system, plan.maximum, plan.per_job, plan.worker_memory == 4 * 2**30
    ('slurm', 40, 4, True)
    """
    place = Place(name, lines or {})
    root = table_of(place, (), content)
    check_keys(place, (), root, ("local", "jobqueue", "kubernetes", "distributed"))
    systems = [key for key in ("local", "jobqueue", "kubernetes") if key in root]
    if len(systems) != 1:
        found = " and ".join(systems) if systems else "none of them"
        raise place.refuse((), f"needs one of local, jobqueue and kubernetes, got {found}")
    settings = dict(_settings(place, ("distributed",), root.get("distributed") or {}, known))
    if systems[0] == "local":
        plan = read_local(place, table_of(place, ("local",), root["local"] or {}), settings, cores)
    elif systems[0] == "kubernetes":
        plan = read_kubernetes(place, table_of(place, ("kubernetes",), root["kubernetes"]), settings)
    else:
        plan = read_jobs(place, table_of(place, ("jobqueue",), root["jobqueue"]), settings)
    _check_encryption(place, plan)
    return plan


def _settings(place: Place, path: tuple[str, ...], value: Any, known: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Give Dask's settings by their dotted names; refuse names that Dask doesn't know."""
    table = table_of(place, path, value)
    check_keys(place, path, table, tuple(known))
    for key, each in table.items():
        inner, at = known[key], (*path, key)
        if isinstance(inner, Mapping) and inner and not key.endswith("environ"):
            yield from _settings(place, at, each or {}, inner)
        elif isinstance(each, Mapping) and key.endswith("environ"):
            yield from ((".".join((*at, str(name))), inside) for name, inside in each.items())
        elif isinstance(each, Mapping) and not isinstance(inner, Mapping):
            raise place.refuse(at, f"takes a value, got {shown(each)}")
        else:
            yield ".".join(at), each


def _check_encryption(place: Place, plan: ClusterPlan) -> None:
    path = ENCRYPTION.split(".")
    if not isinstance(plan.settings.get(ENCRYPTION, False), bool | None):
        raise place.refuse(path, f"is true or false, got {shown(plan.settings[ENCRYPTION])}")
    given = [name for name in CERTIFICATES if plan.settings.get(name)]
    if given and not plan.encrypted:
        raise place.refuse(given[0].split("."), f"is there, but {ENCRYPTION} isn't true")
    for name in given:
        if not isinstance(plan.settings[name], str):
            raise place.refuse(name.split("."), f"names a file, got {shown(plan.settings[name])}")
    if given and len(given) < len(CERTIFICATES):
        missing = next(name for name in CERTIFICATES if name not in given)
        raise place.refuse(missing.split("."), "is missing; name all files of certificates, or none for temporary ones")
    if not plan.encrypted:
        return
    if plan.system == "kubernetes":
        raise place.refuse(path, "can't be had on Kubernetes; let a network policy keep others out")
    if plan.system in JOB_SYSTEMS and not given and "shared_temp_directory" not in plan.keywords:
        raise place.refuse(
            ("jobqueue", plan.system, "shared-temp-directory"),
            "has to name a folder that jobs see and nobody else may read: temporary certificates go there",
        )
