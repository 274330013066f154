"""What a cube of these files will be: frames, grid, types and rules, decided before the first sample is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from difflib import get_close_matches

from stpipe.core.compositing import Composite, Period
from stpipe.core.ports import JSON, VariableInfo
from stpipe.core.trust import Trust
from stpipe.core.windows import Triple, triple
from stpipe.errors import OptionError
from stpipe.io.filenames import YEAR_WITHOUT, has_year
from stpipe.io.indices import IndexPlan, plan_index
from stpipe.io.ingest.clear import ClearPlan, plan_clear
from stpipe.io.ingest.cubes import forget_states
from stpipe.io.ingest.items import StacQuery
from stpipe.io.ingest.layers import Layer
from stpipe.io.ingest.options import IngestOptions
from stpipe.io.ingest.scenes import Frame, in_period, make_frames, told_apart
from stpipe.io.ingest.sources import find_layers
from stpipe.io.ingest.statics import StaticPlan, find_statics
from stpipe.io.ingest.target import choose_grid
from stpipe.io.ingest.variables import VariablePlan, is_quality, plan_variables
from stpipe.io.names import check_array_names
from stpipe.io.rasters import Grid

DEFAULT_CHUNKS: Triple = (32, 256, 256)
"""Small enough to read a block without much else, large enough to be few."""

COORDINATES = ("time", "y", "x", "spatial_ref")
"""Names that a cube's own coordinates have."""

