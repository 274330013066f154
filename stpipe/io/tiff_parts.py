"""A Cloud Optimized GeoTIFF from parts that were encoded apart, by many processes in any order.

GDAL writes a COG in one process, from a plain file that it reads several times; for a dozen bands of floats that takes
longer than to work them out. So each process encodes its own tiles, and here they are only put one after the other.
What a file says of itself is taken from a one-tile file that GDAL wrote too; sizes and places of tiles are all
that differs::

    header | directory | directory of level 1 | ... | tiles of the smallest level | ... | tiles of the full size

Source: TIFF 6.0 (1992), sections 2 and 15; BigTIFF as libtiff has it; the order that GDAL's documentation asks of a
Cloud Optimized GeoTIFF.
"""

from __future__ import annotations

import os
import struct
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import rasterio
from isal import isal_zlib
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile
from rasterio.transform import Affine

from stpipe.errors import RunError
from stpipe.io.frames import RasterGrid

F32 = NDArray[np.float32]

CODEC: Mapping[str, Any] = {"compress": "DEFLATE"}
"""What every reader knows; predictors made files larger."""

LEVEL = 2
"""Level of ISA-L's encoder. GDAL's own took half as long again at its fastest, for 11 % fewer bytes."""

LARGEST_CLASSIC = 2**32 - 1
"""Bytes of a file beyond which only BigTIFF can say where a tile is."""

_PIECE = 2**20
"""Bytes that are copied at once."""

_OWN = {254, 256, 257, 324, 325}
_OF_OVERVIEWS = {258, 259, 262, 277, 284, 317, 322, 323, 338, 339, 42113}
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """What a band says of itself."""

    name: str
    """Its description."""

    units: str = ""
    """Its units."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TiledRaster:
    """Size and bands of a file of float32 with NaN for nodata, and how it is cut into tiles."""

    grid: RasterGrid
    """Size and place."""

    bands: tuple[Band, ...]
    """Its bands."""

    tile: int
    """Side of a tile in pixels; a multiple of 16."""

    tags: tuple[tuple[str, str], ...] = ()
    """Metadata of the file."""

    @property
    def levels(self) -> int:
        """Number of sizes: the full one, and each half of the one before until one tile holds it."""
        count = 1
        while max(self.shape(count - 1)) > self.tile:
            count += 1
        return count

    def shape(self, level: int) -> tuple[int, int]:
        """Rows and columns of a level."""
        step = 2**level
        return -(-self.grid.height // step), -(-self.grid.width // step)

    def counts(self, level: int) -> tuple[int, int]:
        """Tiles along y and x of a level."""
        rows, columns = self.shape(level)
        return -(-rows // self.tile), -(-columns // self.tile)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Encoded tiles of one level that lie one after the other in a file."""

    file: Path
    """The file."""

    start: int
    """Where in it they begin."""

    sizes: Sequence[Sequence[int]]
    """(band, tile), the bytes of each, in the order in which they lie there."""

    places: Sequence[tuple[int, int]]
    """(tile,), the row and column of each in the level."""


def encode(values: F32, tile: int) -> list[list[bytes]]:
    """Return the encoded tiles of (band, y, x) values: for each band its tiles, x fastest.

    Tiles at the lower and right edge are filled up with NaN.
    """
    height, width = values.shape[1:]
    corners = [(top, left) for top in range(0, height, tile) for left in range(0, width, tile)]
    whole = np.empty((tile, tile), dtype="<f4")
    encoded = []
    for band in values:
        tiles = []
        for top, left in corners:
            piece = band[top : top + tile, left : left + tile]
            if piece.shape != whole.shape:
                whole[...] = np.nan
            whole[: piece.shape[0], : piece.shape[1]] = piece
            tiles.append(isal_zlib.compress(whole, LEVEL))
        encoded.append(tiles)
    return encoded


