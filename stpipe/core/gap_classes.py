"""Kinds of gap samples: how they are called in reports, and which ones share a calibration.

Reports speak of what a user sees: speckle, the edge and the core of a cloud, a missing frame, a run of them. Intervals
need classes that a block can tell by itself, so `calibration_class` looks no farther than `REACH` pixels in the frame,
at the pixel's own series, and at which frames of the scene are empty; so does `interval_class`, which tells speckle
from the rims of larger gaps as well.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

REPORT_CLASSES = ("speckle", "cloud edge", "cloud core", "whole frame", "run of frames")
"""Kinds of gap in reports, in the order of their codes."""

SPECKLE, EDGE, CORE, WHOLE_FRAME, RUN = range(len(REPORT_CLASSES))

NO_GAP = 255
"""Code of samples that are observed or outside the domain."""

SPECKLE_PX = 2.0
"""A gap that is nowhere farther than this from a valid sample is speckle."""

EDGE_PX = 4.0
"""Samples of larger gaps up to this far from a valid sample are edge, the others core."""

REPORT_PX = (1.5, 4.0, 8.0, 16.0, 32.0)
"""Upper ends of the distances in space, in pixels, that reports tell apart; the last bin is farther."""

REPORT_DAYS = (2.0, 5.0, 10.0, 20.0, 40.0)
"""Upper ends of the distances in time, in days, that reports tell apart; the last bin is farther, or never."""

CLASS_PX = (1.5, 4.0, 12.0)
"""Upper ends of the distances in space, in pixels, that intervals tell apart."""

CLASS_STEPS = (1.5, 4.0)
"""Upper ends of the distances in time, in median steps of the cube, that intervals tell apart."""

REACH = 12
"""How far in the frame a sample's calibration class depends on others, in pixels."""

TIME_CLASSES = len(CLASS_STEPS) + 1
"""Calibration classes that share a distance in space; they follow each other."""

CLASS_COUNT = (len(CLASS_PX) + 2) * TIME_CLASSES
"""Number of calibration classes; the last ones are for empty frames."""

INTERVAL_COUNT = CLASS_COUNT + TIME_CLASSES
"""Number of classes of intervals: those, and after them the ones of speckle."""

AROUND, SURROUNDED = 3, 33
"""An interval tells speckle by so many observations or more, of 49, within so many rows and columns."""

EMPTY_SHARE = 0.01
"""A frame that observed a smaller share of the scene than this is empty far from what it did observe."""

_TOUCHING = np.ones((3, 3), dtype=bool)
_LAST_DIGITS = 1 + 1e-6


