"""Filling xarray objects, in memory or lazily, by the same blocks and the same arithmetic as the command line.

In memory the blocks are filled one after the other. Lazily, a graph is made: a task a survey tile, one in which the
method learns if it does, one in which it looks at the scene if it does, one `map_blocks` task a block, which evaluates
its own read window of the input, and a task an output tile. Nothing is computed until the result is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import is_dask_collection, tokenize
from dask.delayed import delayed
from distributed import Future
from numpy.typing import NDArray

from stpipe.core.blend import PAYLOAD_PARTS, Blend
from stpipe.core.crops import ArrayFields
from stpipe.core.plan import check_max_gap, make_plan
from stpipe.core.ports import Filler, Learner, SceneFiller, Sums
from stpipe.core.qa_products import parse_trust
from stpipe.core.resampling import Resampling
from stpipe.core.samples import SOURCE_CODES, check_fillable
from stpipe.core.sizes import gib
from stpipe.core.survey import ArrayOverviews, Level, coarser, lattice_step, levels_of, location_and_spread, standardise
from stpipe.core.trust import remarks
from stpipe.core.windows import Triple, Window
from stpipe.errors import CubeError, OptionError, PlanError
from stpipe.execution.clusters.connect import cores, share_of_memory
from stpipe.execution.context import FillJob, Scale
from stpipe.execution.learning import learn, taught_by
from stpipe.execution.rounds import part_of
from stpipe.execution.tasks import fill_block, finish_tile, has_gaps, survey_samples
from stpipe.io.arguments import by_arguments, checked_count, checked_names, checked_range, checked_triple, warn
from stpipe.io.frames import SOURCE_SUFFIX, half_width_name, interval_percent
from stpipe.io.guide_sources import Guide, guides_of, names_of, not_guides, object_guides
from stpipe.io.guides import GuideOptions, Guides
from stpipe.io.objects import ArrayReader, own_companions, understand
from stpipe.io.places import Place
from stpipe.io.radar import Radar
from stpipe.io.radar_objects import object_radar, radar_options
from stpipe.methods import make_filler
from stpipe.methods.sar.options import NAME as SAR
from stpipe.methods.sar.options import SarOptions
from stpipe.methods.with_guides import check_method, make_guided, make_sar

MOST_OF_FIELDS = 0.25
"""Share of a worker's memory that what a method keeps of each pixel may take."""


class Survey(NamedTuple):
    """What one pass over an array gives."""

    scale: Scale
    """Location and spread."""

    overviews: ArrayOverviews
    """The coarse levels, standardised."""

    gaps: bool
    """Whether there is anything to fill."""

    rule_counts: NDArray[np.int64] | None
    """How often each rule on what to trust matched; None without rules."""


SurveyPart = tuple[Level, NDArray[np.float64], bool, NDArray[np.int64] | None]
"""A tile's finest overview level, its picked samples, whether it has gaps, and how often each rule matched."""

Products = tuple[NDArray[Any], NDArray[np.uint8], NDArray[np.float32]]
"""Samples, source codes and half-widths of a window."""


