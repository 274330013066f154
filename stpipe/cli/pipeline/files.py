"""Pipelines as they are written: YAML of stages with keys and values, and where each of them stands.

A value is the text that one would type behind the option. YAML's own ideas of numbers and dates are left out of it:
``2023-06-01`` and ``1e-3`` stay what they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from stpipe.cli.yaml_files import check_tokens, read_text
from stpipe.errors import MissingFileError, OptionError
from stpipe.resources import shelf

STAGES = ("ingest", "gaps", "fill", "mosaic")
"""What a pipeline may hold, in the order in which it is done."""

ABOUT = "about"
"""Key of the line that says what a pipeline is for."""

SUFFIXES = (".yaml", ".yml")

WHAT = "a pipeline"
"""What a file is called in messages."""

_SWITCH = {"on": True, "yes": True, "true": True, "off": False, "no": False, "false": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A key with its values."""

    stage: str
    """One of `STAGES`."""

    key: str
    """An option of the stage's verb, without its dashes."""

    values: tuple[str, ...]
    """What is given to it, as text; empty if it is to be as if it were not there."""

    place: str
    """Where it is said: a file and its line, or the words of ``--set``."""

    @property
    def name(self) -> str:
        """The key with its stage, as ``--set`` takes it."""
        return f"{self.stage}.{self.key}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """Stages with their settings; whether they make sense is not known yet."""

    name: str
    """The file's name without its ending."""

    path: Path
    """The file."""

    about: str = ""
    """What it is for, in a line."""

    stages: Mapping[str, str] = field(default_factory=dict)
    """Where each stage stands that is to be done, in the order of `STAGES`."""

    settings: tuple[Setting, ...] = ()
    """Settings of all stages, those that are not done too."""

    def of(self, stage: str) -> tuple[Setting, ...]:
        """Return the settings of a stage that have a value."""
        return tuple(setting for setting in self.settings if setting.stage == stage and setting.values)

    def with_words(self, words: Sequence[str]) -> Pipeline:
        """Return the pipeline with what ``--set`` says in place of what stands in the file.

        A key that is given several times has all of these values; one without a value is taken away. ``STAGE=off``
        leaves a stage out, and ``STAGE=on``, or any key of it, takes it in.

        Examples
        --------
        >>> plain = Pipeline(name="p", path=Path("p.yaml"))
        >>> changed = plain.with_words(["gaps=on", "gaps.var=ndvi", "gaps.var=evi"])
        >>> tuple(changed.stages), changed.of("gaps")[0].values
        (('gaps',), ('ndvi', 'evi'))
        """
        stages = dict(self.stages)
        said: dict[tuple[str, str], Setting] = {}
        switched: set[str] = set()
        for word in words:
            place = f"--set {word}"
            name, equals, value = word.partition("=")
            stage, dot, key = (part.strip() for part in name.partition("."))
            if not equals or not stage:
                raise OptionError(f"{place}: --set needs STAGE.KEY=VALUE, such as --set ingest.src=FOLDER")
            if stage not in STAGES and not dot:
                raise OptionError(f"{place}: a key stands behind its stage, such as {STAGES[0]}.{stage}={value}")
            if stage not in STAGES:
                raise OptionError(f"{place}: {_no_stage(stage)}")
            if dot and key:
                earlier = said.get((stage, key))
                values = (*(() if earlier is None else earlier.values), *([value] if value else []))
                said[stage, key] = Setting(stage=stage, key=key, values=values, place=place)
            elif value.strip().lower() not in _SWITCH:
                raise OptionError(f"{place}: a stage is on or off; a key of it is set as {stage}.KEY=VALUE")
            else:
                switched.add(stage)
                stages.pop(stage, None)
                if _SWITCH[value.strip().lower()]:
                    stages[stage] = self.stages.get(stage, place)
        for (stage, _), setting in said.items():
            if setting.values and stage not in switched:
                stages.setdefault(stage, setting.place)
        kept = [setting for setting in self.settings if (setting.stage, setting.key) not in said]
        ordered = {stage: stages[stage] for stage in STAGES if stage in stages}
        return replace(self, stages=ordered, settings=(*kept, *said.values()))


def _no_stage(name: str) -> str:
    return f"there is no stage {name!r}{nearest(name, STAGES)}"


def nearest(name: str, known: Sequence[str]) -> str:
    """Return the tail of a message about a name that does not exist.

    >>> nearest("fil", ["gaps", "fill"]), nearest("x", ["gaps", "fill"])
    ("; did you mean 'fill'?", '; there are gaps, fill')
    """
    near = get_close_matches(name.replace("_", "-").lower(), known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}"


# --- files -------------------------------------------------------------------------------------------------------


def shipped_pipelines() -> dict[str, Path]:
    """Return the pipelines that come with stpipe, by their names.

    >>> "s2-ndvi" in shipped_pipelines(), "demo" in shipped_pipelines()
    (True, False)
    """
    files = sorted(path for suffix in SUFFIXES for path in shelf("pipelines").glob(f"*{suffix}"))
    return {path.stem: path for path in files if _holds_stages(path)}


