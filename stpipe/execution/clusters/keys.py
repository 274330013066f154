"""Keys and values of a cluster's file, each checked by itself, and messages that say where they stand."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import pairwise
from typing import Any, cast

from dask.utils import format_bytes, parse_bytes, parse_timedelta

from stpipe.core.sizes import MIB
from stpipe.errors import OptionError

LEAST_MEMORY = 256 * MIB
"""Bytes of a worker; one with less can't even load what it needs, and the number's unit was forgotten."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a key stands, for messages."""

    name: str
    """The file, as the user calls it."""

    lines: Mapping[tuple[str, ...], int]
    """The line of each key by its path."""

    def refuse(self, path: Sequence[str], message: str) -> OptionError:
        """Return the refusal of a key, with the line where it stands."""
        # Of a key that is missing, the nearest one around it.
        around = next((n for end in range(len(path), 0, -1) if (n := self.lines.get(tuple(path[:end])))), None)
        line = "" if around is None else f", line {around}"
        return OptionError(f"{self.name}{line}: {'.'.join(path)}{' ' if path else ''}{message}")


def nearest(name: str, known: Sequence[str]) -> str:
    """Return the tail of a message about a key that does not exist.

    >>> nearest("memmory", ["cores", "memory"]), nearest("x", ["cores", "memory"])
    ("did you mean 'memory'?", 'there are cores, memory')
    """
    near = get_close_matches(name.lower(), known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(known))}"


def table_of(place: Place, path: Sequence[str], value: Any) -> dict[str, Any]:
    """Return the keys and values of what has to hold some."""
    if not isinstance(value, Mapping):
        what = "holds" if path else "a cluster's file holds"
        raise place.refuse(path, f"{what} keys and values, got {shown(value)}")
    return {str(key): each for key, each in value.items()}


def check_keys(place: Place, path: Sequence[str], table: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse a key that there is not, with the nearest one that there is."""
    for key in table:
        if key not in known:
            raise place.refuse((*path, key), f"is no key that is known; {nearest(key, known)}")


def shown(value: Any) -> str:
    """Return a value as messages show it."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def a_count(value: Any, least: int = 1) -> int:
    """Return a whole number."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"needs a whole number, {least} or more")
    return value


def a_text(value: Any) -> str:
    """Return a line of text."""
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError("needs a word or a line of text; put what looks like a number into quotes")
    return value


def texts(value: Any) -> list[str]:
    """Return a list of lines."""
    if not isinstance(value, list | tuple):
        raise ValueError("needs a list of lines")  # noqa: TRY004 - checked gives it its place
    return [a_text(str(each) if isinstance(each, int | float) else each) for each in value]


def a_flag(value: Any) -> bool:
    """Return true or false."""
    if not isinstance(value, bool):
        raise ValueError("is true or false")  # noqa: TRY004 - checked gives it its place
    return value


def a_size(value: Any) -> str | int:
    """Return a size, as it is written."""
    try:
        size = parse_bytes(value) if isinstance(value, str) else a_count(value)
    except ValueError:
        size = 0
    if size < LEAST_MEMORY:
        raise ValueError(f"needs a size such as 4GiB, at least {format_bytes(LEAST_MEMORY)}")
    return cast("str | int", value)


def a_time(value: Any) -> Any:
    """Return a time, as it is written."""
    try:
        seconds = parse_timedelta(value)
    except (KeyError, ValueError, TypeError, AttributeError):
        seconds = None
    if isinstance(value, bool) or seconds is None or not seconds > 0:
        raise ValueError("needs a time such as 60s or 5 minutes")
    return value


def a_table(value: Any) -> dict[str, Any]:
    """Return keys and values."""
    if not isinstance(value, Mapping):
        raise ValueError("holds keys and values")  # noqa: TRY004 - checked gives it its place
    return dict(value)


def anything(value: Any) -> Any:
    """Return whatever it is."""
    return value


Check = Callable[[Any], Any]
"""Returns a value, or raises ValueError with what it needs to be."""


def checked(place: Place, path: Sequence[str], table: Mapping[str, Any], checks: Mapping[str, Check]) -> dict[str, Any]:
    """Return a table's keys that have a value, each checked."""
    check_keys(place, path, table, tuple(checks))
    found = {}
    for key, value in table.items():
        if value is None:
            continue
        try:
            found[key] = checks[key](value)
        except ValueError as error:
            raise place.refuse((*path, key), f"{error}, got {shown(value)}") from None
    return found


def bounds_of(place: Place, settings: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the fewest and the most workers of what is adaptive, or None where nothing is said of it."""
    names = ("distributed.adaptive.minimum", "distributed.adaptive.maximum")
    low, high = (settings.get(name) for name in names)
    for name, value, least in zip(names, (low, high), (0, 1), strict=True):
        if value is not None:
            try:
                a_count(value, least)
            except ValueError as error:
                raise place.refuse(name.split("."), f"{error}, got {shown(value)}") from None
    if high is None:
        if low is not None:
            raise place.refuse(names[0].split("."), "needs a maximum beside it")
        return None
    if (low or 0) > high:
        raise place.refuse(names[0].split("."), f"is {low}, which is more than the maximum, {high}")
    return low or 0, high


def needed_bounds(place: Place, settings: Mapping[str, Any]) -> tuple[int, int]:
    """Return the fewest and the most workers, which have to be said."""
    bounds = bounds_of(place, settings)
    if bounds is None:
        raise place.refuse(("distributed", "adaptive", "maximum"), "has to say how many workers there may be")
    return bounds


def arguments_of(words: Sequence[str]) -> dict[str, str]:
    """Return the values of the options in a command line, whether behind a space or an equals sign.

    >>> arguments_of(["--lifetime", "55m", "--lifetime-stagger=4m"])
    {'--lifetime': '55m', '--lifetime-stagger': '4m'}
    """
    flat = [
        part for word in words for part in (re.split("[= ]", word, maxsplit=1) if word.startswith("--") else [word])
    ]
    return {name: value for name, value in pairwise(flat) if name.startswith("--")}
