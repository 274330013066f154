"""Spectral indices, by the formulas of spyndex: which bands they take, and their values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpipe.core.ports import VariableInfo
from stpipe.core.samples import physical
from stpipe.errors import OptionError

SCALED = 0.0001
"""Step of an index that is stored as int16."""

SCALED_GAP = -32768
"""Stored value of gaps in an index that is stored as int16."""

_SHOWN = 6
_RADAR = frozenset({"VV", "VH", "HH", "HV"})  # spyndex has no entry for these bands
# spyndex knows one L for all formulas, which is EVI's. SAVI's: Huete (1988), A soil-adjusted vegetation index.
_USUAL: Mapping[str, Mapping[str, float]] = {"SAVI": {"L": 0.5}}
_LETTER = re.compile(r"\s*([A-Za-z][A-Za-z0-9_]*)\s*[:=]\s*(.+?)\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexRequest:
    """An index as it was asked for."""

    name: str
    """What to call it in the cube."""

    bands: tuple[str, ...] = ()
    """Variables in the order of the formula's bands."""

    named: tuple[tuple[str, str], ...] = ()
    """Letter of the formula, and its variable or number."""

    @classmethod
    def parse(cls, text: str) -> IndexRequest:
        """Read NAME, NAME=BAND,BAND or NAME=LETTER:BAND,LETTER:BAND.

        >>> IndexRequest.parse("savi=N:B08,R:B04,L:0.5").named
        (('N', 'B08'), ('R', 'B04'), ('L', '0.5'))
        """
        name, equals, said = (part.strip() for part in text.partition("="))
        parts = [part.strip() for part in said.split(",")] if equals else []
        pairs = [_LETTER.fullmatch(part) for part in parts]
        if not re.fullmatch(r"[A-Za-z][\w\-]*", name) or not all(parts) or len({bool(pair) for pair in pairs}) > 1:
            raise OptionError(
                f"--index takes ndvi=nir,red, or letters with bands such as ndvi=N:B08,R:B04, got {text!r}"
            )
        named = tuple((pair[1], pair[2]) for pair in pairs if pair)
        if len({letter for letter, _ in named}) < len(named):
            raise OptionError(f"--index {text}: a letter is given twice")
        return cls(name=name, bands=() if named else tuple(parts), named=named)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexPlan:
    """An index whose bands have been found."""

    name: str
    """What it is called in the cube."""

    formula: str
    """In Python."""

    title: str
    """What it is."""

    bands: tuple[tuple[str, str], ...]
    """Letter of the formula, and the variable that stands for it."""

    constants: tuple[tuple[str, float], ...] = ()
    """The formula's other letters, and their numbers."""

    scaled: bool = False
    """Whether it is stored as int16 in steps of `SCALED`, not as float32."""

    @property
    def dtype(self) -> str:
        """Stored type."""
        return "int16" if self.scaled else "float32"

    @property
    def nodata(self) -> float:
        """Stored value of gaps."""
        return SCALED_GAP if self.scaled else float("nan")

    def compute(self, stored: Mapping[str, NDArray[Any]], infos: Mapping[str, VariableInfo]) -> NDArray[Any]:
        """Return the index of stored samples, as it is stored: gap where a band is, or where it is not finite.

        An index that int16 can't hold, from -3.2767 to 3.2767, is gap too.
        """
        values: dict[str, Any] = {letter: physical(stored[name], infos[name]) for letter, name in self.bands}
        shape = next(iter(values.values())).shape
        with np.errstate(all="ignore"):
            index = np.broadcast_to(_evaluate(self.formula, values | dict(self.constants)), shape)
            index = np.where(np.logical_and.reduce([np.isfinite(value) for value in values.values()]), index, np.nan)
            if not self.scaled:
                narrow = index.astype(np.float32)
                narrow[~np.isfinite(narrow)] = np.nan
                return narrow
            steps = np.rint(index / SCALED)
            return np.where(np.abs(steps) <= -SCALED_GAP - 1, steps, SCALED_GAP).astype(np.int16)


