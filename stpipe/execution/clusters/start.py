"""Clusters started as a `ClusterPlan` says, and the job scripts that they would hand in."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from copy import copy
from functools import partial
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dask
from distributed import LocalCluster, Status
from distributed.deploy.cluster import Cluster
from distributed.security import Security
from tornado.ioloop import PeriodicCallback

from stpipe.errors import OptionError
from stpipe.execution.clusters.environment import environment, exports, with_environment
from stpipe.execution.clusters.keeper import Keeper, job_of, jobs_alive
from stpipe.execution.clusters.plan import CERTIFICATES, JOB_SYSTEMS, ClusterPlan

JOB_CLASSES = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "lsf": "LSFCluster"}
"""What dask-jobqueue calls them."""

_OF_THE_CLUSTER = ("scheduler_options", "shared_temp_directory")
"""Keywords that a job script shows nothing of."""

QUIET = 50
"""Only what is critical is logged: deaths of workers are told in other words."""


def job_class(plan: ClusterPlan) -> Any:
    """Return dask-jobqueue's class for a batch system, or say what to install."""
    return getattr(_library("dask_jobqueue", "dask-jobqueue", "hpc", plan), JOB_CLASSES[plan.system])


def _library(module: str, package: str, extra: str, plan: ClusterPlan) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise OptionError(
            f"{plan.name} needs {package}, which is not installed ({error}); pip install 'stpipe[{extra}]' or {package}"
        ) from error


def local_keywords(plan: ClusterPlan, memory_limit: int) -> dict[str, Any]:
    """Return the keywords of the `LocalCluster` that would be started."""
    keywords = dict(plan.keywords)
    if "local_directory" in keywords:
        keywords["local_directory"] = _expanded(keywords["local_directory"])
    return {
        "n_workers": plan.minimum,
        "processes": True,
        "memory_limit": plan.worker_memory or memory_limit,
        **keywords,
    }