@by_arguments
def fill(
    obj: xr.Dataset | xr.DataArray,
    *,
    variables: str | Sequence[str] | None = None,
    method: str = "pconv",
    model: str | None = None,
    tune: bool | None = None,
    domain: str | xr.DataArray | None = None,
    valid_range: tuple[float, float] | None = None,
    qa: str | Sequence[str] = (),
    keep: str | Sequence[str] = (),
    drop: str | Sequence[str] = (),
    buffer: int = 0,
    guide: Guide | Sequence[Guide] = (),
    guide_var: str | Sequence[str] = (),
    guide_resampling: Resampling | None = None,
    guide_window: float | None = None,
    max_gap: float | None = None,
    interval: float = 0.9,
    block: Triple | None = None,
    overlap: Triple | None = None,
    memory_limit: int | None = None,
) -> xr.Dataset:
    """Fill the gaps of a cube.

    Parameters
    ----------
    obj : Dataset or DataArray
        Variables over (time, y, x) in any order and by any names that `stpipe.open_cube` takes: NaN in gaps, or
        integers as files store them, with the attributes that say what they mean. If a variable is a Dask array, so is
        its result, and nothing is computed yet.
    variables : str or sequence of str, optional
        What to fill; all numeric variables over (time, y, x) unless given, but codes and those that rules are about.
    method, model : str
        As for ``stpipe fill-scene``; ``sar`` goes by its usual steps, see docs/sar.md.
    tune : bool, optional
        As for ``stpipe fill-scene``: whether pconv learns from gaps of this cube, which it does unless told otherwise.
    domain : str or DataArray over (y, x), optional
        Non-zero where values can exist at all; it goes by its coordinates.
    valid_range : (low, high), optional
        Values outside of it are gaps; both ends are inside, as samples are stored.
    qa, keep, drop : str or sequence of str
        Which samples to trust, as for ``stpipe fill-scene``; what is not trusted counts as gap.
    buffer : int
        Pixels by which what these rules call unclear grows.
    guide : path, Dataset or DataArray, or sequence of these, optional
        Other cubes whose variables tell something of this one, or this one again; see docs/guides.md.
    guide_var : str or sequence of str, optional
        Which of their variables to take; all measurements that are not to be filled unless given.
    guide_resampling : {"nearest", "bilinear", "average"}, optional
        In space; by default the mean where a guide is finer than the cube, and bilinear elsewhere.
    guide_window : float, optional
        Days that a date of a guide counts around it; twice the guide's median step unless given, and 12 with ``sar``.
    max_gap : float, optional
        Gaps farther than this many days from an observation of their pixel stay unfilled.
    interval : float
        Share of the truth that the intervals are to hold, from 0.5 to 0.99 in hundredths; their name follows.
    block, overlap : (time, y, x), optional
        As for ``stpipe fill-scene``; chosen from the memory unless given.
    memory_limit : int, optional
        Bytes a worker may take; an equal share of this machine's memory for each core unless given.

    Returns
    -------
    Dataset
        The input with its variables over (time, y, x) filled, and for each one VAR_source (uint8, see its
        flag_meanings) and VAR_ci90 (float32, half-width of a 90 % interval; VAR_ci80 if `interval` is 0.8). Observed
        samples are untouched.

    Raises
    ------
    RefusedError
        If the object is no cube, or an option can't be met; before anything is computed.

    Examples
    --------
    >>> values = np.where(np.eye(9) > 0, np.nan, 1.0)[None]
    >>> cube = xr.DataArray(values, dims=("time", "y", "x"), coords={"time": np.array(["2024-05-01"], dtype="M8[ns]")})
    >>> filled = fill(cube.rename("ndvi"), method="pyramid")
    >>> float(filled.ndvi.min()), sorted(filled)
    (1.0, ['ndvi', 'ndvi_ci90', 'ndvi_source'])
    """
    variables, valid_range = checked_names(variables, "variables"), checked_range(valid_range)
    block, overlap = checked_triple(block, "block"), checked_triple(overlap, "overlap")
    if memory_limit is not None:
        memory_limit = checked_count(memory_limit, "memory_limit", 1)
    check_max_gap(max_gap, "max_gap")
    percent = interval_percent(interval, "interval")
    given = guides_of(guide)
    check_method(method, guided=bool(given), tune=tune, option="guide")
    options = GuideOptions(
        variables=names_of(guide_var), resampling=guide_resampling, window_days=guide_window
    ).checked(given=bool(given))
    how = radar_options(given, options.variables, guide_resampling, guide_window) if method == SAR else None
    if how is not None:
        options = replace(options, variables=how.variables)
    variables = not_guides(obj, variables, given, options)
    cube = understand(obj, variables=variables, domain=domain, trust=parse_trust(qa, keep, drop, buffer), tell=warn)
    guides: Guides | Radar | None = None
    filler: Filler
    if how is not None:
        guides = object_radar(given[0], cube, how)
        for note in guides.notes:
            warn(note)
    elif given:
        guides = object_guides(given, cube, options)
    if isinstance(guides, Radar):
        if model is not None:
            raise OptionError(f"model goes with method pconv, not with {SAR}; leave one of them out")
        filler = make_sar(
            guides.groups, steps=SarOptions(), guides=guides.identity(), cost=guides.cost, coverage=percent / 100
        )
    elif guides is None:
        filler = make_filler(method, model=model, coverage=percent / 100, tune=tune)
    else:
        filler = make_guided(
            method, guides=guides.identity(), cost=guides.cost, model=model, coverage=percent / 100, tune=tune
        )
    result: xr.Dataset = cube.dataset.drop_vars(
        [old for name in cube.names for old in own_companions(cube.dataset, name)]
    )
    _refuse_names(result, cube.names, percent)
    for name in cube.names:
        array, info = cube.array(name), cube.info(name)
        check_fillable(info)
        limit = share_of_memory(cores()) if memory_limit is None else memory_limit
        _check_fields(filler, cube.extent, limit)
        plan = make_plan(
            extent=cube.extent,
            variables=[info],
            filler=filler,
            # Guides lie where they lie on this very grid.
            identity={"xarray": name, **({} if guides is None else {"place": Place.of_object(cube, name).told()})},
            memory_limit=limit,
            block=block,
            overlap=overlap,
            whole_axis=max_gap is not None,
            quality=cube.quality_cost,
        )
        job = FillJob(
            plan=plan,
            days=cube.days,
            reader=cube.reader(name),
            filler=filler,
            valid_range=valid_range,
            max_gap=max_gap,
            guides=guides,
        )
        products = _fill_lazily(job) if is_dask_collection(array.variable.data) else _fill_now(job)
        result = result.assign(_named(array, name, percent, products))
    return result


