"""A run before it begins: open the cube, check every option, plan, or refuse.

Nothing here changes anything; whatever is refused leaves the disk as it was.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

from stpipe import __version__
from stpipe.cli.run_log import check_log
from stpipe.cli.sar_options import SarChoice
from stpipe.core.plan import Plan, check_max_gap, make_plan
from stpipe.core.ports import JSON, Filler
from stpipe.core.samples import check_fillable
from stpipe.core.trust import Trust
from stpipe.core.windows import Triple
from stpipe.errors import OptionError, PlanError
from stpipe.execution.clusters.connect import check_workers, cores, share_of_memory, worker_memory
from stpipe.execution.clusters.plan import ClusterPlan
from stpipe.execution.shards import Shard
from stpipe.execution.storage import STORE_BYTES, check_output, is_remote, located, resolved
from stpipe.io.coefficients import GivenCoefficients, open_coefficients
from stpipe.io.cube import Cube
from stpipe.io.frames import SOURCE_SUFFIX, half_width_name, interval_percent, safe_names
from stpipe.io.guide_sources import open_guides, open_led
from stpipe.io.guides import GuideOptions, Guides
from stpipe.io.inspection import sampled_gap_share
from stpipe.io.mosaic import Layout
from stpipe.io.names import check_array_names
from stpipe.io.radar import Radar, open_radar, radar_variables
from stpipe.io.radar_guides import RadarGuides, echo_name, with_radar
from stpipe.io.run_folder import PRODUCTS, RunFolder, State, check_disk, check_writable, file_state, free_bytes
from stpipe.methods import make_filler
from stpipe.methods.with_guides import check_method, make_guided, make_sar

Led = Guides | Radar | RadarGuides
"""What a method leans on."""

MARGIN = 0.1
"""How far the share of gaps may be above that of the chunks that were looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FillOptions:
    """What the user asked for."""

    cube: Path
    """The input."""

    output: Path | None = None
    """The output folder; beside the cube unless given."""

    variables: tuple[str, ...] = ()
    """What to fill; all unless given."""

    method: str = "pconv"
    """The method's name."""

    model: str | None = None
    """Name or path of the weights, for pconv."""

    tune: bool | None = None
    """Whether pconv learns from the cube; it does unless told otherwise."""

    domain: str | None = None
    """Static variable that is non-zero where values can exist."""

    valid_range: tuple[float, float] | None = None
    """Physical values outside of it are gaps."""

    trust: Trust | None = None
    """Rules on which samples to trust; all are unless given."""

    guides: tuple[Path, ...] = ()
    """Cubes to lean on."""

    guide_options: GuideOptions = field(default_factory=GuideOptions)
    """Which of their variables, and how they are brought onto the cube."""

    time: tuple[str | None, str | None] | None = None
    """Period to fill."""

    aoi: Path | None = None
    """GeoJSON of the area to fill."""

    sar: SarChoice | None = None
    """What the user asked for of infilling from radar, where that is the method."""

    shard: Shard | None = None
    """Which share of the work this process begins with, where several do it without a scheduler."""

    max_gap: float | None = None
    """Gaps farther than this many days from an observation of their pixel stay unfilled."""

    interval: float = 0.9
    """Share of the truth that the intervals are to hold."""

    block: Triple | None = None
    """Write window of a block."""

    overlap: Triple | None = None
    """Overlap of write windows."""

    workers: int | None = None
    """Worker processes; one a core unless given."""

    memory_limit: int | None = None
    """Bytes a worker may take."""

    scheduler: str | None = None
    """Address of a scheduler to use instead of a LocalCluster."""

    cluster: ClusterPlan | None = None
    """What to start instead of a LocalCluster."""

    resume: bool = False
    """Refuse to begin anew."""

    overwrite: bool = False
    """Replace what is there."""

    geotiff: bool = True
    """Whether to mosaic."""

    layout: Layout = "frames"
    """One file a frame, or one a variable."""

    keep_work: bool = False
    """Whether the scratch stays."""

    block_timeout: float | None = None
    """Seconds that a block, or another task of a stage, may take."""

    log: Path | None = None
    """Where to write down how the run goes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A run that may begin."""

    options: FillOptions
    """What was asked for."""

    cube: Cube
    """The input."""

    filler: Filler
    """The method."""

    percent: int
    """What the intervals hold."""

    plan: Plan
    """The plan."""

    folder: RunFolder
    """Where everything goes."""

    workers: int
    """Worker processes of a LocalCluster."""

    memory_limit: int
    """Bytes each may take."""

    input_state: str
    """Tells whether the input's files are the same as at another time."""

    guides: Led | None = None
    """What the method leans on, if the user gave anything."""

    notes: tuple[str, ...] = ()
    """What the user should know before it begins."""


