"""Read windows of stored samples, on any worker; a chunk that can't be read is named."""

from __future__ import annotations

import itertools
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpipe.core.samples import physical
from stpipe.core.sizes import gib
from stpipe.core.trust import Judged, Trust, judge
from stpipe.core.windows import Triple, Window, triple
from stpipe.errors import CubeError, ReadError, ShapeError
from stpipe.execution.storage import is_remote, one_line, zarr_place
from stpipe.io.georeference import Affine6, burn_window
from stpipe.io.stored import Kind, StoredVariable, open_raw

Index = tuple[slice | int, ...]
"""One selection for each dimension of a stored array, in the file's order."""

_KEPT_OPEN = 16
_SHOWN = 3
_PROBED_AT_MOST = 4096

_handles: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
_lock = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredReader:
    """Reads windows of a cube; cheap to pickle, opens its file on first use in each process.

    Satisfies `stpipe.core.ports.CubeReader`.
    """

    path: str
    """File or folder of the cube."""

    kind: Kind
    """Its format."""

    fingerprint: str
    """Tells a cube from another one that took its place."""

    dims: tuple[str, str, str]
    """Names of time, y and x in the file."""

    extent: Triple
    """Shape of the cube."""

    offset: Triple
    """Where the cube starts in the file."""

    stored: tuple[StoredVariable, ...]
    """Variables that can be read."""

    domain: StoredVariable | None = None
    """Static variable that is non-zero where values can exist."""

    area: str | None = None
    """Polygons outside of which no value is wanted; GeoJSON in the CRS of the cube."""

    transform: Affine6 | None = None
    """Of the cube, from its first row and column; needed with `area`."""

    trust: Trust | None = None
    """Rules on which samples to trust; None: all."""

    quality: tuple[StoredVariable, ...] = ()
    """The variables that they are about."""

    def read(self, variable: str, window: Window) -> NDArray[Any]:
        """Return the stored samples of a window inside the cube, (t, y, x), in the stored dtype."""
        stored = self._find(variable)
        if not Window.of(self.extent).contains(window):
            raise ShapeError(f"window {window.start} to {window.stop} reaches outside the cube of shape {self.extent}")
        placed = Window(
            triple(a + o for a, o in zip(window.start, self.offset, strict=True)),
            triple(a + o for a, o in zip(window.stop, self.offset, strict=True)),
        )
        samples = self._read_stored(stored, dict(zip(self.dims, placed.slices, strict=True)))
        return _without_spare_nodata(samples, stored)

    def read_domain(self, window: Window) -> NDArray[np.bool_] | None:
        """Return (y, x) True where values can exist, or None where that is everywhere."""
        if self.domain is None and self.area is None:
            return None
        _, rows, columns = window.slices
        inside = np.ones((rows.stop - rows.start, columns.stop - columns.start), dtype=bool)
        if self.domain is not None:
            _, y, x = self.dims
            selection = {
                y: slice(rows.start + self.offset[1], rows.stop + self.offset[1]),
                x: slice(columns.start + self.offset[2], columns.stop + self.offset[2]),
            }
            samples = _without_spare_nodata(self._read_stored(self.domain, selection), self.domain)
            values = physical(samples, self.domain.info)
            inside &= np.isfinite(values) & (values != 0)
        if self.area is not None and self.transform is not None:
            inside &= burn_window(self.area, self.transform, window)
        return inside

    def read_trusted(self, window: Window) -> NDArray[np.bool_] | None:
        """Return (t, y, x) True where rules let samples be trusted, or None where there are no rules."""
        judged = self.read_judged(window)
        return None if judged is None else judged[0]

    def read_judged(self, window: Window) -> Judged | None:
        """Return what `read_trusted` does, and how often each rule matched in the window.

        With a buffer, what lies around the window is read too: up to the edges of the file, so that what is beside an
        area of interest is heeded.
        """
        if self.trust is None:
            return None
        lengths = dict(zip(self.quality[0].dims, self.quality[0].shape, strict=True))
        frames, *box = (
            slice(cut.start + start, cut.stop + start) for cut, start in zip(window.slices, self.offset, strict=True)
        )
        reach = self.trust.buffer
        wide = [
            slice(max(0, cut.start - reach), min(lengths[dim], cut.stop + reach))
            for cut, dim in zip(box, self.dims[1:], strict=True)
        ]
        rows, columns = (
            slice(cut.start - around.start, cut.stop - around.start) for cut, around in zip(box, wide, strict=True)
        )
        selection = dict(zip(self.dims, (frames, *wide), strict=True))
        samples = {
            stored.info.name: _without_spare_nodata(self._read_stored(stored, selection), stored)
            for stored in self.quality
        }
        infos = {stored.info.name: stored.info for stored in self.quality}
        return judge(self.trust, samples, infos, inner=(rows, columns))

    def _find(self, name: str) -> StoredVariable:
        for stored in self.stored:
            if stored.info.name == name:
                return stored
        raise CubeError(f"this reader has no variable {name!r}; it has {', '.join(s.info.name for s in self.stored)}")

    def _read_stored(self, stored: StoredVariable, selection: dict[str, slice]) -> NDArray[Any]:
        """Return samples with the dimensions of `selection`, in its order."""
        picks = dict(stored.picks)
        index: Index = tuple(selection[dim] if dim in selection else picks[dim] for dim in stored.dims)
        try:
            array = self._open(stored.source)
            samples = _fetch(array, index)
        except (MemoryError, ReadError):
            raise
        except Exception as error:
            raise ReadError(self._explain(stored, index, error)) from error
        kept = [dim for dim in stored.dims if dim in selection]
        samples = samples.transpose([kept.index(dim) for dim in selection])
        return np.ascontiguousarray(_as_dtype(samples, stored.info.dtype))

    def _open(self, source: str) -> Any:
        """Return the opened array, from this process's own handles."""
        key = (os.getpid(), self.path, self.fingerprint, source, *_stamp(self.path, self.kind, source))
        with _lock:
            if key not in _handles:
                _handles[key] = _open_array(self.path, self.kind, source)
                while len(_handles) > _KEPT_OPEN:
                    _handles.popitem(last=False)
            _handles.move_to_end(key)
            return _handles[key]

    def _explain(self, stored: StoredVariable, index: Index, error: Exception) -> str:
        """Find which of the chunks under a window can't be read, and say so on one line."""
        place = f"variable {stored.info.name!r} of {self.path}"
        try:
            array = self._open(stored.source)
        except Exception as reopening:  # noqa: BLE001 (whatever a codec or a driver raises)
            return f"{place} can't be opened: {one_line(reopening)}"
        if tuple(array.shape) != stored.shape:
            return f"{place} has changed while in use: its shape was {stored.shape} and is now {tuple(array.shape)}"
        bad: list[str] = []
        reason = one_line(error)
        for number, (chunk, name) in enumerate(_chunks_under(array, self.kind, stored, index)):
            if number >= _PROBED_AT_MOST or len(bad) > _SHOWN:
                break
            try:
                _fetch(array, chunk)
            except Exception as cause:  # noqa: BLE001
                reason = reason if bad else one_line(cause)
                bad.append(name)
        if not bad:
            return f"{place} can't be read over {_spell(stored.dims, index)}: {reason}"
        more = " and more" if len(bad) > _SHOWN else ""
        return f"chunk{'s' * (len(bad) > 1)} {', '.join(bad[:_SHOWN])}{more} of {self.path} can't be read: {reason}"


