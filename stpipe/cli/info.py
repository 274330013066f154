"""`stpipe info`: what a cube holds, before it is filled, and what a model file says of itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stpipe.cli.options import parse_period
from stpipe.cli.paths import HerePath
from stpipe.cli.progress import progress_bar
from stpipe.cli.trust import parse_trust, trust_options
from stpipe.cli.words import tell
from stpipe.errors import OptionError

if TYPE_CHECKING:
    from rich.console import Console

_LISTED = 5
"""Dates in a line."""


@click.command(name="info")
@click.argument("cube", required=False)
@click.option("--model", metavar="NAME|PATH", help="Show the card of these weights instead of a cube; try default.")
@click.option("--var", "variables", multiple=True, metavar="VAR", help="A variable; can be given again. [default: all]")
@click.option("--domain", metavar="VAR", help="Static variable that is non-zero where values can exist.")
@trust_options
@click.option("--time", "period", metavar="START/END", help="Period to look at.")
@click.option("--aoi", type=HerePath(), help="GeoJSON of the area to look at.")
@click.option("--no-scan", is_flag=True, help="Read metadata alone, and count no gaps.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    cube: str | None,
    model: str | None,
    variables: tuple[str, ...],
    domain: str | None,
    qa: tuple[str, ...],
    keep: tuple[str, ...],
    drop: tuple[str, ...],
    buffer: int,
    period: str | None,
    aoi: Path | None,
    no_scan: bool,
    as_json: bool,
) -> None:
    """Show what a cube holds.

    CUBE is a Zarr group or a NetCDF file. Dates, grid and types come from its metadata; gaps are counted by one pass
    over the samples, a few chunks at a time, so that memory does not depend on the size of the cube. Notes say what
    stands in the way of other verbs: frames out of order, chunks that suit no work on blocks, no CRS, and quality
    layers, with the rule that fits them. With --model it shows a model instead: what it is, on what it was trained, and
    how well it did.
    """
    if model is not None:
        if cube is not None:
            raise OptionError(f"info shows a cube or a model; leave out {cube} or --model {model}")
        show_model(model, as_json=as_json)
        return
    if cube is None:
        raise OptionError("info needs a CUBE to show, or --model NAME|PATH")
    # xarray and zarr take a second to load, and --help has no need of them.
    from stpipe.io.cube import open_source
    from stpipe.io.inspection import inspect_cube

    trust, selection = parse_trust(qa, keep, drop, buffer), parse_period("--time", period)
    source = open_source(
        cube, variables=variables or None, domain=domain, time=selection, aoi=aoi, trust=trust, any_order=True
    )
    with progress_bar("counting gaps") as progress:
        report = inspect_cube(source, scan=not no_scan, progress=progress)
    if as_json:
        click.echo(json.dumps(report, indent=2))
        return
    from stpipe.cli.console import wide_console

    _show(report, wide_console())


def show_model(name: str, *, as_json: bool) -> None:
    """Print the card of the packaged weights, or what another model file says of itself."""
    from stpipe.model.weights import DEFAULT, read_info

    info = read_info(name)
    if as_json:
        click.echo(json.dumps({**asdict(info), "path": str(info.path)}, indent=2))
        return
    if name == DEFAULT:
        click.echo(files("stpipe.model").joinpath("packaged", "MODEL_CARD.md").read_text(), nl=False)
        return
    kind = "partial-convolution U-Net" if info.kind == "unet" else "the published network"
    tell(f"model        {info.path}")
    tell(f"kind         {kind}")
    tell(f"sha256       {info.digest}")
    tell(f"calibration  {info.calibration:g}")
    for part, values in (("spec", asdict(info.spec)), ("provenance", info.provenance)):
        tell(f"{part}{'' if values else '  none'}")
        for key, value in values.items():
            tell(f"  {key}: {value if isinstance(value, str) else json.dumps(value)}")


def _show(report: dict[str, Any], console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    from stpipe.cli.console import in_parts

    facts = Table.grid(padding=(0, 2))
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    for name, text in _facts(report):
        facts.add_row(Text(name, style="bold"), text)
    console.print(facts)
    rows = [_cells(name, variable) for name, variable in report["variables"].items()]
    headings = [heading for heading in rows[0] if any(row[heading] for row in rows)]
    console.print(*in_parts(console, headings, [[row[heading] for heading in headings] for row in rows]))
    for line in _without(report["variables"]):
        console.print(line)
    for hint in report["hints"]:
        console.print(f"note: {hint}")


def _without(variables: dict[str, Any]) -> Iterator[str]:
    """Yield when nothing was observed of each variable; variables of which it is the same share a line."""
    lines: dict[str, list[str]] = {}
    for name, variable in variables.items():
        empty = variable.get("empty_dates", [])
        if empty:
            days = list(dict.fromkeys(date.split("T")[0] for date in empty))
            line = f"nothing on {len(empty)} date{'s' * (len(empty) > 1)}: {', '.join(days[:_LISTED])}"
            line += f" and {len(days) - _LISTED} more" if len(days) > _LISTED else ""
            if variable["longest_without_days"] is not None:
                line += f"; longest without: {variable['longest_without_days']:.4g} days from "
                line += variable["longest_without_after"].split("T")[0]
            lines.setdefault(line, []).append(name)
    for line, names in lines.items():
        yield f"{', '.join(names)}: {line}"


def _cells(name: str, variable: dict[str, Any]) -> dict[str, str]:
    """Return one row by heading; a column without any text is not shown."""
    plain = variable["scale_factor"] == 1 and variable["add_offset"] == 0
    cells = {
        "variable": name,
        "type": variable["dtype"],
        "nodata": "none" if variable["nodata"] is None else _number(variable["nodata"]),
        "scale, offset": "" if plain else f"{variable['scale_factor']:g}, {variable['add_offset']:g}",
        "chunks": ",".join(map(str, variable["chunks"])),
    }
    if "gap_share" in variable:
        cells["gaps"] = f"{100 * variable['gap_share']:.1f} %"
        cells["empty"] = str(variable["empty_frames"])
        cells["complete"] = str(variable["full_frames"])
    return cells


def _span(*days: float) -> str:
    """Return lengths of time, each in the largest unit that it fills.

    >>> _span(16.0), _span(1.0, 16.0), _span(24 / 86400, 1.0)
    ('16 days', '1 to 16 days', '24 seconds to 1 day')
    """
    units = (("days", 1.0), ("hours", 24.0), ("minutes", 1440.0))
    told = []
    for length in days:
        name, number = next(((name, number) for name, number in units if length * number >= 1), ("seconds", 86400.0))
        told.append((f"{length * number:.4g}", name))
    if len({name for _, name in told}) == 1:
        told = [(number, "") for number, _ in told[:-1]] + told[-1:]
    return " to ".join(f"{number} {name.removesuffix('s') if number == '1' else name}".strip() for number, name in told)


def _facts(report: dict[str, Any]) -> list[tuple[str, str]]:
    dates = report["dates"]
    steps = ""
    if dates["median_step_days"] is not None:
        median, shortest, longest = (dates[f"{which}_step_days"] for which in ("median", "shortest", "longest"))
        steps = f"; {_span(median)} apart (median), {_span(shortest, longest)}"
    size = "" if report["size_bytes"] is None else f", {readable(report['size_bytes'])} on disk"
    resolution = "uneven, or not known"
    if report["resolution"] is not None:
        x, y = report["resolution"]
        resolution = f"{x:.6g} x {y:.6g}" + (", south up" if report["south_up"] else "")
    return [
        ("cube", f"{report['path']} ({report['format']}{size}, {readable(report['samples_bytes'])} of samples)"),
        ("axes", ", ".join(f"{dim} {length}" for dim, length in report["dims"].items())),
        ("dates", f"{dates['count']} from {dates['first']} to {dates['last']}{steps}"),
        ("CRS", report["crs"] or "none"),
        ("pixel", resolution),
    ]


def _number(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:.7g}"


def readable(count: int) -> str:
    """Return a number of bytes as text.

    >>> readable(512), readable(3 * 2**20)
    ('512 B', '3.0 MiB')
    """
    if count < 1024:
        return f"{count} B"
    size, unit = float(count), "B"
    for name in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        if size < 1024:
            break
        size, unit = size / 1024, name
    return f"{size:.1f} {unit}"