def space_distance(valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the distance to the nearest valid sample of the frame.

    Parameters
    ----------
    valid : (time, y, x) ndarray of bool
        Where observed and trusted.

    Returns
    -------
    (time, y, x) ndarray of float32
        Pixels between centres; 0 where valid, infinite in a frame without any valid sample.

    Examples
    --------
    >>> space_distance(np.array([[[True, False, False]], [[False, False, False]]]))[:, 0]
    array([[ 0.,  1.,  2.],
           [inf, inf, inf]], dtype=float32)
    """
    distance = np.empty(valid.shape, dtype=np.float32)
    for t, frame in enumerate(valid):
        distance[t] = _frame_distance(frame)
    return distance


def _frame_distance(valid: NDArray[np.bool_]) -> NDArray[np.float64] | float:
    if valid.all():
        return 0.0
    return np.asarray(ndimage.distance_transform_edt(~valid)) if valid.any() else np.inf


def time_distance(valid: NDArray[np.bool_], days: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the days to the nearest valid sample of the same pixel.

    Parameters
    ----------
    valid : (time, y, x) ndarray of bool
        Where observed and trusted.
    days : (time,) ndarray of float64
        Ascending times.

    Returns
    -------
    (time, y, x) ndarray of float32
        0 where valid, infinite for a pixel without any valid sample.

    Examples
    --------
    >>> series = np.array([True, False, False, True]).reshape(4, 1, 1)
    >>> time_distance(series, np.array([0.0, 1.0, 3.0, 4.0])).ravel()
    array([0., 1., 1., 0.], dtype=float32)
    """
    distance = np.empty(valid.shape, dtype=np.float32)
    last = np.full(valid.shape[1:], -np.inf)
    for t, day in enumerate(days):
        last[valid[t]] = day
        distance[t] = day - last
    following = np.full(valid.shape[1:], np.inf)
    for t in range(len(days) - 1, -1, -1):
        following[valid[t]] = days[t]
        np.minimum(distance[t], following - days[t], out=distance[t], casting="same_kind")
    return distance


def report_classes(valid: NDArray[np.bool_], *, domain: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
    """Return the kind of each gap sample.

    Parameters
    ----------
    valid : (time, y, x) ndarray of bool
        Where observed and trusted.
    domain : (y, x) ndarray of bool, optional
        Where values can exist; what lies outside is no gap.

    Returns
    -------
    (time, y, x) ndarray of uint8
        Position in `REPORT_CLASSES`, `NO_GAP` elsewhere. Gaps that touch at a corner are one.

    Examples
    --------
    >>> valid = np.ones((3, 1, 9), dtype=bool)
    >>> valid[0], valid[2, 0, 4] = False, False
    >>> codes = report_classes(valid)
    >>> [REPORT_CLASSES[code] for code in (codes[0, 0, 0], codes[2, 0, 4])]
    ['whole frame', 'speckle']
    """
    codes = np.full(valid.shape, NO_GAP, dtype=np.uint8)
    inside = np.ones(valid.shape[1:], dtype=bool) if domain is None else domain
    empty = np.asarray(~(valid & inside).any(axis=(1, 2)))
    beside = np.zeros_like(empty)
    beside[1:] |= empty[:-1]
    beside[:-1] |= empty[1:]
    for t, known in enumerate(valid):
        gap = inside & ~known
        if empty[t]:
            codes[t][gap] = RUN if beside[t] else WHOLE_FRAME
        elif gap.any():
            distance = np.asarray(ndimage.distance_transform_edt(~known))
            labels, count = ndimage.label(gap, structure=_TOUCHING)
            widest = np.asarray(ndimage.maximum(distance, labels, np.arange(count + 1)))
            kind = np.where(distance <= EDGE_PX, EDGE, CORE)
            codes[t][gap] = np.where(widest[labels] <= SPECKLE_PX, SPECKLE, kind)[gap]
    return codes


def calibration_class(
    valid: NDArray[np.bool_], days: NDArray[np.float64], step: float, *, shares: NDArray[np.floating] | None = None
) -> NDArray[np.uint8]:
    """Return the class whose interval each sample shares.

    It depends on what lies within `REACH` pixels in the frame, on the pixel's own series, and on which frames of the
    scene are empty, and on nothing else, so that a block with a halo finds the same as the whole scene.

    Parameters
    ----------
    valid : (time, y, x) ndarray of bool
        Where observed and trusted; the whole time axis.
    days : (time,) ndarray of float64
        Ascending times.
    step : float
        Median step of the cube in days.
    shares : (time,) ndarray, optional
        Share of the scene that each frame observed; that of `valid` in its fullest frame unless given.

    Returns
    -------
    (time, y, x) ndarray of uint8
        `TIME_CLASSES` x bin of `CLASS_PX`, or one more in an empty frame, + bin of `CLASS_STEPS`, below
        `CLASS_COUNT`; 0 where valid.

    Examples
    --------
    >>> valid = np.zeros((2, 1, 30), dtype=bool)
    >>> valid[0, 0, 0] = True
    >>> calibration_class(valid, np.array([0.0, 5.0]), 5.0)[:, 0, [0, 1, 3, 9, 29]]
    array([[ 0,  2,  5,  8, 11],
           [12, 14, 14, 14, 14]], dtype=uint8)
    """
    classes = _step_bins(valid, days, step)
    if shares is None:
        observed = valid.sum(axis=(1, 2))
        shares = observed / max(1, int(observed.max(initial=0)))
    for t, frame in enumerate(valid):
        space = np.searchsorted(CLASS_PX, _frame_distance(frame)).astype(np.uint8)
        if shares[t] < EMPTY_SHARE:
            space = space + (space == len(CLASS_PX)).astype(np.uint8)
        classes[t] += space * np.uint8(TIME_CLASSES)
    return classes


def interval_class(
    valid: NDArray[np.bool_], days: NDArray[np.float64], step: float, *, shares: NDArray[np.floating] | None = None
) -> NDArray[np.uint8]:
    """Return the class whose interval each sample shares, where speckle is a kind of its own.

    A sample is speckle if `SURROUNDED` samples or more are valid within `AROUND` rows and columns: it has observations
    around it, while one at the rim of a cloud has them on one side.

    Parameters
    ----------
    valid, days, step, shares
        As for `calibration_class`.

    Returns
    -------
    (time, y, x) ndarray of uint8
        That of `calibration_class`, or for speckle `CLASS_COUNT` + bin of `CLASS_STEPS`; 0 where valid.

    Examples
    --------
    >>> valid = np.ones((1, 9, 30), dtype=bool)
    >>> valid[0, 4, 3] = valid[0, :, 20:] = False
    >>> interval_class(valid, np.array([0.0]), 1.0)[0, 4, [2, 3, 20]]
    array([ 0, 17,  2], dtype=uint8)
    """
    classes = calibration_class(valid, days, step, shares=shares)
    ones = np.ones(2 * AROUND + 1)
    for t, frame in enumerate(valid):
        count = frame.astype(np.uint8)
        for axis in (0, 1):
            count = ndimage.correlate1d(count, ones, axis=axis, mode="constant")
        speckle = ~frame & (count >= SURROUNDED)
        classes[t][speckle] = CLASS_COUNT + classes[t][speckle] % TIME_CLASSES
    return classes


def _step_bins(valid: NDArray[np.bool_], days: NDArray[np.float64], step: float) -> NDArray[np.uint8]:
    """Bin the distance in time, a frame at a time: on even steps it is a whole number of them up to rounding."""
    limits = np.array(CLASS_STEPS) * step * _LAST_DIGITS
    bins = np.empty(valid.shape, dtype=np.uint8)
    last = np.full(valid.shape[1:], -np.inf)
    for t, day in enumerate(days):
        last[valid[t]] = day
        bins[t] = np.searchsorted(limits, day - last)
    following = np.full(valid.shape[1:], np.inf)
    for t in range(len(days) - 1, -1, -1):
        following[valid[t]] = days[t]
        np.minimum(bins[t], np.searchsorted(limits, following - days[t]), out=bins[t], casting="unsafe")
    return bins
