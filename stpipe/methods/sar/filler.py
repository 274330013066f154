"""Infilling from radar: what is under the clouds is told from the backscatter of the same days.

Each pixel's clear observations are regressed, robustly, on radar covariates: the mean of the radar images around a
date over the whole frame and over 21 x 21 pixels, and how far the pixel is from both. The regression then predicts each
date that radar has seen. Predictions are smoothed by their leading temporal components, and in frames that are clear
enough drawn to what was observed there: their mean, and the means of their lowest and highest values. An observed
sample stays what it was.

Means over the frame, the components and the frames' means belong to the scene, so the method looks at it in rounds:
``means`` of the radar, ``regression`` in each pixel and the moments of what it predicts, ``calibration`` of the frames.
The coefficients are kept; samples without radar are left to interpolation in time.

Source: the steps of the Earth Engine scripts for infilling of optical images with Sentinel-1 by Mao, McVicar and Van
Niel. Unlike there, observed samples are neither smoothed nor replaced, a regression needs some clear dates to rest on,
and the shares and thresholds are options.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from dataclasses import fields as fields_of
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpipe.core.ports import JSON, BlockInput, Fields, Filler, Look, Prediction, Sums
from stpipe.core.timeline import NORMAL_90
from stpipe.core.windows import Triple, Window
from stpipe.errors import RunError
from stpipe.methods.fallback import WithFallback
from stpipe.methods.linear import LinearFiller
from stpipe.methods.sar.calibration import Calibration, FrameSums, calibrate
from stpipe.methods.sar.coefficients import field_names, standardised
from stpipe.methods.sar.covariates import HALO, covariate_names, covariates, scene_mean, scene_sums
from stpipe.methods.sar.options import NAME, SarOptions
from stpipe.methods.sar.regression import fit, predict
from stpipe.methods.sar.smoothing import Components, Moments, smooth

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

MEANS, REGRESSION, CALIBRATION = range(3)
"""The rounds."""

LEAST_CALIBRATION = 100
"""Clear pixels that a frame is calibrated on, at least."""


@dataclass(frozen=True, slots=True)
class MeanSums:
    """Sums over pixels of each frame of the radar."""

    guides: Mapping[str, F64]
    """(2, t) of each: how many, and their sum."""

    def __add__(self, other: MeanSums) -> MeanSums:
        return MeanSums({name: own + other.guides[name] for name, own in self.guides.items()})

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return them by name."""
        return dict(self.guides)