def _stamp(path: str, kind: Kind, source: str) -> tuple[int, ...]:
    """Return what changes when a file is written anew: an old handle would read it as fill value, in silence."""
    if is_remote(path):
        return ()
    place = Path(path)
    if kind == "zarr":
        place /= source
        place /= "zarr.json" if (place / "zarr.json").exists() else ".zarray"
    status = place.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino


def _open_array(path: str, kind: Kind, source: str) -> Any:
    if kind == "zarr":
        import zarr

        array = zarr.open_array(zarr_place(f"{path}/{source}"), mode="r")
        _check_chunk(array, f"variable {source!r} of {path}")
        return array
    return open_raw(path, kind).variables[source]


def _check_chunk(array: Any, place: str) -> None:
    """Refuse chunks that are decoded into more than there is: the system would end the process, and say nothing."""
    import psutil

    size, there = prod(array.chunks) * array.dtype.itemsize, int(psutil.virtual_memory().total)
    if size > there:
        raise ReadError(
            f"{place} has chunks of {array.chunks} samples, which take {gib(size)} each, and this machine has "
            f"{gib(there)} of memory; store it in smaller chunks"
        )


def _fetch(array: Any, index: Index) -> NDArray[Any]:
    """Return the samples under an index; integers drop their axis."""
    result = array[index]
    return np.asarray(result.values if hasattr(result, "values") else result)


def _as_dtype(samples: NDArray[Any], name: str) -> NDArray[Any]:
    """Return samples in native byte order; of the other signedness where NetCDF says so."""
    dtype = np.dtype(name)
    native = samples.astype(samples.dtype.newbyteorder("="), copy=False)
    return native if native.dtype == dtype else native.view(dtype)


def _without_spare_nodata(samples: NDArray[Any], stored: StoredVariable) -> NDArray[Any]:
    for value in stored.also_nodata:
        samples[samples == np.asarray(value).astype(samples.dtype)] = stored.info.nodata
    return samples


def _chunks_under(array: Any, kind: Kind, stored: StoredVariable, index: Index) -> Any:
    """Yield (index, name) of each stored chunk that a selection touches."""
    name_of: Callable[[Sequence[int]], str]
    if kind == "zarr":
        lengths = tuple(array.shards or array.chunks)

        def name_of(at: Sequence[int]) -> str:
            return f"{stored.source}/{array.metadata.encode_chunk_key(tuple(at))}"
    else:
        lengths = tuple(array.encoding.get("chunksizes") or array.shape)

        def name_of(at: Sequence[int]) -> str:
            spans = [
                slice(i * n, min((i + 1) * n, whole)) for i, n, whole in zip(at, lengths, array.shape, strict=True)
            ]
            return f"{stored.source}[{_spell(stored.dims, tuple(spans))}]"

    ranges, cuts = [], []
    for selection, length in zip(index, lengths, strict=True):
        start, stop = (selection, selection + 1) if isinstance(selection, int) else (selection.start, selection.stop)
        ranges.append(range(start // length, -(-stop // length)))
        cuts.append((start, stop))
    for at in itertools.product(*ranges):
        inside = tuple(
            slice(max(lo, i * n), min(hi, (i + 1) * n)) for i, n, (lo, hi) in zip(at, lengths, cuts, strict=True)
        )
        yield inside, name_of(at)


def _spell(dims: Sequence[str], index: Index) -> str:
    """Return an index as text.

    >>> _spell(("time", "y"), (slice(0, 2), 5))
    'time 0:2, y 5'
    """
    parts = (str(i) if isinstance(i, int) else f"{i.start}:{i.stop}" for i in index)
    return ", ".join(f"{dim} {part}" for dim, part in zip(dims, parts, strict=True))