def job_keywords(plan: ClusterPlan, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords of dask-jobqueue's class, with what workers have to know of Dask's settings.

    Folders that the batch system is told of are written out, for it knows no variables; what only the job's shell sees
    is left as it is, since ``$TMPDIR`` is another one there.
    """
    keywords = dict(plan.keywords)
    for key in ("log_directory", "shared_temp_directory"):
        if key in keywords:
            keywords[key] = _expanded(keywords[key])
    lines = exports(environment(settings, scheduler=False))
    return {**keywords, "job_script_prologue": [*lines, *keywords.get("job_script_prologue", [])]}


def kubernetes_keywords(plan: ClusterPlan, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords of dask-kubernetes' `KubeCluster`, with what pods have to know of Dask's settings."""
    keywords = dict(plan.keywords)
    variables = environment(settings, scheduler=True)
    if "custom_cluster_spec" in keywords:
        keywords["custom_cluster_spec"] = with_environment(keywords["custom_cluster_spec"], variables)
    else:
        own = keywords.get("env") or {}
        if isinstance(own, Mapping):
            own = [{"name": name, "value": str(value)} for name, value in own.items()]
        names = {one["name"] for one in own}
        more = [{"name": name, "value": value} for name, value in variables.items() if name not in names]
        keywords["env"] = [*own, *more]
        keywords["n_workers"] = plan.minimum
    return keywords


def _expanded(path: str) -> str:
    return os.path.expanduser(os.path.expandvars(path))  # noqa: PTH111 - variables come first


def job_script(plan: ClusterPlan, settings: Mapping[str, Any]) -> str:
    """Return the script that would be handed in for each job; nothing is started, and no folder is left."""
    cls = job_class(plan)
    keywords = {key: value for key, value in job_keywords(plan, settings).items() if key not in _OF_THE_CLUSTER}
    with dask.config.set(settings), _no_new_folder(keywords.get("log_directory")):
        security = Security(require_encryption=True) if plan.encrypted and plan.own_certificates else None
        protocol = "tls" if plan.encrypted else "tcp"
        job = cls.job_cls(
            f"{protocol}://SCHEDULER:PORT",
            name="NAME",
            security=security,
            protocol="tls://" if plan.encrypted else None,
            **keywords,
        )
        return str(job.job_script())


@contextmanager
def _no_new_folder(path: str | None) -> Iterator[None]:
    """Take away the folders that dask-jobqueue makes for logs as soon as it writes a script."""
    place = None if path is None else Path(path).absolute()
    missing = [] if place is None else [each for each in (place, *place.parents) if not each.exists()]
    try:
        yield
    finally:
        for each in missing:
            with suppress(OSError):
                each.rmdir()


@contextmanager
def started(plan: ClusterPlan, settings: Mapping[str, Any], memory_limit: int) -> Iterator[Cluster]:
    """Give a cluster that has as many workers as planned, or will have them when they come; it ends with the block.

    Parameters
    ----------
    plan : ClusterPlan
        What to start.
    settings : mapping
        All of Dask's settings by their dotted names, which hold in this process already.
    memory_limit : int
        Bytes that a worker of this machine may take where the plan doesn't say.

    Raises
    ------
    OptionError
        If a library or a command is missing, or the first jobs are refused.
    """
    with ExitStack() as stack:
        if plan.system == "local":
            cluster: Any = stack.enter_context(
                LocalCluster(**local_keywords(plan, memory_limit), security=_security(plan), silence_logs=QUIET)
            )
            if plan.minimum < plan.maximum:
                cluster.adapt(minimum=plan.minimum, maximum=plan.maximum)
        elif plan.system == "kubernetes":
            cluster = stack.enter_context(_pods(plan, settings))
        else:
            cluster = stack.enter_context(_jobs(plan, settings))
        yield cluster


def _security(plan: ClusterPlan) -> Security | None:
    """Return certificates: those that the settings name, or ones that are made for this run."""
    if not plan.encrypted:
        return None
    if plan.own_certificates:
        for name in CERTIFICATES:
            if not Path(plan.settings[name]).is_file():
                raise OptionError(f"{plan.name}: {name} names {plan.settings[name]}, which is no file here")
        return Security(require_encryption=True)
    try:
        made: Security = Security.temporary()
    except ImportError as error:
        raise OptionError(
            f"{plan.name} asks for encryption and names no certificates, and making some needs cryptography, which is "
            "not installed: pip install cryptography, or name them under distributed.comm.tls"
        ) from error
    return made


_FILES = {"tls_ca_file": "ca.pem", "tls_worker_cert": "cert.pem", "tls_worker_key": "key.pem"}
"""What jobs have to read of certificates that are made for a run."""


@contextmanager
def _shared(plan: ClusterPlan, folder: str | None) -> Iterator[Security | None]:
    """Give certificates that jobs can read; those made for this run lie in a folder of their own that ends with it.

    dask-jobqueue would write them too, and leave the key where it is until the process ends.
    """
    security = _security(plan)
    if security is None or plan.own_certificates:
        yield security
        return
    try:
        place = TemporaryDirectory(prefix=".stpipe-tls-", dir=folder, ignore_cleanup_errors=True)
    except OSError as error:
        raise OptionError(
            f"{plan.name}: certificates for jobs can't be written into shared-temp-directory {folder}: "
            f"{error.strerror}; name a folder that is there, that jobs see and nobody else may read"
        ) from error
    with place as name:
        named = copy(security)
        for key, file in _FILES.items():
            path = Path(name, file)
            path.touch(mode=0o600)
            path.write_text(getattr(security, key))
            setattr(named, key, str(path))
        yield named


@contextmanager
def _jobs(plan: ClusterPlan, settings: Mapping[str, Any]) -> Iterator[Any]:
    cls = job_class(plan)
    command = cls.job_cls.submit_command
    if shutil.which(command.split()[0]) is None:
        raise OptionError(
            f"{plan.name} hands in jobs by {command}, which is not on the PATH here; start stpipe where jobs can be "
            "handed in, or use --cluster local"
        )
    keywords = job_keywords(plan, settings)
    with (
        _shared(plan, keywords.get("shared_temp_directory")) as security,
        cls(**keywords, security=security, silence_logs=QUIET) as cluster,
    ):
        try:
            cluster.sync(_ask, cluster, -(-max(plan.minimum, 1) // plan.per_job))
        except (RuntimeError, OSError, ValueError) as error:
            reason = _reason(error)
            for job in cluster.workers.values():
                job.status = Status.failed  # else closing asserts that it ran
            raise OptionError(
                f"{command} refused the job: {reason}; stpipe cluster show {plan.name} prints the script"
            ) from None
        keeper = Keeper(cluster, plan.per_job, alive=partial(jobs_alive, plan.system))
        turns = PeriodicCallback(keeper, 1000)
        cluster.loop.add_callback(turns.start)
        together = {"worker_key": job_of} if plan.per_job > 1 else {}
        cluster.adapt(minimum=plan.minimum, maximum=plan.maximum, **together)
        cluster.amiss = lambda: None if keeper.trouble is None else f"{plan.name}: {keeper.trouble}"
        try:
            yield cluster
        finally:
            cluster.loop.add_callback(turns.stop)


async def _ask(cluster: Any, jobs: int) -> None:
    """Hand in the first jobs and wait until the batch system has taken them.

    Not by `scale`, which does it in the background, where nobody learns that they were refused.
    """
    while len(cluster.worker_spec) < jobs:
        cluster.worker_spec.update(cluster.new_worker_spec())
    await cluster


def _reason(error: Exception) -> str:
    r"""Return what a command that failed wrote, in a line.

    >>> _reason(RuntimeError("Command exited\nstdout:\n\nstderr:\nsbatch: error: invalid partition\n\n"))
    'sbatch: error: invalid partition'
    """
    text = str(error)
    said = text.rsplit("stderr:", 1)[-1].split() or text.split() or [type(error).__name__]
    return " ".join(said)[:400]


@contextmanager
def _pods(plan: ClusterPlan, settings: Mapping[str, Any]) -> Iterator[Any]:
    operator = _library("dask_kubernetes.operator", "dask-kubernetes", "kubernetes", plan)
    keywords = kubernetes_keywords(plan, settings)
    if "create_mode" in keywords:
        modes = _library("dask_kubernetes.operator.kubecluster.kubecluster", "dask-kubernetes", "kubernetes", plan)
        keywords["create_mode"] = modes.CreateMode[keywords["create_mode"]]
    try:
        cluster = operator.KubeCluster(**keywords)
    except Exception as error:
        raise OptionError(f"{plan.name}: Kubernetes gives no cluster: {type(error).__name__}: {error}") from error
    with cluster:
        if plan.minimum < plan.maximum:
            cluster.adapt(minimum=plan.minimum, maximum=plan.maximum)
        else:
            cluster.scale(plan.maximum)
        yield cluster


def dashboard(plan: ClusterPlan, cluster: Any) -> str | None:
    """Return the address of the dashboard, as it can be opened on this machine; None if there is none."""
    if plan.system == "kubernetes":
        return str(cluster.dashboard_link)
    services: Mapping[str, int] = cluster.scheduler_info.get("services", {})
    if "dashboard" not in services:
        return None
    options = plan.keywords.get("scheduler_options", plan.keywords)
    host = str(options.get("dashboard_address", "")).rsplit(":", 1)[0]
    if host in ("", "0.0.0.0"):  # noqa: S104 - said by the file, and only read here
        host = cluster.scheduler_address.split("://")[-1].rsplit(":", 1)[0]
    return f"http://{host}:{services['dashboard']}/status"


def describe(plan: ClusterPlan) -> str:
    """Return how many workers a plan has, and of what size.

    >>> one = ClusterPlan(name="slurm", system="slurm", keywords={}, minimum=0, maximum=8, worker_memory=2**32)
    >>> describe(one)
    '0 to 8 workers of 4.0 GiB'
    """
    from stpipe.core.sizes import gib

    count = str(plan.maximum) if plan.minimum == plan.maximum else f"{plan.minimum} to {plan.maximum}"
    size = "" if plan.worker_memory is None else f" of {gib(plan.worker_memory)}"
    jobs = f", {plan.per_job} a job" if plan.system in JOB_SYSTEMS and plan.per_job > 1 else ""
    plural = "" if count == "1" else "s"
    return f"{count} worker{plural}{size}{jobs}"
