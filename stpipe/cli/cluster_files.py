"""Clusters by name or file: where their YAML is, how it is read, and the option that takes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stpipe.cli.words import tell
from stpipe.cli.yaml_files import check_tokens, read_text
from stpipe.errors import MissingFileError, OptionError
from stpipe.resources import shelf

if TYPE_CHECKING:
    from stpipe.execution.clusters.plan import ClusterPlan

FILE = "cluster.yaml"
"""Name of the file in the folder of each packaged cluster."""

SUFFIXES = (".yaml", ".yml")

WHAT = "a cluster's file"
"""What it is called in messages."""

cluster_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--cluster",
    metavar="NAME|FILE",
    help="Start workers as this says: local, slurm, pbs, lsf, kubernetes, or a copy of theirs.",
)
"""Adds the option to a command."""


def say(line: str) -> None:
    """Tell the user on stderr what is being done."""
    tell(f"stpipe: {line}", err=True)


def packaged_clusters() -> dict[str, Path]:
    """Return the clusters that come with stpipe, by their names.

    >>> sorted(packaged_clusters())
    ['kubernetes', 'local', 'lsf', 'pbs', 'slurm']
    """
    return {path.parent.name: path for path in sorted(shelf("cluster").glob(f"*/{FILE}"))}


def find_cluster(name: str) -> Path:
    """Return the file of a cluster by its name or its path.

    Raises
    ------
    MissingFileError
        If there is none; the message lists those that there are.
    """
    place = Path(name).expanduser()
    known = packaged_clusters()
    listed = f"clusters that come with stpipe are {', '.join(known)}"
    if place.suffix in SUFFIXES or place.name != name:
        if place.is_file():
            return place
        raise MissingFileError(f"there is no file {name}; {listed}")
    if name in known:
        return known[name]
    from stpipe.execution.clusters.keys import nearest

    here = f"; for the file of that name here, say ./{name}" if place.is_file() else ""
    raise MissingFileError(f"no cluster {name!r}; {nearest(name, list(known))}{here}")


def read_cluster_file(name: str) -> ClusterPlan:
    """Return what a packaged cluster or a file says.

    Raises
    ------
    MissingFileError
        If there is no such cluster or file.
    OptionError
        If it is no YAML, or says what can't be; one line with its place.
    """
    import dask
    import distributed  # noqa: F401 - brings the names of Dask's settings
    import yaml

    from stpipe.execution.clusters.connect import cores
    from stpipe.execution.clusters.files import read_cluster

    path = find_cluster(name)
    shown = name if path.name != name and path.parent.name == name else path.name
    text = read_text(path, WHAT)
    lines = _checked_lines(text, path.name)
    known = dask.config.config["distributed"]
    return read_cluster(yaml.safe_load(text), name=shown, known=known, cores=cores(), lines=lines)


def _checked_lines(text: str, name: str) -> dict[tuple[str, ...], int]:
    """Return the line of each key by its path; refuse what is no YAML, and what nobody needs to say a cluster.

    That is tags, which name types, aliases, which a few lines of make millions, and keys that come twice, of which the
    last would win in silence.
    """
    import yaml

    try:
        check_tokens(text, name, WHAT, aliases=False)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        return {} if root is None else dict(_lines(root, (), name))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise OptionError(f"{name}{where}: this is not YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise OptionError(f"{name}: this is not YAML: {error}") from error


def _lines(node: Any, path: tuple[str, ...], name: str) -> Iterator[tuple[tuple[str, ...], int]]:
    import yaml

    if not isinstance(node, yaml.MappingNode):
        return
    seen: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise OptionError(f"{name}, line {line}: a key is a word, followed by a colon")
        if key.value in seen:
            raise OptionError(f"{name}, line {line}: {key.value!r} stands in line {seen[key.value]} already")
        seen[key.value] = line
        yield (*path, key.value), line
        yield from _lines(value, (*path, key.value), name)


def parse_cluster(
    name: str | None, *, scheduler: str | None, workers: int | None, memory_limit: str | None
) -> ClusterPlan | None:
    """Return the cluster that was asked for, or None; refuse what contradicts it.

    `workers` is how many there are to be, in place of the bounds of the file.

    Raises
    ------
    RefusedError
        One line, with the next step.
    """
    if name is None:
        return None
    if scheduler is not None:
        raise OptionError(
            f"--cluster {name} starts a scheduler and --scheduler {scheduler} is one that runs; give one of them"
        )
    if memory_limit is not None:
        raise OptionError(
            f"--memory-limit {memory_limit} is for workers that stpipe starts by itself; with --cluster {name} the "
            "file says how much a worker may take"
        )
    from stpipe.execution.clusters.connect import check_workers

    plan = read_cluster_file(name)
    return plan.with_workers(None if workers is None else check_workers(workers))
