"""Windows of frames: scenes are read, rules say what to trust, scenes become one picture, and indices are computed."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpipe.core.compositing import composite, first_clear, is_gap
from stpipe.core.samples import CLEAR_CODES, HUGE, tells_clear
from stpipe.core.trust import Rule, Trust, judge
from stpipe.io.ingest.clear import clear_codes
from stpipe.io.ingest.items import ItemBand
from stpipe.io.ingest.layers import Layer, Want
from stpipe.io.ingest.plan import IngestPlan
from stpipe.io.ingest.scenes import Scene
from stpipe.io.ingest.variables import VariablePlan

Pictures = dict[str, NDArray[Any]]
"""Stored samples (y, x) of each variable."""

READERS = 8
"""Bands of items that are read at a time."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What the rules did to the samples that were read."""

    matches: NDArray[np.int64]
    """(rule, 2): samples that each rule matched, and samples it was tested on."""

    observed: dict[str, int] = field(default_factory=dict)
    """By variable, samples of all scenes that are not nodata."""

    dropped: dict[str, int] = field(default_factory=dict)
    """By variable, how many of them the rules dropped."""

    @classmethod
    def of(cls, plan: IngestPlan) -> Tally:
        """Return a tally of nothing."""
        return cls(np.zeros((0 if plan.trust is None else len(plan.trust.rules), 2), dtype=np.int64))

    def add(self, other: Tally) -> None:
        """Count what another tally did."""
        self.matches[:] += other.matches
        for mine, theirs in ((self.observed, other.observed), (self.dropped, other.dropped)):
            for name, count in theirs.items():
                mine[name] = mine.get(name, 0) + count


def read_frame(plan: IngestPlan, scenes: Sequence[Scene], rows: slice, columns: slice) -> tuple[Pictures, Tally]:
    """Return a window of one frame: every variable that is read, every index, and what the rules said.

    Parameters
    ----------
    plan : IngestPlan
        From `stpipe.io.ingest.plan.plan_ingest`.
    scenes : sequence of Scene
        What the frame is made of, in the order that matters to ``first``, ``last`` and ``least-cloud``.
    rows, columns : slice
        Of the cube's grid.
    """
    shape = (rows.stop - rows.start, columns.stop - columns.start)
    found: dict[str, list[NDArray[Any]]] = {variable.name: [] for variable in plan.variables}
    clear: dict[str, list[NDArray[np.bool_]]] = {variable.name: [] for variable in plan.variables}
    seen: defaultdict[Trust, list[NDArray[np.bool_]]] = defaultdict(list)
    trusted: defaultdict[Trust, list[NDArray[np.bool_]]] = defaultdict(list)
    tally = Tally.of(plan)
    views_of = [_SceneView(plan, scene, rows, columns, tally) for scene in scenes]
    _read_items_ahead(views_of)
    for scene, views in zip(scenes, views_of, strict=True):
        for variable in plan.variables:
            if variable.name in scene.layers:
                found[variable.name].append(views.samples(variable))
                if variable.codes and len(scenes) > 1:
                    clear[variable.name].append(views.clear(variable))
        for trust, some in views.seen.items():
            seen[trust].append(some)
            trusted[trust].append(views.judged(trust))
        views.forget()
    pictures: Pictures = {}
    for variable in plan.variables:
        pictures[variable.name] = _picture(variable, found[variable.name], clear[variable.name], plan.how, shape)
    infos = plan.infos
    for index in plan.indices:
        pictures[index.name] = index.compute(pictures, infos)
    for layer in plan.clear:
        pictures[layer.name] = clear_codes(seen[layer.trust], trusted[layer.trust], shape)
    return pictures, tally


def _picture(
    variable: VariablePlan,
    several: Sequence[NDArray[Any]],
    clear: Sequence[NDArray[np.bool_]],
    how: str,
    shape: tuple[int, int],
) -> NDArray[Any]:
    """Return what the scenes of a frame make of a variable."""
    if not several:
        return np.full(shape, variable.nodata, dtype=variable.dtype)
    if len(several) == 1:
        return several[0]
    if tells_clear(variable.attrs):  # of an earlier ingest: the frame is clear where one of its scenes was
        seen = [codes != CLEAR_CODES["no_data"] for codes in several]
        trusted = [codes == CLEAR_CODES["clear"] for codes in several]
        return clear_codes(seen, trusted, shape).astype(variable.dtype, copy=False)
    if variable.codes:
        return _codes(variable, several, clear, how)
    return composite(several, variable.nodata, how)


def _codes(
    variable: VariablePlan, several: Sequence[NDArray[Any]], clear: Sequence[NDArray[np.bool_]], how: str
) -> NDArray[Any]:
    """Return the code of the first scene that is trusted; where none is, of the first that has one."""
    if how == "last":
        several, clear = several[::-1], clear[::-1]
    seen = [~is_gap(picture, variable.nodata) for picture in several]
    trusted = [known & good for known, good in zip(seen, clear, strict=True)]
    return first_clear([*several, *several], [*trusted, *seen])


def count_clear(plan: IngestPlan, scene: Scene, rows: slice, columns: slice) -> int:
    """Return how many samples of a window of a scene are clear: those of its first measured variable."""
    measured = [v for v in plan.variables if v.name in scene.layers and not v.codes]
    variable = (measured or [v for v in plan.variables if v.name in scene.layers])[0]
    views = _SceneView(plan, scene, rows, columns, Tally.of(plan))
    return int(np.count_nonzero(~is_gap(views.samples(variable), variable.nodata)))


