"""Arguments of the functions that users call, checked before any work: what the command line refuses, they do too.

Both refuse and warn by the same code, which speaks of the options of the command line; `by_arguments` has a function
speak of its own arguments.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from functools import wraps
from math import nan
from numbers import Integral, Real
from typing import ParamSpec, TypeVar

from stpipe.core.windows import Triple, triple
from stpipe.errors import OptionError, StpipeError

P = ParamSpec("P")
R = TypeVar("R")

_OPTION = re.compile(r"--([a-z]+(?:-[a-z]+)*)")

_OTHER_NAMES = {"var": ("variables",), "method": ("methods",)}
"""What arguments are called that have another name than the option."""


_WORDS: ContextVar[Callable[[str], str]] = ContextVar("words", default=str)
"""Puts a line into the words of the function that the user has called."""


def by_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function's refusals and warnings name its arguments instead of the command line's options.

    Options that it has no argument for stay as they are.

    Examples
    --------
    >>> @by_arguments
    ... def fill(variables=None, tune=None):
    ...     raise OptionError("choose others with --var, leave --no-tune out, or look at a part with --time")
    >>> fill()
    Traceback (most recent call last):
        ...
    stpipe.errors.OptionError: choose others with variables, leave tune=False out, or look at a part with --time
    """
    there = inspect.signature(function).parameters

    def argument(found: re.Match[str]) -> str:
        name = found[1].replace("-", "_")
        if name.removeprefix("no_") in there and name.startswith("no_"):
            return f"{name.removeprefix('no_')}=False"
        return next((known for known in (name, *_OTHER_NAMES.get(name, ())) if known in there), found[0])

    def words(line: str) -> str:
        return _OPTION.sub(argument, line)

    @wraps(function)
    def speaking(*args: P.args, **kwargs: P.kwargs) -> R:
        before = _WORDS.set(words)
        try:
            return function(*args, **kwargs)
        except StpipeError as error:
            error.args = tuple(words(part) if isinstance(part, str) else part for part in error.args)
            raise
        finally:
            _WORDS.reset(before)

    return speaking


def warn(line: str) -> None:
    """Warn the user of a function of stpipe, at the line that called it."""
    depth, frame = 2, inspect.currentframe()
    while (frame := frame and frame.f_back) and frame.f_globals.get("__name__", "").startswith("stpipe."):
        depth += 1
    warnings.warn(_WORDS.get()(line), UserWarning, stacklevel=depth)


def checked_range(limits: tuple[float, float] | None, argument: str = "valid_range") -> tuple[float, float] | None:
    """Return (low, high) as floats; either may be infinite.

    Raises
    ------
    OptionError
        If these are no two numbers, the lower one first.

    Examples
    --------
    >>> checked_range((0, 1))
    (0.0, 1.0)
    """
    if limits is None:
        return None
    given: tuple[object, ...] = tuple(limits) if isinstance(limits, Iterable) else ()
    low, high = (float(one) if isinstance(one, Real) else nan for one in (given if len(given) == 2 else (None, None)))
    if not low <= high:
        raise OptionError(f"{argument} needs two numbers (low, high) with low <= high, got {limits!r}")
    return low, high


def checked_names(names: str | Sequence[str] | None, argument: str) -> tuple[str, ...] | None:
    """Return one name, or several, as a tuple; None stays None.

    Raises
    ------
    OptionError
        If there are none.

    Examples
    --------
    >>> checked_names("ndvi", "variables"), checked_names(None, "variables")
    (('ndvi',), None)
    """
    if names is None:
        return None
    found = (names,) if isinstance(names, str) else tuple(names)
    if not found:
        raise OptionError(f"{argument} names nothing; leave it out for all")
    return found


def checked_numbers(numbers: float | Sequence[float], argument: str) -> tuple[float, ...]:
    """Return one number, or several, as a tuple of floats.

    Raises
    ------
    OptionError
        If anything else is among them.

    Examples
    --------
    >>> checked_numbers(50, "percentiles"), checked_numbers([10, 90], "percentiles")
    ((50.0,), (10.0, 90.0))
    """
    found = (numbers,) if isinstance(numbers, Real) else numbers
    if isinstance(found, str) or not isinstance(found, Iterable):
        raise OptionError(f"{argument} needs numbers, such as [10, 90], got {numbers!r}")
    parts = tuple(found)
    if not all(isinstance(part, Real) for part in parts):
        raise OptionError(f"{argument} needs numbers, such as [10, 90], got {numbers!r}")
    return tuple(float(part) for part in parts)


def checked_count(number: object, argument: str, least: int) -> int:
    """Return a whole number that is large enough.

    Raises
    ------
    OptionError
        If it is not.
    """
    if not isinstance(number, Integral) or number < least:
        raise OptionError(f"{argument} needs a whole number of at least {least}, got {number!r}")
    return int(number)


def checked_triple(numbers: Triple | None, argument: str) -> Triple | None:
    """Return (time, y, x) as whole numbers; None stays None.

    Raises
    ------
    OptionError
        If these are not three.
    """
    if numbers is None:
        return None
    parts = tuple(numbers) if isinstance(numbers, Sequence) and not isinstance(numbers, str) else ()
    if len(parts) != 3 or not all(isinstance(part, Integral) for part in parts):
        raise OptionError(f"{argument} needs three whole numbers (time, y, x), got {numbers!r}")
    return triple(parts)