def default_output(cube: Path) -> Path:
    """Return the output folder that goes with a cube.

    >>> default_output(Path("data/cube.zarr")).name
    'cube.filled'
    """
    name = cube.name or resolved(cube).name
    return cube.with_name(f"{Path(name).stem}.filled")


def prepare(options: FillOptions) -> Prepared:
    """Check everything that can be checked without working, and plan.

    Raises
    ------
    RefusedError
        One line, with the rule, the values and the next step.
    """
    _check_options(options)
    percent = interval_percent(options.interval, "--interval")
    workers = check_workers(cores() if options.workers is None else options.workers)
    if options.shard is not None:
        workers = options.shard.shares
    if options.cluster is not None:
        workers = options.cluster.maximum
        options = replace(options, memory_limit=worker_memory(options.cluster))
    led_by = options.guide_options
    if options.sar is not None:  # what is radar is not filled
        led_by = replace(led_by, variables=radar_variables(options.guides, options.sar.radar.variables))
    cube, notes = open_led(
        options.cube,
        options.guides,
        led_by,
        variables=options.variables or None,
        domain=options.domain,
        time=options.time,
        aoi=options.aoi,
        trust=options.trust,
    )
    _refuse_names(cube, percent, geotiff=options.geotiff)
    for info in cube.variables:
        check_fillable(info)
    guides: Led | None = None
    coefficients: GivenCoefficients | None = None
    if options.sar is not None:
        if options.model is not None:
            raise OptionError(f"--model goes with --method pconv, not with {options.method}; leave one of them out")
        guides = open_radar(options.guides, cube, options.sar.radar)
        notes += guides.notes
        if options.sar.coefficients is not None:
            coefficients = _coefficients(options.sar.coefficients, cube, guides)
    elif options.guides:
        guides = open_guides(options.guides, cube, options.guide_options)
        if options.method == "pconv":
            guides, said = with_radar(guides, cube, options.guide_options)
            notes += said
    filler = _filler(options, percent / 100, guides, coefficients)
    output = options.output or default_output(options.cube)
    check_output(output, cube.names)
    remote = any(is_remote(str(place)) for place in (cube.path, output, *_led_by(options)))
    plan, workers, limit = _fitting_plan(options, cube, filler, workers, remote=remote)
    if options.shard is not None and is_remote(output):
        raise OptionError(
            f"--shard needs an output folder that all processes see as files, which {output} is not; let workers do "
            "the work, with --cluster or --scheduler, or choose a folder with -o"
        )
    _refuse_overlap(options, cube, output)
    if options.log is not None:
        read = [options.cube, *options.guides, *([options.sar.coefficients] if options.sar is not None else [])]
        check_log(options.log, output=output, inputs=[source for source in read if source is not None])
    return Prepared(
        options=options,
        cube=cube,
        filler=filler,
        percent=percent,
        plan=plan,
        folder=RunFolder(output),
        workers=workers,
        memory_limit=limit,
        input_state=_input_state(cube, guides, coefficients),
        guides=guides,
        notes=notes,
    )


def _check_options(options: FillOptions) -> None:
    """Refuse options that contradict each other, or can't be met whatever the cube."""
    if options.resume and options.overwrite:
        raise OptionError("--resume goes on with a run and --overwrite starts anew; give one of them")
    if options.scheduler is not None and "://" not in options.scheduler:
        raise OptionError(f"--scheduler needs an address such as tcp://host:8786, got {options.scheduler!r}")
    if options.scheduler is not None and options.workers is not None:
        raise OptionError("--workers starts workers here and --scheduler uses those of a cluster; give one of them")
    if options.shard is not None:
        _check_shard(options)
    check_max_gap(options.max_gap, "--max-gap")
    if options.valid_range is not None and not options.valid_range[0] <= options.valid_range[1]:
        raise OptionError(f"--valid-range needs LO,HI with LO <= HI, got {options.valid_range}")
    check_method(options.method, guided=bool(options.guides), tune=options.tune)


def _check_shard(options: FillOptions) -> None:
    """Refuse what does not go with processes that share a run."""
    for option, given in (
        ("--workers", options.workers),
        ("--scheduler", options.scheduler),
        ("--cluster", options.cluster),
    ):
        if given is not None:
            raise OptionError(f"--shard works without a scheduler, each process by itself; leave {option} out")
    if options.overwrite:
        raise OptionError("--overwrite lets each --shard begin anew; remove the folder before the first one instead")
    if options.memory_limit is None:
        raise OptionError(
            "--shard needs --memory-limit, so that all processes plan the same blocks; give what one of them may take"
        )


