"""The page of scores: tables and targets from what was measured, and nothing that was not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from score_cases import NEVER, SURROGATE, WHOLE, Case

from stpipe.core.comparison import ALL, ENOUGH_FRAMES, TILE, Row
from stpipe.core.gap_classes import REPORT_CLASSES

ENOUGH = 1000
"""Samples of a gap class that are enough to speak of it."""

WORSE, COVERED, CLASS_COVERED = 1.02, (0.87, 0.93), (0.85, 0.95)
GAIN, PACKAGED, SEAM, SAME, UNITS = 0.9, 1.05, 1.1, 0.01, 1e-4
"""The targets."""

LINEAR, STACK = "linear", "stack"

Bounds = tuple[float, float]
NO_BOUNDS: Bounds = (float("nan"), float("nan"))

WORDS = {True: "holds", False: "**does not hold**", None: "not measured"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What was found for one case."""

    case: Case
    """The data and the gaps."""

    rows: tuple[Row, ...]
    """Scores by method and group, physical."""

    best_simple: str | None
    """The simple method with the lowest MAE."""

    hidden: int
    """Samples that were hidden."""

    records: Mapping[str, Mapping[str, Any]]
    """Costs and checks of each method."""

    left_out: Mapping[str, str]
    """Methods that are not compared here, and why."""

    def find(self, method: str, group: str = ALL) -> Row | None:
        """Return a method's scores in a group; None where there are none."""
        for row in self.rows:
            if (row.method, row.group) == (method, group) and row.samples:
                return row
        return None

    def ratio(self, method: str, group: str = ALL) -> float | None:
        """Return a method's MAE over that of the best simple method in the group."""
        row = self.find(method, group)
        if row is None or np.isnan(row.difference):
            return None
        best = row.mae - row.difference
        return row.mae / best if best > 0 else None

    def ratio_bounds(self, method: str, group: str = ALL) -> Bounds:
        """Return the bootstrap's 5th and 95th percentile of the same."""
        row = self.find(method, group)
        if row is None or not row.mae > row.difference:
            return NO_BOUNDS
        best = row.mae - row.difference
        return 1 + row.difference_low / best, 1 + row.difference_high / best

    def classes(self) -> list[str]:
        """Return the gap classes with samples enough."""
        return [row.group for row in self.rows if self._speaks(row)]

    def _speaks(self, row: Row) -> bool:
        return row.method == self.rows[0].method and row.group in REPORT_CLASSES and row.samples > ENOUGH


def geometric_mean(values: Iterable[float]) -> float:
    """Return the geometric mean, NaN of nothing.

    >>> geometric_mean([2.0, 8.0])
    4.0
    """
    logs = np.log(list(values))
    return float(np.exp(logs.mean())) if logs.size else float("nan")


def table(head: Sequence[str], lines: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """Return a Markdown table, the first columns aligned left and the others right.

    >>> print(table(["row", "MAE"], [["co", "1.5"]]))
    | row | MAE |
    | --- | ---: |
    | co | 1.5 |
    """
    marks = ["---" if i < left else "---:" for i in range(len(head))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, marks, *lines))


def number(value: float | None, digits: int = 4) -> str:
    """Return a number with so many digits that count; a dash for none.

    >>> number(0.00123456), number(12.5), number(None)
    ('0.001235', '12.50', '–')
    """
    if value is None or not np.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    return f"{value:.{max(0, digits - 1 - int(np.floor(np.log10(abs(value)))))}f}"


def percent(value: float | None) -> str:
    """Return a share in percent; a dash for none."""
    return "–" if value is None or not np.isfinite(value) else f"{100 * value:.1f}"


def page(
    measured: Sequence[Measured],
    *,
    default: str,
    untuned: str,
    ablations: Mapping[str, Any],
    without: Sequence[str] = (),
) -> str:
    """Return the page.

    Parameters
    ----------
    measured : sequence of Measured
        In the order of the table.
    default : str
        The method that has to earn its place.
    untuned : str
        Its name when it runs with the packaged weights as they are.
    ablations : mapping of str to Any
        What `ablations.py` wrote; empty for none.
    without : sequence of str
        Methods that were not scored.
    """
    methods = list(dict.fromkeys(name for each in measured for name in each.records))
    methods.sort(key=lambda name: (name not in {default, untuned, STACK, "auto"}, name != default))
    parts = [_head(measured, without), _errors(measured, methods, default)]
    if default in methods:
        parts += [_by_class(measured, default), _intervals(measured, default)]
    parts += [_costs(measured, methods)]
    if default in methods:
        parts.append(_targets(targets(measured, default=default, untuned=untuned if untuned in methods else default)))
    if ablations:
        parts.append(_ablations(ablations))
    return "\n\n".join(parts) + "\n"


