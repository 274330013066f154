"""The report of a run: one HTML page with pictures, numbers and provenance, that needs nothing else to be read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from stpipe import __version__
from stpipe.core.ports import JSON
from stpipe.core.samples import SOURCE_CODES
from stpipe.core.sizes import gib
from stpipe.errors import CubeError, OptionError
from stpipe.io.cube import open_source
from stpipe.io.frames import SOURCE_COLOURS, SOURCE_SUFFIX, FrameSource, RasterGrid, frame_dates, infos_of
from stpipe.report.charts import HEIGHT, WIDTH, Chart, curve_chart, limits_of_curves, share_chart
from stpipe.report.drawing import Picture, percent_text, titles
from stpipe.report.notes import guide_words, learning_notes
from stpipe.report.quicklook import READ_BYTES, look
from stpipe.report.sampling import LOOK_BYTES, Curve, Findings, Parts, sample
from stpipe.report.tiles import Row, rows_of, told_apart

MOST_PICTURED = 6
"""Variables with pictures and curves; all have numbers."""

MOST_LISTED = 200
"""Products in the list; run.json has all."""

HARDLY = 0.01
"""A date with a smaller share of observed samples, and filled ones, is named: what is there comes from elsewhere."""

THINNED = ", evenly thinned"
"""Said of percentiles, where samples are more than are kept."""

MOST_NAMED = 60
"""Dates in a list."""

MARK = '<meta name="generator" content="stpipe report'
"""What tells a report from other pages."""

MEANINGS = {
    "observed": "as in the input, bit for bit",
    "filled": "by the method",
    "filled_by_fallback": "by a simpler method, where the method could not answer",
    "unfilled": "still a gap: nothing reaches it, or it is longer than was allowed",
    "outside_domain": "where the variable can't have a value",
}
"""What each source code says, for who has not read the manual."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A variable in pictures and curves."""

    name: str
    """Its name."""

    title: str
    """Its long name, where it has one."""

    rows: tuple[Row, ...]
    """Pictures."""

    columns: tuple[tuple[str, str], ...]
    """Date and share of gap of each of their frames."""

    part: str
    """Which part of the scene they show."""

    shares: Chart
    """What each date holds."""

    hardly: tuple[str, ...]
    """Dates with next to nothing observed, but something filled; the first of them."""

    hardly_more: int
    """How many more there are."""

    curves: tuple[tuple[str, Chart], ...]
    """Pixels through time, with their places."""

    counted: str
    """What the chart of dates rests on."""

    looked: str
    """What the curves rest on."""


