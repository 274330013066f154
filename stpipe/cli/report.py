"""`stpipe report`: a finished run as one page of HTML."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from stpipe.cli.interrupts import STOPPED, interruptible
from stpipe.cli.paths import AnyPath, HerePath
from stpipe.cli.words import tell
from stpipe.errors import OptionError, OutputError, StpipeError

PAGE = "report.html"
"""Name of the page in the folder of a run."""

HEAD = 2048
"""Bytes of a file that tell whether it is a report."""


@click.command(name="report")
@click.argument("folder", type=AnyPath())
@click.option("-o", "--output", type=HerePath(), metavar="FILE.html", help="The page. [default: FOLDER/report.html]")
@click.option(
    "--var",
    "variables",
    multiple=True,
    metavar="VAR",
    help="A variable to draw; can be given again. [default: the first six]",
)
@click.option("--overwrite", is_flag=True, help="Replace a file that is no report.")
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
def command(folder: Path, output: Path | None, variables: tuple[str, ...], overwrite: bool, as_json: bool) -> None:
    """Draw a page of what a run made.

    FOLDER is what fill-scene wrote, or stpipe run. The page shows a few dates before and after, where the samples of
    each date come from, some pixels through time with their intervals, the numbers, what the run noted, and how it was
    made. It is one file that needs nothing else. fill-scene writes it at its end; this draws it again, elsewhere with
    -o, or with other variables.
    """
    from stpipe.execution.storage import is_of_store, is_remote, one_line

    try:
        run, place, size = _draw(folder, output, variables, overwrite=overwrite)
    except Exception as error:
        if isinstance(error, StpipeError) or not (is_remote(folder) and is_of_store(error)):
            raise
        raise OutputError(
            f"{folder} can't be reached: {one_line(error)}; look at address, rights and network"
        ) from error
    if as_json:
        click.echo(json.dumps({"folder": str(run), "report": str(place), "bytes": size}, indent=2))
    else:
        tell(f"{place}: {size / 2**20:.1f} MiB")


def _draw(folder: Path, output: Path | None, variables: tuple[str, ...], *, overwrite: bool) -> tuple[Path, Path, int]:
    """Return the folder of the run, and place and size of the page that was written."""
    from stpipe.execution.storage import check_output, is_remote, write_whole
    from stpipe.io.run_folder import finished_run
    from stpipe.report.page import page_of_run

    run, told = finished_run(folder)
    place = run / PAGE if output is None else output
    if is_remote(place):
        check_output(run)
    elif output is not None:
        _check_file(place, run)
    _check_place(place, overwrite=overwrite)
    with interruptible(lambda: STOPPED):
        page = page_of_run(run, told, variables or None)
        write_whole(place, page)
    return run, place, len(page)


def _check_file(place: Path, run: Path) -> None:
    """Refuse a place that can't be written, or that belongs to the run."""
    from stpipe.execution.storage import is_remote, resolved

    if place.suffix.lower() not in {".html", ".htm"}:
        raise OptionError(f"-o needs a file that ends with .html, got {place}")
    if not is_remote(run) and resolved(place).is_relative_to(resolved(run)) and resolved(place) != resolved(run / PAGE):
        raise OptionError(
            f"-o {place} lies in the run's folder {run}, which holds nothing but products; name a file elsewhere"
        )
    if not place.parent.is_dir():
        raise OptionError(f"-o {place}: there is no folder {place.parent}; make it, or name a file elsewhere")


def _check_place(place: Path, *, overwrite: bool) -> None:
    """Refuse a file that is no report, and what can't be written."""
    from stpipe.execution.storage import is_remote, is_there, read
    from stpipe.report.page import MARK

    if not is_remote(place):
        if place.is_dir():
            raise OutputError(f"{place} is a folder; name a file with -o")
        if not os.access(place.parent, os.W_OK):
            raise OutputError(f"{place} can't be written: no right to write in {place.parent}; name a file with -o")
    if not overwrite and is_there(place) and MARK.encode() not in read(place)[:HEAD]:
        raise OutputError(
            f"{place} is there and is no report; name another file with -o, or replace it with --overwrite"
        )
