"""`stpipe report`: a finished run as one page of HTML."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from stpipe.cli.interrupts import STOPPED, interruptible
from stpipe.cli.paths import AnyPath, HerePath
from stpipe.cli.words import tell
from stpipe.errors import OptionError, OutputError

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
    from stpipe.execution.storage import write_whole
    from stpipe.io.run_folder import finished_run
    from stpipe.report.page import page_of_run

    run, told = finished_run(folder)
    place = run / PAGE if output is None else output
    _check(place, run, inside=output is None, overwrite=overwrite)
    with interruptible(lambda: STOPPED):
        page = page_of_run(run, told, variables or None).encode()
        write_whole(place, page)
    if as_json:
        click.echo(json.dumps({"folder": str(run), "report": str(place), "bytes": len(page)}, indent=2))
    else:
        tell(f"{place}: {len(page) / 2**20:.1f} MiB")


def _check(place: Path, run: Path, *, inside: bool, overwrite: bool) -> None:
    """Refuse a place where something would be lost, or that can't be written."""
    from stpipe.execution.storage import is_remote, resolved
    from stpipe.report.page import MARK

    if is_remote(place):
        return
    if not inside:
        if place.suffix.lower() not in {".html", ".htm"}:
            raise OptionError(f"-o needs a file that ends with .html, got {place}")
        if not is_remote(run) and resolved(place).is_relative_to(resolved(run)) and place.name != PAGE:
            raise OptionError(
                f"-o {place} lies in the run's folder {run}, which holds nothing but products; name a file elsewhere"
            )
        if not place.parent.is_dir():
            raise OptionError(f"-o {place}: there is no folder {place.parent}; make it, or name a file elsewhere")
    if place.is_dir():
        raise OutputError(f"{place} is a folder; name a file with -o")
    if not os.access(place.parent, os.W_OK):
        raise OutputError(f"{place} can't be written: no right to write in {place.parent}; name a file with -o")
    if place.exists() and not overwrite:
        with place.open("rb") as file:
            if MARK.encode() not in file.read(HEAD):
                raise OutputError(
                    f"{place} is there and is no report; name another file with -o, or replace it with --overwrite"
                )
