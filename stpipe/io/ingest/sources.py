"""What the user names, as layers: rasters, NetCDF files, Zarr groups and STAC items."""

from __future__ import annotations

import glob
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from stpipe.errors import CubeError, MissingFileError, OptionError
from stpipe.execution.storage import is_remote
from stpipe.io.filenames import NamedFile, read_names
from stpipe.io.ingest.cubes import describe_cube
from stpipe.io.ingest.files import describe_file
from stpipe.io.ingest.items import StacQuery, describe_items, is_stac
from stpipe.io.ingest.layers import Layer
from stpipe.io.ingest.target import Target
from stpipe.io.rasters import SUFFIXES, find_files, open_raster
from stpipe.io.stored import local

NETCDF_SUFFIXES = (".nc", ".nc4", ".cdf", ".h5", ".hdf5")
"""What is taken for a NetCDF file."""

_LOOKED_AT = 8
"""Files of unknown kinds that are looked into once their names say too little."""

_ZARR_MARKS = ("zarr.json", ".zgroup", ".zmetadata", ".zarray")


def find_layers(
    sources: Sequence[str],
    pattern: str | None,
    target: Target,
    stac: StacQuery,
    progress: Callable[[int, int], None] | None,
) -> list[Layer]:
    """Return the layers of all sources; only headers and metadata are read.

    Parameters
    ----------
    sources : sequence of str
        Folders, globs and files of rasters; NetCDF files; Zarr groups; files of STAC items; addresses of STAC APIs.
    pattern : str, optional
        How the names of rasters are built; see `stpipe.io.filenames.read_names`.
    target : Target
        Where a STAC API is asked for items.
    stac : StacQuery
        What it is asked for.
    progress : callable, optional
        Called with files seen and files there are.
    """
    catalogues = [source for source in sources if is_stac(source) and not is_cube(source)]
    cubes, others = _sorted_out([source for source in sources if source not in catalogues])
    if pattern is not None and not others:
        raise OptionError("--pattern is about the names of rasters, and none is among the sources; leave it out")
    files = _named(find_files(others), pattern) if others or not (cubes or catalogues) else []
    several = len({file.variable for file in files}) > 1
    total, layers = len(cubes) + len(files), []
    for catalogue in catalogues:
        layers += describe_items(catalogue, target, stac)
    for number, file in enumerate(files, start=1):
        layers += describe_file(file, prefix=several)
        if progress is not None:
            progress(number, total)
    found: list[Layer] = []
    for number, cube in enumerate(cubes, start=len(files) + 1):
        found += describe_cube(cube)
        if progress is not None:
            progress(number, total)
    return layers + _families(found)


def _named(paths: Sequence[Path], pattern: str | None) -> list[NamedFile]:
    """Return what the names of rasters say; where they say too little, first whether they are rasters at all."""
    try:
        return read_names(paths, pattern)
    except CubeError:
        for path in [path for path in paths if path.suffix.lower() not in SUFFIXES][:_LOOKED_AT]:
            try:
                open_raster(path).close()
            except CubeError as error:
                known = "ingest reads rasters, NetCDF files (.nc), Zarr groups and JSON files of STAC items"
                raise CubeError(f"{str(error).removesuffix('.')}; {known}") from None
        raise


def _sorted_out(sources: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the sources that are cubes, and the others."""
    cubes: list[str] = []
    others: list[str] = []
    for source in sources:
        place = local(source)
        matches = [] if place.exists() else sorted(glob.glob(str(place), recursive=True))  # noqa: PTH207
        for path in [str(place)] if place.exists() else matches or [source]:
            if is_cube(path):
                cubes.append(path)
            elif not _holds_cubes(Path(path)):
                others.append(path)
            else:
                cubes += sorted(str(inside) for inside in Path(path).iterdir() if is_cube(str(inside)))
    return list(dict.fromkeys(cubes)), others


def is_cube(source: str) -> bool:
    """Whether a source is a NetCDF file or a Zarr group, by its name and its marks."""
    if is_remote(source):
        return source.rstrip("/").endswith((".zarr", *NETCDF_SUFFIXES))
    place = Path(source)
    if place.is_dir():
        return place.suffix == ".zarr" or any((place / mark).exists() for mark in _ZARR_MARKS)
    return place.suffix.lower() in NETCDF_SUFFIXES


def _holds_cubes(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    inside = [path for path in folder.iterdir() if is_cube(str(path))]
    try:
        find_files([str(folder)])
    except MissingFileError:
        return bool(inside)
    if inside:
        raise CubeError(
            f"folder {folder} holds rasters and cubes ({inside[0].name}); name those that belong together with a glob"
        )
    return False


def _families(layers: Sequence[Layer]) -> list[Layer]:
    """Return layers of cubes with one name of a scene where all times are the same.

    Bands and quality layer of one product may come in several files, on several grids; the times tell that they belong
    together, as two satellites never see a place at all the same times.
    """
    times: defaultdict[str, set[datetime]] = defaultdict(set)
    for layer in layers:
        times[layer.path].add(layer.time)
    first: dict[frozenset[datetime], str] = {}
    for path, seen in times.items():
        first.setdefault(frozenset(seen), path)
    return [replace(layer, scene=first[frozenset(times[layer.path])]) for layer in layers]
