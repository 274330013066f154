"""What a stage may say: the options of its verb, from the verb itself, so that nobody learns two vocabularies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from typing import Any

import click

from stpipe.cli.main import VERBS
from stpipe.cli.options import parse_period, parse_range, parse_size, parse_triple
from stpipe.cli.pipeline.files import STAGES, Setting, nearest
from stpipe.cli.trust import parse_trust
from stpipe.core.compositing import Period
from stpipe.core.gap_statistics import parse_percentiles
from stpipe.errors import OptionError
from stpipe.methods import METHODS
from stpipe.methods.guided import NAME as GUIDED
from stpipe.methods.sar.options import NAME as SAR

VERB_OF = {"ingest": "ingest", "gaps": "gaps", "fill": "fill-scene", "mosaic": "mosaic"}
"""The verb of each stage."""

DECIDED = frozenset({"output", "overwrite", "resume", "json"})
"""Options that `stpipe run` gives itself: it says where a stage writes, and whether it begins anew or goes on."""


def _check_method(text: str) -> None:
    """Refuse a method that there is not."""
    names = (*METHODS, GUIDED, SAR)
    if text not in names:
        raise OptionError(f"there is no {text!r}{nearest(text, names)}")


READERS: Mapping[str, Callable[[str], object]] = {
    "time": lambda text: parse_period("--time", text),
    "block": lambda text: parse_triple("--block", text),
    "overlap": lambda text: parse_triple("--overlap", text),
    "chunks": lambda text: parse_triple("--chunks", text),
    "valid-range": lambda text: parse_range("--valid-range", text),
    "memory-limit": lambda text: parse_size("--memory-limit", text),
    "percentiles": lambda text: parse_percentiles("--percentiles", text),
    "every": Period.parse,
    "qa": lambda text: parse_trust([text], [], [], 0),
    "keep": lambda text: parse_trust([], [text], [], 0),
    "drop": lambda text: parse_trust([], [], [text], 0),
    "method": _check_method,
}
"""What reads the values whose form click doesn't know; an option means the same in every verb."""

_FLAG = click.BOOL


@cache
def command_of(stage: str) -> click.Command:
    """Return the verb that does a stage."""
    command: click.Command = import_module(VERBS[VERB_OF[stage]].module).command
    return command


@cache
def keys_of(stage: str) -> dict[str, click.Parameter]:
    """Return the parameters of a stage's verb by their keys: an option's long name, or an argument's.

    >>> sorted(keys_of("mosaic"))
    ['cube', 'json', 'layout', 'memory-limit', 'output', 'overwrite', 'var']
    >>> "src" in keys_of("ingest"), "tune" in keys_of("fill")
    (True, True)
    """
    found = {}
    for parameter in command_of(stage).params:
        if isinstance(parameter, click.Argument):
            key = (parameter.metavar or parameter.name or "").rstrip(".").lower()
        else:
            key = next(option[2:] for option in parameter.opts if option.startswith("--"))
        found[key] = parameter
    return found


def checked(setting: Setting) -> tuple[str, ...]:
    """Return the words that a setting is on a command line, or refuse it.

    Raises
    ------
    OptionError
        If there is no such key, or the value is not one that it can have: with its place, and the nearest right key
        or what is allowed.

    Examples
    --------
    >>> checked(Setting(stage="fill", key="block", values=("16", "64", "64"), place="p.yaml, line 7"))
    ('--block', '16,64,64')
    >>> checked(Setting(stage="fill", key="tune", values=("off",), place="p.yaml, line 8"))
    ('--no-tune',)
    """
    parameter = _parameter(setting)
    if not setting.values:
        return ()
    if isinstance(parameter, click.Option) and parameter.is_flag:
        return _flag(parameter, setting)
    several = parameter.nargs == -1 or (isinstance(parameter, click.Option) and parameter.multiple)
    if isinstance(parameter, click.Argument) and not several and len(setting.values) > 1:
        raise OptionError(f"{setting.place}: {setting.name} takes one value, got {len(setting.values)}")
    # A list is how YAML says T,Y,X.
    values = setting.values if several else (",".join(setting.values),)
    words: list[str] = []
    for value in values:
        _check_value(setting, parameter, value)
        if isinstance(parameter, click.Argument):
            words.append(value)
        else:
            # What begins with a dash would be taken for an option.
            words += [f"--{setting.key}={value}"] if value.startswith("-") else [f"--{setting.key}", value]
    return tuple(words)


def _parameter(setting: Setting) -> click.Parameter:
    keys = keys_of(setting.stage)
    if setting.key in DECIDED and setting.key in keys:
        raise OptionError(
            f"{setting.place}: {setting.name} is for stpipe run to say; name the folder of all products with -o"
        )
    if setting.key not in keys:
        known = sorted(keys.keys() - DECIDED)
        elsewhere = [stage for stage in STAGES if setting.key in keys_of(stage).keys() - DECIDED]
        hint = nearest(setting.key, known)
        if elsewhere and not hint.startswith("; did"):
            hint = f"; {' and '.join(elsewhere)} has it"
        raise OptionError(f"{setting.place}: {setting.stage} has no key {setting.key!r}{hint}")
    return keys[setting.key]


def _flag(option: click.Option, setting: Setting) -> tuple[str, ...]:
    text = ",".join(setting.values)
    try:
        on = bool(_FLAG.convert(text, option, None))
    except click.BadParameter:
        raise OptionError(f"{setting.place}: {setting.name} is on or off, got {text!r}") from None
    if on:
        return (f"--{setting.key}",)
    return tuple(option.secondary_opts[:1])


def _check_value(setting: Setting, parameter: click.Parameter, value: str) -> None:
    try:
        _convert(parameter, value)
        reader = READERS.get(setting.key)
        if reader is not None:
            reader(value)
    except click.BadParameter as error:
        raise OptionError(f"{setting.place}: {setting.name}: {error.message.rstrip('.')}") from None
    except OptionError as error:
        raise OptionError(f"{setting.place}: {setting.name}: {error}") from None


def _convert(parameter: click.Parameter, value: str) -> Any:
    return parameter.type.convert(value, parameter, None)