def _refuse_names(dataset: xr.Dataset, names: Sequence[str], percent: int) -> None:
    """Refuse variables that what comes with the filled ones would take the place of."""
    for name in names:
        for twin in (name + SOURCE_SUFFIX, half_width_name(name, percent)):
            if twin in dataset.variables or twin in dataset.dims:
                raise OptionError(f"{twin} has the name of what comes with {name}; give one of them another name")


def _check_fields(filler: Filler, extent: Triple, limit: int) -> None:
    """Refuse a scene of which a method keeps more than memory holds: here it is one array, on disk it is parts."""
    if not isinstance(filler, SceneFiller):
        return
    needed = 4 * len(filler.fields) * extent[1] * extent[2]
    if needed > MOST_OF_FIELDS * limit:
        raise PlanError(
            f"what {filler.name} keeps of {extent[1]} x {extent[2]} pixels takes {gib(needed)} in each worker, of the "
            f"{gib(limit)} that one may take; fill a cube of this size with `stpipe fill-scene`"
        )


def _survey_part(job: FillJob, tile: Window) -> SurveyPart:
    """Survey one tile."""
    info = job.variable(0)
    samples = job.read(info, tile)
    levels, gaps, picked, _, _ = survey_samples(samples, tile.start, lattice_step(job.plan.extent))
    return levels[min(levels)], picked, bool(gaps.any()), samples.rule_counts