def assemble(raster: TiledRaster, path: Path, stretches: Callable[[int], Sequence[Stretch]]) -> None:
    """Write a file of tiles that are encoded already, and remove each file of them once nothing more of it is needed.

    So both together take little more of the disk than the result, and the system can use the memory that held the one
    for the other: 1.2 GB took 2.4 s to put together, where they took 5.2 s with all parts kept.

    The size is checked, and what GDAL reads of the header. The tiles are not read back: each carries the checksum of
    its codec, which every reader checks.

    Parameters
    ----------
    raster : TiledRaster
        What it is.
    path : Path
        Where it goes; not synced yet, see `sync`.
    stretches : callable
        All tiles of a level, in the order in which they are to lie in the file.

    Raises
    ------
    RunError
        If a tile is missing, or the file does not hold what was written.
    """
    of_levels = [stretches(level) for level in range(raster.levels)]
    total = sum(_bytes_of(stretch) for of_level in of_levels for stretch in of_level)
    template, at = _layout(raster, big=False)
    if at + total > LARGEST_CLASSIC:
        template, at = _layout(raster, big=True)
    size = at + total
    tables: list[_Table] = [_Table.empty(raster, level) for level in range(raster.levels)]
    for level in reversed(range(raster.levels)):
        for stretch in of_levels[level]:
            at = tables[level].enter(stretch, at, raster.counts(level)[1])
        if not tables[level].lengths.all():
            raise RunError(f"tiles of {path} were never written; run the same command again")
    uses = Counter(stretch.file for of_level in of_levels for stretch in of_level)
    # Memory that is asked for anew for each piece takes longer to come by than to fill.
    room = memoryview(bytearray(_PIECE))
    with path.open("wb") as file:
        file.write(_header(raster, template, tables))
        for of_level in reversed(of_levels):
            for stretch in of_level:
                _copy(stretch, file, room)
                uses[stretch.file] -= 1
                if not uses[stretch.file]:
                    stretch.file.unlink()
    if path.stat().st_size != size:
        raise RunError(f"{path} does not hold what was written; is the disk full? Make room and run it again")
    _check(raster, path)


