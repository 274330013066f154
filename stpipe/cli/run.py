"""`stpipe run`: a named run, from files to filled GeoTIFFs."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stpipe.cli.paths import HerePath
from stpipe.cli.words import tell
from stpipe.errors import OptionError, OutputError, RefusedError, RunError, StpipeError

if TYPE_CHECKING:
    from stpipe.cli.pipeline.commands import Stage
    from stpipe.cli.pipeline.files import Pipeline
    from stpipe.cli.pipeline.records import Need, Records

RULES = ("qa", "keep", "drop")


@click.command(name="run")
@click.argument("pipeline", required=False, metavar="NAME|FILE.yaml")
@click.argument("others", nargs=-1, metavar="")
@click.option("--set", "words", multiple=True, metavar="STAGE.KEY=VALUE", help="Set a key; may be repeated.")
@click.option("-o", "--output", type=HerePath(), help="Folder for all products [NAME.run].")
@click.option("--dry-run", is_flag=True, help="Print the command line of each stage, and do nothing.")
@click.option("--list", "listed", is_flag=True, help="List the pipelines that come with stpipe.")
@click.option("--show", is_flag=True, help="Print the pipeline's file: a page to copy and change.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    pipeline: str | None,
    others: tuple[str, ...],
    words: tuple[str, ...],
    output: Path | None,
    dry_run: bool,
    listed: bool,
    show: bool,
    as_json: bool,
) -> None:
    """Do all stages of a named run.

    A pipeline is a YAML file of up to four stages: ingest, gaps, fill and mosaic. What a stage takes is what its verb
    takes (ingest, gaps, fill-scene, mosaic), by the same names without dashes; --set says more, or something else:

    stpipe run s2-ndvi --set ingest.src=FOLDER --set fill.method=linear

    A stage that is done is not done again, until its options or its inputs change.
    """
    from stpipe.cli.pipeline.commands import check_inputs, plan_stages
    from stpipe.cli.pipeline.files import find_pipeline, read_pipeline
    from stpipe.cli.pipeline.records import Records

    if others:
        raise OptionError(
            f"run takes one pipeline, and {others[0]!r} is one word more; what it is to read is said with "
            f"--set ingest.src={others[0]}"
        )
    if listed:
        _list(as_json=as_json)
        return
    if pipeline is None:
        raise OptionError("run needs the NAME of a pipeline or a FILE.yaml; --list shows those that there are")
    path = find_pipeline(pipeline)
    if show:
        click.echo(path.read_text(encoding="utf-8"), nl=False)
        return
    said = read_pipeline(path).with_words(words)
    folder = Path(f"{said.name}.run") if output is None else output
    _check_folder(folder)
    stages = plan_stages(said, folder)
    check_inputs(stages)
    records = Records.of(folder)
    if dry_run:
        _show_commands(stages, records, as_json=as_json)
        return
    results = list(_do_all(said, stages, records, as_json=as_json))
    if as_json:
        click.echo(json.dumps({"pipeline": said.name, "folder": str(folder), "stages": results}, indent=2))


def _check_folder(folder: Path) -> None:
    from stpipe.io.run_folder import check_writable

    if folder.exists() and not folder.is_dir():
        raise OutputError(f"the output {folder} is a file; choose a folder with -o")
    check_writable(folder)


def _list(*, as_json: bool) -> None:
    from stpipe.cli.pipeline.files import read_pipeline, shipped_pipelines

    found = {name: read_pipeline(path) for name, path in shipped_pipelines().items()}
    if as_json:
        rows = [{"name": name, "about": each.about, "stages": list(each.stages)} for name, each in found.items()]
        click.echo(json.dumps(rows, indent=2))
        return
    width = max(map(len, found))
    for name, each in found.items():
        tell(f"{name:{width}}  {each.about} ({', '.join(each.stages)})")


@dataclass(frozen=True, slots=True)
class _Step:
    """What a stage comes to."""

    stage: Stage
    need: Need
    overwrite: bool

    @property
    def words(self) -> tuple[str, ...]:
        return self.stage.words(overwrite=self.overwrite)


def _show_commands(stages: tuple[Stage, ...], records: Records, *, as_json: bool) -> None:
    """Print each stage's command line, behind what is known of it."""
    steps: list[_Step] = []
    for stage in stages:
        step = _step(stage, records, steps)
        steps.append(step)
    if as_json:
        rows = [{"stage": s.stage.name, "state": s.need.value, "command": ["stpipe", *s.words]} for s in steps]
        click.echo(json.dumps(rows, indent=2))
        return
    for step in steps:
        tell(f"# {step.stage.name}: {step.need.value}")
        tell(shlex.join(["stpipe", *step.words]))