def _survey(job: FillJob, parts: Sequence[SurveyPart]) -> Survey:
    """Put the tiles together."""
    extent = job.plan.extent
    first, *_ = levels = levels_of(extent)
    cell = 2**first
    base = np.zeros((3, extent[0], -(-extent[1] // cell), -(-extent[2] // cell)))
    for tile, (level, *_) in zip(job.plan.survey_tiles, parts, strict=True):
        t, y, x = (start // step for start, step in zip(tile.start, (1, cell, cell), strict=True))
        base[:, t : t + level.shape[1], y : y + level.shape[2], x : x + level.shape[3]] = level
    location, spread = location_and_spread(np.concatenate([picked for _, picked, _, _ in parts]))
    counts = [counts for *_, counts in parts if counts is not None]
    arrays = {}
    for k in levels:
        arrays[k] = standardise(base, location, spread)
        base = coarser(base)
    return Survey(
        scale=Scale(location=location, spread=spread),
        overviews=ArrayOverviews(arrays),
        gaps=any(gaps for _, _, gaps, _ in parts),
        rule_counts=None if not counts else np.sum(counts, axis=0),
    )


def _scaled(job: FillJob, survey: Survey) -> FillJob:
    """Return the job with what the survey says of its variable."""
    return replace(job, scales={job.variable(0).name: survey.scale})


def _learn(job: FillJob, survey: Survey) -> bytes:
    """Let the method learn from the plan's crops, if it does and there are gaps to fill."""
    if not (survey.gaps and isinstance(job.filler, Learner)):
        return b""
    return learn(_scaled(job, survey), job.variable(0))


def _look(job: FillJob, survey: Survey) -> Filler | None:
    """Let the method look at the scene part by part, and return what it is then; None if it looks at none."""
    filler = job.filler
    if not (survey.gaps and isinstance(filler, SceneFiller) and filler.rounds):
        return None
    scaled, info = _scaled(job, survey), job.variable(0)
    for number in range(len(filler.rounds)):
        assert isinstance(filler, SceneFiller)
        total: Sums | None = None
        fields: NDArray[np.float32] | None = None
        for tile in job.plan.look_tiles:
            seen = filler.look(number, part_of(scaled, info, tile, filler, survey.overviews))
            total = seen.sums if total is None else total + seen.sums
            if seen.fields is not None:
                if fields is None:
                    fields = np.full((len(seen.fields), *job.plan.extent[1:]), np.nan, dtype=np.float32)
                fields[:, *tile.slices[1:]] = seen.fields
        assert total is not None
        filler = filler.settled(number, filler.settle(number, total))
        if fields is not None:
            assert isinstance(filler, SceneFiller)
            filler = filler.with_fields(ArrayFields(fields))
    return filler


def _fill_one(job: FillJob, number: int, survey: Survey, learned: bytes, settled: Filler | None) -> NDArray[np.float32]:
    """Return the payload of one block; zeros if it has no gap."""
    info, block = job.variable(0), job.plan.blocks.block(number)
    if not has_gaps(job.read(info, block.write), block.write, block.write):
        return np.zeros((PAYLOAD_PARTS, *block.write.shape), dtype=np.float32)
    filler = taught_by(job.filler if settled is None else settled, learned)
    return fill_block(_scaled(job, survey), info, block, survey.overviews, filler)


def _finish_one(
    job: FillJob, tile: Window, scale: Scale, numbers: Sequence[int], payloads: Sequence[NDArray[np.float32]]
) -> Products:
    """Blend one output tile."""
    grid = job.plan.blocks
    blend = Blend(tile)
    for number, payload in zip(numbers, payloads, strict=True):
        blend.add(grid, grid.block(number), payload)
    return finish_tile(job.read(job.variable(0), tile), blend, scale.location, scale.spread)


def _fill_now(job: FillJob) -> Products:
    """Fill an array in memory."""
    survey = _survey(job, [_survey_part(job, tile) for tile in job.plan.survey_tiles])
    assert isinstance(job.reader, ArrayReader)
    if job.reader.trust is not None and survey.rule_counts is not None:
        for line in remarks(job.reader.trust, survey.rule_counts):
            warn(line)
    if not isinstance(job.filler, Learner):
        job.filler.prepare()
    learned, settled = _learn(job, survey), _look(job, survey)
    grid, whole = job.plan.blocks, Window.of(job.plan.extent)
    payloads = [_fill_one(job, number, survey, learned, settled) for number in range(len(grid))]
    dtype = np.dtype(job.variable(0).dtype)
    products: Products = (
        np.empty(whole.shape, dtype),
        np.empty(whole.shape, np.uint8),
        np.empty(whole.shape, np.float32),
    )
    taken: list[NDArray[Any]] = list(products)
    for tile in job.plan.blend_tiles[0]:
        touching = grid.touching(tile)
        parts = _finish_one(job, tile, survey.scale, touching, [payloads[number] for number in touching])
        for product, part in zip(taken, parts, strict=True):
            product[tile.slices] = part
    return products


def _fill_lazily(job: FillJob) -> tuple[da.Array, da.Array, da.Array]:
    """Make the graph that fills a Dask array."""
    plan, grid = job.plan, job.plan.blocks
    reader = job.reader
    assert isinstance(reader, ArrayReader)
    inputs = [reader.array, *(quality.array for quality in reader.quality.values())]
    graphs = [dict(array.__dask_graph__()) for array in inputs if is_dask_collection(array)]
    if any(isinstance(value, Future) for graph in graphs for value in graph.values()):
        raise CubeError(
            "the array is persisted on a cluster, where no task can be asked for a window of it; fill it before "
            "persist(), or load it with compute()"
        )
    token = tokenize(
        reader.array,
        reader.domain,
        None if reader.trust is None else reader.trust.identity(),
        [(quality.array, quality.info) for quality in reader.quality.values()],
        plan.identity,
        plan.variables,
        plan.blend_tiles,
        job.valid_range,
        job.max_gap,
        job.days,
    )
    # Opaque to Dask: each task evaluates its own window of the input instead of waiting for all of its chunks.
    shared = delayed(_Opaque(job), name=f"fill-job-{token}", traverse=False)
    tiles = plan.survey_tiles
    parts = [_task(_survey_task, f"fill-survey-{token}-{i}", shared, tile) for i, tile in enumerate(tiles)]
    survey = _task(_survey_all, f"fill-surveyed-{token}", shared, parts)
    learned = _task(_learn_task, f"fill-learned-{token}", shared, survey)
    settled = _task(_look_task, f"fill-settled-{token}", shared, survey)
    numbers = da.from_array(np.arange(len(grid)).reshape(grid.counts), chunks=(1, 1, 1), name=f"fill-numbers-{token}")
    payloads = (
        numbers.map_blocks(
            _fill_task,
            shared,
            survey,
            learned,
            settled,
            name=f"fill-block-{token}",
            dtype=np.float32,
            new_axis=0,
            chunks=((PAYLOAD_PARTS,), *((size,) * n for size, n in zip(grid.size, grid.counts, strict=True))),
            meta=np.empty((0, 0, 0, 0), dtype=np.float32),
        )
        .to_delayed()
        .ravel()
    )
    dtype = np.dtype(job.variable(0).dtype)
    products: list[list[da.Array]] = [[], [], []]
    for i, tile in enumerate(plan.blend_tiles[0]):
        touching = grid.touching(tile)
        done = _task(
            _finish_task, f"fill-finish-{token}-{i}", shared, survey, tile, touching, [payloads[n] for n in touching]
        )
        for j, kind in enumerate((dtype, np.dtype(np.uint8), np.dtype(np.float32))):
            products[j].append(da.from_delayed(done[j], tile.shape, dtype=kind))
    counts = plan.blend_tiles[0].counts
    values, source, half_width = (_assembled(pieces, counts) for pieces in products)
    return values, source, half_width


class _Opaque:
    """Keeps Dask from looking into a job, where it would find the input's graph."""

    def __init__(self, job: FillJob) -> None:
        self.job = job


def _task(function: Any, name: str, *arguments: Any) -> Any:
    return delayed(function, pure=True)(*arguments, dask_key_name=name)


def _survey_task(shared: _Opaque, tile: Window) -> SurveyPart:
    return _survey_part(shared.job, tile)


def _survey_all(shared: _Opaque, parts: Sequence[SurveyPart]) -> Survey:
    return _survey(shared.job, parts)


def _learn_task(shared: _Opaque, survey: Survey) -> bytes:
    return _learn(shared.job, survey)


def _look_task(shared: _Opaque, survey: Survey) -> Filler | None:
    return _look(shared.job, survey)


def _fill_task(
    numbers: NDArray[np.int64], shared: _Opaque, survey: Survey, learned: bytes, settled: Filler | None
) -> NDArray[np.float32]:
    return _fill_one(shared.job, int(numbers.ravel()[0]), survey, learned, settled)


def _finish_task(
    shared: _Opaque,
    survey: Survey,
    tile: Window,
    numbers: Sequence[int],
    payloads: Sequence[NDArray[np.float32]],
) -> Products:
    arrays = [np.asarray(payload) for payload in payloads]
    return _finish_one(shared.job, tile, survey.scale, numbers, arrays)


def _assembled(pieces: Sequence[da.Array], counts: Triple) -> da.Array:
    """Put tiles, given with x fastest, together."""
    t, y, x = counts
    rows = [[[pieces[(i * y + j) * x + k] for k in range(x)] for j in range(y)] for i in range(t)]
    whole: da.Array = da.block(rows)
    return whole


def _named(array: xr.DataArray, name: str, percent: int, products: Sequence[Any]) -> dict[str, xr.Variable]:
    """Give the products their names, dimensions and attributes."""
    values, source, half_width = products
    label = array.attrs.get("long_name", name)
    codes = {"flag_values": list(SOURCE_CODES.values()), "flag_meanings": " ".join(SOURCE_CODES)}
    units = {"units": array.attrs["units"]} if "units" in array.attrs else {}
    return {
        name: xr.Variable(array.dims, values, array.attrs, array.encoding),
        name + SOURCE_SUFFIX: xr.Variable(array.dims, source, {"long_name": f"source of {label}", **codes}),
        half_width_name(name, percent): xr.Variable(
            array.dims, half_width, {"long_name": f"half-width of a {percent} % interval of {label}", **units}
        ),
    }
