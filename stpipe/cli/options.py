"""The options that `fill-scene` and `plan` share, and how their values are read."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stpipe.cli.cluster_files import cluster_option, parse_cluster
from stpipe.cli.paths import AnyPath, HerePath
from stpipe.cli.sar_options import parse_sar, sar_options
from stpipe.cli.trust import parse_trust, trust_options
from stpipe.core.windows import AXES, Triple, triple
from stpipe.errors import OptionError
from stpipe.methods import METHODS

if TYPE_CHECKING:
    from stpipe.cli.scene_plan import FillOptions
    from stpipe.execution.shards import Shard
    from stpipe.io.guides import GuideOptions

UNITS = {"": 1, "B": 1}
for power, letter in enumerate("KMGT", start=1):
    UNITS |= {letter: 1000**power, f"{letter}B": 1000**power, f"{letter}IB": 1024**power}


LEAST_SIZE = 2**20
"""Bytes; less than this is a number whose unit was forgotten."""


BLOCK_TIMEOUT = 3600.0
"""Seconds; blocks take some seconds to some minutes, and what takes an hour hangs."""


def parse_triple(option: str, text: str | None) -> Triple | None:
    """Read T,Y,X.

    >>> parse_triple("--block", "16,128,128")
    (16, 128, 128)
    """
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) != len(AXES) or not all(re.fullmatch(r"\s*\d+\s*", part) for part in parts):
        raise OptionError(f"{option} needs three whole numbers T,Y,X such as 16,128,128, got {text!r}")
    return triple(parts)


def parse_size(option: str, text: str | None) -> int | None:
    """Read a size such as 4GiB, 4GB or 500M.

    >>> parse_size("--memory-limit", "1.5GiB")
    1610612736
    """
    if text is None:
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    if match is None or match[2].upper() not in UNITS:
        raise OptionError(f"{option} needs a size such as 4GiB or 500MB, got {text!r}")
    size = int(float(match[1]) * UNITS[match[2].upper()])
    if size < LEAST_SIZE:
        raise OptionError(f"{option} {text} is {size} bytes; sizes are such as 4GiB or 500MB")
    return size


def parse_range(option: str, text: str | None) -> tuple[float, float] | None:
    """Read LO,HI; either may be inf.

    >>> parse_range("--valid-range", "-0.2,1")
    (-0.2, 1.0)
    """
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise OptionError(f"{option} needs two numbers LO,HI such as -0.2,1, got {text!r}") from None
    if not low <= high:
        raise OptionError(f"{option} needs LO,HI with LO <= HI, got {text!r}")
    return low, high


def parse_period(option: str, text: str | None) -> tuple[str | None, str | None] | None:
    """Read START/END; either may be left out.

    >>> parse_period("--time", "2023-06-01/")
    ('2023-06-01', None)
    """
    if text is None:
        return None
    start, slash, end = text.partition("/")
    if not slash or "/" in end or not (start.strip() or end.strip()):
        raise OptionError(f"{option} needs START/END such as 2023-06-01/2023-09-30, got {text!r}")
    return start.strip() or None, end.strip() or None


def guide_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options on guides to a command."""
    decorators: list[Callable[[Callable[..., Any]], Callable[..., Any]]] = [
        click.option(
            "--guide",
            "guides",
            multiple=True,
            type=AnyPath(),
            metavar="CUBE",
            help="Cube whose variables tell something of what is missing (radar, another sensor, a model), on its own "
            "dates and pixels; may be repeated, and may be the cube itself.",
        ),
        click.option(
            "--guide-var",
            "guide_variables",
            multiple=True,
            metavar="V",
            help="Variable of the guides to take [all measurements that are not to be filled]; may be repeated.",
        ),
        click.option(
            "--guide-resampling",
            type=click.Choice(["nearest", "bilinear", "average"]),
            help="In space [average where a guide is finer than the cube, else bilinear].",
        ),
        click.option(
            "--guide-window",
            type=float,
            metavar="DAYS",
            help="A date of a guide counts so long before and after [twice its median step].",
        ),
    ]
    for decorate in reversed(decorators):
        function = decorate(function)
    return function


def parse_guides(
    guides: tuple[Path, ...],
    guide_variables: tuple[str, ...],
    guide_resampling: str | None,
    guide_window: float | None,
) -> GuideOptions:
    """Turn what was typed about guides into options, or refuse."""
    from stpipe.io.guides import GuideOptions

    if not guides:
        for option, value in (
            ("--guide-var", guide_variables),
            ("--guide-resampling", guide_resampling),
            ("--guide-window", guide_window is not None),
        ):
            if value:
                raise OptionError(f"{option} is about guides, and there is none; name its cube with --guide")
    return GuideOptions(
        variables=tuple(dict.fromkeys(guide_variables)),
        resampling=guide_resampling,  # type: ignore[arg-type]  # click has checked it
        window_days=guide_window,
    )


def _parse_shard(text: str | None) -> Shard | None:
    """Read K/N."""
    if text is None:
        return None
    from stpipe.execution.shards import Shard

    return Shard.parse(text)


def _parse_timeout(seconds: float) -> float | None:
    """Check the seconds that a block may take; None for as long as it takes."""
    if not seconds >= 0:
        raise OptionError(f"--block-timeout is a number of seconds, or 0 for none, got {seconds:g}")
    return seconds or None


log_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--log", type=HerePath(), metavar="FILE", help="Write down how the run goes, as lines of JSON."
)
"""Adds the option to a command."""


