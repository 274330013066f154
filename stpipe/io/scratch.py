"""The scratch stores of a run: overviews and filled blocks, as Zarr arrays that the driver creates.

Every chunk has one writer: a survey tile is whole chunks of each overview level up to 6, and a block is one chunk. All
chunks carry a crc32c and none is left out for being empty, since a missing chunk would read as its fill value in
silence; what is there is settled by records, and by digests of what is read.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, BloscShuffle, BytesCodec, Crc32cCodec, ZstdCodec

from stpipe.core.blend import PAYLOAD_PARTS
from stpipe.core.blocks import Block, BlockGrid
from stpipe.core.ports import Overviews
from stpipe.core.survey import BASE_LEVEL, Level, coarser, level_shape, levels_of, read_padded, standardise
from stpipe.core.windows import Triple, Window, triple
from stpipe.errors import RunError, ScratchError
from stpipe.execution.records import digest
from stpipe.execution.storage import files_below, is_gone, is_there, located, one_line, read, zarr_place

TILE_LEVELS = 4
"""Levels 3 to 6 are chunked by survey tile; coarser ones are small and whole."""


def use_one_thread() -> None:
    """Make Zarr decode one chunk at a time in this process, so that memory and bytes are what the plan says."""
    zarr.config.set({"async.concurrency": 1, "threading.max_workers": 1})


_AGAIN = "look what changes files there, and run the same command again to have it mended"


@lru_cache(maxsize=64)
def open_array(path: str, name: str, mode: str, zarr_format: Literal[2, 3] | None = 3) -> zarr.Array[Any]:
    """Open an array of a store once in each process.

    Of one format: each more is looked for by several names, and a store takes its time for each.

    Raises
    ------
    RunError
        If it is not there, though it was when the run began. That is no `ScratchError`: of blocks whose array is gone,
        none could be made again.
    """
    try:
        array = zarr.open_array(zarr_place(path), path=name, mode="r" if mode == "r" else "r+", zarr_format=zarr_format)
    except (FileNotFoundError, ValueError) as error:
        raise RunError(f"{path} has no array {name!r} that can be opened ({one_line(error)}); {_AGAIN}") from error
    return array.with_config({"write_empty_chunks": True}) if hasattr(array, "with_config") else array


SORTED_BYTES = 2**20
"""Bytes whose bits are laid side by side: Blosc's own choice, which fits its caches, took two thirds more room."""

BLOSC_BYTES = 2**31 - 2**10
"""What Blosc can take at once, with its own header."""


def create_array(
    group: zarr.Group, name: str, *, shape: Sequence[int], chunks: Sequence[int], dtype: str, sorted_bits: bool = False
) -> None:
    """Create a checksummed array whose chunks are all written.

    Parameters
    ----------
    group : zarr.Group
        Where.
    name : str
        Of the array.
    shape, chunks : sequence of int
        Its shape, and that of its chunks.
    dtype : str
        Its type.
    sorted_bits : bool
        Whether to lay bits of the same weight side by side, by which rounded numbers are half the size.
    """
    lengths = tuple(max(1, c) for c in chunks)
    item = np.dtype(dtype).itemsize
    compressor: ZstdCodec | BloscCodec = ZstdCodec(level=1)
    if sorted_bits and math.prod(lengths) * item <= BLOSC_BYTES:
        compressor = BloscCodec(
            cname="zstd", clevel=1, shuffle=BloscShuffle.bitshuffle, typesize=item, blocksize=SORTED_BYTES
        )
    group.create_array(
        name,
        shape=tuple(shape),
        chunks=lengths,
        dtype=dtype,
        fill_value=0,
        serializer=BytesCodec(),
        compressors=[compressor, Crc32cCodec()],
        config={"write_empty_chunks": True},
        overwrite=True,
    )


def read_checked(array: zarr.Array[Any], selection: tuple[slice, ...]) -> NDArray[Any]:
    """Read part of a scratch array; what can't be decoded is a `ScratchError`."""
    try:
        return np.asarray(array[selection])
    except Exception as error:  # codecs raise whatever they like: ValueError, RuntimeError, OSError
        if not is_gone(error, str(array.store_path)):
            raise
        raise ScratchError(f"{array.store_path} can't be read ({error})") from error