def sync(path: Path) -> None:
    """Return when a file is on the disk, and not only on its way there."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _bytes_of(stretch: Stretch) -> int:
    return sum(map(sum, stretch.sizes))


def _copy(stretch: Stretch, out: BinaryIO, room: memoryview) -> None:
    left = _bytes_of(stretch)
    with stretch.file.open("rb", buffering=0) as file:
        file.seek(stretch.start)
        while left:
            size = file.readinto(room[:left])
            if not size:
                raise RunError(f"{stretch.file} is shorter than its record says; run the same command again")
            out.write(room[:size])
            left -= size


def _check(raster: TiledRaster, path: Path) -> None:
    """Open a file as anybody would, and hold what it says of itself against what was meant."""
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        dataset = stack.enter_context(rasterio.open(path))
        small = stack.enter_context(stack.enter_context(MemoryFile(_small(raster))).open())
        said = {
            "size": (dataset.shape, (raster.grid.height, raster.grid.width)),
            "bands": (dataset.descriptions, tuple(band.name for band in raster.bands)),
            "CRS": (dataset.crs, small.crs),
            "transform": (dataset.transform, small.transform),
            "overviews": (len(dataset.overviews(1)), raster.levels - 1),
            "tiles": (set(dataset.block_shapes), {(raster.tile, raster.tile)}),
        }
    for name, (found, expected) in said.items():
        if found != expected:
            raise RunError(f"{path} did not come out as planned, its {name}: {found} instead of {expected}")


# --- directories ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Entry:
    """One field of a directory."""

    tag: int
    kind: int
    count: int
    data: bytes


@dataclass(frozen=True, slots=True)
class _Directory:
    """What a TIFF says of one image."""

    entries: tuple[_Entry, ...]


@dataclass(frozen=True, slots=True)
class _Table:
    """Where the tiles of a level lie in the file, (band, tile), and how long they are."""

    places: NDArray[np.uint64]
    lengths: NDArray[np.uint64]

    @classmethod
    def empty(cls, raster: TiledRaster, level: int) -> _Table:
        """Return a table that knows of no tile."""
        shape = (len(raster.bands), prod(raster.counts(level)))
        return cls(np.zeros(shape, dtype=np.uint64), np.zeros(shape, dtype=np.uint64))

    def enter(self, stretch: Stretch, at: int, columns: int) -> int:
        """Note the tiles of a stretch that begins at a place; return where it ends."""
        sizes = np.array(stretch.sizes, dtype=np.uint64)
        ends = np.uint64(at) + np.cumsum(sizes.ravel())
        numbers = [row * columns + column for row, column in stretch.places]
        self.places[:, numbers] = (ends - sizes.ravel()).reshape(sizes.shape)
        self.lengths[:, numbers] = sizes
        return int(ends[-1])


@dataclass(frozen=True, slots=True)
class _Format:
    """How wide counts and places are."""

    big: bool

    @property
    def words(self) -> tuple[str, str, int]:
        """Format of the number of fields, of a place, and bytes of a place."""
        return ("<Q", "<Q", 8) if self.big else ("<H", "<I", 4)

    def packed(self, entries: Sequence[_Entry], at: int, *, last: bool) -> bytes:
        """Return a directory that starts at a place, followed by what does not fit into its fields."""
        number, place, width = self.words
        after = at + struct.calcsize(number) + len(entries) * (4 + 2 * width) + width
        fields, beyond = [struct.pack(number, len(entries))], b""
        for entry in sorted(entries, key=lambda entry: entry.tag):
            held = entry.data.ljust(width, b"\0")
            if len(entry.data) > width:
                held = struct.pack(place, after + len(beyond))
                beyond += entry.data + b"\0" * (len(entry.data) % 2)
            fields.append(struct.pack("<HH", entry.tag, entry.kind) + struct.pack(place, entry.count) + held)
        end = after + len(beyond)
        padding = -end % 8
        following = struct.pack(place, 0 if last else end + padding)
        return b"".join(fields) + following + beyond + b"\0" * padding


def _directories(content: Any) -> list[_Directory]:
    """Return the directories of a little-endian TIFF."""
    big = content[2] == 43
    number, place, width = _Format(big).words
    (at,) = struct.unpack_from(place, content, 8 if big else 4)
    found = []
    while at:
        (count,) = struct.unpack_from(number, content, at)
        at += struct.calcsize(number)
        entries = []
        for _ in range(count):
            tag, kind = struct.unpack_from("<HH", content, at)
            (length,) = struct.unpack_from(place, content, at + 4)
            size, where = length * _SIZES[kind], at + 4 + width
            if size > width:
                (where,) = struct.unpack_from(place, content, where)
            entries.append(_Entry(tag, kind, length, bytes(content[where : where + size])))
            at += 4 + 2 * width
        found.append(_Directory(tuple(entries)))
        (at,) = struct.unpack_from(place, content, at)
    return found


def _header(
    raster: TiledRaster,
    template: tuple[bool, _Directory],
    tables: Sequence[_Table],
) -> bytes:
    """Return all that stands before the tiles."""
    big, directory = template
    layout = _Format(big)
    header = struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16) if big else struct.pack("<2sHI", b"II", 42, 8)
    for level, table in enumerate(tables):
        height, width = raster.shape(level)
        kept = [
            entry for entry in directory.entries if entry.tag not in _OWN and (level == 0 or entry.tag in _OF_OVERVIEWS)
        ]
        kind, item = (16, "<u8") if big else (4, "<u4")
        tiles = [_Entry(tag, kind, array.size, array.astype(item).tobytes()) for tag, array in
                 ((324, table.places), (325, table.lengths))]  # fmt: skip
        own = [_Entry(tag, 4, 1, struct.pack("<I", value)) for tag, value in ((256, width), (257, height))]
        own += [_Entry(254, 4, 1, struct.pack("<I", 1))] if level else []
        last = level == raster.levels - 1
        header += layout.packed([*kept, *own, *tiles], len(header), last=last)
    return header


def _tiling(tile: int) -> dict[str, Any]:
    return {"tiled": True, "blockxsize": tile, "blockysize": tile, "interleave": "band"}


def _small(raster: TiledRaster, *, big: bool = False) -> bytes:
    """Return a file of one tile that says all of itself that the real one is to say."""
    grid = raster.grid
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "count": len(raster.bands),
        "dtype": "float32",
        "nodata": float("nan"),
        "height": raster.tile,
        "width": raster.tile,
        "bigtiff": "YES" if big else "NO",
        "sparse_ok": "TRUE",
        **_tiling(raster.tile),
        **CODEC,
    }
    if grid.crs_wkt is not None:
        profile["crs"] = CRS.from_wkt(grid.crs_wkt)
    if grid.transform is not None:
        profile["transform"] = Affine(*grid.transform)
    with warnings.catch_warnings(), MemoryFile() as memory:
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with memory.open(**profile) as dataset:
            dataset.descriptions = tuple(band.name for band in raster.bands)
            if any(band.units for band in raster.bands):
                dataset.units = tuple(band.units for band in raster.bands)
            dataset.update_tags(**dict(raster.tags))
        return bytes(memory.getbuffer())


def _layout(raster: TiledRaster, *, big: bool) -> tuple[tuple[bool, _Directory], int]:
    """Return a template, and the bytes that stand before the tiles, wherever these lie."""
    (directory,) = _directories(_small(raster, big=big))
    template = big, directory
    return template, len(_header(raster, template, [_Table.empty(raster, level) for level in range(raster.levels)]))
