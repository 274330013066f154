"""The tables of `stpipe evaluate`; a module of its own, for rich takes a while to load."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stpipe.cli.console import in_parts
from stpipe.core.comparison import Row
from stpipe.core.evaluation import Evaluation


def show(result: Evaluation, console: Console, *, by_frame: bool = False) -> None:
    """Print the scores of one variable: over all samples, by group, and the costs; of each frame if that is wanted."""
    units = f" ({result.units})" if result.units not in {"", "1"} else ""
    console.print()
    console.print(
        f"{result.variable}{units}: {result.hidden:,} samples hidden in {result.draws} draw{'s' * (result.draws != 1)} "
        f"with seed {result.seed}"
    )
    methods = [cost.method for cost in result.costs]
    console.print(*_overall(result, methods, console))
    for grouping in dict.fromkeys(row.grouping for row in result.rows):
        if grouping != "all":
            console.print(*_by_group(result, methods, grouping, console))
    best = "" if result.best_simple is None else f" against {result.best_simple}, the best simple method;"
    console.print(
        f"* the lowest. difference: of the MAE,{best} in brackets, here and of the share inside the interval, the "
        "middle 90 % of a bootstrap over frames or their parts. skill: against linear. seams: steps across block "
        "borders over those when filled in one piece."
    )
    if by_frame:
        console.print(*_by_frame(result, methods, console))


def _overall(result: Evaluation, methods: Sequence[str], console: Console) -> list[Table]:
    headings = (
        "method", "MAE", "RMSE", "bias", "R2", "skill", "difference", f"in {100 * result.interval:g} %", "width",
        "filled", "seams", "s/million", "learning s",
    )  # fmt: skip
    scores = [result.row(method) for method in methods]
    lowest = _lowest([row.mae for row in scores])
    rows = []
    for row, cost in zip(scores, result.costs, strict=True):
        own = row.method == result.best_simple
        between = f"{_signed(row.difference)} [{_signed(row.difference_low)}, {_signed(row.difference_high)}]"
        cells: tuple[str | Text, ...] = (
            row.method,
            _starred(row.mae, lowest),
            _number(row.rmse),
            _signed(row.bias),
            _fixed(row.r2, 3),
            _fixed(row.skill, 3),
            "" if own or math.isnan(row.difference) else between,
            _percent(row.coverage) + _bounds(row.coverage_low, row.coverage_high),
            _number(row.width),
            _percent(row.filled),
            _fixed(cost.seam_ratio, 3),
            _fixed(cost.seconds_per_million, 2),
            _fixed(cost.learning_seconds, 1),
        )
        rows.append(cells)
    return in_parts(console, headings, rows)


def _by_group(result: Evaluation, methods: Sequence[str], grouping: str, console: Console) -> list[Table]:
    """MAE of each method and, in gap classes, the share of the truth inside its intervals."""
    groups = list(dict.fromkeys(row.group for row in result.rows if row.grouping == grouping))
    inside: Callable[[Row], str] = lambda row: f" ({_percent(row.coverage)})" if grouping == "gap class" else ""  # noqa: E731
    rows = []
    for group in groups:
        scores = [result.row(method, group) for method in methods]
        lowest = _lowest([row.mae for row in scores])
        cells: list[str | Text] = [group, f"{scores[0].samples:,}"]
        rows.append([*cells, *(_starred(row.mae, lowest, inside(row)) for row in scores)])
    return in_parts(console, (f"MAE by {grouping}", "samples", *methods), rows, keys=2)


def _by_frame(result: Evaluation, methods: Sequence[str], console: Console) -> list[Table]:
    """MAE of each method in each frame of which something was hidden."""
    judged = any(frame.calibrated is not None for frame in result.frames)
    rows = []
    for frame in result.frames:
        lowest = _lowest(list(frame.mae.values()))
        cells: tuple[str | Text, ...] = (
            frame.date or str(frame.frame),
            _percent(frame.clear),
            f"{frame.hidden:,}",
            *(_starred(frame.mae[method], lowest) for method in methods),
            *((_calibrated(frame.calibrated),) if judged else ()),
        )
        rows.append(cells)
    headings = ("MAE by frame", "clear", "hidden", *methods, *(("calibrated",) if judged else ()))
    return in_parts(console, headings, rows, keys=3)


def _calibrated(share: float | None) -> str:
    """Return whether a frame was calibrated, of which in some parts and draws it may have been too cloudy.

    >>> _calibrated(1.0), _calibrated(0.0), _calibrated(0.25)
    ('yes', 'no', '25 %')
    """
    if share is None:
        return "-"
    return {1.0: "yes", 0.0: "no"}.get(share, _percent(share))


def _lowest(values: Sequence[float]) -> float:
    return min((value for value in values if not math.isnan(value)), default=math.nan)


def _starred(value: float, lowest: float, more: str = "") -> Text:
    """Return a number, the lowest one with a star and bold, and what stands behind it."""
    return Text.assemble((f"*{_number(value)}", "bold") if value == lowest else _number(value), more)


def _number(value: float) -> str:
    """Return four digits.

    >>> _number(0.00123456), _number(1234.5), _number(float("nan"))
    ('0.001235', '1234', '-')
    """
    if math.isnan(value):
        return "-"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _signed(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:+.2g}"


def _fixed(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _bounds(low: float, high: float) -> str:
    """Return error bars of a share, empty if there are none.

    >>> _bounds(0.831, 0.9), _bounds(float("nan"), 0.9)
    (' [83, 90]', '')
    """
    return "" if math.isnan(low) or math.isnan(high) else f" [{100 * low:.0f}, {100 * high:.0f}]"


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.0f} %"
