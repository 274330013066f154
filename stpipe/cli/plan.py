"""`stpipe plan`: what `fill-scene` would do with the same words."""

from __future__ import annotations

import json
from typing import Any

import click

from stpipe.cli.options import fill_options, run_options
from stpipe.cli.words import tell_note
from stpipe.errors import OutputError

REFUSED = "refused"
"""State of a run that can't begin in its folder."""


@click.command(name="plan")
@run_options
@click.option("--no-scan", is_flag=True, help="Don't read the cube to count the blocks with gaps.")
def command(as_json: bool, no_scan: bool, **typed: Any) -> None:
    """Show what fill-scene would do.

    That includes a refusal because of what the output folder holds, which is said behind the folder.
    """
    from stpipe.cli.scene_plan import begin, describe_plan, prepare

    prepared = prepare(fill_options(**typed))
    plan = describe_plan(prepared)
    notes: list[str] = []
    plan["notes"] = notes

    def note(text: str) -> None:
        notes.append(text)
        tell_note(text)

    for said in prepared.notes:
        note(said)
    try:
        plan["state"] = begin(prepared).value
    except OutputError as error:
        plan["state"], plan["refusal"] = REFUSED, str(error)
        note(f"fill-scene would refuse: {error}")
    if not no_scan:
        plan["blocks_with_gaps"], plan["gap_share"], remarks = scan(prepared)
        for said in remarks:
            note(said)
        share = plan["blocks_with_gaps"] / plan["blocks"]
        filling = plan["core_seconds"] - plan["learn_seconds"]
        plan["core_seconds"] = round(filling * share + (plan["learn_seconds"] if share else 0), 1)
    if as_json:
        click.echo(json.dumps(plan))
    else:
        show(plan)


def scan(prepared: Any) -> tuple[int, float, tuple[str, ...]]:
    """Read the cube once and count the blocks with gaps, and the share of the domain that is gap.

    What is to be said of rules that matched nothing, or everything, comes third.
    """
    import numpy as np

    from stpipe.cli.scene_run import run_context
    from stpipe.core.survey import lattice_step
    from stpipe.core.trust import remarks
    from stpipe.execution.run import blocks_over, gap_cells
    from stpipe.execution.tasks import survey_samples
    from stpipe.io.scratch import use_one_thread

    use_one_thread()
    context, plan = run_context(prepared), prepared.plan
    step = lattice_step(plan.extent)
    blocks = valid_total = domain_total = 0
    trust = prepared.cube.trust
    matched = np.zeros((0 if trust is None else len(trust.rules), 2), dtype=np.int64)
    for number, info in enumerate(plan.variables):
        parts = []
        for tile in plan.survey_tiles:
            samples = context.read(info, tile)
            _, gaps, _, valid, domain = survey_samples(samples, tile.start, step)
            if samples.rule_counts is not None and not number:  # they are the same for every variable
                matched += samples.rule_counts
            parts.append((tile, gaps > 0))
            valid_total += valid
            domain_total += domain
        blocks += len(blocks_over(plan.blocks, gap_cells(plan.blocks, parts)))
    said = () if trust is None else remarks(trust, matched)
    return blocks, 1 - valid_total / domain_total if domain_total else 0.0, said


def show(plan: dict[str, Any]) -> None:
    """Print a plan for people."""
    from rich.table import Table

    from stpipe.cli.console import PlainConsole
    from stpipe.core.sizes import gib

    def lengths(values: Any) -> str:
        return " x ".join("all" if value is None else str(value) for value in values)

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    blocks = f"{plan['blocks']}"
    if "blocks_with_gaps" in plan:
        blocks += f", {plan['blocks_with_gaps']} with gaps ({100 * plan['gap_share']:.1f} % of the samples are gap)"
    block = f"writes {lengths(plan['block'])}, overlaps {lengths(plan['overlap'])}, "
    block += f"reads {lengths(plan['read_window'])} (halo {lengths(plan['halo'])})"
    buffer = f", grown by {plan['buffer']} pixels" if plan["buffer"] else ""
    free = "" if plan["free_bytes"] is None else f", of {gib(plan['free_bytes'])} that are free"
    learned = f"{len(plan['crops'])} of {lengths(plan['crops'][0])}" if plan["crops"] else ""
    rows = [
        ("cube", f"{plan['cube']}: {', '.join(plan['variables'])}, {lengths(plan['extent'])} (time, y, x)"),
        *([("trusts", ", ".join(plan["trust"]) + buffer)] if plan["trust"] else []),
        ("method", plan["method"]),
        *([("leans on", ", ".join(guide["name"] for guide in plan["guides"]))] if plan["guides"] else []),
        ("blocks", blocks),
        ("block", block),
        *([("learns from", learned)] if plan["crops"] else []),
        (
            "workers",
            f"{plan['workers']}, at most {gib(plan['peak_worker_bytes'])} each of {gib(plan['memory_limit_bytes'])}",
        ),
        ("disk", f"up to {gib(plan['scratch_bytes'])} of scratch and {gib(plan['output_bytes'])} of products{free}"),
        ("cost", f"about {plan['core_seconds']:.0f} core-seconds to {'learn and ' if plan['crops'] else ''}fill"),
        ("output", f"{plan['output']} ({plan['state']})"),
        ("run id", plan["run_id"]),
    ]
    for name, text in rows:
        table.add_row(name, text)
    PlainConsole(soft_wrap=True).print(table)