def run_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add what decides a run to a command."""
    decorators: list[Callable[[Callable[..., Any]], Callable[..., Any]]] = [
        click.argument("cube", type=AnyPath()),
        click.option("-o", "--output", type=AnyPath(), help="Folder for the products [CUBE.filled]."),
        click.option("--var", "variables", multiple=True, metavar="V", help="Variable to fill [all]; may be repeated."),
        click.option("--method", default="pconv", show_default=True, help=f"One of {', '.join(METHODS)}; guided, sar."),
        click.option("--model", metavar="NAME|PATH", help="Weights for pconv [the packaged ones]."),
        click.option("--tune/--no-tune", default=None, help="Let pconv learn from gaps of this cube [on]."),
        click.option("--domain", metavar="V", help="Static variable that is non-zero where values can exist."),
        click.option("--valid-range", metavar="LO,HI", help="Physical values outside of it are gaps."),
        trust_options,
        guide_options,
        sar_options,
        click.option(
            "--max-gap",
            type=float,
            metavar="DAYS",
            help="Leave gaps unfilled that are farther than this from an observation of their pixel.",
        ),
        click.option(
            "--interval",
            type=float,
            default=0.9,
            show_default=True,
            metavar="SHARE",
            help="Share of the truth that the intervals are to hold; 0.8 gives VAR_ci80.",
        ),
        click.option("--aoi", type=HerePath(), help="GeoJSON of the area to fill."),
        click.option("--time", "period", metavar="START/END", help="Period to fill."),
        click.option("--block", metavar="T,Y,X", help="What a block writes [from the worker's memory]."),
        click.option(
            "--overlap",
            metavar="T,Y,X",
            help="What neighbouring blocks both write and blend [0,8,8; 0 for methods whose blocks can't be seen].",
        ),
        click.option("--workers", type=int, help="Worker processes, here or of the cluster [one a core]."),
        click.option("--memory-limit", metavar="SIZE", help="Memory of a worker, such as 4GiB."),
        click.option("--scheduler", metavar="ADDRESS", help="Use the Dask cluster of this scheduler (tcp://...)."),
        cluster_option,
        click.option("--shard", metavar="K/N", help="Be the K-th of N processes that share the work; no scheduler."),
        click.option(
            "--block-timeout",
            type=float,
            default=BLOCK_TIMEOUT,
            show_default=True,
            metavar="SECONDS",
            help="Try a block again elsewhere that takes longer; 0: never.",
        ),
        click.option("--resume", is_flag=True, help="Only go on with a run that was begun here."),
        click.option("--overwrite", is_flag=True, help="Replace an earlier run's products."),
        click.option("--no-geotiff", is_flag=True, help="Stop after filled.zarr."),
        click.option(
            "--layout",
            type=click.Choice(["frames", "stack"]),
            help="One GeoTIFF a frame, or one a variable [frames].",
        ),
        click.option("--keep-work", is_flag=True, help="Keep the scratch folder."),
        log_option,
        click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
    ]
    for decorate in reversed(decorators):
        function = decorate(function)
    return function


def fill_options(
    *,
    cube: Path,
    output: Path | None,
    variables: tuple[str, ...],
    method: str,
    model: str | None,
    tune: bool | None,
    domain: str | None,
    valid_range: str | None,
    qa: tuple[str, ...],
    keep: tuple[str, ...],
    drop: tuple[str, ...],
    buffer: int,
    guides: tuple[Path, ...],
    guide_variables: tuple[str, ...],
    guide_resampling: str | None,
    guide_window: float | None,
    max_gap: float | None,
    interval: float,
    aoi: Path | None,
    period: str | None,
    block: str | None,
    overlap: str | None,
    workers: int | None,
    memory_limit: str | None,
    scheduler: str | None,
    cluster: str | None,
    shard: str | None,
    block_timeout: float,
    resume: bool,
    overwrite: bool,
    no_geotiff: bool,
    layout: str | None,
    keep_work: bool,
    log: Path | None,
    **sar: Any,
) -> FillOptions:
    """Turn what was typed into options, or refuse."""
    from stpipe.cli.scene_plan import FillOptions

    if no_geotiff and layout is not None:
        raise OptionError(f"--layout {layout} shapes the GeoTIFFs that --no-geotiff leaves out; give one of them")
    if len(set(variables)) < len(variables):
        raise OptionError(f"--var names a variable twice: {', '.join(variables)}")
    guide_options = parse_guides(guides, guide_variables, guide_resampling, guide_window)
    return FillOptions(
        cube=cube,
        output=output,
        variables=variables,
        method=method,
        model=model,
        tune=tune,
        domain=domain,
        valid_range=parse_range("--valid-range", valid_range),
        trust=parse_trust(qa, keep, drop, buffer),
        guides=guides,
        guide_options=guide_options,
        sar=parse_sar(method, guide_options, **sar),
        max_gap=max_gap,
        interval=interval,
        time=parse_period("--time", period),
        aoi=aoi,
        block=parse_triple("--block", block),
        overlap=parse_triple("--overlap", overlap),
        workers=workers,
        memory_limit=parse_size("--memory-limit", memory_limit),
        scheduler=scheduler,
        shard=_parse_shard(shard),
        cluster=parse_cluster(cluster, scheduler=scheduler, workers=workers, memory_limit=memory_limit),
        resume=resume,
        overwrite=overwrite,
        geotiff=not no_geotiff,
        layout="stack" if layout == "stack" else "frames",
        keep_work=keep_work,
        block_timeout=_parse_timeout(block_timeout),
        log=log,
    )
