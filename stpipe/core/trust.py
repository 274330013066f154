"""Which samples to trust: rules on quality variables, and the growing of what they say is unclear.

A rule tests one quality variable. A sample is trusted where every keep rule matches, no drop rule does, and no quality
variable that a rule names is nodata. Lists and bits are tested on the integers as they are stored, comparisons on
physical values.

With a buffer, pixels close to an unclear one aren't trusted either. What is *missing* does not grow: nodata of the
quality variable, and what a product's own rule calls fill. Beside the swath's edge, and between the stripes of a
failed scan line corrector, the view is as clear as elsewhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from math import isqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpipe.core.conditions import Comparison, Test, parse_test
from stpipe.core.ports import JSON, VariableInfo
from stpipe.core.samples import is_nodata
from stpipe.errors import OptionError

FORMS = (
    "a rule is VAR:4,5,8-10 (values), VAR:bits=3,4 (any of the bits), VAR:bits=8-9:2,3 (field), VAR:flags=CLOUD (by "
    "the file's flag_meanings) or VAR>=0.5"
)
"""What a rule may look like, for messages."""

LONGEST_BUFFER = 1000
"""Pixels; a larger one is a mistake."""

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_EQUALS = re.compile(r"\s*([^:<>=!\s]+)\s*=\s*(-?\d[-\d,\s]*?)\s*")
_WORDS = re.compile(r"[A-Za-z]\w*(\s*,\s*[A-Za-z]\w*)*")
_COMPARISON = re.compile(rf"\s*([^:<>=!]+?)\s*(>=|<=|==|!=|>|<)\s*({_NUMBER})\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule on one quality variable."""

    variable: str
    """Its name; as typed until `Trust.resolved` has found it in a cube."""

    test: Test
    """What is asked of each sample."""

    keep: bool
    """Whether the samples that match are the ones to keep, or the ones to drop."""

    text: str
    """The rule as the user knows it, such as ``--drop SCL:3``."""

    also: tuple[str, ...] = ()
    """Other names that the variable may go by, in files of a product."""

    missing: bool = False
    """Whether a drop rule tells fill: what was not seen at all, and does not grow."""

    others: tuple[tuple[str, str], ...] = field(default=(), repr=False, compare=False)
    """Names that layers of other products go by, and what ``--qa`` calls those; for messages."""

    lookalike: str = field(default="", repr=False, compare=False)
    """Product whose layer matches this rule everywhere, if it is taken for that of this one; for messages."""


