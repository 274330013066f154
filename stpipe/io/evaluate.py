"""Scoring methods on parts of a cube, from a file or from an xarray object."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stpipe.core.comparison import GROUPS, REFERENCE
from stpipe.core.crops import Crop, choose_crops
from stpipe.core.evaluation import Evaluation
from stpipe.core.evaluation import evaluate as evaluate_crops
from stpipe.core.geometry import GuideCost
from stpipe.core.intervals import check_coverage
from stpipe.core.ports import CubeReader, Filler, GuideReader, VariableInfo
from stpipe.core.qa_products import parse_trust
from stpipe.core.resampling import Resampling
from stpipe.core.samples import check_fillable
from stpipe.core.survey import lattice_step, location_and_spread, on_lattice
from stpipe.core.trust import Trust, remarks
from stpipe.errors import CubeError, OptionError
from stpipe.execution.context import Scale, read_samples
from stpipe.execution.learning import crop_of
from stpipe.io.arguments import by_arguments, checked_count, checked_names, checked_range, warn
from stpipe.io.guide_sources import Guide, guides_of, names_of, not_guides, object_guides
from stpipe.io.guides import GuideOptions, Guides
from stpipe.io.objects import understand
from stpipe.io.radar_evaluation import (
    BESIDE,
    SHUFFLED,
    Beside,
    ScoredRadar,
    calibrated_frames,
    radar_notes,
    without_frames,
)
from stpipe.io.radar_guides import RadarGuides
from stpipe.io.radar_objects import object_radar, radar_options
from stpipe.methods import IN_TIME, METHODS, candidates, make_filler
from stpipe.methods.guided import NAME as GUIDED
from stpipe.methods.sar.options import NAME as SAR
from stpipe.methods.sar.options import SarOptions
from stpipe.methods.with_guides import TAKE_GUIDES, check_method, make_guided

Progress = Callable[[int, int], None]
"""Called with steps done and steps there are."""


BORROWED = (
    "there is no gap to take shapes from, so parts are hidden by blobs, speckle and stripes; "
    "scores say little of clouds"
)


class NoSampleError(CubeError):
    """A variable of which nothing was observed."""


def fillers_for(
    methods: Sequence[str] | None,
    *,
    model: str | None,
    interval: float,
    frames: int,
    guides: GuideReader | None = None,
    cost: GuideCost | None = None,
    radar: ScoredRadar | None = None,
) -> dict[str, Filler]:
    """Return the methods to score by name; `REFERENCE` is among them wherever there is more than one frame.

    With infilling from radar come those that it is always compared with.

    Parameters
    ----------
    methods : sequence of str, optional
        All that apply unless given.
    model : str, optional
        Weights for pconv.
    interval : float
        What intervals are to cover.
    frames : int
        Length of the cube.
    guides : GuideReader, optional
        What methods may lean on; the one that leans on nothing else joins them.
    cost : GuideCost, optional
        What reading that takes.
    radar : ScoredRadar, optional
        What infilling from radar leans on.

    Examples
    --------
    >>> list(fillers_for(["pyramid"], model=None, interval=0.9, frames=5))
    ['pyramid', 'linear']
    """
    check_coverage(interval)
    if methods is None:
        names = [*candidates(frames), *(() if guides is None else (GUIDED,))]
    else:
        names = list(dict.fromkeys(methods))
        if not names:
            raise OptionError(f"there is no method to evaluate; choose among {', '.join(METHODS)}")
        if frames == 1 and IN_TIME.issuperset(names):
            raise OptionError(
                f"the cube has one frame, of which {', '.join(names)} can say nothing; "
                "choose a method that works in the frame, such as pyramid"
            )
    if model is not None and "pconv" not in names:
        raise OptionError(f"--model {model} goes with pconv, which is not among the methods {', '.join(names)}")
    if SAR in names:
        check_method(SAR, guided=guides is not None or radar is not None)
        names += [name for name in BESIDE if name not in names]
    if frames > 1 and REFERENCE not in names:
        names.append(REFERENCE)
    made: dict[str, Filler] = {}
    for name in names:
        weights = model if name == "pconv" else None
        if name == SAR and radar is not None:
            made |= radar.fillers(interval)
        elif guides is not None and name in TAKE_GUIDES:
            made[name] = make_guided(
                name,
                guides=guides.identity(),
                cost=cost or GuideCost(),
                model=weights,
                coverage=interval,
                radar=guides.groups if isinstance(guides, RadarGuides) else (),
            )
        else:
            check_method(name, guided=False)
            made[name] = make_filler(name, model=weights, coverage=interval)
    _refuse_unheard(names, guided=guides is not None and radar is None)
    return made


def _refuse_unheard(names: Sequence[str], *, guided: bool) -> None:
    """Refuse guides that no method would listen to."""
    if guided and not set(TAKE_GUIDES).intersection(names):
        raise OptionError(
            f"guides are given, but none of the methods {', '.join(names)} listens to any; leave them out, or name one "
            f"of {', '.join(TAKE_GUIDES)} too"
        )


def read_crops(
    reader: CubeReader,
    info: VariableInfo,
    days: NDArray[np.float64],
    *,
    valid_range: tuple[float, float] | None = None,
    rule_counts: NDArray[np.int64] | None = None,
    guides: GuideReader | Beside | None = None,
) -> tuple[list[Crop], float]:
    """Return crops of one variable, standardised by their own location and spread, and that spread.

    How often rules on what to trust matched is added to `rule_counts`.

    Raises
    ------
    CubeError
        If none of them has a valid sample.
    """
    windows = choose_crops(reader.extent)
    frames, height, width = windows[0].shape
    step = lattice_step((len(windows) * frames, height, width))
    parts, picked = [], []
    for window in windows:
        part = read_samples(reader, info, window, valid_range)
        if rule_counts is not None and part.rule_counts is not None:
            np.add(rule_counts, part.rule_counts, out=rule_counts)
        parts.append(part)
        t0, y0, x0 = window.start
        picked += [on_lattice(*part.believed(t), (t0 + t, y0, x0), step) for t in range(frames)]
    location, spread = location_and_spread(np.concatenate(picked))
    scale = Scale(location=location, spread=spread)
    # Taken out of the list one by one, so that each one's stored samples are let go.
    crops = []
    for window in windows:
        led_by = None if guides is None else guides.read(window)
        crops.append(crop_of(parts.pop(0).standardised(scale), days, window, led_by))
    if not any(crop.valid.any() for crop in crops):
        where = "" if len(windows) == 1 else f" in the {len(windows)} parts that were looked at"
        raise NoSampleError(
            f"variable {info.name!r} has no valid sample{where}, so that nothing can be hidden to score on"
        )
    return crops, spread


def evaluate_cube(
    reader: CubeReader,
    infos: Sequence[VariableInfo],
    days: NDArray[np.float64],
    *,
    methods: Sequence[str] | None = None,
    model: str | None = None,
    draws: int = 2,
    seed: int = 0,
    interval: float = 0.9,
    valid_range: tuple[float, float] | None = None,
    trust: Trust | None = None,
    guides: Guides | RadarGuides | None = None,
    radar: ScoredRadar | None = None,
    dates: Sequence[str] = (),
    progress: Progress | None = None,
    tell: Callable[[str], None] | None = None,
) -> list[Evaluation]:
    """Score methods on each variable of a cube; takes what `evaluate` takes.

    And `trust`: the rules that the reader heeds, with `tell`: called with a line for each one that matched nothing, or
    everything; `radar`: what infilling from radar leans on; `dates`: the times of the frames, for the record.
    """
    if draws < 1:
        raise OptionError(f"gaps have to be drawn at least once, got --draws {draws}")
    cost = None if guides is None else guides.cost
    fillers = fillers_for(
        methods, model=model, interval=interval, frames=reader.extent[0], guides=guides, cost=cost, radar=radar
    )
    pairs = [(name, REFERENCE) for name in fillers if REFERENCE in fillers and name != REFERENCE]
    pairs += [(SAR, SHUFFLED)] if SHUFFLED in fillers else []
    beside = Beside([one for one in (guides, radar) if one is not None])
    for info in infos:
        check_fillable(info)
    results: list[Evaluation] = []
    for number, info in enumerate(infos):
        rule_counts = np.zeros((0 if trust is None else len(trust.rules), 2), dtype=np.int64)
        try:
            crops, spread = read_crops(
                reader, info, days, valid_range=valid_range, rule_counts=rule_counts, guides=beside
            )
        except NoSampleError as error:  # of several variables, one that is all gap takes no scores from the others
            if tell is None or (not results and number == len(infos) - 1):
                raise
            tell(str(error))
            continue
        if trust is not None and tell is not None and not results:  # they are the same for every variable
            for line in remarks(trust, rule_counts):
                tell(f"{line} (of the parts that were read)")

        def step(done: int, total: int, number: int = number) -> None:
            if progress is not None:
                progress(number * total + done, len(infos) * total)

        found = evaluate_crops(
            fillers,
            crops,
            variable=info.name,
            spread=spread,
            draws=draws,
            seed=seed,
            interval=interval,
            units=str(info.attrs.get("units", "")),
            dates=dates,
            pairs=pairs,
            calibrated=calibrated_frames,
            unseeing=without_frames,
            progress=step,
        )
        shapes = (BORROWED,) if all(crop.valid.all() for crop in crops) else ()
        results.append(replace(found, notes=(*shapes, *radar_notes(found), *found.notes)))
    return results


@by_arguments
def evaluate(
    obj: xr.Dataset | xr.DataArray,
    *,
    variables: str | Sequence[str] | None = None,
    methods: str | Sequence[str] | None = None,
    model: str | None = None,
    draws: int = 2,
    seed: int = 0,
    interval: float = 0.9,
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
    progress: Progress | None = None,
) -> xr.Dataset:
    """Score methods on artificial gaps of a cube.

    Some of what is observed is hidden, in shapes of the cube's own gaps, and every method fills it from what is left.

    Parameters
    ----------
    obj : Dataset or DataArray
        As for `stpipe.fill`; parts of it are read at once.
    variables : str or sequence of str, optional
        What to score on; all numeric variables over (time, y, x) unless given, but codes and what rules are about.
    methods : str or sequence of str, optional
        What to score; all methods that apply unless given. ``linear`` joins them, for skill is measured against it.
    model : str, optional
        Name or path of the weights for pconv.
    draws : int
        How often gaps are drawn.
    seed : int
        Decides them.
    interval : float
        Share of the truth that the intervals are to hold.
    domain : str or DataArray over (y, x), optional
        Non-zero where values can exist at all.
    valid_range : (low, high), optional
        Values outside of it are gaps.
    qa, keep, drop : str or sequence of str
        Which samples to trust, as for ``stpipe fill-scene``; what is not trusted counts as gap.
    buffer : int
        Pixels by which what these rules call unclear grows.
    guide, guide_var, guide_resampling, guide_window
        As for `stpipe.fill`; ``guided`` joins the methods, and others that can lean on guides do. With ``sar`` come
        linear, whittaker, pyramid and ``sar-shuffled``, the same on radar dates in a random order.
    progress : callable, optional
        Called with steps done and steps there are.

    Returns
    -------
    Dataset
        Scores over (variable, method_name, group), in the units of each variable; `grouping` says what a group is one
        of. Costs over (variable, method_name). NaN where there were no such samples. The dimension is not called
        ``method``, for `sel` has an argument of that name.

    Raises
    ------
    RefusedError
        If the object is no cube, nothing in it is observed, or an option can't be met.

    Examples
    --------
    >>> import numpy as np
    >>> values = np.random.default_rng(0).normal(size=(6, 24, 24)).cumsum(axis=1)
    >>> when = np.datetime64("2024-05-01", "ns") + np.arange(6) * np.timedelta64(5, "D")
    >>> cube = xr.DataArray(values, dims=("time", "y", "x"), coords={"time": when}, name="ndvi")
    >>> scores = evaluate(cube, methods=["pyramid", "linear"])
    >>> sorted(scores.sizes), float(scores.skill.sel(variable="ndvi", method_name="linear", group="all"))
    (['group', 'method_name', 'variable'], 0.0)
    """
    variables, methods = checked_names(variables, "variables"), checked_names(methods, "methods")
    valid_range = checked_range(valid_range)
    checked_count(draws, "draws", 1)
    checked_count(seed, "seed", 0)
    given = guides_of(guide)
    options = GuideOptions(
        variables=names_of(guide_var), resampling=guide_resampling, window_days=guide_window
    ).checked(given=bool(given))
    others, not_filled, how = [name for name in methods or () if name != SAR], options, None
    if methods is not None and SAR in methods:
        check_method(SAR, guided=bool(given), option="guide")
        how = radar_options(given, options.variables, guide_resampling, guide_window)
        not_filled = replace(options, variables=how.variables)
    variables = not_guides(obj, variables, given, not_filled)
    cube = understand(obj, variables=variables, domain=domain, trust=parse_trust(qa, keep, drop, buffer), tell=warn)
    lean = how is None or any(name in TAKE_GUIDES for name in others)
    guides = object_guides(given, cube, options) if given and lean else None
    radar = None
    if how is not None:
        radar = ScoredRadar(radar=object_radar(given[0], cube, how), steps=SarOptions(), seed=seed)
        for note in radar.radar.notes:
            warn(note)
    results: list[Evaluation] = []
    for name in cube.names:
        try:
            results += evaluate_cube(
                cube.reader(name),
                [cube.info(name)],
                cube.days,
                methods=methods,
                model=model,
                draws=draws,
                seed=seed,
                interval=interval,
                valid_range=valid_range,
                trust=cube.trust,
                guides=guides,
                radar=radar,
                progress=progress,
                tell=None if results else warn,
            )
        except NoSampleError as error:
            if not results and name == cube.names[-1]:
                raise
            warn(str(error))
    return as_dataset(results, {name: str(cube.dataset[name].attrs.get("units", "")) for name in cube.names})


SCORES: Mapping[str, str] = {
    "filled": "share of the hidden samples that the method filled",
    "mae": "mean absolute error",
    "rmse": "root of the mean squared error",
    "bias": "mean of predicted minus truth",
    "r2": "1 - squared error / squared deviation of the truth from its mean",
    "skill": f"1 - MAE / MAE of {REFERENCE}",
    "coverage": "share of the truth inside the interval",
    "coverage_low": "5th percentile of that share, by bootstrap over frames or their parts",
    "coverage_high": "95th percentile of that share, by bootstrap over frames or their parts",
    "width": "mean full width of the interval",
    "difference": "MAE minus that of the best simple method in the group",
    "difference_low": "5th percentile of the difference, by bootstrap over frames or their parts",
    "difference_high": "95th percentile of the difference, by bootstrap over frames or their parts",
}
"""Columns of a row, and what they are."""

COSTS: Mapping[str, str] = {
    "seconds_per_million": "seconds to fill a million samples",
    "learning_seconds": "seconds to learn and to calibrate intervals",
    "seam_ratio": "mean step across block borders in gaps over that when filled in one piece",
}
"""The same of a cost."""


def as_dataset(results: Sequence[Evaluation], units: Mapping[str, str]) -> xr.Dataset:
    """Return evaluations of variables by the same methods as one dataset."""
    methods = [cost.method for cost in results[0].costs]
    groups = [group for _, group in GROUPS]
    shape = (len(results), len(methods), len(groups))
    scores = {name: np.full(shape, np.nan) for name in SCORES}
    costs = {name: np.full(shape[:2], np.nan) for name in COSTS}
    samples = np.zeros((shape[0], shape[2]), dtype=np.int64)
    for v, result in enumerate(results):
        for row in result.rows:
            place = (v, methods.index(row.method), groups.index(row.group))
            samples[v, place[2]] = row.samples
            for name, column in scores.items():
                column[place] = getattr(row, name)
        for m, cost in enumerate(result.costs):
            for name, column in costs.items():
                column[v, m] = getattr(cost, name)
    dims = ("variable", "method_name", "group")
    first = results[0]
    return xr.Dataset(
        {
            **{name: (dims, values, {"long_name": SCORES[name]}) for name, values in scores.items()},
            **{name: (dims[:2], values, {"long_name": COSTS[name]}) for name, values in costs.items()},
            "samples": (("variable", "group"), samples, {"long_name": "hidden samples that every method filled"}),
        },
        coords={
            "variable": [result.variable for result in results],
            "method_name": methods,
            "group": groups,
            "grouping": ("group", [grouping for grouping, _ in GROUPS]),
            "units": ("variable", [units[result.variable] for result in results]),
        },
        attrs={"draws": first.draws, "seed": first.seed, "interval": first.interval},
    )
