"""`stpipe mosaic`: a cube, filled or not, as Cloud Optimized GeoTIFFs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stpipe.cli.interrupts import interruptible
from stpipe.cli.paths import AnyPath
from stpipe.cli.progress import progress_bar
from stpipe.cli.words import tell, warn
from stpipe.errors import OptionError, OutputError, PlanError

if TYPE_CHECKING:
    from stpipe.io.mosaic import MosaicTask, WrittenFile

FILLED = "filled.zarr"
"""Name of the cube in the folder of a run."""

LISTED = 3
"""Names in a message."""


@click.command(name="mosaic")
@click.argument("cube")
@click.option(
    "-o",
    "--output",
    type=AnyPath(),
    help="Folder of the files. [default: CUBE's name with .geotiff, or geotiff beside a filled.zarr]",
)
@click.option("--var", "variables", multiple=True, metavar="VAR", help="A variable; can be given again. [default: all]")
@click.option(
    "--layout",
    type=click.Choice(["frames", "stack"]),
    default="frames",
    show_default=True,
    help="A file for each frame, or one file with a band for each frame.",
)
@click.option(
    "--memory-limit", default="1GiB", show_default=True, metavar="SIZE", help="Memory for samples, beside the program."
)
@click.option("--overwrite", is_flag=True, help="Write into a folder that holds other things, over files that differ.")
@click.option("--json", "as_json", is_flag=True, help="Print the files as JSON.")
def command(
    cube: str,
    output: Path | None,
    variables: tuple[str, ...],
    layout: str,
    memory_limit: str,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write a cube as GeoTIFF.

    CUBE is a Zarr group, a NetCDF file, or the folder of a run. Each frame of each variable becomes a Cloud Optimized
    GeoTIFF VAR/VAR_YYYYMMDDTHHMMSS.tif, north up, with CRS, nodata, scale, units and date; the source codes of a filled
    variable lie beside it as VAR/VAR_source_YYYYMMDDTHHMMSS.tif. The intervals of a filled variable are written when
    they are asked for, by a name such as --var VAR_ci90.

    Files that are there already and equal to the cube are kept, so that an interrupted mosaic is finished by the same
    command.
    """
    # xarray and zarr take a second to load, and --help has no need of them.
    from stpipe.execution.storage import files_below
    from stpipe.io.cube import open_source
    from stpipe.io.frames import RasterGrid
    from stpipe.io.mosaic import mosaic_bytes, plan_mosaic, write_frames

    path = _inside_run(cube)
    source = open_source(path)
    folder = _output_folder(path) if output is None else output
    layout_name: Any = layout
    tasks = plan_mosaic(source, variables or None, layout_name, _memory(memory_limit))
    _check_folder(folder, path, tasks, overwrite=overwrite)
    there = files_below(folder)
    _check_disk(folder, mosaic_bytes([task for task in tasks if not all(name in there for name in task.files)]))
    note = RasterGrid.of(source).note
    if note is not None:
        warn(note)
    written: list[WrittenFile] = []
    reader = source.reader(sorted({task.variable for task in tasks}))
    with interruptible(), progress_bar("mosaic") as progress:
        for number, task in enumerate(tasks, start=1):
            written += write_frames(task, reader, folder, replace=overwrite, threads=_threads())
            progress(number, len(tasks))
    if as_json:
        files = [{"path": file.path, "bytes": file.bytes, "sha256": file.sha256, "kept": file.kept} for file in written]
        click.echo(json.dumps({"folder": str(folder), "layout": layout, "warning": note, "files": files}, indent=2))
    else:
        _report(folder, written)


def _inside_run(cube: str) -> str:
    """Return the filled cube of a run's folder, or the path itself."""
    from stpipe.execution.storage import WRITABLE, is_remote, located, names_at, scheme_of
    from stpipe.io.stored import local

    if scheme_of(cube) not in ("", *WRITABLE):
        return cube
    if not is_remote(cube):
        return str(Path(cube) / FILLED) if (local(cube) / FILLED).is_dir() else cube
    inside = located(cube) / FILLED
    return str(inside) if "zarr.json" in (names_at(inside) or []) else cube


