"""`stpipe train`: weights of your own, from your own cubes."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stpipe.cli.interrupts import RESUMED, interruptible
from stpipe.cli.options import parse_period, parse_range
from stpipe.cli.paths import HerePath
from stpipe.cli.training import TrainingJob, duration, note, train_job
from stpipe.cli.trust import parse_trust, trust_options
from stpipe.cli.words import tell
from stpipe.errors import OptionError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

STEPS = {True: 3000, False: 400}
"""Steps of a training from scratch, and of one that goes on from other weights."""

LEARNING_RATE = {True: 2e-3, False: 5e-4}
"""Their learning rates."""

_WIDE = 180


@click.command(name="train")
@click.argument("sources", nargs=-1, required=True, type=HerePath(), metavar="SOURCE...")
@click.option("-o", "--output", type=HerePath(), required=True, metavar="OUT.keras", help="The weights.")
@click.option(
    "--from",
    "start",
    default="default",
    show_default=True,
    metavar="NAME|PATH",
    help="Weights to go on from: default, a .keras file of stpipe, or scratch.",
)
@click.option("--var", "variables", multiple=True, metavar="V", help="Variable of the cubes [all]; may be repeated.")
@click.option("--time", "period", metavar="START/END", help="Period of the cubes to use.")
@click.option("--valid-range", metavar="LO,HI", help="Physical values outside of it are gaps.")
@click.option("--domain", metavar="V", help="Static variable of the cubes that is non-zero where values can exist.")
@trust_options
@click.option(
    "--hold-out",
    type=float,
    default=0.25,
    show_default=True,
    metavar="SHARE",
    help="How much of each source to hold out.",
)
@click.option("--steps", type=int, help="Gradient steps, at most [400; 3000 from scratch].")
@click.option("--learning-rate", type=float, help="At its highest [5e-4; 2e-3 from scratch].")
@click.option("--batch", type=int, default=4, show_default=True, help="Patches a step.")
@click.option("--seed", type=int, default=0, show_default=True, help="Decides parts, gaps, patches and fresh weights.")
@click.option(
    "--family-weight",
    "weights",
    multiple=True,
    metavar="NAME=W",
    help="How often a family comes up [1]; may be repeated.",
)
@click.option("--resume", is_flag=True, help="Only go on with a training that was begun.")
@click.option("--overwrite", is_flag=True, help="Replace weights of this name, or an unfinished training of them.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    sources: tuple[Path, ...],
    output: Path,
    start: str,
    variables: tuple[str, ...],
    period: str | None,
    valid_range: str | None,
    domain: str | None,
    qa: tuple[str, ...],
    keep: tuple[str, ...],
    drop: tuple[str, ...],
    buffer: int,
    hold_out: float,
    steps: int | None,
    learning_rate: float | None,
    batch: int,
    seed: int,
    weights: tuple[str, ...],
    resume: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Train weights for pconv on cubes or folders of blocks.

    SOURCE is a cube, or a folder of X_NAME.tif and MASK_NAME.tif; Y_ and VALMASK_ beside them are used. Parts of each
    are hidden in shapes of its own gaps, and other kinds, and the network learns to fill them. Whole regions or periods
    are held out: they say when to stop, how wide intervals have to be, and what was gained. A training that was
    interrupted goes on when the same command is given again.
    """
    from stpipe.core.split import check_share
    from stpipe.io.training_data import open_sources
    from stpipe.io.training_output import TrainingOutput
    from stpipe.methods.training_run import SCRATCH, Settings, starting_point

    if resume and overwrite:
        raise OptionError("--resume goes on with a training, --overwrite begins anew; give one of them")
    limits, selection = parse_range("--valid-range", valid_range), parse_period("--time", period)
    fresh = start == SCRATCH
    settings = Settings(
        steps=STEPS[fresh] if steps is None else steps,
        learning_rate=LEARNING_RATE[fresh] if learning_rate is None else learning_rate,
        batch=batch,
        seed=seed,
        families=parse_weights(weights),
    )
    check_share(hold_out)
    place = TrainingOutput(output)
    place.check_place(overwrite=overwrite or resume)
    info = starting_point(start)
    trust = parse_trust(qa, keep, drop, buffer)
    opened, notes = open_sources(sources, variables=variables or None, domain=domain, time=selection, trust=trust)
    settings.check_families([name for source in opened for name in source.families])
    job = TrainingJob(
        sources=tuple(opened),
        place=place,
        start=info,
        start_name=Path(start).name,
        settings=settings,
        hold_out=hold_out,
        valid_range=limits,
    )
    goes_on = place.goes_on(job.identity(), resume=resume, overwrite=overwrite)
    for line in notes:
        note(line)
    with interruptible(
        lambda: RESUMED if place.checkpoint.exists() else "interrupted before the first checkpoint; nothing is kept"
    ):
        result = train_job(job, goes_on=goes_on)
    if as_json:
        click.echo(json.dumps(result, indent=2))
        return
    _show(result)