@dataclass(frozen=True, slots=True)
class RegressionSums:
    """What all pixels' regressions say together."""

    moments: Moments
    """Of the predictions."""

    counts: NDArray[np.int64]
    """Pixels; those with a regression; those that needed a ridge; clear dates of those with one; outliers of these."""

    def __add__(self, other: RegressionSums) -> RegressionSums:
        return RegressionSums(self.moments + other.moments, self.counts + other.counts)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return them by name."""
        return {**self.moments.arrays(), "counts": self.counts}


@dataclass(frozen=True, slots=True, kw_only=True)
class SarFiller(WithFallback):
    """The method as a `Filler` and `SceneFiller`; the fallback answers where there is no radar or no regression."""

    groups: tuple[tuple[str, ...], ...]
    """Names of the radar that goes into one regression; several if orbit directions are kept apart."""

    options: SarOptions = field(default_factory=SarOptions)
    """What the steps go by."""

    fallback: Filler = field(default_factory=LinearFiller)
    """Interpolation in time."""

    means: Mapping[str, F64] | None = None
    """(t,) of each: the scene's mean of each frame, once the first round has told it."""

    counts: tuple[int, ...] = ()
    """What the second round counted, see `RegressionSums`."""

    components: Components | None = None
    """What it told of the predictions, if they are smoothed."""

    calibration: Calibration | None = None
    """What the third round told of the frames, if there is one."""

    given: Fields | None = None
    """Coefficients of another run, in the variable's units and on the cube's pixels: nothing is fitted then."""

    told: JSON = None
    """What tells them from others."""

    unseen: tuple[int, ...] = ()
    """Frames that no regression is fitted to, so that it can be scored on them."""

    coefficients: Fields | None = None
    """Of each pixel: for each group its coefficients and the spread of what they leave over."""

    @property
    def seamless(self) -> bool:
        """A sample's answer is the same in every block."""
        return True

    @property
    def name(self) -> str:
        """The method's name on the command line."""
        return NAME

    @property
    def names(self) -> tuple[str, ...]:
        """Of all radar that goes in."""
        return tuple(name for group in self.groups for name in group)

    @property
    def halo(self) -> tuple[int | None, int, int]:
        """The whole time axis; in the frame what neighbourhoods or the fallback need."""
        y, x = (max(HALO, length) for length in self.fallback.halo[1:])
        return (None, y, x)

    @property
    def sample_bytes(self) -> float:
        """Memory of a fill for each sample of the read window, the radar itself not counted."""
        return 16.0 * max(map(len, self.groups)) + 40.0

    @property
    def pixel_bytes(self) -> float:
        """Memory of a fill besides for each pixel of the read window, measured: temporaries of whole frames."""
        return 50.0 * max(map(len, self.groups)) + 10.0

    @property
    def seconds_per_million(self) -> float:
        """Seconds for a million samples on one core."""
        return 0.5 + 0.3 * len(self.names)

    @property
    def rounds(self) -> tuple[str, ...]:
        """Names of the rounds."""
        return ("means", "regression", "calibration")[: 3 if self.options.calibration else 2]

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of a pixel's coefficients, and of the spread of what they leave over."""
        return field_names(self.groups)

    def identity(self) -> dict[str, JSON]:
        """Return what decides the numbers."""
        told = sha256()
        parts = [] if self.means is None else [self.means[name] for name in self.names]
        for settled in (self.components, self.calibration):
            parts += [] if settled is None else [getattr(settled, one.name) for one in fields_of(settled)]
        for part in parts:
            told.update(np.ascontiguousarray(part).tobytes())
        return {
            "method": self.name,
            "version": 1,
            "radar": [list(group) for group in self.groups],
            "least_clear": self.options.least_clear,
            "smoothing": [self.options.share, self.options.explained] if self.options.smoothing else None,
            "calibration": self.options.cloud_threshold if self.options.calibration else None,
            "scene": None if self.means is None else told.hexdigest(),
            "fallback": self.fallback.identity(),
            **({} if self.given is None else {"coefficients": self.told}),
            **({"unseen": list(self.unseen)} if self.unseen else {}),
        }

    def notes(self) -> tuple[str, ...]:
        """Return what a user should know of the regression."""
        if not self.counts:
            return ()
        pixels, fitted, ridged, clear, outliers = self.counts
        told = (
            f"radar {', '.join(self.names)}: a regression in {fitted / max(pixels, 1):.1%} of the pixels, on "
            f"{clear / max(fitted, 1):.0f} clear dates each, {outliers / max(clear, 1):.1%} of which were left out; "
            f"{ridged / max(fitted, 1):.1%} of them needed a ridge"
        )
        if not fitted:
            told = (
                f"radar {', '.join(self.names)}: no pixel has the {self.options.least_clear} clear dates with radar "
                "that a regression needs, so that all is left to interpolation in time; ask for fewer with "
                "--sar-clear-dates"
            )
        if self.given is not None:
            told = f"radar {', '.join(self.names)}: {fitted / max(pixels, 1):.1%} of the pixels have coefficients"
        lines = [told]
        if self.calibration is not None:
            frames = self.calibration.calibrated
            lines.append(f"{int(frames.sum())} of {frames.size} frames were clear enough to be calibrated")
        return tuple(lines)

    def look(self, number: int, block: BlockInput) -> Look:
        """Look at what is wanted of a block in one of the rounds."""
        part = _part(block)
        if number == MEANS:
            return Look(sums=MeanSums({name: scene_sums(block.guides[name][:, *part]) for name in self.names}))
        shape = (len(block.valid), *block.valid[0][part].shape)
        if number == REGRESSION:
            kept, counts, predicted = self._fitted(block, part) if self.given is None else self._given(block, part)
            return Look(sums=RegressionSums(Moments.of(predicted), counts), fields=kept.reshape(len(kept), *shape[1:]))
        predicted = self._smoothed(block, part)
        observed, clear = _observed(block, part)
        return Look(sums=FrameSums.of(predicted, observed, clear, _inside(block, part)))

    def sums(self, number: int, arrays: Mapping[str, NDArray[Any]]) -> Sums:
        """Return the sums of a round from their arrays."""
        if number == MEANS:
            return MeanSums({name: np.asarray(arrays[name]) for name in self.names})
        if number == REGRESSION:
            own = {name: array for name, array in arrays.items() if name != "counts"}
            return RegressionSums(Moments.from_arrays(own), np.asarray(arrays["counts"]))
        return FrameSums.from_arrays(arrays)

    def settle(self, number: int, sums: Sums) -> dict[str, NDArray[Any]]:  # noqa: ARG002 - the sums tell the round
        """Return what a round gives: means, components or lines, and what was counted."""
        options = self.options
        if isinstance(sums, MeanSums):
            return {name: scene_mean(part) for name, part in sums.guides.items()}
        if isinstance(sums, RegressionSums):
            counts = {"counts": sums.counts}
            if not options.smoothing:
                return counts
            components = Components.of(sums.moments, share=options.share, explained=options.explained)
            return counts | _arrays(components)
        assert isinstance(sums, FrameSums)
        return _arrays(Calibration.of(sums, least_clear=LEAST_CALIBRATION, cloud_threshold=options.cloud_threshold))

    def settled(self, number: int, given: Mapping[str, NDArray[Any]]) -> SarFiller:
        """Return the method with what a round gave."""
        if number == MEANS:
            return replace(self, means=dict(given))
        if number == CALIBRATION:
            return replace(self, calibration=Calibration(**given))
        own = {name: array for name, array in given.items() if name != "counts"}
        return replace(self, counts=tuple(given["counts"].tolist()), components=Components(**own) if own else None)

    def with_fields(self, fields: Fields) -> SarFiller:
        """Return the method with each pixel's coefficients."""
        return replace(self, coefficients=fields)

    def fill(self, block: BlockInput) -> Prediction:
        """Predict what is wanted of a block; the fallback answers where there is no radar or no regression."""
        if self.means is None or self.coefficients is None:
            raise RunError(f"{self.name} has not looked at the scene yet; fill with what `settled` returns")
        part = _part(block)
        place = (slice(None), *part)
        values, half_width = (np.full(block.valid.shape, np.nan, dtype=np.float32) for _ in range(2))
        shape = values[place].shape
        values[place] = self._smoothed(block, part).reshape(shape)
        spread = self._spread(_kept(self.coefficients, block, part)).reshape(shape[1:])
        half_width[place] = np.where(np.isnan(values[place]), np.float32(np.nan), np.float32(NORMAL_90) * spread)
        return self.completed(values, half_width, block)

    def _fitted(self, block: BlockInput, part: tuple[slice, slice]) -> tuple[F32, NDArray[np.int64], F32]:
        """Return (field, pixel), what is kept, what `RegressionSums` counts, and (t, pixel), what is predicted."""
        values, clear = _observed(block, part)
        if self.unseen:
            clear = clear.copy()
            clear[list(self.unseen)] = False
        kept, counts, inside = [], np.zeros(5, dtype=np.int64), _inside(block, part)
        said = []
        for group in self.groups:
            fields = self._covariates(block, part, group)
            made = fit(fields, values, clear, least=self.options.least_clear)
            kept += [made.coefficients, made.spread[None]]
            said.append((predict(made.coefficients, fields), made.spread))
            fitted = np.isfinite(made.spread) & inside
            usable = clear & np.isfinite(fields).all(axis=0)
            dates = usable.sum(axis=0)[fitted]
            counts += [
                np.count_nonzero(inside), np.count_nonzero(fitted), np.count_nonzero(made.ridged & fitted),
                dates.sum(), (dates - made.clear[fitted]).sum(),
            ]  # fmt: skip
        return np.concatenate(kept), counts, _combined(said)

    def _given(self, block: BlockInput, part: tuple[slice, slice]) -> tuple[F32, NDArray[np.int64], F32]:
        """Return what `_fitted` does, of coefficients of another run."""
        assert self.given is not None
        fields = self.given.read(_window(block, part, block.origin))
        kept = standardised(fields, self.groups, *block.scale)
        kept = kept.reshape(len(kept), -1)
        inside = _inside(block, part)
        known = np.isfinite(kept).all(axis=0) & inside
        counts = np.array([np.count_nonzero(inside), np.count_nonzero(known), 0, 0, 0], dtype=np.int64)
        return kept, counts, self._predicted(block, part, kept)

    def _covariates(self, block: BlockInput, part: tuple[slice, slice], group: Sequence[str]) -> F32:
        """Return (covariate, t, pixel) of a group."""
        assert self.means is not None
        composites = {name: block.guides[name] for name in group}
        made = covariates(composites, {name: self.means[name] for name in group}, part)
        return made.reshape(*made.shape[:2], -1)

    def _predicted(self, block: BlockInput, part: tuple[slice, slice], kept: F32) -> F32:
        """Return (t, pixel), what the regressions say; NaN where none says anything."""
        said, first = [], 0
        for group in self.groups:
            size = len(covariate_names(group)) + 2
            own, first = kept[first : first + size], first + size
            said.append((predict(own[:-1], self._covariates(block, part, group)), own[-1]))
        return _combined(said)

    def _smoothed(self, block: BlockInput, part: tuple[slice, slice]) -> F32:
        """Return (t, pixel), the predictions after all steps that are settled."""
        assert self.coefficients is not None
        made = self._predicted(block, part, _kept(self.coefficients, block, part))
        if self.components is not None:
            made = smooth(self.components, made)
        return made if self.calibration is None else calibrate(self.calibration, made)

    def _spread(self, kept: F32) -> F32:
        """Return (pixel,), the spread of what the regressions leave over."""
        first, weight = 0, np.zeros(kept.shape[1], dtype=np.float32)
        for group in self.groups:
            first += len(covariate_names(group)) + 2
            spread = kept[first - 1]
            weight += np.where(np.isfinite(spread), 1 / np.maximum(spread, np.float32(1e-6)) ** 2, np.float32(0))
        return np.where(weight > 0, 1 / np.sqrt(np.where(weight > 0, weight, np.float32(1))), np.float32(np.nan))


