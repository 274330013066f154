"""A command line for each stage, just as a user would type it, and its run in this very process."""

from __future__ import annotations

import glob
import io
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from stpipe.cli.pipeline.files import Pipeline, Setting
from stpipe.cli.pipeline.keys import VERB_OF, checked, command_of, keys_of
from stpipe.errors import MissingFileError, OptionError, StpipeError

OUTPUTS = {"ingest": "cube.zarr", "gaps": "gaps", "fill": "filled", "mosaic": "geotiff"}
"""Where each stage writes, in the folder of the run."""

IDLE = frozenset({"workers", "scheduler", "cluster", "shard", "memory-limit", "keep-work", "log", "block-timeout"})
"""Keys that say how the work is done, and not what comes out."""

FILES = frozenset({"src", "cube", "align", "model", "guide"})
"""Keys that may name files and folders to read, besides those that click knows to be paths."""

SOURCES = frozenset({"src", "cube", "guide", "aoi", "coefficients"})
"""Those of them that are nothing but places of what is there before."""

_OPTION = re.compile(r"--([a-z][a-z-]*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage, ready to be done."""

    name: str
    """One of `STAGES`."""

    place: str
    """Where it stands."""

    settings: tuple[Setting, ...]
    """What is said of it."""

    source: tuple[str, ...]
    """What its verb is given to read."""

    options: tuple[str, ...]
    """The other words."""

    output: Path
    """Where it writes."""

    def words(self, *, overwrite: bool = False) -> tuple[str, ...]:
        """Return its command line, without ``stpipe``."""
        end = ("--overwrite",) if overwrite else ()
        return (VERB_OF[self.name], *self.source, "-o", str(self.output), *self.options, *end)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Paths, patterns and addresses that it reads."""
        return (*self.source, *(value for s in self.settings if self._names_files(s) for value in s.values))

    @property
    def identity(self) -> dict[str, Any]:
        """What decides its products, besides the inputs."""
        said = [s for s in self.settings if s.key not in IDLE and not self._names_files(s)]
        implied = [word for word in self.options if word not in {w for s in self.settings for w in checked(s)}]
        return {"verb": VERB_OF[self.name], "settings": {s.key: s.values for s in said}, "implied": implied}

    def _names_files(self, setting: Setting) -> bool:
        if setting.key in IDLE:
            return False
        return setting.key in FILES or isinstance(keys_of(self.name)[setting.key].type, click.Path)

    def place_of(self, message: str) -> str:
        """Return where the option is said that a message is about; where the stage stands if none is."""
        places = {setting.key: setting.place for setting in self.settings}
        return next((places[key] for key in _OPTION.findall(message) if key in places), self.place)

    def located(self, error: StpipeError) -> str:
        """Return a message with the place of what it is about."""
        return f"{self.place_of(str(error))}: {self.name}: {error}"


def plan_stages(pipeline: Pipeline, folder: Path) -> tuple[Stage, ...]:
    """Return the stages of a pipeline, all that can be checked before any work checked.

    Parameters
    ----------
    pipeline : Pipeline
        With what ``--set`` says.
    folder : Path
        Where all products go.

    Raises
    ------
    OptionError
        If a key, a value or an input is not right; one line with its place.
    """
    # Stages that are left out are read all the same: a wrong key is wrong.
    for setting in pipeline.settings:
        checked(setting)
    if not pipeline.stages:
        raise OptionError(f"{pipeline.path.name}: every stage is off; take one in with --set STAGE=on")
    stages: list[Stage] = []
    made: tuple[str, ...] = ()
    for name, place in pipeline.stages.items():
        settings = pipeline.of(name)
        input_key = "src" if name == "ingest" else "cube"
        given = [setting for setting in settings if setting.key == input_key]
        source = checked(given[0]) if given else made
        if not source:
            raise OptionError(
                f"{place}: {name} has nothing to read; name it with --set {name}.{input_key}="
                f"{'FOLDER' if name == 'ingest' else 'CUBE'}"
            )
        options = [word for setting in settings if setting.key != input_key for word in checked(setting)]
        if name == "fill" and "mosaic" in pipeline.stages and all(s.key != "no-geotiff" for s in settings):
            options.append("--no-geotiff")  # the mosaic makes them
        output = folder / OUTPUTS[name]
        stage = Stage(name=name, place=place, settings=settings, source=source, options=tuple(options), output=output)
        _check_together(stage)
        stages.append(stage)
        # Gap statistics change nothing: what comes after them reads what they have read.
        made = source if name == "gaps" else (str(output),)
    return tuple(stages)


def check_inputs(stages: Sequence[Stage]) -> None:
    """Refuse a run whose inputs are not there, save those that a stage before makes.

    Raises
    ------
    MissingFileError
        If a path leads nowhere, or a pattern matches nothing.
    """
    from stpipe.execution.storage import is_remote
    from stpipe.io.stored import beside

    made = {str(stage.output) for stage in stages}
    for stage in stages:
        places = {value: s for s in stage.settings if s.key in SOURCES for value in s.values}
        for source in (*stage.source, *places):
            path = Path(source).expanduser()
            if source in made or is_remote(source) or path.exists() or glob.glob(str(path), recursive=True):  # noqa: PTH207
                continue
            what = "" if source in stage.source else f"--{places[source].key}: "
            where = places[source].place if source in places else stage.place
            raise MissingFileError(f"{where}: {stage.name}: {what}there is no file or folder {source}{beside(path)}")


def _check_together(stage: Stage) -> None:
    """Check what no option tells by itself, as far as it shows without the cube."""
    verb, *words = stage.words()
    try:
        parameters: dict[str, Any] = dict(command_of(stage.name).make_context(verb, list(words)).params)
        if stage.name == "fill":
            _check_fill(parameters)
    except click.UsageError as error:
        raise OptionError(f"{stage.place_of(error.format_message())}: {stage.name}: {error.format_message()}") from None
    except StpipeError as error:
        raise type(error)(stage.located(error)) from error


def _check_fill(parameters: dict[str, Any]) -> None:
    from stpipe.cli.options import fill_options
    from stpipe.core.plan import check_max_gap
    from stpipe.methods import make_filler
    from stpipe.methods.guided import NAME as GUIDED
    from stpipe.methods.sar.options import NAME as SAR
    from stpipe.methods.with_guides import check_method

    parameters.pop("as_json")
    options = fill_options(**parameters)
    check_max_gap(options.max_gap, "--max-gap")
    if not 0 < options.interval < 1:
        raise OptionError(f"--interval is a share between 0 and 1, got {options.interval:g}")
    check_method(options.method, guided=bool(options.guides), tune=options.tune)
    if options.method not in {GUIDED, SAR}:  # which need the guides' cubes
        make_filler(options.method, model=options.model, coverage=options.interval, tune=options.tune)


def do_stage(stage: Stage, *, overwrite: bool, as_json: bool) -> Mapping[str, Any] | None:
    """Do a stage as its verb does; return what the verb prints with ``--json`` if that is asked for.

    What it says of itself goes to stdout else, just as if its command line had been typed.
    """
    verb, *words = stage.words(overwrite=overwrite)
    command = command_of(stage.name)
    if not as_json:
        with command.make_context(f"stpipe {verb}", list(words), obj=(verb, *words)) as context:
            command.invoke(context)
        return None
    said = io.StringIO()
    words = [*words, "--json"]
    with redirect_stdout(said), command.make_context(f"stpipe {verb}", list(words), obj=(verb, *words)) as context:
        command.invoke(context)
    result: Mapping[str, Any] = json.loads(said.getvalue())
    return result
