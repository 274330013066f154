"""Arguments of the functions that users call, checked before any work: what the command line refuses, they do too."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import nan
from numbers import Integral, Real

from stpipe.core.windows import Triple, triple
from stpipe.errors import OptionError


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
