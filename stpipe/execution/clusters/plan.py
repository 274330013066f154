"""What a file says of a cluster, read and checked: one value, before anything is started.

Files speak Dask's own vocabulary: ``jobqueue.slurm.cores`` as dask-jobqueue's configuration has it, the keywords of
`distributed.LocalCluster` under ``local``, those of dask-kubernetes' `KubeCluster` under ``kubernetes``, and Dask's
settings under ``distributed``. Which keys there are stands here, so that a file can be checked where neither
dask-jobqueue nor dask-kubernetes is installed; tests compare the tables with theirs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any, Literal, cast

from dask.utils import format_bytes, parse_bytes, parse_timedelta

from stpipe.errors import OptionError
from stpipe.execution.clusters.keys import (
    LEAST_MEMORY,
    Check,
    Place,
    a_count,
    a_flag,
    a_size,
    a_table,
    a_text,
    a_time,
    anything,
    check_keys,
    checked,
    shown,
    table_of,
    texts,
)

System = Literal["local", "slurm", "pbs", "lsf", "kubernetes"]
"""What starts the workers."""

JOB_SYSTEMS = ("slurm", "pbs", "lsf")
"""Those that take job scripts."""

LIFETIME, STAGGER = "distributed.worker.lifetime.duration", "distributed.worker.lifetime.stagger"
LIFETIME_SHARE, STAGGER_SHARE = 0.85, 0.1
"""Shares of the walltime after which a worker hands over, and by which it does so sooner or later than others."""

ENCRYPTION = "distributed.comm.require-encryption"
DASHBOARD = "127.0.0.1:0"
"""Where the dashboard is unless a file says otherwise: this machine alone may look, at any free port."""

_TLS = "distributed.comm.tls"
CERTIFICATES = (f"{_TLS}.ca-file", *(f"{_TLS}.{who}.{what}" for who in ("scheduler", "worker", "client")
                                     for what in ("cert", "key")))  # fmt: skip
"""Files of certificates; all of them, or none for ones that are made for the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterPlan:
    """A cluster that may be started."""

    name: str
    """What the user calls it: a packaged name, or a file."""

    system: System
    """What starts its workers."""

    keywords: Mapping[str, Any]
    """Keywords of the Dask class that does."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    """Dask's settings by their dotted names, besides those that stpipe sets for every cluster."""

    minimum: int
    """Fewest workers."""

    maximum: int
    """Most workers."""

    worker_memory: int | None
    """Bytes a worker may take; None for a share of this machine's."""

    per_job: int = 1
    """Workers that one job starts."""

    @property
    def encrypted(self) -> bool:
        """Whether workers and scheduler speak TLS alone."""
        return bool(self.settings.get(ENCRYPTION))

    @property
    def own_certificates(self) -> bool:
        """Whether the file names certificates, so that none are made for the run."""
        return any(self.settings.get(name) for name in CERTIFICATES)

    def with_workers(self, count: int | None) -> ClusterPlan:
        """Return the plan with a number of workers that doesn't change; the same plan for None.

        Raises
        ------
        OptionError
            If jobs can't start just so many.
        """
        if count is None:
            return self
        if count % self.per_job:
            raise OptionError(
                f"--workers {count} is no whole number of jobs: each one of {self.name} starts {self.per_job}; take a "
                "multiple of that, or a copy with other cores and memory"
            )
        return replace(self, minimum=count, maximum=count)


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
        plan = _local(place, table_of(place, ("local",), root["local"] or {}), settings, cores)
    elif systems[0] == "kubernetes":
        plan = _kubernetes(place, table_of(place, ("kubernetes",), root["kubernetes"]), settings)
    else:
        plan = _jobs(place, table_of(place, ("jobqueue",), root["jobqueue"]), settings)
    _check_encryption(place, plan)
    return plan


# --- Dask's settings -------------------------------------------------------------------------------------------------


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


