"""`stpipe cluster`: what a cluster would start, and whether one worker of it can do its work."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stpipe.cli.cluster_files import find_cluster, read_cluster_file, say
from stpipe.cli.paths import AnyPath
from stpipe.cli.words import tell, tell_note
from stpipe.errors import OptionError, RunError, StpipeError

if TYPE_CHECKING:
    from distributed import Client

    from stpipe.execution.clusters.plan import ClusterPlan

TIMEOUT = 600
"""Seconds that a worker may take to come, unless said otherwise."""

_WIDTH = 10


@click.group(name="cluster")
def command() -> None:
    """Show what a cluster would start, or try one worker of it."""


@command.command(name="show")
@click.argument("cluster", metavar="NAME|FILE")
@click.option("--yaml", "as_yaml", is_flag=True, help="Print the file itself, to copy and edit.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def show(cluster: str, as_yaml: bool, as_json: bool) -> None:
    """Print the job script of a cluster, or what else it would start; nothing is started.

    NAME is local, slurm, pbs, lsf or kubernetes, as they come with stpipe; FILE a copy that you have edited. What is
    printed for a batch system is the very script that is handed in for each job, with SCHEDULER:PORT and NAME in place
    of what is known only then.
    """
    if as_yaml and as_json:
        raise OptionError("--yaml prints the file and --json what comes of it; give one of them")
    plan = read_cluster_file(cluster)
    if as_yaml:
        click.echo(find_cluster(cluster).read_text(encoding="utf-8"), nl=False)
        return
    from stpipe.execution.clusters.connect import local_settings
    from stpipe.execution.clusters.plan import JOB_SYSTEMS
    from stpipe.execution.clusters.start import describe, job_script

    settings = {**local_settings(), **plan.settings}
    script = job_script(plan, settings) if plan.system in JOB_SYSTEMS else None
    keywords = _keywords(plan, settings)
    if as_json:
        shown = {
            "name": plan.name,
            "system": plan.system,
            "minimum": plan.minimum,
            "maximum": plan.maximum,
            "workers_per_job": plan.per_job,
            "worker_memory_bytes": plan.worker_memory,
            "encrypted": plan.encrypted,
            "keywords": keywords,
            "settings": settings,
            "job_script": script,
        }
        click.echo(json.dumps(shown, indent=2))
        return
    say(f"cluster {plan.name}: {describe(plan)}")
    if plan.encrypted and not plan.own_certificates and script is not None:
        say("note: temporary certificates are made for each run, and their files are named to the worker")
    if script is not None:
        click.echo(script.rstrip())
        return
    import yaml

    title = {"local": "distributed.LocalCluster", "kubernetes": "dask_kubernetes.operator.KubeCluster"}[plan.system]
    body = {title: keywords, **({} if plan.system == "kubernetes" else {"settings": settings})}
    click.echo(yaml.safe_dump(body, sort_keys=False, width=120).rstrip())


def _keywords(plan: ClusterPlan, settings: Mapping[str, Any]) -> dict[str, Any]:
    from stpipe.execution.clusters.connect import worker_memory
    from stpipe.execution.clusters.start import job_keywords, kubernetes_keywords, local_keywords

    if plan.system == "local":
        return local_keywords(plan, worker_memory(plan))
    if plan.system == "kubernetes":
        return kubernetes_keywords(plan, settings)
    return job_keywords(plan, settings)


@command.command(name="check")
@click.argument("cluster", metavar="NAME|FILE")
@click.option("--cube", metavar="CUBE", help="Let the worker read this cube.")
@click.option("-o", "--output", type=AnyPath(), help="Let it write into this folder.")
@click.option("--model", metavar="NAME|PATH", help="Let it load these weights; try default.")
@click.option("--timeout", type=float, default=TIMEOUT, show_default=True, help="Seconds to wait for a worker.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def check(
    cluster: str, cube: str | None, output: Path | None, model: str | None, timeout: float, as_json: bool
) -> None:
    """Start one worker, or one job, let it show what it can do, and end it.

    The worker tells its memory and cores, and fills a small made-up scene to tell its speed. With --cube it reads the
    first samples, which have to be those that are read here; with -o it writes a file that has to appear here, and
    removes it; with --model it loads the weights, which have to be those that are here.
    """
    if not timeout > 0:
        raise OptionError(f"--timeout needs a number of seconds above 0, got {timeout:g}")
    plan = read_cluster_file(cluster)
    plan = plan.with_workers(plan.per_job)
    from stpipe.execution.clusters.connect import connect, worker_memory

    # What is wrong here is refused before anything is started.
    expected = _expected(cube, model)
    folder = None if output is None else _existing(output)
    with connect(scheduler=None, workers=1, memory_limit=worker_memory(plan), cluster=plan, announce=say) as client:
        _wait(client, plan, timeout)
        report = _examine(client, plan, cube, folder, model, expected)
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        for name, line in _lines(report):
            tell(f"{name:<{_WIDTH}}{line}")
    for note in report["notes"]:
        tell_note(note)


def _expected(cube: str | None, model: str | None) -> dict[str, Any]:
    """Return what is seen from here, or refuse."""
    from stpipe.io import cluster_probe
    from stpipe.io.stored import absolute
    from stpipe.model.weights import read_info

    seen: dict[str, Any] = {}
    if cube is not None:
        seen["cube"] = cluster_probe.cube(absolute(cube))
    if model is not None:
        seen["model"] = read_info(model).digest
    return seen


def _existing(output: Path) -> Path:
    """Return the output folder, or what it would be made in."""
    from stpipe.execution.storage import check_output, is_remote

    if is_remote(output):
        check_output(output)
        return output
    place = output.expanduser().absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise OptionError(f"-o {output}: {place} is a file; name a folder")
    return place


def _wait(client: Client, plan: ClusterPlan, timeout: float) -> None:
    from stpipe.execution.waiting import check_jobs

    end = time.monotonic() + timeout
    while not client.scheduler_info()["workers"]:
        check_jobs(client)
        if time.monotonic() >= end:
            logs = plan.keywords.get("log_directory")
            hint = f"; what it wrote is in {logs}" if logs else ""
            raise RunError(
                f"no worker of {plan.name} came within {timeout:g} s; its job may still wait in the queue (--timeout), "
                f"or have died{hint}"
            )
        time.sleep(min(0.2, timeout))


def _examine(
    client: Client, plan: ClusterPlan, cube: str | None, folder: Path | None, model: str | None, expected: Any
) -> dict[str, Any]:
    from stpipe.io import cluster_probe as probe
    from stpipe.io.stored import absolute

    notes: list[str] = []
    with _blamed("the worker can't start its work"):
        machine = _ask(client, probe.machine)
    host = machine["host"]
    here = probe.versions()
    for name, mine in here.items():
        if machine["versions"][name] != mine:
            notes.append(f"{host} has {name} {machine['versions'][name]}, and here is {mine}; use the same on both")
    if machine["threads"] != 1:
        notes.append(f"the worker has {machine['threads']} threads; runs need workers with one")
    report: dict[str, Any] = {"cluster": plan.name, "encrypted": plan.encrypted, "worker": machine}
    if cube is not None:
        with _blamed(f"the worker on {host} can't use the cube"):
            seen = _ask(client, probe.cube, absolute(cube))
            if seen != expected["cube"]:
                raise RunError(f"under {absolute(cube)} lies another cube than here")
        report["cube"] = {"path": absolute(cube), **seen}
    if folder is not None:
        with _blamed(f"the worker on {host} can't use the output folder"):
            _try_folder(client, folder, machine["address"])
        report["output"] = {"path": str(folder)}
    if model is not None:
        with _blamed(f"the worker on {host} can't use the model"):
            loaded = _ask(client, probe.model, _model_path(model))
            if loaded["sha256"] != expected["model"]:
                raise RunError(f"{model} is another model there than here")
        report["model"] = {"name": model, **loaded}
    with _blamed(f"the worker on {host} can't fill"):
        report["speed"] = _ask(client, probe.speed)
    report["notes"] = notes
    return report


def _model_path(name: str) -> str:
    """Return how a worker elsewhere finds the weights: the packaged ones by name, others by their whole path."""
    from stpipe.model.weights import DEFAULT, model_path

    return name if name == DEFAULT else str(model_path(name).absolute())


def _try_folder(client: Client, folder: Path, token: str) -> None:
    from stpipe.io import cluster_probe as probe

    name = f".stpipe-check-{sha256(token.encode()).hexdigest()[:16]}"
    path = str(folder / name)
    try:
        _ask(client, probe.write, str(folder), name, token)
        if probe.read_soon(path) != token:
            raise RunError(f"{path} holds something else than the worker wrote")
        if _ask(client, probe.remove, path)["there"]:
            raise RunError(f"can't remove {path}")
    finally:
        probe.remove(path)


def _ask(client: Client, function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    from stpipe.io.cluster_probe import told

    answer: dict[str, Any] = client.submit(told, function, *arguments, pure=False, retries=0).result()
    if "failed" in answer:
        raise RunError(answer["failed"])
    return answer


@contextmanager
def _blamed(what: str) -> Iterator[None]:
    """Say of any failure whose it is; `RunError`, for a worker was started."""
    try:
        yield
    except StpipeError as error:
        raise RunError(f"{what}: {error}") from error
    except Exception as error:
        # A module that is missing there, another version of a library, a worker that is killed.
        raise RunError(f"{what}: {type(error).__name__}: {error}") from error


def _lines(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    from stpipe.core.sizes import gib

    worker = report["worker"]
    safe = ", encrypted" if report["encrypted"] else ""
    yield "worker", f"{worker['host']} ({worker['address']}{safe}), scratch in {worker['scratch']}"
    limit = gib(worker["limit_bytes"]) if worker["limit_bytes"] else "no limit"
    yield "memory", f"{limit} of {gib(worker['memory_bytes'])}"
    yield "cores", f"{worker['cores']} to be shared by the workers there"
    if worker["lifetime_seconds"]:
        yield "lifetime", f"{worker['lifetime_seconds'] / 60:.0f} minutes, then it hands over"
    if "cube" in report:
        yield "cube", f"{report['cube']['path']}: the same as here"
    if "output" in report:
        yield "output", f"{report['output']['path']}: written, seen here, removed"
    if "model" in report:
        yield "model", f"{report['model']['name']}: loaded in {report['model']['seconds']:.1f} s, the same as here"
    speed = report["speed"]
    rate = speed["samples"] / speed["seconds"] / 1e6
    yield "speed", f"{rate:.2f} million samples a second ({speed['samples']:,} by {speed['method']})"