Progress = Callable[[int, int], None]
"""Called with what is done and what there is to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestPlan:
    """All that is decided before the first sample is read."""

    grid: Grid
    """Grid of the cube."""

    frames: tuple[Frame, ...]
    """Its time steps."""

    variables: tuple[VariablePlan, ...]
    """What is read."""

    indices: tuple[IndexPlan, ...]
    """What is computed."""

    statics: tuple[StaticPlan, ...]
    """What is written that has no dates."""

    clear: tuple[ClearPlan, ...]
    """What is written of what the rules said."""

    written: tuple[str, ...]
    """Names of the variables and indices that are written, sorted."""

    chunks: Triple
    """Chunk lengths along (time, y, x)."""

    resampling: str
    """How measured layers on other grids are warped."""

    how: Composite
    """How several scenes become one frame."""

    trust: Trust | None
    """All rules."""

    every: Period | None
    """Length of the periods that frames stand for."""

    warnings: tuple[str, ...]
    """What the user should know."""

    @property
    def times(self) -> tuple[datetime, ...]:
        """Time of each frame."""
        return tuple(frame.time for frame in self.frames)

    @property
    def extent(self) -> Triple:
        """Shape of the cube."""
        return (len(self.frames), *self.grid.shape)

    @property
    def layers(self) -> list[Layer]:
        """All layers."""
        return [layer for frame in self.frames for scene in frame.scenes for layer in scene.layers.values()]

    @property
    def arrays(self) -> tuple[str, ...]:
        """Names of all that is written and has dates."""
        return (*self.written, *(layer.name for layer in self.clear))

    @property
    def warped(self) -> int:
        """Number of layers that lie on another lattice."""
        return sum(self.grid.offset_in(layer.grid) is None for layer in self.layers)

    @property
    def infos(self) -> dict[str, VariableInfo]:
        """What is known of each variable that is read."""
        return {variable.name: variable.info for variable in self.variables}

    def identity(self) -> JSON:
        """Return all that decides the bytes of the cube, as JSON can hold it; files are looked at as they are now."""
        forget_states()
        return {
            "grid": repr(self.grid),
            "variables": [repr(replace(v, attrs=dict(sorted(v.attrs.items())))) for v in self.variables],
            "indices": [repr(index) for index in self.indices],
            "clear": [[layer.name, *layer.variables] for layer in self.clear],
            "written": list(self.written),
            "statics": [[static.name, *(field.identity() for field in static.fields)] for static in self.statics],
            "chunks": list(self.chunks),
            "composite": [self.resampling, self.how, str(self.every)],
            "trust": None if self.trust is None else self.trust.identity(),
            "frames": [
                [str(frame.time), [[n, layer.source.identity()] for s in frame.scenes for n, layer in s.layers.items()]]
                for frame in self.frames
            ],
        }


def plan_ingest(
    sources: Sequence[str], options: IngestOptions | None = None, *, progress: Progress | None = None
) -> IngestPlan:
    """Return what a cube of these sources will be; no sample is read.

    Parameters
    ----------
    sources : sequence of str
        Folders, globs and files of rasters; NetCDF files; Zarr groups; files of STAC items; addresses
        of STAC APIs.
    options : IngestOptions, optional
        What the user says.
    progress : callable, optional
        Called with files seen and files there are.
    """
    options = options or IngestOptions()
    query = StacQuery(collections=options.collections, time=options.time, assets=options.needed)
    layers = find_layers(sources, options.pattern, options.target, query, progress)
    if options.every is None and options.same_day == "refuse":
        layers, renamed = told_apart(layers)
    else:
        renamed = ()
    layers = in_period(layers, options.time)
    names = tuple(sorted({layer.variable for layer in layers}))
    trust = None if options.trust is None else options.trust.resolved(names, "the series")
    indices = tuple(plan_index(request, names, scaled=options.scaled_indices) for request in options.indices)
    statics = find_statics(layers)
    clash = next((index.name for index in indices if index.name in {*names, *(s.name for s in statics)}), None)
    if clash is not None:
        raise OptionError(f"--index {clash}: there is a variable of this name already; leave out the index")
    quality = {name for name in names if is_quality(name, [x for x in layers if x.variable == name])}
    quality |= set(() if trust is None else trust.variables)
    written = _written(options, names, quality, indices, [static.name for static in statics])
    statics = tuple(static for static in statics if not options.variables or static.name in options.variables)
    check_array_names((*written, *(static.name for static in statics)), taken=COORDINATES, place="the series")
    indices = tuple(index for index in indices if index.name in written)
    needed = {*written, *(() if trust is None else trust.variables), *(b for i in indices for _, b in i.bands)}
    layers = [layer for layer in layers if layer.variable in needed]

    grid = choose_grid(layers, options.target)
    frames = make_frames(layers, options)
    variables = plan_variables(frames, grid, trust, quality, options)
    if trust is not None:
        trust.check({variable.name: variable.info for variable in variables})
    clear = plan_clear(variables, indices, written, {*names, *written, *(static.name for static in statics)})
    wanted = DEFAULT_CHUNKS if options.chunks is None else options.chunks
    extent = (len(frames), *grid.shape)
    return IngestPlan(
        grid=grid,
        frames=frames,
        variables=variables,
        indices=indices,
        statics=statics,
        clear=clear,
        written=written,
        chunks=triple(min(pair) for pair in zip(wanted, extent, strict=True)),
        resampling=options.resampling,
        how=options.how,
        trust=trust,
        every=options.every,
        warnings=(*renamed, *_warnings(variables, frames, grid, trust, options)),
    )


def _written(
    options: IngestOptions,
    names: Sequence[str],
    quality: set[str],
    indices: Sequence[IndexPlan],
    statics: Sequence[str],
) -> tuple[str, ...]:
    """Return the names of what is written and has dates."""
    dated = (*names, *(index.name for index in indices))
    known = (*dated, *statics)
    for name in options.variables:
        if name not in known:
            several = [part.strip() for part in name.split(",")]
            near = get_close_matches(name, known, n=1) or [each for each in known if each.lower() == name.lower()]
            hint = f"did you mean {near[0]!r}? " if near else ""
            if len(several) > 1 and set(several) <= set(known):
                hint = f"did you mean {' '.join(f'--var {part}' for part in several)}? "
            raise OptionError(f"--var: there is no variable {name!r}; {hint}there are {', '.join(known)}")
    if options.variables:
        chosen = tuple(sorted(set(options.variables).difference(statics)))
        if not chosen:
            alone = ", ".join(options.variables)
            raise OptionError(f"--var {alone} has no dates; name a variable that has some as well: {', '.join(dated)}")
        return chosen
    return tuple(sorted(name for name in dated if not options.drop_bands or name in quality or name not in names))


def _warnings(
    variables: Sequence[VariablePlan],
    frames: Sequence[Frame],
    grid: Grid,
    trust: Trust | None,
    options: IngestOptions,
) -> Iterable[str]:
    if not has_year(options.pattern):
        yield f"the pattern has no year, so the frames are dated {YEAR_WITHOUT}"
    if grid.crs_wkt is None:
        yield "the files have no CRS, so the cube has none"
    filled = [frame for frame in frames if frame.scenes]
    for absent, names in _absences(variables, filled).items():
        some = f"variable {names[0]!r} has" if len(names) == 1 else f"variables {', '.join(names)} have"
        yield f"{some} no file on {absent} of {len(filled)} dates; they are all gap"
    if trust is not None:
        free = [variable.name for variable in variables if not variable.codes and variable.trust != trust]
        if all(variable.codes for variable in variables):
            yield f"the rules decide on nothing: of {', '.join(v.name for v in variables)} none is a measurement"
        if free:
            yield (
                f"not all rules decide on {', '.join(free)}: their scenes have not all of {', '.join(trust.variables)}"
            )


def _absences(variables: Sequence[VariablePlan], frames: Sequence[Frame]) -> dict[int, list[str]]:
    """Return the variables that are absent from so many frames, by how many those are."""
    found: dict[int, list[str]] = {}
    for variable in variables:
        absent = sum(not any(variable.name in scene.layers for scene in frame.scenes) for frame in frames)
        if absent:
            found.setdefault(absent, []).append(variable.name)
    return found