def _coefficients(path: Path, cube: Cube, radar: Radar) -> GivenCoefficients:
    """Open the coefficients that the user names; they are of one variable."""
    if len(cube.variables) > 1:
        raise OptionError(
            f"--coefficients are of one variable, but {', '.join(cube.names)} are to be filled; choose one with --var"
        )
    return open_coefficients(path, cube, cube.names[0], radar)


def _filler(
    options: FillOptions, coverage: float, guides: Led | None, coefficients: GivenCoefficients | None
) -> Filler:
    """Return the method."""
    if options.sar is not None and isinstance(guides, Radar):
        return make_sar(
            guides.groups,
            steps=options.sar.steps,
            guides=guides.identity(),
            cost=guides.cost,
            given=coefficients,
            told=None if coefficients is None else coefficients.identity(),
            coverage=coverage,
        )
    if guides is None:
        return make_filler(options.method, model=options.model, coverage=coverage, tune=options.tune)
    return make_guided(
        options.method,
        guides=guides.identity(),
        cost=guides.cost,
        model=options.model,
        coverage=coverage,
        tune=options.tune,
        radar=guides.groups if isinstance(guides, RadarGuides) else (),
    )


def _input_state(cube: Cube, guides: Led | None, coefficients: GivenCoefficients | None) -> str:
    """Return what tells whether the files of the cube and of all it leans on are the same as at another time."""
    states = [file_state(located(cube.path), cube.sources)]
    states += [one.state() for one in (guides, coefficients) if one is not None]
    return states[0] if len(states) == 1 else sha256(" ".join(states).encode()).hexdigest()


def _led_by(options: FillOptions) -> list[Path]:
    """Return what is read besides the cube."""
    coefficients = None if options.sar is None else options.sar.coefficients
    return [*options.guides, *([] if coefficients is None else [coefficients])]


def _refuse_overlap(options: FillOptions, cube: Cube, output: Path) -> None:
    """Refuse an output in the input, or an input among what the output folder may replace."""
    source = resolved(cube.path)
    place = resolved(output)
    if place == source or source in place.parents:
        raise OptionError(f"the output {output} lies in the input {cube.path}; choose another folder with -o")
    mine = [place / name for name in (*PRODUCTS, "work")]
    guides: list[tuple[str, str | Path | None]] = [("--guide", guide) for guide in options.guides]
    guides += [("--coefficients", None if options.sar is None else options.sar.coefficients)]
    for what, given in (("input", source), ("--aoi", options.aoi), ("--model", options.model), *guides):
        path = None if given is None else resolved(given)
        if path is not None and any(own == path or own in path.parents for own in mine):
            raise OptionError(f"the {what} {given} lies in the output folder {output}; choose another one with -o")


def _refuse_names(cube: Cube, percent: int, *, geotiff: bool) -> None:
    """Refuse variables whose names no product can have, or whose companions would take each other's."""
    taken = {*cube.dims, *([] if cube.grid_mapping is None else [cube.grid_mapping])}
    check_array_names(cube.names, taken=taken, place=cube.path)
    if geotiff:
        safe_names(cube.names)
    for name in cube.names:
        for twin in (name + SOURCE_SUFFIX, half_width_name(name, percent)):
            if twin in cube.names:
                raise OptionError(f"--var {twin} has the name of what comes with {name}; fill one at a time")


def _fitting_plan(
    options: FillOptions, cube: Cube, filler: Filler, workers: int, *, remote: bool
) -> tuple[Plan, int, int]:
    """Plan for an equal share of the memory for each core; where that is too little, for fewer workers."""

    def plan_for(limit: int) -> Plan:
        return make_plan(
            extent=cube.extent,
            variables=cube.variables,
            filler=filler,
            identity=_identity(options, cube),
            memory_limit=limit,
            block=options.block,
            overlap=options.overlap,
            whole_axis=options.max_gap is not None,
            quality=cube.quality_cost,
            copies=2 if options.geotiff else 1,
            loaded_bytes=STORE_BYTES if remote else 0,
        )

    if options.memory_limit is not None:
        return plan_for(options.memory_limit), workers, options.memory_limit
    limit = share_of_memory(max(workers, cores()))
    try:
        return plan_for(limit), workers, limit
    except PlanError:
        # Fewer workers have more each; how many are too few is for the user to say if they were asked for.
        for fewer in range(workers, 0, -1):
            limit = share_of_memory(fewer)
            if options.workers in (None, fewer):
                with suppress(PlanError):
                    return plan_for(limit), fewer, limit
        raise