@dataclass(frozen=True, slots=True)
class Trust:
    """Which samples to trust.

    >>> trust = Trust((parse_rule("SCL:4-6", keep=True),))
    >>> trust.variables, trust.buffer
    (('SCL',), 0)
    """

    rules: tuple[Rule, ...]
    """Rules, all of which have to be met."""

    buffer: int = 0
    """Pixels by which the unclear grows in the frame."""

    def __post_init__(self) -> None:
        if not 0 <= self.buffer <= LONGEST_BUFFER:
            raise OptionError(f"--buffer takes 0 to {LONGEST_BUFFER} pixels, got {self.buffer}")
        if self.buffer and not self.rules:
            raise OptionError("--buffer grows what rules call unclear; give one with --qa, --keep or --drop")

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of the quality variables, each once."""
        return tuple(dict.fromkeys(rule.variable for rule in self.rules))

    @property
    def texts(self) -> tuple[str, ...]:
        """The rules as they were typed, each once."""
        return tuple(dict.fromkeys(rule.text for rule in self.rules))

    def refuse_measured(self, names: Sequence[str]) -> None:
        """Refuse to take a variable for a measurement that a rule takes for a judge of measurements.

        Raises
        ------
        OptionError
            If a rule is about one of the names.
        """
        for rule in self.rules:
            if rule.variable in names:
                raise OptionError(
                    f"{rule.text} is about {rule.variable}, which can't be filled or scored on as well; leave it out "
                    "of the variables"
                )

    def identity(self) -> JSON:
        """Return all that decides what is trusted, besides the cube."""
        return {
            "rules": [
                {"variable": r.variable, "keep": r.keep, "missing": r.missing, "test": repr(r.test)} for r in self.rules
            ],
            "buffer": self.buffer,
        }

    def resolved(self, names: Sequence[str], place: str = "the cube") -> Trust:
        """Return the rules with the names that the quality variables have in a cube, in whatever case they were typed.

        Parameters
        ----------
        names : sequence of str
            Variables there are.
        place : str
            What to call the cube in a message.

        Raises
        ------
        OptionError
            If there is no such variable.

        Examples
        --------
        >>> Trust((parse_rule("scl:4", keep=True),)).resolved(["B04", "SCL"]).variables
        ('SCL',)
        """
        return replace(self, rules=tuple(replace(r, variable=_find(r, names, place), also=()) for r in self.rules))

    def check(self, infos: Mapping[str, VariableInfo]) -> None:
        """Refuse a rule that can't be tested on its variable.

        Raises
        ------
        OptionError
            If bits lie beyond the type, or bits or values are asked of floats.
        """
        for rule in self.rules:
            why = rule.test.complaint(infos[rule.variable])
            if why:
                raise OptionError(f"{rule.text}: {why}")


Judged = tuple[NDArray[np.bool_], NDArray[np.int64]]
"""Where samples are trusted, and (rule, 2) counts for `remarks`."""


def parse_rule(text: str, *, keep: bool) -> Rule:
    """Read a rule.

    Parameters
    ----------
    text : str
        A list of stored values (``SCL:4,5,8-10``), bits of which any is set (``QA:bits=3,4``), a number in adjacent
        bits (``QA:bits=8-9:2,3``), flags by the names that the file gives them (``WQSF:flags=CLOUD,SNOW_ICE``), or a
        comparison of the physical value (``qa_value>=0.5``).
    keep : bool
        Whether samples that match are kept or dropped.

    Raises
    ------
    OptionError
        If it is none of these.

    Examples
    --------
    >>> parse_rule("SCL:3,8-10", keep=False).test
    Values(ranges=((3, 3), (8, 10)))
    >>> parse_rule("QA:bits=3-5", keep=False).test
    Bits(bits=(3, 4, 5))
    >>> parse_rule("QA:bits=8-9:2,3", keep=False).test
    Field(first=8, last=9, ranges=((2, 3),))
    >>> parse_rule("qa_value>=0.5", keep=True).test
    Comparison(operator='>=', value=0.5)
    """
    option = "--keep" if keep else "--drop"
    compared = _COMPARISON.fullmatch(text)
    if compared is not None:
        if not math.isfinite(float(compared[3])):
            raise OptionError(f"{option} {text!r} compares with no finite number; {FORMS}")
        test: Test = Comparison(compared[2], float(compared[3]))
        return Rule(variable=compared[1], test=test, keep=keep, text=f"{option} {text}")
    name, colon, said = (part.strip() for part in text.partition(":"))
    if not (name and colon):
        equals = _EQUALS.fullmatch(text)
        hint = f"did you mean {equals[1]}:{equals[2]}? " if equals else ""
        raise OptionError(f"{option} {text!r} can't be read; {hint}{FORMS}")
    try:
        test = parse_test(said)
    except ValueError as error:
        hint = f"did you mean {name}:flags={said}? " if _WORDS.fullmatch(said) else ""
        raise OptionError(f"{option} {text!r} can't be read, for {error}; {hint}{FORMS}") from None
    return Rule(variable=name, test=test, keep=keep, text=f"{option} {text}")


def trusted(trust: Trust, samples: Mapping[str, NDArray[Any]], infos: Mapping[str, VariableInfo]) -> NDArray[np.bool_]:
    """Return True where samples are trusted.

    Parameters
    ----------
    trust : Trust
        The rules, resolved.
    samples : mapping of str to (time, y, x) ndarray
        Stored samples of each quality variable. With a buffer, results nearer than that to the edges are those of a
        scene that ends there.
    infos : mapping of str to VariableInfo
        How each is stored.

    Returns
    -------
    (time, y, x) ndarray of bool
        False where a quality variable is nodata.

    Examples
    --------
    >>> info = VariableInfo(name="SCL", dtype="uint8", chunks=(1, 1, 1), nodata=0)
    >>> scl = np.array([[[0, 4, 4, 9]]], dtype="uint8")
    >>> rule = parse_rule("SCL:9", keep=False)
    >>> trusted(Trust((rule,)), {"SCL": scl}, {"SCL": info})
    array([[[False,  True,  True, False]]])
    >>> trusted(Trust((rule,), buffer=1), {"SCL": scl}, {"SCL": info})
    array([[[False,  True, False, False]]])
    """
    return judge(trust, samples, infos)[0]


def judge(
    trust: Trust,
    samples: Mapping[str, NDArray[Any]],
    infos: Mapping[str, VariableInfo],
    *,
    inner: tuple[slice, slice] | None = None,
) -> Judged:
    """Return what `trusted` does, and how often each rule matched.

    Parameters
    ----------
    trust, samples, infos
        As for `trusted`.
    inner : (rows, columns), optional
        The part that is asked for, where the samples have what is around it for the buffer.

    Returns
    -------
    trusted : (time, y, x) ndarray of bool
        See `trusted`; of the inner part.
    counts : (rule, 2) ndarray of int64
        Samples that the rule matched, and samples it could be tested on, for `remarks`. Counts of parts add up.
    """
    shape = samples[trust.variables[0]].shape
    part = inner or (slice(0, shape[1]), slice(0, shape[2]))
    result = np.empty((shape[0], *(cut.stop - cut.start for cut in part)), dtype=bool)
    counts = np.zeros((len(trust.rules), 2), dtype=np.int64)
    for t in range(shape[0]):  # a frame at a time: the temporaries stay small
        frames = {name: samples[name][t] for name in trust.variables}
        absent = {name: is_nodata(frame, infos[name]) for name, frame in frames.items()}
        missing = np.logical_or.reduce(list(absent.values()))
        unclear = np.zeros(shape[1:], dtype=bool)
        for number, rule in enumerate(trust.rules):
            known = ~absent[rule.variable][part]
            found = rule.test.matches(frames[rule.variable], infos[rule.variable])
            counts[number] += np.count_nonzero(found[part] & known), np.count_nonzero(known)
            if rule.missing:
                missing |= found
            else:
                unclear |= ~found if rule.keep else found
        if trust.buffer:
            unclear = grown(unclear & ~missing, trust.buffer)
        np.logical_not((missing | unclear)[part], out=result[t])
    return result, counts


def remarks(trust: Trust, counts: NDArray[np.int64]) -> tuple[str, ...]:
    """Return a line for each rule that matched nothing, or everything.

    Parameters
    ----------
    trust : Trust
        The rules.
    counts : (rule, 2) ndarray of int64
        Sums of what `judge` counted.

    Examples
    --------
    >>> remarks(Trust((parse_rule("SCL:77", keep=True),)), np.array([[0, 640]]))
    ('--keep SCL:77 matches none of 640 samples, so that nothing is trusted',)
    """
    lines = []
    for rule, (matched, known) in zip(trust.rules, counts.tolist(), strict=True):
        text = rule.text + " (fill)" * rule.missing
        owners = [] if rule.missing else _owners(rule, [rule.variable])
        if not known:
            lines.append(f"{text}: {rule.variable} is nodata everywhere, so that nothing is trusted")
        elif not matched and not rule.missing:
            effect = "nothing is trusted" if rule.keep else "it drops nothing"
            lines.append(f"{text} matches none of {known} samples, so that {effect}")
        elif matched == known:
            effect = "it drops nothing" if rule.keep else "nothing is trusted"
            guess = f"; a layer of --qa {rule.lookalike} looks like this" if rule.lookalike and not owners else ""
            lines.append(f"{text} matches all of {known} samples, so that {effect}{guess}")
        if owners:
            lines.append(f"{text}: {rule.variable} is what the layer of --qa {' or '.join(owners)} is called")
    return tuple(lines)


def plain_name(name: str) -> str:
    """Return a name without case and separators, in which files of one product differ.

    >>> plain_name("QA-PIXEL") == plain_name("qa_pixel")
    True
    """
    return re.sub(r"[^a-z0-9]", "", name.lower())


def grown(unclear: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """Return True within `radius` pixels of a True one: dilation by a disc.

    Parameters
    ----------
    unclear : (y, x) ndarray of bool
        What grows.
    radius : int
        Largest distance between pixel centres, in pixels.

    Notes
    -----
    Dilation of a set by a structuring element: Serra (1982), Image Analysis and Mathematical Morphology, chapter II;
    the element is the digital disc ``dy**2 + dx**2 <= radius**2``. Each of its rows is a run, and dilation by a run is
    a difference of running counts; rows of equal length share it.

    Examples
    --------
    >>> grown(np.array([[0, 0, 0], [0, 0, 1], [0, 0, 0]], dtype=bool), 1).astype(int)
    array([[0, 0, 1],
           [0, 1, 1],
           [0, 0, 1]])
    """
    height, width = unclear.shape
    result = unclear.copy()
    if radius == 0 or not unclear.any():
        return result
    most = min(radius, width)
    # As if nothing unclear lay beyond the edges: each run is then a difference of two slices.
    counts = np.zeros((height, width + 1 + 2 * most), dtype=np.int32)
    np.cumsum(unclear, axis=1, out=counts[:, most + 1 : most + 1 + width])
    counts[:, most + 1 + width :] = counts[:, most + width, None]
    reach = -1
    for dy in range(min(radius, height - 1), -1, -1):
        if min(isqrt(radius**2 - dy**2), most) != reach:
            reach = min(isqrt(radius**2 - dy**2), most)
            wide = (
                counts[:, most + reach + 1 : most + reach + 1 + width] > counts[:, most - reach : most - reach + width]
            )
        result[dy:] |= wide[: height - dy]
        result[: height - dy] |= wide[dy:]
    return result


def _owners(rule: Rule, names: Sequence[str]) -> list[str]:
    """Return the products, other than that of a rule, whose layers go by some of these names."""
    plain = {plain_name(name) for name in names}
    return list(dict.fromkeys(product for name, product in rule.others if plain_name(name) in plain))


def _find(rule: Rule, names: Sequence[str], place: str) -> str:
    for wanted in (rule.variable, *rule.also):
        if wanted in names:
            return wanted
        close = [name for name in names if name.lower() == wanted.lower()]
        if not close and rule.others:  # a product's own name, however it is hyphenated
            close = [name for name in names if plain_name(name) == plain_name(wanted)]
        if len(close) == 1:
            return close[0]
    tried = f" (nor {', '.join(rule.also)})" if rule.also else ""
    lacks = f"{rule.text}: {place} has no variable {rule.variable!r}{tried} over (time, y, x)"
    there = [name for name in names if _owners(rule, [name])]
    near = get_close_matches(rule.variable, names, n=1)
    if there and set(near) <= set(there):
        owners = " or ".join(_owners(rule, there))
        raise OptionError(
            f"{lacks}, but {', '.join(there)}, which goes with --qa {owners}; take that, or name the layer, as in --qa "
            "NAME=VAR"
        )
    hint = f"did you mean {near[0]!r}? " if near else ""
    named = "" if not rule.also else "; name it, as in --qa NAME=VAR"
    raise OptionError(f"{lacks}; {hint}it has {', '.join(names) or 'none'}{named}")