class _SceneView:
    """A window of one scene: what its samples are, and which the rules trust."""

    def __init__(self, plan: IngestPlan, scene: Scene, rows: slice, columns: slice, tally: Tally) -> None:
        self.plan, self.scene, self.rows, self.columns, self.tally = plan, scene, rows, columns, tally
        self._raw: dict[str, NDArray[Any]] = {}
        trust = plan.trust
        self._judges = frozenset(() if trust is None else trust.variables)
        halo = 0 if trust is None else trust.buffer
        top, bottom = max(0, rows.start - halo), min(plan.grid.shape[0], rows.stop + halo)
        left, right = max(0, columns.start - halo), min(plan.grid.shape[1], columns.stop + halo)
        self._around = (slice(top, bottom), slice(left, right))
        self._inner = (
            slice(rows.start - top, rows.stop - top),
            slice(columns.start - left, columns.stop - left),
        )
        self._trusted: dict[Trust, NDArray[np.bool_]] = {}
        self.seen: dict[Trust, NDArray[np.bool_]] = {}  # where a variable under these rules has a sample at all
        self._variables: Mapping[str, VariablePlan] = {variable.name: variable for variable in plan.variables}
        self._counted: set[Rule] = set()

    def samples(self, variable: VariablePlan) -> NDArray[Any]:
        """Return the samples of a variable, nodata where the rules don't trust them."""
        samples = self._read(variable.name)
        if variable.trust is None:
            return samples
        trusted = self.judged(variable.trust)
        known = ~is_gap(samples, variable.nodata)
        lost = known & ~trusted
        self.seen[variable.trust] = self.seen.get(variable.trust, False) | known
        for counts, number in ((self.tally.observed, known), (self.tally.dropped, lost)):
            counts[variable.name] = counts.get(variable.name, 0) + int(np.count_nonzero(number))
        result = samples.copy()
        result[lost] = variable.nodata
        return result

    def clear(self, variable: VariablePlan) -> NDArray[np.bool_]:
        """Return where the scene is trusted, by those rules whose quality variable it has."""
        rules = () if self.plan.trust is None else self.plan.trust.rules
        here = tuple(rule for rule in rules if rule.variable in self.scene.layers)
        if self.plan.trust is None or not here:
            return ~is_gap(self._read(variable.name), variable.nodata)
        return self.judged(Trust(here, self.plan.trust.buffer))

    def judged(self, trust: Trust) -> NDArray[np.bool_]:
        """Return where rules trust the scene; the buffer looks beyond the window, so that windows have no say."""
        if trust not in self._trusted:
            samples = {name: self.read_wide(name)[None] for name in trust.variables}
            infos = {name: self._variables[name].info for name in trust.variables}
            trusted, counts = judge(trust, samples, infos)
            if trust.buffer:
                inside = {name: frames[:, *self._inner] for name, frames in samples.items()}
                _, counts = judge(replace(trust, buffer=0), inside, infos)  # each sample once
            self._count(trust, counts)
            self._trusted[trust] = trusted[0][self._inner]
        return self._trusted[trust]

    def _count(self, trust: Trust, counts: NDArray[np.int64]) -> None:
        assert self.plan.trust is not None  # there were rules to judge by
        for rule, pair in zip(trust.rules, counts, strict=True):
            if rule not in self._counted:  # a product's rules share their text
                self._counted.add(rule)
                self.tally.matches[self.plan.trust.rules.index(rule)] += pair

    def _read(self, name: str) -> NDArray[Any]:
        return self.read_wide(name)[self._inner if name in self._judges else ...]

    def forget(self) -> None:
        """Let go of what was read."""
        self._raw.clear()
        self._trusted.clear()
        self.seen.clear()

    def read_wide(self, name: str) -> NDArray[Any]:
        """Return a variable; one that rules ask, with what the buffer needs around the window."""
        if name not in self._raw:
            rows, columns = self._around if name in self._judges else (self.rows, self.columns)
            self._raw[name] = read_layer(self.plan, self._variables[name], self.scene.layers[name], rows, columns)
        return self._raw[name]


def _read_items_ahead(views: Sequence[_SceneView]) -> None:
    """Read bands of items together: they may be far away, and waiting is most of the work."""
    far = [
        (view, variable.name)
        for view in views
        for variable in view.plan.variables
        if variable.name in view.scene.layers and isinstance(view.scene.layers[variable.name].source, ItemBand)
    ]
    if len(far) > 1:
        from rasterio.errors import NotGeoreferencedWarning

        # rasterio silences its own scratch rasters, but the list of what is silenced is one for all threads.
        with warnings.catch_warnings(), ThreadPoolExecutor(min(len(far), READERS)) as pool:
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            list(pool.map(lambda pair: pair[0].read_wide(pair[1]), far))


def read_layer(plan: IngestPlan, variable: VariablePlan, layer: Layer, rows: slice, columns: slice) -> NDArray[Any]:
    """Return a window of one layer, in the variable's type, with the variable's nodata in its gaps."""
    stated = variable.extra_nodata if layer.nodata is None or np.isnan(layer.nodata) else layer.nodata
    want = Want(
        grid=plan.grid,
        rows=rows,
        columns=columns,
        resampling="nearest" if variable.codes and plan.resampling != "mode" else plan.resampling,
        source_nodata=layer.nodata if stated is None else stated,
        fill=variable.nodata,
    )
    stored = layer.source.read(want)
    samples = stored.astype(variable.dtype)
    if variable.nodata is None:
        return samples
    for nodata in {layer.nodata, variable.extra_nodata}:
        if nodata is not None and not np.isnan(nodata):
            if abs(nodata) > HUGE and stored.dtype.kind == "f":
                # As in `stpipe.core.samples`: it may be written with few digits, and nothing measured is that large.
                gap = stored <= -HUGE if nodata < 0 else stored >= HUGE
            else:
                gap = stored == nodata
            samples[gap] = variable.nodata
    return samples
