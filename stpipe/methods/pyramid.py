"""Push-pull pyramid of normalised averages.

Push: the valid samples are pooled, with their number, over squares of 2, 4, 8, ... pixels. Pull: from the coarsest
level down, each cell's estimate is the normalised average of the samples around it plus a little of the estimate of
the coarser level, so that a cell with samples around it listens to them and one without to the level above::

    estimate[k] = (box(sum[k]) + share x up(estimate[k + 1])) / (box(count[k]) + share)

Up to level 2 the sums come from the block; from level 3 on they are the scene's own overviews, read around the block.
So a small halo is enough, a gap wider than a block is filled from what lies around it, and where block borders fall
makes no difference. From level `TIME_LEVEL` on the neighbours in time join in, by true time, so that a frame without
any sample takes its coarse pattern from the frames near it. A cell counts by the share of it that is valid.

Sources: push-pull after Gortler et al. (1996), The Lumigraph, SIGGRAPH; normalised averages after Knutsson and Westin
(1993), Normalized and differential convolution, CVPR.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from stpipe.core.ports import JSON, BlockInput, Overviews, Prediction
from stpipe.core.survey import BASE_LEVEL, COUNT, SQUARES, SUM
from stpipe.core.timeline import median_step
from stpipe.core.windows import Triple, Window

TIME_LEVEL = 5
"""First level that also averages over time: cells of 32 x 32 pixels."""

NORMAL_90 = 1.6449
"""Half-width of a 90 % interval of a normal distribution, in standard deviations."""

Sums = NDArray[np.floating]
"""(3, ..., y, x): count (as a share of the cell), sum and sum of squares, or weighted averages of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PyramidFiller:
    """The pyramid as a `Filler`; nothing is trained."""

    share: float = 0.02
    """Weight of the coarser level's estimate against one fully valid cell."""

    reach_steps: float = 3.0
    """Reach in time at `TIME_LEVEL`, in median steps of the cube; it doubles with each coarser level, up to 8 times."""

    @property
    def seamless(self) -> bool:
        """A sample's answer is the same in every block."""
        return True

    @property
    def name(self) -> str:
        """The method's name on the command line."""
        return "pyramid"

    @property
    def halo(self) -> tuple[int | None, int, int]:
        """Context in the frame; time comes from the overviews, which hold all of it."""
        return (0, 16, 16)

    @property
    def stride(self) -> Triple:
        """Read windows are whole cells of the finest overview."""
        return (1, 2**BASE_LEVEL, 2**BASE_LEVEL)

    @property
    def process_bytes(self) -> int:
        """Memory of a worker before its first block, measured."""
        return 160 * 2**20

    @property
    def sample_bytes(self) -> float:
        """Memory of a fill for each sample of the read window, measured."""
        return 11.0

    @property
    def pixel_bytes(self) -> float:
        """Memory of a fill besides for each pixel of the read window, measured: temporaries of whole frames."""
        return 75.0

    @property
    def seconds_per_million(self) -> float:
        """Seconds for a million samples on one core, measured."""
        return 0.25

    def identity(self) -> dict[str, JSON]:
        """Return what decides the numbers."""
        return {"method": self.name, "version": 2, "share": self.share, "reach_steps": self.reach_steps}

    def prepare(self) -> None:
        """Nothing to load."""

    def fill(self, block: BlockInput) -> Prediction:
        """Predict every sample of the read window that has any observation of the scene in reach."""
        coarse = self._coarse_estimate(block)
        values = np.empty(block.values.shape, dtype=np.float32)
        half_width = np.empty_like(values)
        for t, (frame, valid) in enumerate(zip(block.values, block.valid, strict=True)):
            mean, square = self._fine_estimate(frame, valid, coarse[:, t])
            values[t] = mean
            half_width[t] = NORMAL_90 * np.sqrt(np.maximum(square - mean * mean, 1e-6))
        missing = np.isnan(values)
        half_width[missing] = np.nan
        return Prediction(values=values, half_width=half_width, fallback=np.zeros_like(missing))

    def _fine_estimate(
        self, frame: NDArray[np.float32], valid: NDArray[np.bool_], coarse: Sums
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Pull one frame from level 3 to the pixels; `coarse` has one cell more on each side than the frame."""
        clean = np.where(valid, frame, np.float32(0))
        levels = [np.stack([valid.astype(np.float32), clean, clean * clean])]
        for _ in range(BASE_LEVEL - 1):
            levels.append(pool_shares(levels[-1]))
        estimate = coarse.astype(np.float32)
        cut = slice(2, -2)  # the extra cell is two of the next finer level
        for sums in reversed(levels):
            upper = upsample(estimate)
            upper = upper[:, cut, cut] if cut else upper
            cut = None  # type: ignore[assignment]
            estimate = pull(sums, upper, self.share)
        known = estimate[COUNT] > 0
        return (
            np.where(known, estimate[SUM], np.float32(np.nan)),
            np.where(known, estimate[SQUARES], np.float32(np.nan)),
        )

    def _coarse_estimate(self, block: BlockInput) -> Sums:
        """Pull from the coarsest level to level 3, for the block's cells and one more on each side."""
        overviews = block.overviews
        first, last = overviews.levels[0], overviews.levels[-1]
        frames = slice(block.window.start[0], block.window.stop[0])
        needed = {first: _cells_of(block.window, first)}
        for level in range(first + 1, last + 1):
            needed[level] = _parents(needed[level - 1])
        step = median_step(block.all_days)
        estimate = self._frame_means(overviews, last, needed[last], block)
        for level in range(last, first - 1, -1):
            around = _grown(needed[level])
            if level >= min(TIME_LEVEL, last):
                reach = self.reach_steps * step * 2 ** min(level - min(TIME_LEVEL, last), 3)
                sums = self._over_time(overviews, level, around, block, reach)
            else:
                sums = _as_shares(_read(overviews, level, around, frames), level)
            upper = estimate if level == last else _aligned(upsample(estimate), needed[level + 1], needed[level])
            estimate = pull(sums, upper, self.share, grown=True)
        return estimate

    def _over_time(self, overviews: Overviews, level: int, cells: Window, block: BlockInput, reach: float) -> Sums:
        """Add the neighbours in time, weighted by a tricube of their true distance, to the block's frames."""
        everything = _as_shares(_read(overviews, level, cells, slice(0, block.all_days.size)), level)
        kernel = time_kernel(block.days, block.all_days, reach)
        flat = everything.transpose(1, 0, 2, 3).reshape(block.all_days.size, -1)
        mixed: Sums = (kernel @ flat).reshape(block.days.size, 3, *everything.shape[2:]).transpose(1, 0, 2, 3)
        return mixed

    def _frame_means(self, overviews: Overviews, last: int, cells: Window, block: BlockInput) -> Sums:
        """Give every frame a last resort: the frames' means, linear in true time, nearest at the ends."""
        whole = Window((0, 0, 0), (block.all_days.size, 1, 1))
        means = _as_shares(overviews.read(last, whole), last)[:, :, 0, 0]
        known = means[COUNT] > 0
        result = np.zeros((3, block.days.size, *cells.shape[1:]))
        if known.any():
            result[COUNT] = 1.0
            for part in (SUM, SQUARES):
                series = means[part, known] / means[COUNT, known]
                result[part] = np.interp(block.days, block.all_days[known], series)[:, None, None]
        return result


def pull(sums: Sums, upper: Sums, share: float, *, grown: bool = False) -> Sums:
    """Blend a level's samples with the estimate from above.

    Parameters
    ----------
    sums : (3, ..., y, x) ndarray
        Shares, sums and sums of squares of the level.
    upper : (3, ..., y, x) ndarray
        Weight (0 to 1) and estimates brought up from the coarser level, zero where the weight is.
    share : float
        Weight of `upper` against one fully valid cell.
    grown : bool
        Whether `sums` has one cell more on each side than `upper`.

    Returns
    -------
    (3, ..., y, x) ndarray
        1 and the estimates where there is any, zeros elsewhere.
    """
    around = box(sums, grown=grown)
    weight = around[COUNT] + share * upper[COUNT]
    known = weight > 0
    result = np.zeros_like(upper)
    result[COUNT] = known
    safe = np.where(known, weight, 1)
    for part in (SUM, SQUARES):
        result[part] = (around[part] + share * upper[part]) / safe
    return result


def box(values: Sums, *, grown: bool = False) -> Sums:
    """Weighted sum over 3 x 3 cells, 1-2-1 along each axis; zero beyond the array unless it has a margin to use."""
    for axis in (-2, -1):
        values = np.swapaxes(values, axis, -1)
        if grown:
            total: Sums = values[..., :-2] + 2 * values[..., 1:-1] + values[..., 2:]
        else:
            total = 2 * values
            total[..., 1:] += values[..., :-1]
            total[..., :-1] += values[..., 1:]
        total *= 0.25
        values = np.swapaxes(total, axis, -1)
    return values


def upsample(estimate: Sums) -> Sums:
    """Interpolate to cells of half the side, normalised where some neighbours have no estimate.

    Each new cell takes 10/16 of its own, 5/16 of the nearer and 1/16 of the farther neighbour. Bilinear weights, 3/4
    and 1/4, kink in the middle of cells and leave the largest steps where cells meet: 8 % larger ones across multiples
    of 8 pixels, where blocks meet too.
    """
    result: Sums = estimate * estimate[COUNT]
    for axis in (-2, -1):
        values = np.swapaxes(result, axis, -1)
        fine = np.empty((*values.shape[:-1], 2 * values.shape[-1]), dtype=values.dtype)
        own = 0.625 * values
        near, far = 0.3125 * values, 0.0625 * values
        left, right = fine[..., 0::2], fine[..., 1::2]
        left[...] = own
        right[...] = own
        left[..., 1:] += near[..., :-1]
        left[..., :-1] += far[..., 1:]
        right[..., :-1] += near[..., 1:]
        right[..., 1:] += far[..., :-1]
        result = np.swapaxes(fine, axis, -1)
    return result


def pool_shares(sums: Sums) -> Sums:
    """Mean over 2 x 2 cells, so that counts stay shares of a cell."""
    rows = sums[..., 0::2, :] + sums[..., 1::2, :]
    result: Sums = (rows[..., 0::2] + rows[..., 1::2]) * sums.dtype.type(0.25)
    return result


def time_kernel(
    days: NDArray[np.float64], all_days: NDArray[np.float64], reach: float
) -> sparse.csr_array[np.float64, tuple[int, int]]:
    """Return (frames, all frames) tricube weights of true distance in time; 1 for the frame itself.

    >>> time_kernel(np.array([0.0]), np.array([0.0, 1.0, 9.0]), reach=2.0).toarray().round(3)
    array([[1.  , 0.67, 0.  ]])
    """
    low = np.searchsorted(all_days, days - reach, side="right")
    high = np.searchsorted(all_days, days + reach, side="left")
    columns = np.concatenate([np.arange(a, b) for a, b in zip(low, high, strict=True)])
    starts = np.concatenate([[0], np.cumsum(high - low)])
    distance = np.abs(all_days[columns] - np.repeat(days, high - low)) / reach
    return sparse.csr_array(((1 - distance**3) ** 3, columns, starts), shape=(days.size, all_days.size))


def _cells_of(window: Window, level: int) -> Window:
    """Cells of a level that a pixel window covers, and one more on each side."""
    cell = 2**level
    (t0, y0, x0), (t1, y1, x1) = window.start, window.stop
    return Window((t0, y0 // cell - 1, x0 // cell - 1), (t1, -(-y1 // cell) + 1, -(-x1 // cell) + 1))


def _parents(cells: Window) -> Window:
    """Cells of the next coarser level that the step from it to these needs."""
    (t0, y0, x0), (t1, y1, x1) = cells.start, cells.stop
    return Window((t0, y0 // 2 - 1, x0 // 2 - 1), (t1, -(-y1 // 2) + 1, -(-x1 // 2) + 1))


def _grown(cells: Window) -> Window:
    (t0, y0, x0), (t1, y1, x1) = cells.start, cells.stop
    return Window((t0, y0 - 1, x0 - 1), (t1, y1 + 1, x1 + 1))


def _aligned(fine: Sums, parents: Window, cells: Window) -> Sums:
    """Cut an upsampled array of `parents` to `cells`."""
    (_, y0, x0), (_, y1, x1) = cells.start, cells.stop
    top, left = 2 * parents.start[1], 2 * parents.start[2]
    return fine[..., y0 - top : y1 - top, x0 - left : x1 - left]


def _read(overviews: Overviews, level: int, cells: Window, frames: slice) -> Sums:
    """Read cells for some frames; negative positions lie outside the scene and are empty."""
    (_, y0, x0), (_, y1, x1) = cells.start, cells.stop
    return overviews.read(level, Window((frames.start, y0, x0), (frames.stop, y1, x1)))


def _as_shares(sums: Sums, level: int) -> Sums:
    return sums / 4.0**level
