"""The report's small pictures: each row of a `Picture` as PNGs that a page can hold."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpipe.core.samples import SOURCE_CODES
from stpipe.io.frames import SOURCE_COLOURS
from stpipe.report.drawing import GAP_GREY, Picture, limits_of, width_limit

STEPS = 255
"""Colours of a map; one more is for what is missing."""

MISSING = STEPS
"""Its place in the palette."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Pictures of one kind, a frame each."""

    label: str
    """What they show."""

    images: tuple[str, ...]
    """As ``data:`` addresses."""

    scale: tuple[str, str, str] | None = None
    """Value at the low end, at the high end, and the colours between as CSS; None for source codes."""


def rows_of(picture: Picture) -> tuple[Row, ...]:
    """Return what the quicklook shows: observed, filled, half-width of the interval, and source.

    Values between the 2nd and the 98th percentile have colours of their own, and what is missing is grey.
    """
    low, high = limits_of([*picture.before, *picture.after])
    rows = [
        _row("observed", picture.before, "viridis", low, high),
        _row("filled", picture.after, "viridis", low, high),
    ]
    if picture.widths:
        widths = [np.where(width == 0, np.nan, width) for width in picture.widths]  # nothing where observed
        rows.append(_row(f"{picture.percent} % interval, ±", widths, "BuPu", 0.0, width_limit(picture.widths)))
    if picture.codes:
        palette = [_rgb(SOURCE_COLOURS[meaning]) for meaning in SOURCE_CODES]
        images = tuple(_png(np.minimum(codes, len(palette) - 1), palette) for codes in picture.codes)
        rows.append(Row(label="source", images=images))
    return tuple(rows)


def _row(label: str, images: Sequence[NDArray[np.float64]], colours: str, low: float, high: float) -> Row:
    from matplotlib import colormaps

    chosen = colormaps[colours].resampled(STEPS)
    palette = [tuple(round(255 * part) for part in chosen(step)[:3]) for step in range(STEPS)]
    palette.append(_rgb(GAP_GREY))
    made = tuple(_png(_steps(image, low, high), palette) for image in images)
    stops = ", ".join("rgb({}, {}, {})".format(*palette[step]) for step in np.linspace(0, STEPS - 1, 9).astype(int))
    lower, upper = told_apart((low, high))
    return Row(label=label, images=made, scale=(lower, upper, f"linear-gradient(to right, {stops})"))


def told_apart(numbers: Sequence[float]) -> tuple[str, ...]:
    """Return numbers in three digits, or in as many as tell them apart to a hundredth of their range.

    >>> told_apart((0.01234, 0.5678)), told_apart((101000.0, 101250.0, 101400.0)), told_apart((2.0, 2.0))
    (('0.0123', '0.568'), ('101000', '101250', '101400'), ('2', '2'))
    """
    span = max(numbers) - min(numbers)
    for digits in range(3, 16):
        words = tuple(f"{float(f'{number:.{digits}g}'):.{max(digits, 7)}g}" for number in numbers)
        if all(abs(float(word) - number) <= 0.01 * span for word, number in zip(words, numbers, strict=True)):
            break
    return words


def _steps(image: NDArray[np.float64], low: float, high: float) -> NDArray[np.uint8]:
    """Return the colour of each value.

    >>> _steps(np.array([[0.0, 1.0, 2.0, np.nan]]), 0.0, 1.0).tolist()
    [[0, 254, 254, 255]]
    """
    known = np.isfinite(image)
    share = (np.where(known, image, low) - low) / (high - low)
    steps = np.minimum(share.clip(0, 1) * STEPS, STEPS - 1)
    return np.where(known, steps, MISSING).astype(np.uint8)


def _rgb(colour: str) -> tuple[int, ...]:
    """Return red, green and blue.

    >>> _rgb("#4477aa")
    (68, 119, 170)
    """
    return tuple(bytes.fromhex(colour.removeprefix("#")))


def _png(colours: NDArray[Any], palette: Sequence[tuple[int, ...]]) -> str:
    from PIL import Image

    picture = Image.fromarray(colours.astype(np.uint8), mode="P")
    picture.putpalette([part for colour in palette for part in colour])
    file = io.BytesIO()
    picture.save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
