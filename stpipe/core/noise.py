"""Seeded random fields: the raw material of the made-up scene."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage


def fractal(
    rng: np.random.Generator,
    shape: tuple[int, int],
    *,
    slope: float,
    longest: float | None = None,
    stretch: float = 1.0,
    angle: float = 0.0,
) -> NDArray[np.float64]:
    """Return a field whose amplitude falls with frequency to the power of `slope`; mean 0, variance 1.

    Parameters
    ----------
    rng : Generator
        Where the randomness comes from.
    shape : (height, width)
        In pixels.
    slope : float
        0 is white noise; 2 looks like the edge of a cloud; larger is smoother.
    longest : float, optional
        Structures longer than this many pixels are damped; none if not given.
    stretch : float
        How much longer structures are along `angle` than across it.
    angle : float
        Direction of the stretch, in radians from the x axis.

    Examples
    --------
    >>> field = fractal(np.random.default_rng(1), (64, 96), slope=2.0)
    >>> field.shape, abs(float(field.mean())) < 1e-9, round(float(field.std()), 6)
    ((64, 96), True, 1.0)
    """
    height, width = shape
    # The transform is periodic; a margin keeps the left edge from continuing on the right.
    wide = (fft.next_fast_len(height + height // 2, real=True), fft.next_fast_len(width + width // 2, real=True))
    fy = fft.fftfreq(wide[0])[:, None]
    fx = fft.rfftfreq(wide[1])[None, :]
    along = (np.cos(angle) * fx + np.sin(angle) * fy) * stretch
    across = -np.sin(angle) * fx + np.cos(angle) * fy
    frequency = np.hypot(along, across)
    floor = 1.0 / max(wide) if longest is None else 1.0 / longest
    amplitude = (frequency**2 + floor**2) ** (-slope / 2)
    amplitude[0, 0] = 0.0
    spectrum = fft.rfft2(rng.standard_normal(wide)) * amplitude
    field: NDArray[np.float64] = fft.irfft2(spectrum, s=wide)[:height, :width]
    return standardised(field)


def smooth(rng: np.random.Generator, shape: tuple[int, int], reach: float) -> NDArray[np.float64]:
    """Return a field that varies over `reach` pixels; mean 0, variance 1.

    >>> smooth(np.random.default_rng(1), (8, 8), reach=2.0).shape
    (8, 8)
    """
    margin = int(3 * reach) + 1
    white = rng.standard_normal((shape[0] + 2 * margin, shape[1] + 2 * margin))
    blurred = ndimage.gaussian_filter(white, reach, mode="wrap")[margin : margin + shape[0], margin : margin + shape[1]]
    return standardised(blurred)


def standardised(field: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a field with mean 0 and variance 1; a constant field becomes 0.

    >>> standardised(np.array([1.0, 3.0]))
    array([-1.,  1.])
    """
    centred: NDArray[np.float64] = field - field.mean()
    spread = float(centred.std())
    return centred / spread if spread > 0 else centred