@dataclass(frozen=True, slots=True)
class ZarrOverviewStore:
    """Overviews of all variables of a run, in physical units."""

    path: str
    """The store's folder."""

    extent: Triple
    """Shape of the cube."""

    tile: Triple
    """Shape of a survey tile."""

    def create(self, variables: Sequence[str]) -> None:
        """Create the arrays, empty; done once, by the driver."""
        group = zarr.open_group(zarr_place(self.path), mode="w", zarr_format=3)
        for i, _ in enumerate(variables):
            for level in levels_of(self.extent):
                shape = level_shape(self.extent, level)
                chunks = self._cells(Window.of(self.tile), level).shape if self._tiled(level) else shape
                create_array(
                    group,
                    f"v{i}_level{level}",
                    shape=(3, *shape),
                    chunks=(3, *(min(c, n) for c, n in zip(chunks, shape, strict=True))),
                    dtype="float64",
                )
            shape = level_shape(self.extent, BASE_LEVEL)
            chunks = self._cells(Window.of(self.tile), BASE_LEVEL).shape
            create_array(
                group,
                f"v{i}_gaps",
                shape=shape,
                chunks=triple(min(c, n) for c, n in zip(chunks, shape, strict=True)),
                dtype="uint8",
            )
        group.attrs["variables"] = list(variables)

    def _tiled(self, level: int) -> bool:
        return level < BASE_LEVEL + TILE_LEVELS

    def _cells(self, tile: Window, level: int) -> Window:
        """Cells of a level that a tile covers; tiles start at multiples of the coarsest one's cells."""
        cell = 2**level
        (t0, y0, x0), (t1, y1, x1) = tile.start, tile.stop
        return Window((t0, y0 // cell, x0 // cell), (t1, -(-y1 // cell), -(-x1 // cell)))

    def _name(self, variable: str, part: str) -> str:
        return f"v{_names(self.path).index(variable)}_{part}"

    def array(self, variable: str, part: str) -> zarr.Array[Any]:
        """Return one of a variable's arrays."""
        return open_array(self.path, self._name(variable, part), "r+")

    def _tile_levels(self) -> list[int]:
        return [level for level in levels_of(self.extent) if self._tiled(level)]

    def write_tile(self, variable: str, tile: Window, levels: Mapping[int, Level]) -> None:
        """Write a tile's cells of levels 3 to 6."""
        for level in self._tile_levels():
            cells = self._cells(tile, level)
            self.array(variable, f"level{level}")[(slice(None), *cells.slices)] = levels[level]

    def read_tile(self, variable: str, tile: Window) -> dict[int, Level]:
        """Return what `write_tile` wrote."""
        return {
            level: read_checked(self.array(variable, f"level{level}"), (slice(None), *self._cells(tile, level).slices))
            for level in self._tile_levels()
        }

    def write_gaps(self, variable: str, tile: Window, gaps: NDArray[np.uint8]) -> None:
        """Write the number of gaps in each cell of level 3."""
        self.array(variable, "gaps")[self._cells(tile, BASE_LEVEL).slices] = gaps

    def read_gaps(self, variable: str, tile: Window) -> NDArray[np.uint8]:
        """Return what `write_gaps` wrote."""
        return read_checked(self.array(variable, "gaps"), self._cells(tile, BASE_LEVEL).slices)

    def complete(self, variable: str) -> str:
        """Pool level 6 into the coarser ones, which hold less than 1/4096 of the cube; return their digest."""
        tiled, made = self._tile_levels(), []
        level: NDArray[np.float64] | None = None
        for k in levels_of(self.extent)[len(tiled) :]:
            level = coarser(self._whole(variable, tiled[-1]) if level is None else level)
            self.array(variable, f"level{k}")[...] = level
            made.append(level)
        return digest(*made)

    def completed(self, variable: str) -> str:
        """Return the digest of the levels that `complete` wrote."""
        return digest(*(self._whole(variable, k) for k in levels_of(self.extent)[len(self._tile_levels()) :]))

    def _whole(self, variable: str, level: int) -> NDArray[np.float64]:
        return read_checked(self.array(variable, f"level{level}"), (slice(None),) * 4)

    def overviews(self, variable: str, location: float, spread: float) -> Overviews:
        """Return the overviews of a variable, standardised."""
        return _StoredOverviews(self, variable, location, spread)


@dataclass(frozen=True, slots=True)
class _StoredOverviews:
    """Overviews read window by window."""

    store: ZarrOverviewStore
    variable: str
    location: float
    spread: float

    @property
    def levels(self) -> tuple[int, ...]:
        return levels_of(self.store.extent)

    def shape(self, level: int) -> Triple:
        return level_shape(self.store.extent, level)

    def read(self, level: int, window: Window) -> Level:
        array = self.store.array(self.variable, f"level{level}")
        try:
            raw = read_padded(array, self.shape(level), window)
        except Exception as error:
            raise ScratchError(f"overview level {level} of {self.variable!r} can't be read ({error})") from error
        return standardise(raw, self.location, self.spread)


@lru_cache(maxsize=8)
def _names(path: str) -> tuple[str, ...]:
    try:
        names = zarr.open_group(zarr_place(path), mode="r", zarr_format=3).attrs["variables"]
    except (FileNotFoundError, ValueError) as error:
        raise RunError(f"{path} can't be opened ({one_line(error)}); {_AGAIN}") from error
    return tuple(str(name) for name in names)  # type: ignore[union-attr]


@dataclass(frozen=True, slots=True)
class ZarrBlockStore:
    """Filled blocks, one chunk each; neighbours overlap in the cube but not here."""

    path: str
    """The store's folder."""

    grid: BlockGrid
    """The blocks."""

    def create(self, variables: Sequence[str]) -> None:
        """Create the arrays, empty; done once, by the driver."""
        group = zarr.open_group(zarr_place(self.path), mode="w", zarr_format=3)
        for i, _ in enumerate(variables):
            create_array(
                group,
                f"v{i}",
                shape=(PAYLOAD_PARTS, *(n * s for n, s in zip(self.grid.counts, self.grid.size, strict=True))),
                chunks=(PAYLOAD_PARTS, *self.grid.size),
                dtype="float32",
                sorted_bits=True,
            )
        group.attrs["variables"] = list(variables)

    def _array(self, variable: str) -> zarr.Array[Any]:
        return open_array(self.path, f"v{_names(self.path).index(variable)}", "r+")

    def _place(self, block: Block) -> tuple[slice, ...]:
        box = (slice(i * s, (i + 1) * s) for i, s in zip(block.index, self.grid.size, strict=True))
        return (slice(None), *box)

    def _file(self, variable: str, block: Block) -> Path:
        """Return the block's one chunk; sha256 is taken of it as it lies there, a fraction of the payload."""
        array = self._array(variable)
        return located(self.path) / array.basename / array.metadata.encode_chunk_key((0, *block.index))

    def write(self, variable: str, block: Block, payload: NDArray[np.float32]) -> str:
        """Write one block's chunk and return the sha256 of the file."""
        self._array(variable)[self._place(block)] = payload
        return hashlib.sha256(read(self._file(variable, block))).hexdigest()

    def read(self, variable: str, block: Block, digest: str) -> NDArray[np.float32]:
        """Return one block's payload if its file is the one that was written."""
        try:
            found = hashlib.sha256(read(self._file(variable, block))).hexdigest()
        except OSError as error:
            if not is_gone(error, self.path):
                raise
            raise ScratchError(f"block {block.index} of {variable!r} is gone from {self.path} ({error})") from error
        if found != digest:
            raise ScratchError(f"block {block.index} of {variable!r} in {self.path} is not what was written")
        return read_checked(self._array(variable), self._place(block))


@dataclass(frozen=True, slots=True)
class ZarrFieldStore:
    """Numbers of each pixel that a method keeps, one chunk for each part of the scene."""

    path: str
    """The store's folder."""

    extent: Triple
    """Shape of the cube."""

    part: Triple
    """Shape of a part of the scene."""

    def create(self, variables: Sequence[str], names: Sequence[str]) -> None:
        """Create the arrays, empty; done once, by the driver."""
        group = zarr.open_group(zarr_place(self.path), mode="w", zarr_format=3)
        for i, _ in enumerate(variables):
            create_array(
                group,
                f"v{i}",
                shape=(len(names), *self.extent[1:]),
                chunks=(len(names), *self.part[1:]),
                dtype="float32",
            )
        group.attrs["variables"] = list(variables)
        group.attrs["fields"] = list(names)

    def write(self, variable: str, tile: Window, fields: NDArray[np.float32]) -> None:
        """Write (field, y, x) of one part."""
        self.array(variable)[(slice(None), *tile.slices[1:])] = fields

    def of(self, variable: str) -> StoredFields:
        """Return what reads those of a variable."""
        return StoredFields(self, variable)

    def array(self, variable: str) -> zarr.Array[Any]:
        """Return a variable's array."""
        return open_array(self.path, f"v{_names(self.path).index(variable)}", "r+")


@dataclass(frozen=True, slots=True)
class StoredFields:
    """Fields that are read window by window; a part that was never written is told from one of zeros."""

    store: ZarrFieldStore
    """Where they are."""

    variable: str
    """Of what."""

    def read(self, window: Window) -> NDArray[np.float32]:
        """Return (field, y, x), NaN outside the cube."""
        array, (_, height, width) = self.store.array(self.variable), self.store.part
        inside = window.intersect(Window.of(triple((window.stop[0], *self.store.extent[1:]))))
        made = np.full((array.shape[0], *window.shape[1:]), np.nan, dtype=np.float32)
        rows, columns = inside.slices[1:]
        for y in range(rows.start // height, -(-rows.stop // height)):
            for x in range(columns.start // width, -(-columns.stop // width)):
                key = array.metadata.encode_chunk_key((0, y, x))
                if not is_there(located(self.store.path) / array.basename / key):
                    raise ScratchError(
                        f"part {(y, x)} of what was kept of {self.variable!r} is gone from {self.store.path}"
                    )
        made[:, *inside.within(window).slices[1:]] = read_checked(array, (slice(None), rows, columns))
        return made


def forget_stores() -> None:
    """Drop what this process has cached of stores; needed when a folder is made anew under the same name."""
    open_array.cache_clear()
    _names.cache_clear()


def folder_bytes(path: Path) -> int:
    """Return the size of all files below a folder."""
    return sum(file.size for file in files_below(path).values())
