"""Workers as jobs of a batch system, as a file says them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

from dask.utils import format_bytes, parse_bytes, parse_timedelta

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
    arguments_of,
    check_keys,
    checked,
    needed_bounds,
    shown,
    table_of,
    texts,
)
from stpipe.execution.clusters.plan import (
    DASHBOARD,
    JOB_SYSTEMS,
    LIFETIME,
    LIFETIME_SHARE,
    STAGGER,
    STAGGER_SHARE,
    ClusterPlan,
    System,
)

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


def read_jobs(place: Place, table: dict[str, Any], settings: dict[str, Any]) -> ClusterPlan:
    """Return what ``jobqueue`` says."""
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
    low, high = needed_bounds(place, settings)
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
        raise place.refuse((*path, "walltime"), f"{error}, got {shown(found['walltime'])}") from None
    said = arguments_of(found.get("worker-extra-args", []))
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
        raise place.refuse(at, f"{error}, got {shown(duration)} and {shown(stagger)}") from None
    if ends >= walltime:
        raise place.refuse(
            at, f"and its stagger come to {ends:.0f} s, but the job ends after {walltime} s; make them less"
        )
    return {}