def _identity(options: FillOptions, cube: Cube) -> JSON:
    """All that decides the products, besides geometry and method."""
    rules = {} if cube.trust is None else {"trust": cube.trust.identity()}
    return {
        "stpipe": __version__,
        "cube": cube.fingerprint,
        "variables": cube.names,
        "domain": options.domain,
        "valid_range": options.valid_range,
        "max_gap": options.max_gap,
        "interval": interval_percent(options.interval, "--interval"),
        "geotiff": options.geotiff,
        "layout": options.layout if options.geotiff else None,
        **rules,
    }


def begin(prepared: Prepared) -> State:
    """Say how the run may begin in its folder, or refuse; nothing is changed."""
    folder, plan, options = prepared.folder, prepared.plan, prepared.options
    state = folder.state(
        plan.run_id, plan.identity, prepared.input_state, resume=options.resume, overwrite=options.overwrite
    )
    if state is State.NEW:
        check_writable(folder.path)
        free = free_bytes(folder.path)
        if free is not None and free < plan.disk_bytes(1.0):  # before it is refused, it is looked at more closely
            check_disk(folder.path, plan.disk_bytes(_gap_share(prepared)))
    return state


def _gap_share(prepared: Prepared) -> float:
    """Return a share of gaps that the cube is not likely to have more of."""
    cube = prepared.cube
    if cube.trust is not None or prepared.options.valid_range is not None:
        return 1.0  # what is dropped is gap as well
    shares = [sampled_gap_share(cube.reader([info.name]), info) for info in cube.variables]
    return min(1.0, max(shares) + MARGIN)


def describe_guides(guides: Led | None) -> list[JSON]:
    """Return what guides there are, and how they come onto the cube's grid."""
    if isinstance(guides, RadarGuides):
        echoes = describe_guides(guides.radar)
        return [*describe_guides(guides.guides), *({**one, "name": echo_name(one["name"])} for one in echoes)]
    if isinstance(guides, Radar):
        return [
            {
                "name": echo.name,
                "variable": echo.variable.info.name,
                "resampling": guides.part.resampling,
                "window_days": guides.part.window_days,
                "average": guides.average,
                "stored_in": "dB" if echo.decibels else "linear power",
            }
            for echo in guides.echoes
        ]
    parts = () if guides is None else guides.parts
    return [
        {
            "name": one.name,
            "variable": one.info.name,
            "resampling": part.resampling,
            "window_days": part.window_days,
            "location": one.location,
            "spread": one.spread,
        }
        for part in parts
        for one in part.variables
    ]


def describe_plan(prepared: Prepared) -> dict[str, JSON]:
    """Return the plan as `stpipe plan --json` prints it."""
    plan = prepared.plan
    grid = plan.blocks
    return {
        "run_id": plan.run_id,
        "cube": prepared.cube.path,
        "extent": plan.extent,
        "variables": [info.name for info in plan.variables],
        "method": prepared.filler.name,
        "interval": prepared.percent / 100,
        "trust": [] if prepared.cube.trust is None else prepared.cube.trust.texts,
        "buffer": 0 if prepared.cube.trust is None else prepared.cube.trust.buffer,
        "guides": describe_guides(prepared.guides),
        "block": grid.size,
        "overlap": grid.spec.overlap,
        "halo": grid.spec.halo,
        "stride": grid.spec.stride,
        "read_window": grid.read_shape,
        "blocks": plan.n_blocks,
        "survey_tile": plan.survey_tiles.shape,
        "blend_tiles": [tiles.shape for tiles in plan.blend_tiles],
        "workers": prepared.workers,
        "memory_limit_bytes": prepared.memory_limit,
        "peak_worker_bytes": plan.memory.peak,
        "peak_bytes": {
            "survey": plan.memory.survey,
            "learn": plan.memory.learn,
            "fill": plan.memory.fill,
            "blend": plan.memory.blend,
        },
        "crops": [crop.shape for crop in plan.crops],
        "scratch_bytes": plan.scratch_bytes,
        "output_bytes": plan.output_bytes,
        "free_bytes": free_bytes(prepared.folder.path),
        "gap_bytes": plan.gap_bytes,
        "learn_seconds": round(plan.learn_seconds, 1),
        "core_seconds": round(plan.seconds + plan.learn_seconds, 1),
        "output": str(prepared.folder.path),
        "identity": plan.identity,
    }
