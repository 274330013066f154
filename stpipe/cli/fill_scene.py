"""`stpipe fill-scene`: the main job."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from stpipe.cli.options import fill_options, run_options
from stpipe.cli.words import tell, tell_note
from stpipe.errors import RunError


@click.command(name="fill-scene")
@run_options
def command(as_json: bool, **typed: Any) -> None:
    """Fill the gaps of a cube and mosaic it to GeoTIFF."""
    from stpipe.cli.scene_plan import prepare
    from stpipe.cli.scene_run import execute

    prepared = prepare(fill_options(**typed))
    with interruptible(), shown_progress() as (progress, on_stage):
        if prepared.options.shard is None:
            result = execute(prepared, progress=progress, on_stage=on_stage)
        else:
            from stpipe.cli.shard_run import execute_shard

            result = execute_shard(prepared, prepared.options.shard, progress=progress, on_stage=on_stage)
    if as_json:
        click.echo(json.dumps({"folder": str(result.folder), "already": result.already, **result.report}))
        return
    for note in result.notes:
        tell_note(note)
    if result.already:
        tell(f"nothing to do: this run is finished in {result.folder}")
        return
    show(result.folder, result.report)


def show(folder: Path, report: dict[str, Any]) -> None:
    """Print what a run did."""
    from rich.table import Table

    from stpipe.cli.console import PlainConsole
    from stpipe.core.sizes import gib
    from stpipe.io.frames import half_width_name

    table = Table(box=None, header_style="bold", pad_edge=False)
    codes = ("observed", "filled", "filled_by_fallback", "unfilled", "outside_domain")
    for heading in ("variable", *(code.replace("_", " ") for code in codes)):
        table.add_column(heading, justify="left" if heading == "variable" else "right")
    for name, counts in report["counts"].items():
        total = sum(counts.values())
        table.add_row(name, *(f"{100 * counts[code] / total:.2f} %" for code in codes))
    console = PlainConsole(soft_wrap=True)
    console.print(table)
    seconds = sum(report["seconds"].values())
    blocks = report["blocks"]
    console.print(
        f"{blocks['with_gaps']} of {blocks['total']} blocks had gaps; {seconds:.0f} s, at most "
        f"{gib(report['peak_worker_bytes'])} a worker (planned {gib(report['projected_peak_bytes'])})"
    )
    companions = f"_source and {half_width_name('', round(100 * report['interval']))}"
    tiffs = sum(product["path"].startswith("geotiff/") for product in report["products"])
    console.print(f"{folder / 'filled.zarr'}: the filled cube, with {companions} of each variable")
    if tiffs:
        console.print(f"{folder / 'geotiff'}: {tiffs} GeoTIFFs")
    console.print(f"{folder / 'quicklook.png'}: a few frames; {folder / 'run.json'}: all about the run")


@contextmanager
def interruptible() -> Iterator[None]:
    """Make Ctrl-C and SIGTERM, by which batch systems end jobs, leave with a line that says how to go on."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        raise RunError("interrupted; what is done is kept: run the same command again to go on from here") from None
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def shown_progress() -> Iterator[tuple[Callable[[str, int, int], None] | None, Callable[[str], None] | None]]:
    """Give callbacks that draw bars on a terminal's stderr; none where there is no terminal."""
    if not sys.stderr.isatty():
        yield None, None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    with Progress(
        TextColumn("{task.description:>9}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as bars:
        known: dict[str, Any] = {}

        def on_stage(stage: str) -> None:
            if stage not in known:
                known[stage] = bars.add_task(stage, total=None, rate="")

        def progress(stage: str, done: int, total: int) -> None:
            on_stage(stage)
            bar = known[stage]
            speed = bars.tasks[bars.task_ids.index(bar)].speed
            bars.update(bar, completed=done, total=total, rate=f"{speed:.1f}/s" if speed else "")

        yield progress, on_stage
