"""`stpipe ingest`: a series of rasters becomes a cube."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from stpipe.cli.options import parse_triple
from stpipe.cli.progress import progress_bar
from stpipe.errors import OptionError


@click.command(name="ingest")
@click.argument("sources", nargs=-1, required=True, metavar="SRC...")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Zarr group to make.")
@click.option(
    "--pattern",
    metavar="TEMPLATE",
    help="How names are built, such as '{date:%Y%m%d}_{sensor}_{variable}.tif', or a regular expression with groups "
    "(?P<date>) and (?P<variable>). [default: look for dates and bands]",
)
@click.option("--align", metavar="first|FILE", help="Warp files that lie on another grid to this one.")
@click.option(
    "--resampling", default="nearest", show_default=True, metavar="NAME", help="How to warp, as GDAL names it."
)
@click.option(
    "--same-day",
    type=click.Choice(["refuse", "first", "last", "mean", "median"]),
    default="refuse",
    show_default=True,
    help="What to make of several scenes of one day; gaps in one are taken from the others.",
)
@click.option("--chunks", metavar="T,Y,X", help="Chunk lengths. [default: 32,256,256]")
@click.option("--nodata", metavar="V", help="Stored value that means gap, besides what the files say.")
@click.option("--overwrite", is_flag=True, help="Replace a cube that ingest made.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    sources: tuple[str, ...],
    output: Path,
    pattern: str | None,
    align: str | None,
    resampling: str,
    same_day: str,
    chunks: str | None,
    nodata: str | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Make a Zarr cube from other files.

    SRC are folders, globs and files of rasters that GDAL opens, whose names carry a date and a variable. All must lie
    on one grid, or be warped to one with --align. Types, nodata, scale and offset are kept.
    """
    # rasterio and xarray take a second to load, and --help has no need of them.
    from stpipe.io.ingest import plan_ingest
    from stpipe.io.ingest_write import check_output, summary, write_cube

    check_output(output, overwrite=overwrite)
    choice: Any = same_day
    with progress_bar("reading headers") as progress:
        plan = plan_ingest(
            sources,
            pattern=pattern,
            align=align,
            resampling=resampling,
            same_day=choice,
            chunks=parse_triple("--chunks", chunks),
            nodata=_number(nodata),
            progress=progress,
        )
    for warning in plan.warnings:
        click.echo(f"stpipe: warning: {warning}", err=True)
    with progress_bar("writing") as progress:
        write_cube(plan, output, overwrite=overwrite, progress=progress)
    result = summary(plan, output)
    if as_json:
        click.echo(json.dumps(result, indent=2))
        return
    t, y, x = plan.extent
    names = ", ".join(f"{name} ({variable['dtype']})" for name, variable in result["variables"].items())
    period = f"{t} frames from {_day(result['first'])} to {_day(result['last'])}"
    composited = len(result["composited"])
    click.echo(f"{output}: {names}")
    click.echo(f"{period}, {y} x {x} pixels, {result['crs'] or 'no CRS'}")
    click.echo(f"from {result['files']} files; {plan.warped} layers warped, {composited} frames composited")


def _day(moment: str) -> str:
    return moment.removesuffix("T00:00:00")


def _number(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        raise OptionError(f"--nodata needs a number, got {text!r}") from None