def plan_index(request: IndexRequest, names: Sequence[str], *, scaled: bool = False) -> IndexPlan:
    """Return an index with its bands found among the variables.

    Parameters
    ----------
    request : IndexRequest
        What was asked for.
    names : sequence of str
        Variables there are.
    scaled : bool
        Whether to store int16.

    Raises
    ------
    OptionError
        If the index is unknown, a band is missing, or spyndex is not installed.

    Examples
    --------
    >>> plan_index(IndexRequest.parse("ndvi=nir,red"), ["nir", "red"]).bands
    (('N', 'nir'), ('R', 'red'))
    """
    known = _spyndex()
    key = _find_index(request.name, tuple(known.indices))
    entry = known.indices[key]
    letters = [letter for letter in entry.bands if letter in known.bands or letter in _RADAR]
    defaults = {
        letter: _USUAL.get(key, {}).get(letter, known.constants[letter].default if letter in known.constants else None)
        for letter in entry.bands
        if letter not in letters
    }
    common = {letter: known.bands[letter].common_name if letter in known.bands else letter for letter in letters}
    need = f"--index {request.name} ({entry.long_name}) takes " + ", ".join(
        letter if common[letter] == letter else f"{letter} ({common[letter]})" for letter in letters
    )
    given = dict(request.named)
    if request.bands:
        if len(request.bands) != len(letters):
            raise OptionError(f"{need}, in this order; got {', '.join(request.bands)}")
        given = dict(zip(letters, request.bands, strict=True))
    unknown = [letter for letter in given if letter not in entry.bands]
    if unknown:
        raise OptionError(f"{need}; there is no {unknown[0]} in its formula {entry.formula}")
    bands = []
    for letter in letters:
        wanted = given.get(letter)
        found = _find_band(wanted, names) if wanted is not None else _guess_band(letter, str(common[letter]), names)
        if found is None:
            what = f"there is no variable {wanted!r}" if wanted is not None else f"which variable is {letter}"
            said = f"--index {request.name}={','.join(f'{one}:BAND' for one in letters)}"
            raise OptionError(f"{need}; {what}: name them, as in {said}; there are {_listed(names)}")
        bands.append((letter, found))
    constants = [
        (letter, _number(request.name, letter, given.get(letter, number))) for letter, number in defaults.items()
    ]
    return IndexPlan(
        name=request.name,
        formula=str(entry.formula),
        title=str(entry.long_name),
        bands=tuple(bands),
        constants=tuple(constants),
        scaled=scaled,
    )


def _spyndex() -> Any:
    try:
        import spyndex
    except ImportError as error:
        raise OptionError("--index needs the library spyndex; install it: pip install 'stpipe[indices]'") from error
    return spyndex


def _evaluate(formula: str, values: dict[str, Any]) -> Any:
    """Return the value of a formula that came with spyndex; never of one that a user typed."""
    return eval(_compiled(formula), {"__builtins__": {}}, values)  # noqa: S307 - arithmetic from the installed library


@lru_cache(maxsize=64)
def _compiled(formula: str) -> Any:
    return compile(formula, "formula", "eval")


def _find_index(name: str, known: Sequence[str]) -> str:
    for candidate in known:
        if candidate.lower() == name.lower():
            return candidate
    lower = {candidate.lower(): candidate for candidate in known}
    near = [lower[close] for close in get_close_matches(name.lower(), lower, n=_SHOWN, cutoff=0.5)]
    hint = f"; near it are {', '.join(near)}" if near else ""
    raise OptionError(f"--index: spyndex has no index {name!r} among its {len(known)}{hint}")


def _find_band(wanted: str, names: Sequence[str]) -> str | None:
    if wanted in names:
        return wanted
    close = [name for name in names if name.lower() == wanted.lower()]
    return close[0] if len(close) == 1 else None


def _guess_band(letter: str, common: str, names: Sequence[str]) -> str | None:
    """Return the variable that is called as the band is; numbers such as B04 mean something else on each satellite."""
    for wanted in (letter, common):
        found = [name for name in names if name == wanted] or [n for n in names if n.lower() == common.lower()]
        if len(found) == 1:
            return found[0]
    return None


def _number(index: str, letter: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise OptionError(f"--index {index} needs a number for {letter}, as in {letter}:0.5; got {value!r}") from None


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