def _step(stage: Stage, records: Records, before: list[_Step]) -> _Step:
    """Return what a stage needs; what a stage before is about to make anew is as good as changed."""
    from stpipe.cli.pipeline.records import Need

    need = records.need(stage)
    remade = {str(step.stage.output) for step in before if step.need is not Need.NOTHING}
    if need in {Need.NOTHING, Need.GO_ON} and remade & set(stage.source):
        need = Need.AGAIN
    return _Step(stage, need, _overwrites(stage, need))


def _overwrites(stage: Stage, need: Need) -> bool:
    """Whether a stage needs --overwrite: it replaces what the record says is this pipeline's own, and nothing else."""
    from stpipe.cli.pipeline.records import Need

    if need in {Need.NOTHING, Need.BEGIN} or not stage.output.exists():
        return False
    return need is Need.AGAIN or stage.name != "fill" or not _goes_on(stage)


def _goes_on(stage: Stage) -> bool:
    """Whether what an interrupted fill left can be gone on with: it may have stopped before it cleared older things."""
    from stpipe.cli.options import fill_options
    from stpipe.cli.pipeline.keys import command_of
    from stpipe.cli.scene_plan import begin, prepare

    verb, *words = stage.words()
    parameters: dict[str, Any] = dict(command_of(stage.name).make_context(verb, list(words)).params)
    parameters.pop("as_json")
    prepared = prepare(fill_options(**parameters))
    try:
        begin(prepared)
    except OutputError:
        return False
    return True


def _do_all(
    pipeline: Pipeline, stages: tuple[Stage, ...], records: Records, *, as_json: bool
) -> Iterator[dict[str, Any]]:
    """Do what is to be done, and yield what became of each stage."""
    from stpipe.cli.pipeline.records import Need

    worked = False
    for stage in stages:
        try:
            # What a stage before has made is there now, so that the record alone decides.
            step = _step(stage, records, [])
            if step.need is Need.NOTHING:
                _say(f"{stage.name}: done already: {stage.output}")
                yield _told(step, records, None)
                continue
            _say(f"{stage.name}: {shlex.join(['stpipe', *step.words])}")
            yield _do(step, records, as_json=as_json)
        except StpipeError as error:
            raise _explained(error, stage, worked=worked) from error
        if stage.name == "ingest":
            for hint in _unheeded(pipeline, stage):
                _say(f"stpipe: warning: {hint}")
        worked = True


def _do(step: _Step, records: Records, *, as_json: bool) -> dict[str, Any]:
    from stpipe.cli.pipeline.commands import do_stage
    from stpipe.cli.pipeline.records import Need

    stage, began = step.stage, time.perf_counter()
    if stage.name == "mosaic" and step.need is Need.AGAIN:
        _clear_mosaic(stage)
    earlier = records.stages.get(stage.name)
    new = not records.folder.exists()
    records.folder.mkdir(parents=True, exist_ok=True)
    records.begin(stage, step.words)
    try:
        result = do_stage(stage, overwrite=step.overwrite, as_json=as_json)
    except RefusedError:
        # Nothing was done, so that nothing is to be remembered of it.
        records.restore(stage, earlier)
        if new and not any(records.folder.iterdir()):
            records.folder.rmdir()
        raise
    records.finish(stage, time.perf_counter() - began)
    return _told(step, records, result)


def _clear_mosaic(stage: Stage) -> None:
    """Remove the files of an earlier mosaic: other dates or variables would else stay among the new ones."""
    from stpipe.io.geotiff import is_mosaic_file

    if stage.output.is_symlink():
        raise OutputError(f"{stage.output} is a link, and nothing is removed through one")
    for path in sorted(stage.output.rglob("*")):
        if path.is_file() and is_mosaic_file(path):
            path.unlink()


def _told(step: _Step, records: Records, result: Any) -> dict[str, Any]:
    from stpipe.cli.pipeline.records import Need

    stage = step.stage
    told = {
        "stage": stage.name,
        "already": step.need is Need.NOTHING,
        "command": ["stpipe", *step.words],
        "output": str(stage.output),
        "seconds": records.stages[stage.name]["seconds"],
    }
    return told if result is None else {**told, "result": result}


def _explained(error: StpipeError, stage: Stage, *, worked: bool) -> StpipeError:
    """Return an error that names the stage; one that comes after work was done is no refusal of the whole."""
    from stpipe.cli.pipeline.records import RECORD

    message = stage.located(error)
    if isinstance(error, OutputError):
        message += f"; stpipe run replaces nothing but what {RECORD} in its folder lists"
    if isinstance(error, RefusedError) and worked:
        return RunError(f"{message}; what the stages before made is kept")
    return type(error)(message)


def _unheeded(pipeline: Pipeline, ingest: Stage) -> Iterator[str]:
    """Yield what to say of quality layers in the new cube that no rule heeds."""
    from stpipe.io.cube import open_source
    from stpipe.io.inspection import product_hints

    if not any(setting.key in RULES for stage in pipeline.stages for setting in pipeline.of(stage)):
        yield from product_hints(open_source(ingest.output))


def _say(line: str) -> None:
    tell(line, err=True)