def parse_weights(texts: Sequence[str]) -> dict[str, float]:
    """Read NAME=W.

    >>> parse_weights(["hls:NIR=2", "co=0.5"])
    {'hls:NIR': 2.0, 'co': 0.5}
    """
    weights: dict[str, float] = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        if name in weights:
            raise OptionError(f"--family-weight names {name} twice")
        try:
            weights[name] = float(number)
        except ValueError:
            name = ""
        if not name:
            raise OptionError(f"--family-weight needs NAME=W such as hls:NIR=2, got {text!r}")
    return weights


def _show(result: Mapping[str, Any]) -> None:
    """Print the errors, and what was gained."""
    from stpipe.cli.console import PlainConsole

    console = PlainConsole() if sys.stdout.isatty() else PlainConsole(width=_WIDE)
    console.print(*_table(result, console))
    console.print(
        "* the lowest. Mean absolute errors on what was held out, in spreads of its parts; the base is the mean of the "
        "guides that the network corrects. Last row: geometric mean over families, against the base."
    )
    overall = result["held_out_against_base"]
    if overall["network"] >= 1.0:
        gained = f"{overall['network']:.3g} times that of the base, so that there is no reason to use these weights"
    elif "before" in overall:
        change = 100 * (1 - overall["network"] / overall["before"])
        gained = f"{change:.2g} % less than the weights it started from" if result["better"] else (
            "no better than the weights it started from, so that there is no reason to use these"
        )  # fmt: skip
    else:
        change = 100 * (1 - overall["network"])
        gained = f"{change:.2g} % less than the base" if result["better"] else "no better than the base"
    click.echo(f"error on what was held out: {gained}")
    tell(f"{result['model']} after {result['steps']} steps in {duration(result['seconds'])}")
    tell(f"use it with: stpipe fill-scene CUBE --model {result['model']}")


def _table(result: Mapping[str, Any], console: Console) -> list[Table]:
    from stpipe.cli.console import in_parts

    overall = result["held_out_against_base"]
    names = [name for name in overall if name not in {"network", "before"}]
    names += [name for name in ("before", "network") if name in overall]
    rows = [
        [family, f"{row['samples']:,}", *_cells(row, names), _share(row["coverage"])]
        for family, row in result["held_out"].items()
    ]
    rows.append(["all, against the base", "", *_cells(overall, names), ""])
    headings = ["held out", "samples", *({"network": "after"}.get(name, name) for name in names), "in 90 %"]
    return in_parts(console, headings, rows)


def _share(coverage: float | None) -> str:
    return "–" if coverage is None else f"{100 * coverage:.0f} %"


def _cells(row: Mapping[str, float], names: Sequence[str]) -> list[Text]:
    from rich.text import Text

    lowest = min(row[name] for name in names)
    return [
        Text(f"*{row[name]:.4g}", style="bold") if row[name] == lowest else Text(f"{row[name]:.4g}") for name in names
    ]