def _output_folder(path: str) -> Path:
    """Return where files go unless told otherwise.

    >>> _output_folder("data/cube.zarr").as_posix(), _output_folder("cube.filled/filled.zarr").as_posix()
    ('data/cube.geotiff', 'cube.filled/geotiff')
    """
    if "://" in path:
        raise OptionError(f"{path} is not on this machine; say with -o where its GeoTIFF files go")
    cube = Path(path).absolute() if Path(path).name in {"", ".", ".."} else Path(path)
    return cube.parent / "geotiff" if cube.name == FILLED else cube.with_suffix(".geotiff")


def _memory(text: str) -> int:
    from dask.utils import parse_bytes

    try:
        size = int(parse_bytes(text))
    except (ValueError, OverflowError):
        size = 0
    if size <= 0:
        raise OptionError(f"--memory-limit is a size such as 512MiB or 2GiB, got {text!r}")
    return size


def _threads() -> int:
    import os

    return min(8, os.cpu_count() or 1)


def _check_folder(folder: Path, cube: str, tasks: Sequence[MosaicTask], *, overwrite: bool) -> None:
    """Refuse a folder in which something would be lost or mixed, or that leads elsewhere."""
    from stpipe.execution.storage import check_output, resolved
    from stpipe.io.run_folder import check_writable

    check_output(folder)
    if folder.is_file() or (folder.exists() and not folder.is_dir()):
        raise OutputError(f"{folder} is a file; choose another folder with -o")
    check_writable(folder)
    if resolved(cube) in (resolved(folder), *resolved(folder).parents):
        raise OptionError(f"{folder} lies inside the cube {cube}; choose another folder with -o")
    for name in {Path(name).parent for task in tasks for name in task.files}:
        if (folder / name).is_symlink():
            raise OutputError(f"{folder / name} is a link, and nothing is written through one; remove it")
    if overwrite or not folder.exists():
        return
    others = list(_others(folder, {name for task in tasks for name in task.files}))
    if others:
        named = ", ".join(others[:LISTED]) + (f" and {len(others) - LISTED} more" if len(others) > LISTED else "")
        raise OutputError(
            f"{folder} holds what no mosaic wrote: {named}; choose another folder with -o, or give --overwrite"
        )


def _others(folder: Path, planned: set[str]) -> Iterator[str]:
    from stpipe.execution.storage import files_below, is_remote
    from stpipe.io.geotiff import PARTIAL, is_mosaic_file

    for name in files_below(folder):
        # Viewers leave their statistics beside a file.
        ours = name in planned or name.removesuffix(".aux.xml") in planned
        ours = ours or name.rpartition("/")[2].startswith(PARTIAL)
        if not (ours or (not is_remote(folder) and is_mosaic_file(folder / name))):
            yield name


def _check_disk(folder: Path, needed: int) -> None:
    from stpipe.io.run_folder import free_bytes

    free = free_bytes(folder)
    if free is not None and needed > free:
        raise PlanError(
            f"the mosaic may need {needed / 2**30:.2f} GiB in {folder}, where {free / 2**30:.2f} GiB are free; "
            "choose fewer variables with --var, or another disk with -o"
        )


def _report(folder: Path, written: Sequence[WrittenFile]) -> None:
    counts = Counter(Path(file.path).parent.name for file in written)
    for name, count in counts.items():
        mine = [file for file in written if Path(file.path).parent.name == name]
        kept = sum(file.kept for file in mine)
        size = sum(file.bytes for file in mine) / 2**20
        again = f", {kept} of them there already" if kept else ""
        tell(f"{folder / name}: {count} file{'s' if count > 1 else ''}, {size:.1f} MiB{again}")
