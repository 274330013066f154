"""`stpipe ingest`: rasters, cubes and STAC items become one cube."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stpipe.cli.interrupts import RESUMED, STOPPED, interruptible
from stpipe.cli.options import parse_period, parse_triple
from stpipe.cli.paths import HerePath
from stpipe.cli.progress import progress_bar
from stpipe.cli.trust import parse_trust, trust_options
from stpipe.cli.words import tell, warn
from stpipe.core.compositing import COMPOSITES, Period
from stpipe.errors import OptionError

if TYPE_CHECKING:
    from stpipe.io.ingest.options import IngestOptions


@click.command(name="ingest")
@click.argument("sources", nargs=-1, required=True, metavar="SRC...")
@click.option("-o", "--output", required=True, type=HerePath(), help="Zarr group to make.")
@click.option(
    "--pattern",
    metavar="TEMPLATE",
    help="How names are built, such as '{date:%Y%m%d}_{sensor}_{variable}.tif', or a regular expression with groups "
    "(?P<date>) and (?P<variable>). [default: look for dates and bands]",
)
@click.option("--collection", "collections", multiple=True, metavar="NAME", help="What to search a STAC API for.")
@click.option("--time", "period", metavar="START/END", help="Period to take.")
@click.option(
    "--same-day",
    type=click.Choice(["refuse", *COMPOSITES]),
    default="refuse",
    show_default=True,
    help="What to make of several scenes of one day; gaps in one are taken from the others.",
)
@click.option("--every", metavar="PERIOD", help="Make one frame of each period: 10D, 2W, 1M, 1Y; dated by its start.")
@click.option(
    "--composite",
    type=click.Choice(COMPOSITES),
    help="With --every, what to make of the scenes of a period [median].",
)
@click.option("--empty-periods", is_flag=True, help="With --every, make frames of gap of periods without a scene.")
@trust_options
@click.option("--index", "indices", multiple=True, metavar="NAME=BAND,BAND", help="Add a spectral index; see above.")
@click.option(
    "--index-type",
    type=click.Choice(["float32", "int16"]),
    default="float32",
    show_default=True,
    help="How indices are stored; int16 counts steps of 0.0001.",
)
@click.option(
    "--var", "variables", multiple=True, metavar="V", help="Variable or index to write [all]; may be repeated."
)
@click.option("--drop-bands", is_flag=True, help="Write only indices and quality variables.")
@click.option("--align", metavar="first|FILE", help="Warp files that lie on another grid to this one.")
@click.option("--crs", metavar="CRS", help="Warp to this CRS, such as EPSG:32633.")
@click.option("--resolution", type=float, metavar="SIDE", help="Warp to pixels of this side, in units of the CRS.")
@click.option("--bbox", metavar="W,S,E,N", help="Cut out this box, in degrees.")
@click.option("--bbox-crs", default="EPSG:4326", metavar="CRS", help="CRS of --bbox, if it is another.")
@click.option("--aoi", type=HerePath(), help="Cut out the box around these GeoJSON polygons.")
@click.option(
    "--resampling", default="nearest", show_default=True, metavar="NAME", help="How to warp, as GDAL names it."
)
@click.option("--chunks", metavar="T,Y,X", help="Chunk lengths. [default: 32,256,256]")
@click.option(
    "--nodata",
    multiple=True,
    metavar="[VAR=]V",
    help="Stored value that means gap, besides what the files say; may be repeated for single variables.",
)
@click.option("--overwrite", is_flag=True, help="Replace a cube that ingest made.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(sources: tuple[str, ...], output: Path, overwrite: bool, as_json: bool, **typed: Any) -> None:
    """Make a Zarr cube from other files.

    SRC are folders, globs and files of rasters that GDAL opens, whose names carry a date and a variable; NetCDF files;
    Zarr groups; JSON files of STAC items; or the address of a STAC API, with --collection and --bbox. All must lie on
    one grid, or be brought to one with --align, --crs or --resolution. Types, nodata, scale and offset are kept. What
    was interrupted goes on when the same command is given again.

    --index takes the names and formulas of spyndex: ndvi=nir,red names the variables in the order of the formula,
    ndvi=N:B08,R:B04 by its letters; constants too: savi=N:B08,R:B04,L:0.5.
    """
    # rasterio and xarray take a second to load, and --help has no need of them.
    from stpipe.io.ingest.plan import plan_ingest
    from stpipe.io.ingest.write import check_output, partial_of, summary, write_cube

    check_output(output, overwrite=overwrite)
    options = _options(**typed)
    with progress_bar("reading headers") as progress:
        plan = plan_ingest(sources, options, progress=progress)
    for warning in plan.warnings:
        warn(warning)

    def how_to_go_on() -> str:
        return RESUMED if partial_of(output).exists() else STOPPED

    with interruptible(how_to_go_on), progress_bar("writing") as progress:
        tally = write_cube(plan, output, overwrite=overwrite, progress=progress)
    result = summary(plan, output, tally)
    for warning in result["warnings"][len(plan.warnings) :]:
        warn(warning)
    if as_json:
        click.echo(json.dumps(result, indent=2))
        return
    t, y, x = plan.extent
    names = ", ".join(f"{name} ({variable['dtype']})" for name, variable in result["variables"].items())
    period = f"{t} frames from {_day(result['first'])} to {_day(result['last'])}"
    composited = len(result["composited"])
    tell(f"{output}: {names}{'; without dates: ' * bool(result['static'])}{', '.join(result['static'])}")
    tell(f"{period}, {y} x {x} pixels, {result['crs'] or 'no CRS'}")
    tell(f"from {result['files']} files; {plan.warped} layers warped, {composited} frames composited")
    if result["rules"]:
        shares = (f"{name} {v['dropped']:.1%}" for name, v in result["variables"].items() if "dropped" in v)
        told = f"; {', '.join(result['clear'])} tells where" if result["clear"] else ""
        tell(f"{result['rules']} dropped {', '.join(shares) or 'nothing that is written'}{told}")


def _options(
    *,
    qa: Sequence[str],
    keep: Sequence[str],
    drop: Sequence[str],
    buffer: int,
    align: str | None,
    crs: str | None,
    resolution: float | None,
    bbox: str | None,
    bbox_crs: str,
    aoi: Path | None,
    period: str | None,
    every: str | None,
    composite: Any,
    same_day: Any,
    empty_periods: bool,
    collections: Sequence[str],
    indices: Sequence[str],
    index_type: str,
    chunks: str | None,
    nodata: Sequence[str],
    variables: Sequence[str],
    **plain: Any,
) -> IngestOptions:
    """Turn what was typed into options, or refuse."""
    from stpipe.io.indices import IndexRequest
    from stpipe.io.ingest.options import IngestOptions
    from stpipe.io.ingest.target import Target

    if empty_periods and every is None:
        raise OptionError("--empty-periods needs periods: give their length with --every")
    general, single = _nodata(nodata)
    return IngestOptions(
        target=Target(align=align, crs=crs, resolution=resolution, bbox=_box(bbox), bbox_crs=bbox_crs, aoi=aoi),
        time=parse_period("--time", period) or (None, None),
        every=None if every is None else Period.parse(every),
        composite=composite,
        same_day=same_day,
        empty_periods=empty_periods,
        trust=parse_trust(qa, keep, drop, buffer),
        collections=tuple(collections),
        indices=tuple(IndexRequest.parse(text) for text in indices),
        scaled_indices=index_type == "int16",
        variables=tuple(variables),
        chunks=parse_triple("--chunks", chunks),
        nodata=general,
        nodata_of=single,
        **plain,
    )


def _day(moment: str) -> str:
    return moment.removesuffix("T00:00:00")


def _box(text: str | None) -> tuple[float, float, float, float] | None:
    """Read W,S,E,N.

    >>> _box("5,47,6.5,48")
    (5.0, 47.0, 6.5, 48.0)
    """
    if text is None:
        return None
    try:
        west, south, east, north = (float(part) for part in text.split(","))
    except ValueError:
        raise OptionError(f"--bbox needs four numbers W,S,E,N such as 5.1,47.2,5.3,47.4, got {text!r}") from None
    return west, south, east, north


def _nodata(texts: Sequence[str]) -> tuple[float | None, dict[str, float]]:
    """Return the general nodata, and those of single variables.

    >>> _nodata(["-1", "SCL=0"])
    (-1.0, {'SCL': 0.0})
    """
    general: float | None = None
    single: dict[str, float] = {}
    for text in texts:
        name, equals, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            raise OptionError(f"--nodata needs a number, got {number!r}") from None
        if equals:
            single[name] = value
        elif general is not None:
            raise OptionError("--nodata is given twice; name the variables, as in --nodata red=-1 --nodata nir=0")
        else:
            general = value
    return general, single