def _head(measured: Sequence[Measured], without: Sequence[str]) -> str:
    lines = [[each.case.name, each.case.kind, each.case.what, f"{each.hidden:,}"] for each in measured]
    missing = f" Left out of this run: {', '.join(without)}." if without else ""
    return f"""# Scores

Written by `make scores` (`benchmarks/scores.py`), which trains nothing: every method fills the same hidden samples of
data that no packaged weights were trained on. Methods that learn from the cube itself do so on what is left of it, as
in any run. Rows marked "{NEVER}" are never used for training, not even in part; "{SURROGATE}" rows are made
up, because the data of their kind are not at hand, and say less than real ones. Rows marked "{WHOLE}" show other
gaps of data that are above; geometric means leave them out.{missing}

""" + table(["row", "kind", "data and gaps", "hidden samples"], lines, left=3)


def _kept(measured: Sequence[Measured]) -> list[Measured]:
    """Return the rows that geometric means are taken over."""
    return [each for each in measured if each.case.kind != WHOLE]


def _ratios(measured: Sequence[Measured], method: str) -> list[float]:
    return [ratio for each in _kept(measured) if (ratio := each.ratio(method)) is not None]


def _errors(measured: Sequence[Measured], methods: Sequence[str], default: str) -> str:
    lines = []
    compared = [name for name in (default, STACK) if name in methods]
    for each in measured:
        units = f" ({each.case.units})" if each.case.units else ""
        cells = []
        for name in methods:
            row = each.find(name)
            text = number(None if row is None else row.mae)
            cells.append(f"**{text}**" if name == each.best_simple else text)
        samples = max((row.samples for row in each.rows if row.group == ALL), default=0)
        lines.append(
            [
                each.case.name + units,
                f"{samples:,}",
                *cells,
                each.best_simple or "–",
                *(_ratio_cell(each, name) for name in compared),
            ]
        )
    means = [number(geometric_mean(_ratios(measured, name)), 3) for name in methods]
    lines.append(["geometric mean of ratios to the best simple", "", *means, "", *(["", ""][: len(compared)])])
    left_out: dict[str, list[str]] = {}
    for each in measured:
        for name, why in each.left_out.items():
            left_out.setdefault(f"{each.case.name}: {why}", []).append(name)
    notes = "\n".join(f"- {', '.join(names)} not compared in {where}" for where, names in left_out.items())
    head = ["row", "samples", *methods, "best simple", *(f"{name} / best simple" for name in compared)]
    return (
        "## Mean absolute errors\n\n"
        "In the units of the variable, over the samples that every method filled. In bold the best simple method of\n"
        "the row, which is what the others have to beat; ratios to it with the 5th and 95th percentile of a bootstrap\n"
        f"over frames, or over tiles of {TILE} x {TILE} pixels of them where fewer than {ENOUGH_FRAMES} frames have\n"
        "hidden samples.\n\n" + table(head, lines) + (f"\n\n{notes}" if notes else "")
    )


def _ratio_cell(each: Measured, method: str) -> str:
    row, ratio = each.find(method), each.ratio(method)
    if row is None or ratio is None:
        return "–"
    low, high = (number(bound, 3) for bound in each.ratio_bounds(method))
    return f"{number(ratio, 3)} ({low} to {high})"


def _by_class(measured: Sequence[Measured], default: str) -> str:
    def cell(each: Measured, group: str) -> str:
        ratio = each.ratio(default, group) if group in each.classes() else None
        text = number(ratio, 3)
        return f"**{text}**" if ratio is not None and ratio > WORSE else text

    lines = [[each.case.name, *(cell(each, group) for group in REPORT_CLASSES)] for each in measured]
    return (
        "## By kind of gap\n\n"
        f"MAE of `{default}` over that of the simple method that is best in the very row and class, for classes with\n"
        f"more than {ENOUGH:,} samples; in bold where it is more than {100 * (WORSE - 1):.0f} % worse.\n\n"
        + table(["row", *REPORT_CLASSES], lines)
    )