def _combined(said: Sequence[tuple[F32, F32]]) -> F32:
    """Return (t, pixel), the mean of what regressions say, each by how sure it is; NaN where none says anything."""
    if len(said) == 1:
        return said[0][0]
    total, weight = (np.zeros_like(said[0][0]) for _ in range(2))
    for values, spread in said:
        sure = 1 / np.maximum(spread, np.float32(1e-6)) ** 2
        there = np.isfinite(values)
        total += np.where(there, sure * values, np.float32(0))
        weight += np.where(there, sure, np.float32(0))
    return np.where(weight > 0, total / np.where(weight > 0, weight, np.float32(1)), np.float32(np.nan))


def _arrays(made: Components | Calibration) -> dict[str, NDArray[Any]]:
    """Return all of it by name."""
    return {one.name: getattr(made, one.name) for one in fields_of(made)}


def _observed(block: BlockInput, part: tuple[slice, slice]) -> tuple[F32, NDArray[np.bool_]]:
    """Return (t, pixel), values and where they are clear."""
    place = (slice(None), *part)
    frames = len(block.valid)
    return block.values[place].reshape(frames, -1), block.valid[place].reshape(frames, -1)


def _inside(block: BlockInput, part: tuple[slice, slice]) -> NDArray[np.bool_]:
    """Return (pixel,), where values can exist."""
    if block.domain is None:
        return np.ones(block.valid[0][part].size, dtype=np.bool_)
    return block.domain[part].reshape(-1)


def _part(block: BlockInput) -> tuple[slice, slice]:
    """Return the rows and columns that are wanted of a block."""
    wanted = block.window if block.wanted is None else block.wanted.intersect(block.window)
    _, rows, columns = wanted.within(block.window).slices
    return rows, columns


def _kept(fields: Fields, block: BlockInput, part: tuple[slice, slice]) -> F32:
    """Return (field, pixel) of what is wanted of a block."""
    made = fields.read(_window(block, part))
    return made.reshape(len(made), -1)


def _window(block: BlockInput, part: tuple[slice, slice], origin: Triple = (0, 0, 0)) -> Window:
    """Return where a part of a block is, seen from where `origin` puts (0, 0, 0)."""
    first, stop = block.window.start[0] + origin[0], block.window.stop[0] + origin[0]
    top, left = (block.window.start[axis] + origin[axis] for axis in (1, 2))
    rows, columns = part
    return Window((first, top + rows.start, left + columns.start), (stop, top + rows.stop, left + columns.stop))
