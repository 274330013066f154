"""`stpipe gaps`: what the gaps of a cube are like."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stpipe.cli.cluster_files import cluster_option, parse_cluster, say
from stpipe.cli.interrupts import STOPPED, interruptible
from stpipe.cli.options import log_option, parse_period, parse_range, parse_size
from stpipe.cli.paths import AnyPath, HerePath
from stpipe.cli.progress import shown
from stpipe.cli.run_log import RunLog, check_log, logged
from stpipe.cli.trust import parse_trust, trust_options
from stpipe.cli.watch import Watch
from stpipe.cli.words import tell, tell_note
from stpipe.core.gap_statistics import BOUNDARIES, BY, GapOptions, parse_percentiles
from stpipe.errors import OptionError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_LEAST_CLEAR = 5


@click.command(name="gaps")
@click.argument("cube", type=AnyPath())
@click.option("-o", "--output", type=HerePath(), help="Folder for the products [CUBE.gaps].")
@click.option("--var", "variables", multiple=True, metavar="V", help="Variable to look at [all]; may be repeated.")
@click.option(
    "--boundaries",
    type=click.Choice(BOUNDARIES),
    default=BOUNDARIES[0],
    show_default=True,
    help="Whether the period's first and last day count as ends of gaps.",
)
@click.option("--percentiles", metavar="P,P", help="Percentiles of the gaps, from 0 to 100, besides the median.")
@click.option("--by", type=click.Choice(BY), default=BY[0], show_default=True, help="What to look at by itself.")
@click.option("--zarr", is_flag=True, help="Write the statistics as gaps.zarr too.")
@click.option("--time", "period", metavar="START/END", help="Period to look at [from the first frame to the last].")
@click.option("--aoi", type=HerePath(), help="GeoJSON of the area to look at.")
@click.option("--domain", metavar="V", help="Static variable that is non-zero where values can exist.")
@click.option("--valid-range", metavar="LO,HI", help="Physical values outside of it are gaps.")
@trust_options
@click.option("--workers", type=int, help="Worker processes, here or of the cluster [one a core].")
@click.option("--memory-limit", metavar="SIZE", help="Memory of a worker, such as 4GiB.")
@click.option("--scheduler", metavar="ADDRESS", help="Use the Dask cluster of this scheduler (tcp://...).")
@cluster_option
@click.option("--overwrite", is_flag=True, help="Replace earlier statistics.")
@log_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    cube: Path,
    output: Path | None,
    variables: tuple[str, ...],
    boundaries: str,
    percentiles: str | None,
    by: str,
    zarr: bool,
    period: str | None,
    aoi: Path | None,
    domain: str | None,
    valid_range: str | None,
    qa: tuple[str, ...],
    keep: tuple[str, ...],
    drop: tuple[str, ...],
    buffer: int,
    workers: int | None,
    memory_limit: str | None,
    scheduler: str | None,
    cluster: str | None,
    overwrite: bool,
    log: Path | None,
    as_json: bool,
) -> None:
    """Show how long the gaps of a cube are.

    Images of one day are composited; a gap is the number of days from one clear observation of a pixel to the next.
    Each pixel gets the number of clear days and of gaps, the mean, median, shortest, longest and standard deviation of
    its gaps, the dates of the longest one, and the share of the period without data: as bands of VAR_gaps.tif, with a
    picture, VAR_gaps.png, and a summary, gaps.json.
    """
    options = GapOptions(boundaries=boundaries, by=by, percentiles=parse_percentiles("--percentiles", percentiles))
    limits, selection, memory = (
        parse_range("--valid-range", valid_range),
        parse_period("--time", period),
        parse_size("--memory-limit", memory_limit),
    )
    if len(set(variables)) < len(variables):
        raise OptionError(f"--var names a variable twice: {', '.join(variables)}")
    trust = parse_trust(qa, keep, drop, buffer)
    # xarray, Dask and GDAL take a second to load, and --help has no need of them.
    from stpipe.io.gaps.request import GapsRequest, prepare
    from stpipe.io.gaps.run import run_gaps
    from stpipe.report.gaps_picture import draw_gaps

    prepared = prepare(
        GapsRequest(
            cube=cube,
            output=output,
            variables=variables,
            options=options,
            zarr=zarr,
            time=selection,
            aoi=aoi,
            domain=domain,
            valid_range=limits,
            trust=trust,
            workers=workers,
            memory_limit=memory,
            scheduler=scheduler,
            cluster=parse_cluster(cluster, scheduler=scheduler, workers=workers, memory_limit=memory_limit),
            overwrite=overwrite,
        )
    )
    watch, written = Watch(limit=prepared.memory_limit), None
    if log is not None:
        check_log(log, output=prepared.folder.path, inputs=[cube])
        written = RunLog(log)
        watch.tell(written)
    about = {"input": prepared.cube.path, "output": str(prepared.folder.path), "workers": prepared.workers}
    with logged(written, **about), interruptible(lambda: STOPPED), shown(watch):
        report = run_gaps(
            prepared,
            draw=draw_gaps,
            progress=watch.progress,
            on_stage=watch.stage,
            on_client=watch.following,
            announce=say,
        )
    for note in report["notes"]:
        tell_note(note)
    if as_json:
        products = sorted(prepared.products)
        click.echo(json.dumps({"folder": str(prepared.folder.path), "products": products, **report}, indent=2))
        return
    from stpipe.cli.console import wide_console

    console = wide_console()
    show(report, console)
    tell(f"{prepared.folder.path}: {', '.join([*prepared.products, 'gaps.json'])}")


def show(report: Mapping[str, Any], console: Console) -> None:
    """Print what the gaps of each variable are like."""
    first, last = report["period"]
    for name, summary in report["variables"].items():
        console.print()
        console.print(
            f"{name}: {summary['pixels']:,} pixels, {report['dates']} dates of {report['frames']} frames, "
            f"{first} to {last} ({report['period_days']} days), boundaries {report['boundaries']}d"
        )
        console.print(*_statistics(summary["rows"], console))
        shares = [row for row in summary["by_date"] if row["clear_share"] is not None]
        if shares:
            mean = sum(row["clear_share"] for row in shares) / len(shares)
            none = sum(row["clear_pixels"] == 0 for row in shares)
            worst = sorted(shares, key=lambda row: row["clear_share"])[:_LEAST_CLEAR]
            listed = ", ".join(f"{row['date']} {100 * row['clear_share']:.0f} %" for row in worst)
            console.print(f"clear on the mean date: {100 * mean:.1f} %; nothing clear on {none}; least clear: {listed}")


def _statistics(rows: Sequence[Mapping[str, Any]], console: Console) -> list[Table]:
    """Return a row for each statistic, with its quantiles over pixels."""
    from stpipe.cli.console import in_parts

    of = ["of"] if len({row["group"] for row in rows}) > 1 else []
    columns = ["min", "p5", "p25", "p50", "mean", "p75", "p95", "max"]
    cells = [
        [
            row["statistic"] + (f" ({row['units']}s)" if row["units"] == "day" else ""),
            *(row["group"] for _ in of),
            f"{row['pixels']:,}",
            *(_cell(row[column]) for column in columns),
        ]
        for row in rows
    ]
    keys = 1 + len(of)
    return in_parts(console, ["statistic", *of, "pixels", *columns], cells, keys=keys, left=keys)


def _cell(value: Any) -> str:
    """Return a number, a date or nothing.

    >>> _cell(5.0), _cell(12.3456), _cell("2023-05-01"), _cell(None)
    ('5', '12.35', '2023-05-01', '-')
    """
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