def _intervals(measured: Sequence[Measured], default: str) -> str:
    lines = []
    for each in measured:
        row, linear = each.find(default), each.find(LINEAR)
        if row is None:
            continue
        wide = linear.width if linear is not None else None
        groups = [each.find(default, group) if group in each.classes() else None for group in REPORT_CLASSES]
        lines.append(
            [
                each.case.name,
                f"{percent(row.coverage)} ({percent(row.coverage_low)} to {percent(row.coverage_high)})",
                *(percent(None if found is None else found.coverage) for found in groups),
                number(row.width),
                number(wide),
                number(row.width / wide if wide else None, 3),
            ]
        )
    head = ["row", "all", *REPORT_CLASSES, f"width of {default}", "width of linear", "ratio"]
    return (
        "## Intervals\n\n"
        f"Share of the truth inside the 90 % intervals of `{default}`, in percent, in all (with the 5th and 95th\n"
        "percentile of the bootstrap) and by kind of gap; and their mean full width against that of `linear`, whose\n"
        "intervals were calibrated in the same way.\n\n" + table(head, lines)
    )


def _costs(measured: Sequence[Measured], methods: Sequence[str]) -> str:
    lines = []
    for name in methods:
        records = [each.records[name] for each in measured if "filling" in each.records.get(name, {})]
        millions = sum(record["size"] for record in records) / 1e6
        if not millions:
            continue
        rows = [row for each in measured if (row := each.find(name)) is not None]
        covered = [row.coverage for row in rows if np.isfinite(row.coverage)]
        checks = [_worst(records, key) for key in ("seam", "same", "units")]
        lines.append(
            [
                name,
                number(sum(record["learning"] for record in records) / millions, 3),
                number(sum(record["filling"] for record in records) / millions, 3),
                f"{percent(min(covered))} to {percent(max(covered))}" if covered else "–",
                number(checks[0]),
                percent(checks[1]),
                "–" if checks[2] is None else f"{checks[2]:.1e}",
            ]
        )
    head = [
        "method",
        "learning, s / million",
        "filling, s / million",
        "coverage, lowest to highest row",
        "seam ratio",
        "equal in wide gaps, %",
        "change of units",
    ]
    return (
        "## Cost and checks\n\n"
        "Seconds on one core for a million samples, observed or not; learning holds the calibration of the intervals.\n"
        "Over the rows, the largest: ratio of steps at block borders to those of a fill in one piece; share of\n"
        "neighbours with the very same value, more than 16 pixels from anything observed; change of the answer, in\n"
        "spreads, when values are multiplied by 1000 and 7 is added.\n\n" + table(head, lines)
    )