def make_report(
    filled: FrameSource,
    told: Mapping[str, JSON],
    variables: Sequence[str] | None = None,
) -> str:
    """Return the page of a filled cube.

    Parameters
    ----------
    filled : FrameSource
        The filled cube.
    told : mapping
        What run.json says.
    variables : sequence of str, optional
        Those with pictures; by default the first `MOST_PICTURED`.

    Raises
    ------
    OptionError
        If the run has no such variable.
    CubeError
        If the filled cube lacks what the run counted.
    """
    counts: Mapping[str, Mapping[str, int]] = told["counts"]
    for asked in variables or ():
        if asked not in counts:
            raise OptionError(f"the run has no variable {asked!r}; it has {', '.join(counts)}")
    known = infos_of(filled)
    for needed in (name for variable in counts for name in (variable, variable + SOURCE_SUFFIX)):
        if needed not in known:
            raise CubeError(
                f"filled.zarr has no variable {needed!r}, which run.json counts; fill the cube again with --overwrite"
            )
    learned = learning_notes(told.get("learned") or {})
    pictured = list(dict.fromkeys(variables or list(counts)[:MOST_PICTURED]))
    findings = {variable: sample(filled, variable, look_bytes=LOOK_BYTES // len(pictured)) for variable in pictured}
    products = told.get("products") or []
    page: str = _template().render(
        mark=MARK,
        version=__version__,
        name=_heading(told),
        lead=lead(counts),
        notes=[note for note in told.get("notes") or [] if note not in learned],
        learned=learned,
        percent=round(100 * (told.get("interval") or 0.9)),
        codes=[(code, SOURCE_COLOURS[code], MEANINGS[code]) for code in MEANINGS],
        table=[_numbers(variable, row, findings.get(variable), filled) for variable, row in counts.items()],
        sections=[_section(filled, variable, found, len(pictured)) for variable, found in findings.items()],
        left_out=[variable for variable in counts if variable not in pictured],
        facts=facts(told, filled),
        stages=_stages(told),
        method=json.dumps(told.get("method") or {}, indent=1),
        products=products[:MOST_LISTED],
        unlisted=max(0, len(products) - MOST_LISTED),
        versions=told.get("versions") or {},
        width=WIDTH,
        height=HEIGHT,
    )
    return page


def page_of_run(folder: Path, told: Mapping[str, JSON], variables: Sequence[str] | None = None) -> bytes:
    """Return the page of a run's folder as a file; see `make_report`."""
    stored = json.loads(json.dumps(told))  # as it comes from the file, so that the page is the same later
    page = make_report(open_source(folder / "filled.zarr"), stored, variables)
    return page.encode(errors="backslashreplace")  # names of files need not be text


def _heading(told: Mapping[str, JSON]) -> str:
    """Return what the page is headed by.

    >>> _heading({"input": "s3://tiles/T15SWD.zarr", "method": {"method": "pconv"}})
    'T15SWD.zarr, filled by pconv'
    """
    name, method = PurePosixPath(str(told.get("input") or "cube")).name, _method(told)
    return f"{name}, filled by {method}" if method else name


def _method(told: Mapping[str, JSON]) -> str:
    return str((told.get("method") or {}).get("method", ""))


@lru_cache(maxsize=1)  # it is compiled, which takes as long as the rest of a small page
def _template() -> Any:
    from dask.utils import format_bytes
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("stpipe.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    made.filters["size"] = format_bytes
    made.filters["words"] = lambda text: str(text).replace("_", " ")
    return made.get_template("report.html.j2")


def lead(counts: Mapping[str, Mapping[str, int]]) -> str:
    """Return what came of the run, in a sentence or two.

    >>> lead({"ndvi": {"observed": 60, "filled": 30, "filled_by_fallback": 9, "unfilled": 1, "outside_domain": 0}})
    '40 % of the samples were gaps; 98 % of them are filled, of which 23 % by a simpler method, and 2 % are gaps still.'
    """
    total = {code: sum(row.get(code, 0) for row in counts.values()) for code in SOURCE_CODES}
    inside = sum(total.values()) - total["outside_domain"]
    gaps, filled = inside - total["observed"], total["filled"] + total["filled_by_fallback"]
    if not inside:
        return "No sample lies inside the domain: there was nothing to fill."
    if not gaps:
        return "The cube had no gaps: everything is as it was."
    where = " inside the domain" if total["outside_domain"] else ""
    words = f"{percent_text(gaps / inside)} of the samples{where} were gaps; "
    words += f"{percent_text(filled / gaps)} of them are filled"
    if total["filled_by_fallback"]:
        words += f", of which {percent_text(total['filled_by_fallback'] / filled)} by a simpler method"
    if total["unfilled"]:
        words += ", and" if total["filled_by_fallback"] else " and"
        words += f" {percent_text(total['unfilled'] / gaps)} are gaps still"
    return f"{words}."


def facts(told: Mapping[str, JSON], filled: FrameSource) -> list[tuple[str, str]]:
    """Return what the run was, as pairs of words."""
    frames, height, width = filled.extent
    dates, grid = _days(frame_dates(filled.times)), RasterGrid.of(filled)
    rows = [
        ("command", _shell(told.get("command"))),
        ("input", str(told.get("input", ""))),
        ("method", _method(told)),
        ("guides", "; ".join(guide_words(guide) for guide in told.get("guides") or [])),
        ("frames", f"{frames:,}, {dates[0]} to {dates[-1]}"),
        ("pixels", f"{height:,} rows, {width:,} columns{_pixel_size(grid)}"),
        ("CRS", _crs_name(grid.crs_wkt)),
        *((key.replace("_", " "), _said(value)) for key, value in _options(told)),
        ("blocks", _blocks(told)),
        ("memory of a worker", _memory(told)),
        ("finished", str(told.get("finished", ""))),
        ("run id", str(told.get("run_id", ""))),
        ("state of the input", str(told.get("input_state", ""))),
    ]
    return [(key, value) for key, value in rows if value]


def _days(dates: Sequence[str]) -> tuple[str, ...]:
    """Return dates without their hours, where all are midnights.

    >>> _days(["2023-05-01T00:00:00"]), _days(["2023-05-01T10:30:00", "2023-05-02T00:00:00"])
    (('2023-05-01',), ('2023-05-01T10:30:00', '2023-05-02T00:00:00'))
    """
    midnights = all(date.endswith("T00:00:00") for date in dates)
    return tuple(date[:10] for date in dates) if midnights else tuple(dates)


def _options(told: Mapping[str, JSON]) -> list[tuple[str, JSON]]:
    """Return the options that decide the numbers, as far as they were given."""
    known = {"stpipe", "cube", "geotiff", "layout", "interval"}
    asked = (told.get("identity") or {}).get("input") or {}
    return [(key, value) for key, value in asked.items() if key not in known and value not in (None, [], {}, "")]


def _said(value: JSON) -> str:
    if isinstance(value, list) and not any(isinstance(inner, list | dict) for inner in value):
        return ", ".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)


def _shell(command: JSON) -> str:
    import shlex

    return shlex.join(map(str, command)) if command else ""


def _blocks(told: Mapping[str, JSON]) -> str:
    blocks = told.get("blocks") or {}
    gaps, total = blocks.get("with_gaps"), blocks.get("total")
    return "" if gaps is None or total is None else f"{gaps:,} of {total:,} had gaps"


def _memory(told: Mapping[str, JSON]) -> str:
    peak, planned = told.get("peak_worker_bytes"), told.get("projected_peak_bytes")
    return f"{gib(peak)} at most, {gib(planned)} planned" if peak and planned else ""


def _pixel_size(grid: RasterGrid) -> str:
    if grid.transform is None:
        return ", on no regular grid"
    a, b, _, d, e, _ = grid.transform
    if grid.crs_wkt is None:
        return ""
    return f", {math.hypot(b, e):g} x {math.hypot(a, d):g} units of the CRS each"


def _crs_name(wkt: str | None) -> str:
    if wkt is None:
        return "none"
    from rasterio.crs import CRS

    crs = CRS.from_wkt(wkt)
    authority = crs.to_authority()
    return ":".join(authority) if authority else " ".join(crs.to_wkt().split('"')[1:2])


def _stages(told: Mapping[str, JSON]) -> list[dict[str, JSON]]:
    usual = {"seconds": 0.0, "tasks": 0, "had": 0, "retries": 0, "workers_seen": 0, "peak_bytes": 0}
    return [{"name": name, **usual, **row} for name, row in (told.get("stages") or {}).items()]


def _numbers(variable: str, counts: Mapping[str, int], found: Findings | None, filled: FrameSource) -> dict[str, Any]:
    """Return one row of the table."""
    units = str(infos_of(filled)[variable].attrs.get("units", ""))
    total = max(1, sum(counts.values()))
    return {
        "name": variable,
        "units": "" if units == "1" else units,
        "counts": [(code, counts.get(code, 0), percent_text(counts.get(code, 0) / total)) for code in MEANINGS],
        "values": [] if found is None else [_three(found.observed), _three(found.filled), _three(found.half_widths)],
        "basis": "" if found is None else _basis(found.looked, filled.extent[0]) + (THINNED if found.thinned else ""),
    }


def _three(numbers: tuple[float, float, float] | None) -> str:
    """Return a median and what is about it.

    >>> _three((0.0123, 0.4567, 0.89)), _three((101000.0, 101250.0, 101400.0)), _three(None)
    ('0.457 (0.0123 to 0.89)', '101250 (101000 to 101400)', '–')
    """
    if numbers is None:
        return "–"
    low, middle, high = told_apart(numbers)
    return f"{middle} ({low} to {high})"


def _basis(parts: Parts, frames: int) -> str:
    if parts.whole:
        return "all samples"
    dates = "all dates" if len(parts.frames) == frames else f"{len(parts.frames):,} of {frames:,} dates"
    places = "one part" if len(parts.tiles) == 1 else f"{len(parts.tiles):,} parts"
    return f"{percent_text(parts.share)} of the samples: {places} of the scene, {dates}"


def _section(filled: FrameSource, variable: str, found: Findings, variables: int) -> Section:
    counted, looked = found.counted, found.looked
    times = filled.times[list(counted.frames)]
    picture = look(filled, filled, variable, read_bytes=READ_BYTES // variables)
    inside = np.delete(found.counts, SOURCE_CODES["outside_domain"], axis=1).sum(axis=1)
    observed = found.counts[:, SOURCE_CODES["observed"]]
    gaps_filled = found.counts[:, [SOURCE_CODES["filled"], SOURCE_CODES["filled_by_fallback"]]].sum(axis=1)
    several = len(found.counts) > 1  # or there are no other dates
    hardly = np.flatnonzero(several & (gaps_filled > 0) & (observed < HARDLY * inside))
    dates = _days(frame_dates(times))
    limits = limits_of_curves(found.curves)
    info = infos_of(filled)[variable]
    return Section(
        name=variable,
        title=str(info.attrs.get("long_name") or ""),
        rows=rows_of(picture),
        columns=tuple((date, gap) for date, _, gap in (title.partition("\n") for title in titles(picture))),
        part=_part(picture),
        shares=share_chart(times, found.counts),
        hardly=tuple(dates[i] for i in hardly[:MOST_NAMED]),
        hardly_more=max(0, len(hardly) - MOST_NAMED),
        curves=tuple(
            (_place(filled, curve), curve_chart(filled.times[list(looked.frames)], curve, limits))
            for curve in found.curves
        ),
        counted=_basis(counted, filled.extent[0]),
        looked="" if looked.whole else _basis(looked, filled.extent[0]),
    )


def _part(picture: Picture) -> str:
    """Return which part of the scene is shown, where it is not all of it, pixel by pixel."""
    words = []
    if not picture.view.whole:
        top, bottom, left, right = picture.view.window
        words.append(f"rows {top:,} to {bottom - 1:,} and columns {left:,} to {right - 1:,}")
    if picture.view.stride > 1:
        words.append(f"one pixel in {picture.view.stride} along each side")
    return ", ".join(words)


def _place(filled: FrameSource, curve: Curve) -> str:
    """Return where a pixel is, and how often it was observed."""
    words = f"row {curve.y:,}, column {curve.x:,}"
    if filled.y is not None and filled.x is not None:
        words += f" (y {float(filled.y[curve.y]):.9g}, x {float(filled.x[curve.x]):.9g})"
    observed = int((curve.codes == SOURCE_CODES["observed"]).sum())
    return f"{words}, observed on {observed:,} of {len(curve.codes):,} dates"
