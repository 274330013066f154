"""The filled cube: a Zarr v3 group that carries the input's coordinates, types and scales.

Each variable comes with two companions: VAR_source, which says where every sample comes from, and VAR_ci90, the
half-width of a 90 % interval; one that holds another share has that in its name. Tiles are whole chunks, so that every
chunk has one writer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, BloscShuffle

from stpipe.core.ports import JSON, VariableInfo
from stpipe.core.samples import SOURCE_CODES, gap_value
from stpipe.core.windows import Triple, Window
from stpipe.errors import RunError, ScratchError
from stpipe.execution.storage import HALF, drop, files_below, is_gone, located, read, zarr_place
from stpipe.io.frames import SOURCE_SUFFIX, USUAL_PERCENT, half_width_name
from stpipe.io.run_folder import file_digests, total_digest
from stpipe.io.scratch import open_array
from stpipe.io.zarr_groups import consolidate

if TYPE_CHECKING:  # xarray takes 40 MiB, and workers only write
    from stpipe.io.cube import Cube

DROPPED = (
    *("_FillValue", "missing_value", "scale_factor", "add_offset", "coordinates", "grid_mapping", "_Unsigned"),
    "ancillary_variables",
)
"""Attributes of the input that say how it was stored, not what it is, or what lies beside it."""

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class ZarrFilledStore:
    """Writes and reads whole tiles of a filled cube, in stored units."""

    path: str
    """The group's folder."""

    percent: int = USUAL_PERCENT
    """What the intervals hold, which is in their name."""

    def _names(self, variable: str) -> tuple[str, str, str]:
        return variable, variable + SOURCE_SUFFIX, half_width_name(variable, self.percent)

    def write(
        self,
        variable: str,
        tile: Window,
        stored: NDArray[Any],
        source: NDArray[np.uint8],
        half_width: NDArray[np.float32],
    ) -> None:
        """Write one tile of whole chunks."""
        arrays: tuple[NDArray[Any], ...] = (stored, source, half_width)
        for name, values in zip(self._names(variable), arrays, strict=True):
            open_array(self.path, name, "r+")[tile.slices] = values

    def digests(self, variable: str, tile: Window) -> dict[str, str]:
        """Return the sha256 of each chunk of a tile as it lies there, by its name in the group."""
        place = located(self.path)
        found: dict[str, str] = {}
        for name in self._names(variable):
            array = open_array(self.path, name, "r+")
            spans = [
                range(start // chunk, -(-stop // chunk))
                for start, stop, chunk in zip(tile.start, tile.stop, array.chunks, strict=True)
            ]
            for at in product(*spans):
                file = f"{array.basename}/{array.metadata.encode_chunk_key(at)}"
                try:
                    found[file] = hashlib.sha256(read(place / file)).hexdigest()
                except OSError as error:
                    if not is_gone(error, place):
                        raise
                    raise ScratchError(f"chunk {file} is gone from {self.path} ({error})") from error
        return found


def check_filled(path: Path, written: Mapping[str, str], made: Mapping[str, bytes]) -> tuple[int, str]:
    """Hold all files of a finished group against what they were when they were written.

    Parameters
    ----------
    path : Path
        The group.
    written : mapping of str to str
        sha256 of each file that tasks wrote, by its name in the group.
    made : mapping of str to bytes
        The files that the group was created with.

    Returns
    -------
    tuple of int and str
        Size and sha256 of the whole, see `stpipe.io.run_folder.tree_digest`.

    Raises
    ------
    RunError
        If there is any difference.
    """
    expected = {**{name: hashlib.sha256(content).hexdigest() for name, content in made.items()}, **written}
    for name in files_below(path):
        if name not in expected and not name.endswith(HALF):
            drop(path / name)  # what file managers and file systems leave
    found = file_digests(path)
    bad = sorted(name for name in {*found, *expected} if name not in found or found[name][1] != expected.get(name))
    if bad:
        named = ", ".join(bad[:_SHOWN]) + (f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else "")
        raise RunError(
            f"files of {path} are no longer as they were written: {named}; run the same command again to have them "
            "made again, and look after that disk"
        )
    return total_digest(found)


def create_filled(
    path: Path, cube: Cube, chunks: Sequence[Triple], attrs: Mapping[str, JSON], *, percent: int = USUAL_PERCENT
) -> None:
    """Create the group: coordinates and CRS of the cube, and empty arrays for every variable."""
    import xarray as xr
    from xarray.backends.zarr import FillValueCoder

    template = cube.template()
    template.attrs = {"Conventions": "CF-1.11", **attrs}
    for coordinate in template.variables.values():
        coordinate.encoding.pop("chunks", None)
        coordinate.encoding.pop("preferred_chunks", None)
        for key in ("compressors", "filters", "serializer", "compressor", "shards"):
            coordinate.encoding.pop(key, None)
    xr.Dataset(coords=template.coords, attrs=template.attrs).to_zarr(
        zarr_place(path), mode="w", zarr_format=3, consolidated=False
    )
    group = zarr.open_group(zarr_place(path), mode="r+")
    mapping = cube.grid_mapping
    for info, chunk in zip(cube.variables, chunks, strict=True):
        common = {"grid_mapping": mapping} if mapping else {}
        label = info.attrs.get("long_name", info.name)
        _create(group, info.name, info.dtype, cube, chunk, {**_kept(info), **_storage(info), **common})
        _create(
            group,
            info.name + SOURCE_SUFFIX,
            "uint8",
            cube,
            chunk,
            {
                "long_name": f"source of {label}",
                "flag_values": list(SOURCE_CODES.values()),
                "flag_meanings": " ".join(SOURCE_CODES),
                **common,
            },
        )
        half: dict[str, JSON] = {"long_name": f"half-width of a {percent} % interval of {label}", **common}
        if "units" in info.attrs:
            half["units"] = info.attrs["units"]
        half["_FillValue"] = FillValueCoder.encode(float("nan"), np.dtype("float32"))
        _create(group, half_width_name(info.name, percent), "float32", cube, chunk, half)
    consolidate(path)


def _create(
    group: zarr.Group, name: str, dtype: str, cube: Cube, chunks: Triple, attributes: Mapping[str, JSON]
) -> None:
    native = np.dtype(dtype).newbyteorder("=")
    group.create_array(
        name,
        shape=cube.extent,
        chunks=chunks,
        dtype=native,
        fill_value=0,
        compressors=[BloscCodec(cname="zstd", clevel=1, shuffle=BloscShuffle.shuffle, typesize=native.itemsize)],
        dimension_names=cube.dims,
        attributes=dict(attributes),
        config={"write_empty_chunks": True},
    )


def _kept(info: VariableInfo) -> dict[str, JSON]:
    return {key: _plain(value) for key, value in info.attrs.items() if key not in DROPPED}


def _plain(value: JSON) -> JSON:
    """NumPy scalars and arrays as JSON has them."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _storage(info: VariableInfo) -> dict[str, JSON]:
    """Say in CF's words how samples are stored."""
    from xarray.backends.zarr import FillValueCoder

    dtype = np.dtype(info.dtype).newbyteorder("=")
    words: dict[str, JSON] = {}
    nodata = gap_value(info)
    if nodata is not None:
        value = int(nodata) if dtype.kind in "iu" else float(dtype.type(nodata))
        words["_FillValue"] = FillValueCoder.encode(value, dtype)
    if (info.scale_factor, info.add_offset) != (1.0, 0.0):
        words |= {"scale_factor": info.scale_factor, "add_offset": info.add_offset}
    return words