def _holds_stages(path: Path) -> bool:
    """Whether a file is a pipeline, and not the demo's description of its scene."""
    import yaml

    root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    return isinstance(root, yaml.MappingNode) and any(key.value in STAGES for key, _ in root.value)


def find_pipeline(name: str) -> Path:
    """Return the file of a pipeline by its name or its path.

    Raises
    ------
    MissingFileError
        If there is none; the message lists those that there are.
    """
    place = Path(name).expanduser()
    if place.suffix in SUFFIXES or place.name != name:
        if place.is_file():
            return place
        if place.exists():
            raise MissingFileError(f"{name} is no pipeline{_to_read(name)}")
        from stpipe.io.stored import beside

        raise MissingFileError(
            f"there is no file {name}{beside(place)}; pipelines that come with stpipe are {_listed()}"
        )
    known = shipped_pipelines()
    if name in known:
        return known[name]
    if place.is_dir():
        raise MissingFileError(f"{name} is no pipeline{_to_read(name)}")
    here = f"; for the file of that name here, say ./{name}" if place.is_file() else ""
    raise MissingFileError(f"no pipeline {name!r}{nearest(name, list(known))}{here}")


def _to_read(name: str) -> str:
    """Return the tail of a message about a folder in the place of a pipeline."""
    return f"; to read it: stpipe run NAME --set ingest.src={name}, where NAME is one of {_listed()}"


def _listed() -> str:
    return ", ".join(shipped_pipelines())


def read_pipeline(path: Path) -> Pipeline:
    """Return what a file says, with the line of each key.

    Raises
    ------
    OptionError
        If it is no YAML, or no stages with keys and values.
    """
    import yaml

    text = read_text(path, WHAT)
    try:
        check_tokens(text, path.name, WHAT, aliases=True)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark is not None else ""
        problem = error.problem or error.context
        tab = "; indent with spaces, not with tabs" if "'\\t'" in str(problem) else ""
        raise OptionError(f"{path.name}{line}: this is not YAML: {problem}{tab}") from error
    except yaml.YAMLError as error:
        raise OptionError(f"{path.name}: this is not YAML: {error}") from error
    if root is None:
        raise OptionError(f"{path.name} holds no stage; there are {', '.join(STAGES)}")
    about, stages, settings = "", {}, []
    for key, node, place in _pairs(root, path.name, f"a pipeline holds {ABOUT} and stages"):
        if key == ABOUT:
            about = " ".join(_scalars(node, place, key))
            continue
        if key not in STAGES:
            raise OptionError(f"{place}: a pipeline has no key {key!r}{nearest(key, [ABOUT, *STAGES])}")
        if not isinstance(node, yaml.ScalarNode):
            stages[key] = place
            for inner, value, where in _pairs(node, path.name, f"{key} holds keys and values"):
                settings.append(Setting(stage=key, key=inner, values=tuple(_scalars(value, where, inner)), place=where))
        elif _is_null(node) or _SWITCH.get(node.value.lower()) is True:
            stages[key] = place
        elif _SWITCH.get(node.value.lower()) is None:
            raise OptionError(f"{place}: {key} holds keys and values, or is on or off, got {node.value!r}")
    if not stages:
        raise OptionError(f"{path.name} holds no stage; there are {', '.join(STAGES)}")
    ordered = {stage: stages[stage] for stage in STAGES if stage in stages}
    return Pipeline(name=path.stem, path=path, about=about, stages=ordered, settings=tuple(settings))


def _pairs(node: Any, file: str, expected: str) -> Iterator[tuple[str, Any, str]]:
    """Yield key, value and place of a mapping; refuse anything else, and keys that come twice."""
    import yaml

    place = f"{file}, line {node.start_mark.line + 1}"
    if not isinstance(node, yaml.MappingNode):
        raise OptionError(f"{place}: {expected}, as KEY: VALUE")
    seen: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        where = f"{file}, line {line}"
        if not isinstance(key, yaml.ScalarNode):
            raise OptionError(f"{where}: a key is a word, followed by a colon")
        if key.value in seen:
            raise OptionError(f"{where}: {key.value!r} stands in line {seen[key.value]} already")
        seen[key.value] = line
        yield key.value, value, where


def _scalars(node: Any, place: str, key: str) -> list[str]:
    """Return the value, or the values of a list, as they are written; none for an empty one."""
    import yaml

    nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
    if not all(isinstance(each, yaml.ScalarNode) for each in nodes):
        raise OptionError(f"{place}: {key} takes a value, or a list of values")
    if any("\0" in each.value for each in nodes):
        raise OptionError(f"{place}: {key} has a null character, which no option can have")
    return [each.value for each in nodes if not _is_null(each)]


def _is_null(node: Any) -> bool:
    return bool(node.tag == "tag:yaml.org,2002:null" or node.value == "")
