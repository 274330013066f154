"""`stpipe evaluate`: which method suits a cube, measured on artificial gaps."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stpipe.cli.options import guide_options, parse_guides, parse_period, parse_range
from stpipe.cli.paths import AnyPath, HerePath
from stpipe.cli.progress import progress_bar
from stpipe.cli.sar_options import lean_on_guides, parse_scored_sar, scored_sar_options
from stpipe.cli.trust import parse_trust, trust_options
from stpipe.cli.words import tell, tell_note
from stpipe.errors import OptionError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from stpipe.core.comparison import Row
    from stpipe.core.evaluation import Evaluation
    from stpipe.io.guides import Guides
    from stpipe.io.radar_guides import RadarGuides


@click.command(name="evaluate")
@click.argument("cube", type=AnyPath())
@click.option("--var", "variables", multiple=True, metavar="V", help="Variable to score on [all]; may be repeated.")
@click.option("--method", "methods", multiple=True, metavar="M", help="Method to score [all]; may be repeated.")
@click.option("--model", metavar="NAME|PATH", help="Weights for pconv [the packaged ones].")
@click.option("--draws", type=int, default=2, show_default=True, help="How often gaps are drawn.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Decides the gaps.")
@click.option("--interval", type=float, default=0.9, show_default=True, help="What the intervals are to cover.")
@click.option("--domain", metavar="V", help="Static variable that is non-zero where values can exist.")
@click.option("--valid-range", metavar="LO,HI", help="Physical values outside of it are gaps.")
@trust_options
@guide_options
@scored_sar_options
@click.option("--time", "period", metavar="START/END", help="Period to look at.")
@click.option("--aoi", type=HerePath(), help="GeoJSON of the area to look at.")
@click.option("--picture", type=HerePath(), metavar="FILE.png", help="Draw the scores.")
@click.option("--frames", "by_frame", is_flag=True, help="Print the errors of each frame [with sar].")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    cube: Path,
    variables: tuple[str, ...],
    methods: tuple[str, ...],
    model: str | None,
    draws: int,
    seed: int,
    interval: float,
    domain: str | None,
    valid_range: str | None,
    qa: tuple[str, ...],
    keep: tuple[str, ...],
    drop: tuple[str, ...],
    buffer: int,
    guides: tuple[Path, ...],
    guide_variables: tuple[str, ...],
    guide_resampling: str | None,
    guide_window: float | None,
    period: str | None,
    aoi: Path | None,
    picture: Path | None,
    by_frame: bool,
    as_json: bool,
    **sar: Any,
) -> None:
    """Score methods on artificial gaps of a cube.

    Some of what is observed is hidden, in shapes of the cube's own gaps, in up to four parts of the cube. Every method
    fills it from what is left, and all are compared on the same samples. `linear` is always among them, for skill is
    measured against it.

    With `--method sar --guide RADAR` come linear, whittaker and pyramid, and sar-shuffled, the same regression on the
    radar's dates in a random order, which shows whether radar is of use on this cube.
    """
    from stpipe.io.evaluate import evaluate_cube
    from stpipe.methods import candidates

    _check_picture(picture)
    limits, selection = parse_range("--valid-range", valid_range), parse_period("--time", period)
    from stpipe.io.guide_sources import open_guides, open_led
    from stpipe.io.times import label

    trust = parse_trust(qa, keep, drop, buffer)
    led_by = parse_guides(guides, guide_variables, guide_resampling, guide_window)
    choice = parse_scored_sar(methods, led_by, guided=bool(guides), **sar)
    not_filled = led_by
    if choice is not None:
        from stpipe.io.radar import open_radar, radar_variables

        not_filled = replace(led_by, variables=radar_variables(guides, choice.radar.variables))
    source, remarks = open_led(
        cube, guides, not_filled, variables=variables or None, domain=domain, time=selection, aoi=aoi, trust=trust
    )
    said: list[str] = []
    radar = None
    if choice is not None:
        from stpipe.io.radar_evaluation import ScoredRadar

        radar = ScoredRadar(radar=open_radar(guides, source, choice.radar), steps=choice.steps, seed=seed)
        said += radar.radar.notes
    leaned_on: Guides | RadarGuides | None = None
    if guides and lean_on_guides(methods):
        leaned_on = open_guides(guides, source, led_by)
        if "pconv" in (methods or candidates(len(source.days))):
            from stpipe.io.radar_guides import with_radar

            leaned_on, remarked = with_radar(leaned_on, source, led_by)
            said += remarked
    with progress_bar("scoring") as progress:
        results = evaluate_cube(
            source.reader(),
            source.variables,
            source.days,
            methods=methods or None,
            model=model,
            draws=draws,
            seed=seed,
            interval=interval,
            valid_range=limits,
            trust=source.trust,
            guides=leaned_on,
            radar=radar,
            dates=[label(time) for time in source.times],
            progress=progress,
            tell=said.append,
        )
    if picture is not None:
        from stpipe.report.scores_picture import draw_scores

        draw_scores(results, picture)
    for note in (*remarks, *said, *(f"{result.variable}: {note}" for result in results for note in result.notes)):
        tell_note(note)
    if as_json:
        click.echo(json.dumps({"cube": str(cube), "variables": [result.as_dict() for result in results]}, indent=2))
        return
    from stpipe.cli.console import wide_console

    console = wide_console()
    for result in results:
        show(result, console)
        if by_frame or choice is not None:
            console.print(_by_frame(result, [cost.method for cost in result.costs]))
    if picture is not None:
        tell(f"picture  {picture}")


def _check_picture(picture: Path | None) -> None:
    """Refuse a picture that could not be written, before any work."""
    if picture is None:
        return
    if picture.suffix.lower() != ".png":
        raise OptionError(f"--picture needs a file that ends with .png, got {picture}")
    if not picture.parent.is_dir() or picture.is_dir():
        raise OptionError(f"--picture can't be written to {picture}: name a file in a folder that exists")


def show(result: Evaluation, console: Console) -> None:
    """Print the scores of one variable: over all samples, by group, and the costs."""
    units = f" ({result.units})" if result.units not in {"", "1"} else ""
    console.print()
    console.print(
        f"{result.variable}{units}: {result.hidden:,} samples hidden in {result.draws} draws with seed {result.seed}"
    )
    methods = [cost.method for cost in result.costs]
    console.print(_overall(result, methods))
    for grouping in dict.fromkeys(row.grouping for row in result.rows):
        if grouping != "all":
            console.print(_by_group(result, methods, grouping))
    best = "" if result.best_simple is None else f" against {result.best_simple}, the best simple method;"
    console.print(
        f"* the lowest. difference: of the MAE,{best} in brackets, here and of the share inside the interval, the "
        "middle 90 % of a bootstrap over frames or their parts. skill: against linear. seams: steps across block "
        "borders over those when filled in one piece."
    )


def _overall(result: Evaluation, methods: Sequence[str]) -> Table:
    table = _table(
        "method", "MAE", "RMSE", "bias", "R2", "skill", "difference", f"in {100 * result.interval:g} %", "width",
        "filled", "seams", "s/million", "learning s",
    )  # fmt: skip
    rows = [result.row(method) for method in methods]
    lowest = _lowest([row.mae for row in rows])
    for row, cost in zip(rows, result.costs, strict=True):
        own = row.method == result.best_simple
        between = f"{_signed(row.difference)} [{_signed(row.difference_low)}, {_signed(row.difference_high)}]"
        table.add_row(
            row.method,
            _starred(row.mae, lowest),
            _number(row.rmse),
            _signed(row.bias),
            _fixed(row.r2, 3),
            _fixed(row.skill, 3),
            "" if own or math.isnan(row.difference) else between,
            _percent(row.coverage) + _bounds(row.coverage_low, row.coverage_high),
            _number(row.width),
            _percent(row.filled),
            _fixed(cost.seam_ratio, 3),
            _fixed(cost.seconds_per_million, 2),
            _fixed(cost.learning_seconds, 1),
        )
    return table


def _by_group(result: Evaluation, methods: Sequence[str], grouping: str) -> Table:
    """MAE of each method and, in gap classes, the share of the truth inside its intervals."""
    table = _table(f"MAE by {grouping}", "samples", *methods)
    groups = list(dict.fromkeys(row.group for row in result.rows if row.grouping == grouping))
    for group in groups:
        rows = [result.row(method, group) for method in methods]
        lowest = _lowest([row.mae for row in rows])
        inside: Callable[[Row], str] = lambda row: f" ({_percent(row.coverage)})" if grouping == "gap class" else ""  # noqa: E731
        table.add_row(group, f"{rows[0].samples:,}", *(_starred(row.mae, lowest, inside(row)) for row in rows))
    return table


def _by_frame(result: Evaluation, methods: Sequence[str]) -> Table:
    """MAE of each method in each frame of which something was hidden."""
    judged = any(frame.calibrated is not None for frame in result.frames)
    table = _table("MAE by frame", "clear", "hidden", *methods, *(("calibrated",) if judged else ()))
    for frame in result.frames:
        lowest = _lowest(list(frame.mae.values()))
        table.add_row(
            frame.date or str(frame.frame),
            _percent(frame.clear),
            f"{frame.hidden:,}",
            *(_starred(frame.mae[method], lowest) for method in methods),
            *((_calibrated(frame.calibrated),) if judged else ()),
        )
    return table


def _calibrated(share: float | None) -> str:
    """Return whether a frame was calibrated, of which in some parts and draws it may have been too cloudy.

    >>> _calibrated(1.0), _calibrated(0.0), _calibrated(0.25)
    ('yes', 'no', '25 %')
    """
    if share is None:
        return "-"
    return {1.0: "yes", 0.0: "no"}.get(share, _percent(share))


def _table(*headings: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="right" if i else "left", no_wrap=True)
    return table


def _lowest(values: Sequence[float]) -> float:
    return min((value for value in values if not math.isnan(value)), default=math.nan)


def _starred(value: float, lowest: float, more: str = "") -> Text:
    """Return a number, the lowest one with a star and bold, and what stands behind it."""
    from rich.text import Text

    return Text.assemble((f"*{_number(value)}", "bold") if value == lowest else _number(value), more)


def _number(value: float) -> str:
    """Return four digits.

    >>> _number(0.00123456), _number(1234.5), _number(float("nan"))
    ('0.001235', '1234', '-')
    """
    if math.isnan(value):
        return "-"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _signed(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:+.2g}"


def _fixed(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _bounds(low: float, high: float) -> str:
    """Return error bars of a share, empty if there are none.

    >>> _bounds(0.831, 0.9), _bounds(float("nan"), 0.9)
    (' [83, 90]', '')
    """
    return "" if math.isnan(low) or math.isnan(high) else f" [{100 * low:.0f}, {100 * high:.0f}]"


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.0f} %"
