"""Smoothing of predictions in time: what their leading principal components keep of them.

A pixel's predictions are one vector of as many numbers as there are frames. What pixels share is kept, and what is
each one's own (the speckle of radar) is dropped: every frame's mean over the pixels is taken off, the vector is
projected on the leading eigenvectors of the frames' covariance over the pixels, and the means are added back.

Mean and covariance are the scene's. They come from sums over pixels, `Moments`, which tiles work out by themselves and
which add up to those of the scene; `Components` follow from them, and `smooth` then needs no pixel but its own.

A missing prediction counts as its frame's mean, in the covariance as in the projection, and stays missing. As the
means are known only once all tiles are summed, sums are kept also of what is there: with X the values, zero where
missing, W one where there is a value and zero elsewhere, and m the means, the centred products are::

    X X' - (X W') diag(m) - diag(m) (W X') + m m' * (W W')

Only a frame with values in some pixels and not in others adds work for W.

Sources: step 8 of the published infilling (Mao, McVicar and Van Niel); principal components after Jolliffe and Cadima
(2016), Philosophical Transactions of the Royal Society A 374.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpipe.errors import OptionError, ScratchError, ShapeError

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

SUMMED_SAMPLES = 2**20
"""Samples summed at a time: temporaries of some 24 MiB, and little time on adding up the sums themselves."""

SMOOTHED_SAMPLES = 2**18
"""Samples smoothed at a time: temporaries of some 4 MiB, for larger ones are asked of the system anew each time."""

ROUNDING = 1e-9
"""What rounding may add to a share of frames or of variance: a tenth of 30 frames is three, and not four."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Moments:
    """Sums over pixels of which the scene's mean and covariance are made; those of tiles add up."""

    pixels: int
    """Pixels with a value in any frame; others count nowhere."""

    count: NDArray[np.int64]
    """(time,), pixels with a value."""

    total: F64
    """(time,), sum of the values."""

    products: F64
    """(time, time), sums of products of two frames' values, over pixels with both."""

    cross: F64
    """(time, time), [t, u]: sum of the values of t over pixels that have one of u as well."""

    pairs: F64
    """(time, time), pixels that have values of both frames."""

    @classmethod
    def of(cls, series: F32) -> Moments:
        """Sum over the pixels of a tile.

        Parameters
        ----------
        series : (time, pixel) ndarray of float32
            Standardised predictions, NaN where missing.

        Returns
        -------
        Moments
            In float64: rounding to float32 would differ from tiling to tiling.

        Examples
        --------
        >>> series = np.array([[1, 3, np.nan], [2, np.nan, np.nan]], dtype=np.float32)
        >>> moments = Moments.of(series)
        >>> moments.pixels, moments.mean
        (2, array([2., 2.]))
        >>> moments.covariance
        array([[1., 0.],
               [0., 0.]])
        """
        frames = series.shape[0]
        pixels = 0
        count, total = np.zeros(frames, dtype=np.int64), np.zeros(frames)
        products, cross, pairs = (np.zeros((frames, frames)) for _ in range(3))
        for part in _parts(series, SUMMED_SAMPLES):
            values = series[:, part]
            there = ~np.isnan(values)
            some = there.any(axis=0)
            if not some.all():
                values, there = values[:, some], there[:, some]
            block = values.astype(np.float64)
            size, number = block.shape[1], np.count_nonzero(there, axis=1)
            if number.sum() < block.size:
                block[~there] = 0.0
            summed = block.sum(axis=1)
            partial = _partial(number, size)
            block_cross, block_pairs = _unless_partial(size, number, summed)
            if partial.any():
                weights = there[partial].astype(np.float64)
                block_cross[:, partial] = block @ weights.T
                block_pairs[np.ix_(partial, partial)] = weights @ weights.T
            pixels += size
            count += number
            total += summed
            products += block @ block.T
            cross += block_cross
            pairs += block_pairs
        return cls(pixels=pixels, count=count, total=total, products=products, cross=cross, pairs=pairs)

    def __add__(self, other: Moments) -> Moments:
        if self.count.size != other.count.size:
            raise ShapeError(f"sums of {self.count.size} and of {other.count.size} frames don't add up to a scene's")
        return Moments(
            pixels=self.pixels + other.pixels,
            count=self.count + other.count,
            total=self.total + other.total,
            products=self.products + other.products,
            cross=self.cross + other.cross,
            pairs=self.pairs + other.pairs,
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return all that `from_arrays` needs to make the very same sums, without what follows from the rest.

        >>> sums = Moments.of(np.ones((3, 8), dtype=np.float32))
        >>> {name: array.size for name, array in sums.arrays().items()}
        {'pixels': 1, 'count': 3, 'total': 3, 'products': 6, 'cross': 0, 'pairs': 0}
        """
        partial = _partial(self.count, self.pixels)
        return {
            "pixels": np.array(self.pixels),
            "count": self.count,
            "total": self.total,
            "products": self.products[np.triu_indices(self.count.size)],
            "cross": self.cross[:, partial],
            "pairs": self.pairs[np.ix_(partial, partial)],
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Moments:
        """Return the sums that `arrays` was called on.

        Raises
        ------
        ScratchError
            If the arrays are of anything else.
        """
        try:
            pixels, count, total = int(arrays["pixels"]), arrays["count"].astype(np.int64), arrays["total"]
            products = np.zeros((count.size, count.size))
            products[np.triu_indices(count.size)] = arrays["products"]
            products += np.triu(products, 1).T
            partial = _partial(count, pixels)
            cross, pairs = _unless_partial(pixels, count, total)
            cross[:, partial] = arrays["cross"]
            pairs[np.ix_(partial, partial)] = arrays["pairs"]
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise ScratchError(f"the arrays {sorted(arrays)} are no sums of predictions ({error})") from error
        return cls(pixels=pixels, count=count, total=total, products=products, cross=cross, pairs=pairs)

    @property
    def mean(self) -> F64:
        """(time,), mean of each frame's values, NaN where there are none."""
        mean = np.full(self.count.size, np.nan)
        np.divide(self.total, self.count, out=mean, where=self.count > 0)
        return mean

    @property
    def covariance(self) -> F64:
        """(time, time), over pixels, missing values at their frame's mean; zero for frames without any value.

        Symmetric, and positive semi-definite up to rounding. Divided by the number of pixels: components don't depend
        on it.
        """
        mean = self.total / np.maximum(self.count, 1)
        crossed = self.cross * mean
        centred = self.products - (crossed + crossed.T) + np.outer(mean, mean) * self.pairs
        return np.asarray(centred / max(self.pixels, 1))


def _partial(count: NDArray[np.int64], pixels: int) -> NDArray[np.bool_]:
    """Return (time,) True where a frame has values in some pixels and not in others."""
    partial: NDArray[np.bool_] = (count > 0) & (count < pixels)
    return partial


def _unless_partial(pixels: int, count: NDArray[np.int64], total: F64) -> tuple[F64, F64]:
    """Return the sums `cross` and `pairs`, which follow from the others but for partial frames."""
    whole = count == pixels
    cross = np.where(whole, total[:, None], 0.0)
    pairs = np.where(whole[:, None], count, np.where(whole, count[:, None], 0)).astype(np.float64)
    return cross, pairs


def _parts(series: F32, samples: int) -> list[slice]:
    """Return slices of pixels to work on one after the other, of so many samples each."""
    frames, pixels = series.shape
    step = max(1, samples // max(1, frames))
    return [slice(start, start + step) for start in range(0, pixels, step)]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Components:
    """The patterns in time that predictions are projected on."""

    mean: F64
    """(time,), NaN where no pixel had a value."""

    vectors: F64
    """(component, time), orthonormal, leading first; zero in frames that have no mean."""

    explained: F64
    """(component,), share of the variance over pixels that each explains; zero if there is none."""

    @classmethod
    def of(cls, moments: Moments, *, share: float | None, explained: float | None) -> Components:
        """Take the leading eigenvectors of the covariance.

        Parameters
        ----------
        moments : Moments
            The scene's.
        share : float or None
            Keep this share of as many components as there are frames with values, rounded up; as published.
        explained : float or None
            Or keep as few as explain this share of the variance.

        Returns
        -------
        Components
            At least one where any frame has a value. Of each vector the entry of largest size, or the first of them,
            is positive.

        Raises
        ------
        OptionError
            If both are given or none, or one is not in (0, 1].

        Examples
        --------
        >>> season = np.array([[1], [2], [-1]]) * np.array([-1, 0.5, 2, 1])
        >>> components = Components.of(Moments.of(season.astype(np.float32)), share=None, explained=0.95)
        >>> components.vectors.round(3), components.explained.round(3)
        (array([[ 0.408,  0.816, -0.408]]), array([1.]))
        """
        if (share is None) == (explained is None):
            raise OptionError(
                f"components are kept by their share or by what they explain: give one, got share={share}, "
                f"explained={explained}"
            )
        for name, value in (("share", share), ("explained", explained)):
            if value is not None and not 0 < value <= 1:
                raise OptionError(f"{name} of the components must be above 0 and at most 1, got {value}")
        there = np.flatnonzero(moments.count)
        variances, columns = np.linalg.eigh(moments.covariance[np.ix_(there, there)])
        variances = variances[::-1].clip(0)
        whole = float(variances.sum())
        shares = variances / whole if whole > 0 else variances
        if share is not None:
            number = math.ceil(share * there.size - ROUNDING)
        else:
            assert explained is not None
            number = int(np.searchsorted(np.cumsum(shares), explained - ROUNDING)) + 1 if whole > 0 else 1
        number = min(max(number, 1), there.size)
        vectors = np.zeros((number, moments.count.size))
        vectors[:, there] = columns[:, ::-1].T[:number]
        return cls(mean=moments.mean, vectors=_with_signs(vectors), explained=shares[:number])


def _with_signs(vectors: F64) -> F64:
    """Return (component, time) vectors or their opposites, so that rounding does not choose between the two."""
    if not len(vectors):
        return vectors
    size = np.abs(vectors)
    largest = np.argmax(size >= size.max(axis=1, keepdims=True) - 1e-6, axis=1)
    return np.asarray(vectors * np.sign(np.take_along_axis(vectors, largest[:, None], axis=1)))


def smooth(components: Components, series: F32) -> F32:
    """Return what the components keep of each pixel's predictions.

    Parameters
    ----------
    components : Components
        The scene's.
    series : (time, pixel) ndarray of float32
        Standardised predictions, NaN where missing; a missing one counts as its frame's mean.

    Returns
    -------
    (time, pixel) ndarray of float32
        NaN where `series` is. A frame that no pixel of `components` had a value in comes back as it is. Worked out in
        float32, a pixel's numbers are the same within some steps of float32, 1e-6 of the largest deviation, whichever
        pixels are smoothed with it.

    Raises
    ------
    ShapeError
        If the components are of another number of frames.

    Examples
    --------
    >>> line = Components(mean=np.zeros(2), vectors=np.full((1, 2), 0.5**0.5), explained=np.ones(1))
    >>> smooth(line, np.array([[1, 2], [3, np.nan]], dtype=np.float32)).round(5)
    array([[ 2.,  1.],
           [ 2., nan]], dtype=float32)
    """
    frames = components.mean.size
    if series.shape[0] != frames:
        raise ShapeError(f"components of {frames} frames can't smooth {series.shape[0]}; take those of this scene")
    known = ~np.isnan(components.mean)
    mean = np.where(known, components.mean, 0.0)[:, None]
    vectors = components.vectors.astype(np.float32)
    mean = mean.astype(np.float32)
    smoothed = np.empty(series.shape, dtype=np.float32)
    for part in _parts(series, SMOOTHED_SAMPLES):
        block = series[:, part] - mean
        missing = np.isnan(block)
        gappy = bool(missing.any())
        if gappy:
            block[missing] = 0.0
        np.matmul(vectors.T, vectors @ block, out=block)
        block += mean
        if gappy:
            block[missing] = np.nan
        smoothed[:, part] = block
    smoothed[~known] = series[~known]
    return smoothed