def _bounds(place: Place, settings: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the fewest and the most workers of what is adaptive, or None where nothing is said of it."""
    names = ("distributed.adaptive.minimum", "distributed.adaptive.maximum")
    low, high = (settings.get(name) for name in names)
    for name, value, least in zip(names, (low, high), (0, 1), strict=True):
        if value is not None:
            try:
                a_count(value, least)
            except ValueError as error:
                raise place.refuse(name.split("."), f"{error}, got {shown(value)}") from None
    if high is None:
        if low is not None:
            raise place.refuse(names[0].split("."), "needs a maximum beside it")
        return None
    if (low or 0) > high:
        raise place.refuse(names[0].split("."), f"is {low}, which is more than the maximum, {high}")
    return low or 0, high


def _needed_bounds(place: Place, settings: Mapping[str, Any]) -> tuple[int, int]:
    bounds = _bounds(place, settings)
    if bounds is None:
        raise place.refuse(("distributed", "adaptive", "maximum"), "has to say how many workers there may be")
    return bounds


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


# --- this machine ----------------------------------------------------------------------------------------------------

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


def _local(place: Place, table: dict[str, Any], settings: dict[str, Any], cores: int) -> ClusterPlan:
    keywords = checked(place, ("local",), table, LOCAL)
    if keywords.get("threads_per_worker", 1) != 1:
        raise place.refuse(("local", "threads_per_worker"), "has to be 1: a task takes the memory of a whole worker")
    bounds = _bounds(place, settings)
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


# --- batch systems ---------------------------------------------------------------------------------------------------

SCHEDULER_OPTIONS: Mapping[str, Check] = {
    "host": a_text,
    "port": partial(a_count, least=0),
    "interface": a_text,
    "dashboard_address": a_text,
    "contact_address": a_text,
    "protocol": a_text,
}
"""Keywords of `distributed.Scheduler` that ``scheduler-options`` may give."""

_EVERY_JOB: Mapping[str, Check] = {
    "name": a_text,
    "cores": a_count,
    "memory": a_size,
    "processes": a_count,
    "python": a_text,
    "interface": a_text,
    "death-timeout": a_time,
    "local-directory": a_text,
    "shared-temp-directory": a_text,
    "worker-extra-args": texts,
    "shebang": a_text,
    "queue": a_text,
    "walltime": a_text,
    "job-script-prologue": texts,
    "job-extra-directives": texts,
    "job-directives-skip": texts,
    "log-directory": a_text,
    "scheduler-options": a_table,
}

JOBS: Mapping[str, Mapping[str, Check]] = {
    "slurm": {**_EVERY_JOB, "account": a_text, "job-cpu": a_count, "job-mem": a_text},
    "pbs": {**_EVERY_JOB, "account": a_text, "resource-spec": a_text},
    "lsf": {
        **_EVERY_JOB,
        "project": a_text,
        "ncpus": a_count,
        "mem": a_count,
        "lsf-units": a_text,
        "use-stdin": a_flag,
    },
}
"""Keys of ``jobqueue.SYSTEM`` in dask-jobqueue's configuration, less those that it calls deprecated."""

_NAMED_ELSEWHERE = {"--nthreads": "cores", "--nworkers": "processes", "--memory-limit": "memory", "--name": "name"}


def _jobs(place: Place, table: dict[str, Any], settings: dict[str, Any]) -> ClusterPlan:
    check_keys(place, ("jobqueue",), table, JOB_SYSTEMS)
    if len(table) != 1:
        raise place.refuse(("jobqueue",), f"holds one of {', '.join(JOB_SYSTEMS)}, got {', '.join(table) or 'none'}")
    system = cast("System", next(iter(table)))
    path = ("jobqueue", system)
    values = table_of(place, path, table[system])
    if isinstance(values.get("walltime"), int):
        # YAML reads 01:00:00 as a number to the base of 60, and Slurm would read that as minutes.
        raise place.refuse((*path, "walltime"), "has to stand in quotes, such as '01:00:00'")
    found = checked(place, path, values, JOBS[system])
    for key in ("cores", "memory", "walltime"):
        if key not in found:
            raise place.refuse((*path, key), "is missing; each job has to say what it asks for")
    found.setdefault("processes", found["cores"])
    if found["processes"] != found["cores"]:
        raise place.refuse(
            (*path, "processes"),
            f"is {found['processes']} with {found['cores']} cores, but workers have one thread each: a task takes the "
            "memory of a whole worker; make both the number of workers in a job",
        )
    arguments = found.get("worker-extra-args", [])
    for argument in arguments:
        if argument.split("=")[0] in _NAMED_ELSEWHERE:
            key = _NAMED_ELSEWHERE[argument.split("=")[0]]
            raise place.refuse((*path, "worker-extra-args"), f"can't have {argument}; say it by {key}")
    settings = {**settings, **_lifetime(place, path, found, settings)}
    options = checked(place, (*path, "scheduler-options"), found.get("scheduler-options", {}), SCHEDULER_OPTIONS)
    found["scheduler-options"] = {"dashboard_address": DASHBOARD, **options}
    low, high = _needed_bounds(place, settings)
    for name, bound in (("minimum", low), ("maximum", high)):
        if bound % found["processes"]:
            raise place.refuse(
                ("distributed", "adaptive", name),
                f"is {bound} workers, which is no whole number of jobs with {found['processes']} workers each",
            )
    # As dask-jobqueue tells it to the worker, rounded.
    memory = int(parse_bytes(format_bytes(parse_bytes(found["memory"]) / found["processes"]).replace(" ", "")))
    if memory < LEAST_MEMORY:
        raise place.refuse(
            (*path, "memory"), f"is the job's; shared by {found['processes']} workers it is {format_bytes(memory)} each"
        )
    keywords = {("job_name" if key == "name" else key.replace("-", "_")): value for key, value in found.items()}
    return ClusterPlan(
        name=place.name,
        system=system,
        keywords=keywords,
        settings=settings,
        minimum=low,
        maximum=high,
        worker_memory=memory,
        per_job=found["processes"],
    )


_WALLTIMES: Mapping[str, tuple[str, tuple[tuple[int, ...], ...], str]] = {
    # What one, two and three numbers count, in seconds.
    "slurm": (r"(?:(\d+)-)?(\d+(?::\d+){0,2})", ((60,), (60, 1), (3600, 60, 1)), "HH:MM:SS or D-HH:MM:SS"),
    "pbs": (r"()(\d+(?::\d+){0,2})", ((1,), (60, 1), (3600, 60, 1)), "HH:MM:SS"),
    "lsf": (r"()(\d+(?::\d+)?)", ((60,), (3600, 60)), "HH:MM"),
}


def walltime_seconds(system: str, text: str) -> int:
    """Return a walltime in seconds, as each batch system reads it; ValueError if it doesn't.

    Sources: sbatch(1), ``--time``; PBS Reference Guide, walltime; bsub(1), ``-W``.

    >>> walltime_seconds("slurm", "01:30:00"), walltime_seconds("slurm", "90"), walltime_seconds("slurm", "1-12")
    (5400, 5400, 129600)
    >>> walltime_seconds("pbs", "01:30:00"), walltime_seconds("lsf", "01:30")
    (5400, 5400)
    """
    pattern, units, shape = _WALLTIMES[system]
    match = re.fullmatch(pattern, text.strip())
    if match is None:
        raise ValueError(f"needs a time such as {shape}")
    numbers = [int(part) for part in match[2].split(":")]
    if match[1]:  # behind days come hours
        seconds = int(match[1]) * 86400 + sum(n * unit for n, unit in zip(numbers, (3600, 60, 1), strict=False))
    else:
        seconds = sum(n * unit for n, unit in zip(numbers, units[len(numbers) - 1], strict=True))
    if not seconds:
        raise ValueError(f"needs a time above 0 such as {shape}")
    return seconds


def _lifetime(
    place: Place, path: tuple[str, ...], found: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return how long a worker lives, so that it hands over before the batch system kills it."""
    try:
        walltime = walltime_seconds(path[1], found["walltime"])
    except ValueError as error:
        raise place.refuse((*path, "walltime"), f"{error}, got {found['walltime']!r}") from None
    said = _arguments(found.get("worker-extra-args", []))
    duration = said.get("--lifetime", settings.get(LIFETIME))
    stagger = said.get("--lifetime-stagger", settings.get(STAGGER))
    if duration is None and stagger is None:
        return {LIFETIME: f"{int(LIFETIME_SHARE * walltime)} s", STAGGER: f"{int(STAGGER_SHARE * walltime)} s"}
    at = (*path, "worker-extra-args") if "--lifetime" in said else LIFETIME.split(".")
    if duration is None:
        raise place.refuse(STAGGER.split("."), "needs a duration beside it")
    try:
        ends = parse_timedelta(a_time(duration)) + (0 if stagger in (None, 0) else parse_timedelta(a_time(stagger)))
    except ValueError as error:
        raise place.refuse(at, f"{error}, got {duration!r} and {stagger!r}") from None
    if ends >= walltime:
        raise place.refuse(
            at, f"and its stagger come to {ends:.0f} s, but the job ends after {walltime} s; make them less"
        )
    return {}


def _arguments(words: Sequence[str]) -> dict[str, str]:
    """Return the values of the options in a command line, whether behind a space or an equals sign.

    >>> _arguments(["--lifetime", "55m", "--lifetime-stagger=4m"])
    {'--lifetime': '55m', '--lifetime-stagger': '4m'}
    """
    flat = [
        part for word in words for part in (re.split("[= ]", word, maxsplit=1) if word.startswith("--") else [word])
    ]
    return {name: value for name, value in pairwise(flat) if name.startswith("--")}


# --- Kubernetes ------------------------------------------------------------------------------------------------------

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


def _kubernetes(place: Place, table: dict[str, Any], settings: dict[str, Any]) -> ClusterPlan:
    path: tuple[str, ...] = ("kubernetes",)
    keywords = checked(place, path, table, KUBERNETES)
    low, high = _needed_bounds(place, settings)
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
    if _arguments(words).get("--nthreads") != "1":
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
