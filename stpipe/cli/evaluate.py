"""`stpipe evaluate`: which method suits a cube, measured on artificial gaps."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
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
    for note in (*remarks, *said, *(f"{result.variable}: {note}" for result in results for note in result.notes)):
        tell_note(note)
    if as_json:
        click.echo(json.dumps({"cube": str(cube), "variables": [result.as_dict() for result in results]}, indent=2))
        _draw(results, picture)
        return
    from stpipe.cli.console import wide_console
    from stpipe.cli.score_tables import show

    console = wide_console()
    for result in results:
        show(result, console, by_frame=by_frame or choice is not None)
    _draw(results, picture)
    if picture is not None:
        tell(f"picture  {picture}")


def _draw(results: Sequence[Evaluation], picture: Path | None) -> None:
    """Draw the scores, once they are printed: nothing that becomes of the picture takes them away."""
    if picture is not None:
        from stpipe.report.scores_picture import draw_scores

        draw_scores(results, picture)


def _check_picture(picture: Path | None) -> None:
    """Refuse a picture that could not be written, before any work."""
    if picture is None:
        return
    if picture.suffix.lower() != ".png":
        raise OptionError(f"--picture needs a file that ends with .png, got {picture}")
    if not picture.parent.is_dir() or picture.is_dir():
        raise OptionError(f"--picture can't be written to {picture}: name a file in a folder that exists")
    if not os.access(picture.parent, os.W_OK):
        raise OptionError(f"--picture can't be written to {picture}: no right to write in {picture.parent}")