def _worst(records: Iterable[Mapping[str, Any]], key: str) -> float | None:
    values = [record[key] for record in records if np.isfinite(record.get(key, np.nan))]
    return max(values) if values else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One target, and whether it holds."""

    what: str
    """What was to be reached."""

    holds: bool | None
    """None where it was not measured."""

    found: str
    """The numbers."""


def targets(measured: Sequence[Measured], *, default: str, untuned: str) -> list[Target]:
    """Return which targets hold.

    Parameters
    ----------
    measured : sequence of Measured
        All rows.
    default, untuned : str
        The method as it runs by itself, and with the packaged weights alone.
    """
    ratios = {each.case.name: r for each in measured if (r := each.ratio(default)) is not None}
    own = {each.case.name: s for each in _kept(measured) if (s := _against(each, default, STACK)) is not None}
    classes = {
        f"{each.case.name}, {group}": r
        for each in measured
        for group in each.classes()
        if (r := each.ratio(default, group)) is not None
    }
    rows = {each.case.name: row for each in measured if (row := each.find(default)) is not None}
    parts = {
        f"{each.case.name}, {group}": row
        for each in measured
        for group in each.classes()
        if (row := each.find(default, group)) is not None
    }
    apart = {each.case.name: each.ratio_bounds(default) for each in measured}
    apart |= {
        f"{each.case.name}, {group}": each.ratio_bounds(default, group) for each in measured for group in each.classes()
    }
    widths = {
        name: rows[name].width / linear.width
        for each in measured
        if (name := each.case.name) in rows and (linear := each.find(LINEAR)) is not None and linear.width > 0
    }
    mean, packaged = (geometric_mean(_ratios(measured, name)) for name in (default, untuned))
    records = [each.records[default] for each in measured if default in each.records]
    return [
        _each(f"`{default}` has a lower MAE than the best simple method in every row", ratios, lambda r: r < 1, apart),
        _mean(f"its geometric mean ratio to it is at most {GAIN:g}", mean, GAIN),
        _each(f"it has a lower MAE than `{STACK}` in every row", own, lambda r: r < 1),
        _mean(f"its geometric mean ratio to `{STACK}` is below 1", geometric_mean(own.values()), 1.0),
        _mean(f"with the packaged weights alone (`{untuned}`), the ratio is at most {PACKAGED:g}", packaged, PACKAGED),
        _each(
            "in no row and gap class it is over 2 % worse than the best simple one",
            classes,
            lambda r: r <= WORSE,
            apart,
        ),
        _covering("90 % intervals cover 87 to 93 % in every row", rows, COVERED),
        _covering("they cover 85 to 95 % in every row and gap class", parts, CLASS_COVERED),
        _each("they are narrower than those of `linear` in every row", widths, lambda r: r < 1),
        _most(f"steps at block borders are below {SEAM:g} of those of a fill in one piece", records, "seam", SEAM),
        _most("fewer than 1 in 100 neighbours in wide gaps are equal", records, "same", SAME),
        _most("the answer follows a change of units to 1e-4 of the spread", records, "units", UNITS),
    ]


def _against(each: Measured, method: str, other: str) -> float | None:
    one, two = each.find(method), each.find(other)
    return None if one is None or two is None else one.mae / two.mae


def _covering(what: str, rows: Mapping[str, Row], limits: Bounds) -> Target:
    return _each(
        what,
        {name: row.coverage for name, row in rows.items()},
        lambda share: limits[0] <= share <= limits[1],
        {name: (row.coverage_low, row.coverage_high) for name, row in rows.items()},
    )


def _each(
    what: str, values: Mapping[str, float], good: Callable[[float], bool], bounds: Mapping[str, Bounds] | None = None
) -> Target:
    """Return a target that every value has to meet, with those that don't; bold where all of the error bars misses it.

    >>> _each("small", {"a": 2.0, "b": 3.0, "c": 0.5}, lambda v: v < 1, {"a": (0.9, 3.1), "b": (2.9, 3.1)}).found
    '1 of 3; not in: a 2.000; **b 3.000**'
    """
    known = {name: value for name, value in values.items() if np.isfinite(value)}
    if not known:
        return Target(what=what, holds=None, found="")
    missed = {name: value for name, value in known.items() if not good(value)}
    listed = []
    for name, value in missed.items():
        low, high = NO_BOUNDS if bounds is None else bounds.get(name, NO_BOUNDS)
        sure = low <= high and not any(good(within) for within in np.linspace(low, high, 101))
        listed.append(f"**{name} {value:.3f}**" if sure else f"{name} {value:.3f}")
    found = f"{len(known) - len(missed)} of {len(known)}" + (f"; not in: {'; '.join(listed)}" if missed else "")
    return Target(what=what, holds=not missed, found=found)


def _mean(what: str, value: float, limit: float) -> Target:
    known = bool(np.isfinite(value))
    return Target(what=what, holds=value <= limit if known else None, found=f"{value:.3f}" if known else "")


def _most(what: str, records: Sequence[Mapping[str, Any]], key: str, limit: float) -> Target:
    worst = _worst(records, key)
    return Target(
        what=what,
        holds=None if worst is None else worst < limit,
        found="" if worst is None else f"at most {worst:.3g}",
    )


def _targets(found: Sequence[Target]) -> str:
    return (
        "## Targets\n\n"
        "A target holds if every figure meets it, whatever chance there is in so few frames. Of those that miss it,\n"
        "in bold are the ones whose error bars miss it as well. Bars over tiles of frames are too narrow: what is\n"
        f"bold by them, in rows of fewer than {ENOUGH_FRAMES} frames, may be chance all the same.\n\n"
    ) + table(["target", "", "measured"], [[each.what, WORDS[each.holds], each.found] for each in found], left=3)


def _ablations(found: Mapping[str, Any]) -> str:
    """Return the tables of networks with a part taken away."""
    networks = found["networks"]
    return f"""## Ablations

Networks trained from scratch for {found["steps"]} steps, fewer than the packaged weights had and on fewer scenes: each
without a part, on the same scenes, with the same seed ({found["seed"]}), by `benchmarks/ablations.py`. Nothing is tuned
on a cube here. In spreads, on held-out parts of the families that are trained on, and on two that never are
(`eolearn`, `alboran`); the ratios are geometric means over families. Mean absolute errors:

{_against_the_full(networks, "errors")}

How wide intervals are that hold 90 % of the truth of a family, when all its half-widths are multiplied by one factor:

{_against_the_full(networks, "widths")}"""


def _against_the_full(networks: Mapping[str, Mapping[str, Mapping[str, float]]], kind: str) -> str:
    """Return the table of an error of all networks; the first is the full one."""
    full = next(iter(networks.values()))[kind]
    lines = []
    for name, found in networks.items():
        ratio = geometric_mean([found[kind][family] / full[family] for family in full])
        lines.append([name, *(number(found[kind][family]) for family in full), number(ratio, 3)])
    return table(["network", *full, "ratio to the full one"], lines)
