"""`stpipe fill-scene`: the main job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stpipe.cli.interrupts import interruptible
from stpipe.cli.options import fill_options, run_options
from stpipe.cli.words import tell, tell_note

if TYPE_CHECKING:
    from stpipe.cli.scene_plan import Prepared


@click.command(name="fill-scene")
@run_options
def command(as_json: bool, **typed: Any) -> None:
    """Fill the gaps of a cube and mosaic it to GeoTIFF."""
    from stpipe.cli.progress import shown
    from stpipe.cli.run_log import RunLog, logged
    from stpipe.cli.scene_plan import prepare
    from stpipe.cli.scene_run import execute
    from stpipe.cli.watch import Watch

    prepared = prepare(fill_options(**typed))
    options, watch = prepared.options, Watch(limit=prepared.memory_limit)
    log = None if options.log is None else RunLog(options.log)
    if log is not None:
        watch.tell(log)
    with logged(log, **about(prepared)), interruptible(), shown(watch):
        if options.shard is None:
            result = execute(prepared, watch=watch)
        else:
            from stpipe.cli.shard_run import execute_shard

            result = execute_shard(prepared, options.shard, watch=watch)
    if as_json:
        click.echo(json.dumps({"folder": str(result.folder), "already": result.already, **result.report}))
        return
    for note in result.notes:
        tell_note(note)
    if result.already:
        tell(f"nothing to do: this run is finished in {result.folder}")
        return
    show(result.folder, result.report)


def about(prepared: Prepared) -> dict[str, Any]:
    """Return what a log says of a run at its beginning."""
    options, plan = prepared.options, prepared.plan
    return {
        "run_id": plan.run_id,
        "input": prepared.cube.path,
        "output": str(prepared.folder.path),
        "method": prepared.filler.name,
        "blocks": plan.n_blocks,
        "workers": prepared.workers,
        "worker_limit_bytes": prepared.memory_limit,
        "projected_peak_bytes": plan.memory.peak,
        "shard": None if options.shard is None else f"{options.shard.number}/{options.shard.shares}",
    }


def show(folder: Path, report: dict[str, Any]) -> None:
    """Print what a run did."""
    from rich.table import Table

    from stpipe.cli.console import PlainConsole
    from stpipe.core.sizes import gib
    from stpipe.execution.storage import is_there
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
        console.print(f"{folder / 'geotiff'}: {tiffs} GeoTIFFs, with their dates and places in items.json")
    if is_there(folder / "report.html"):
        console.print(f"{folder / 'report.html'}: pictures and numbers")
    console.print(f"{folder / 'run.json'}: all about the run")
