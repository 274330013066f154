"""The published training's folders of GeoTIFF blocks: ``X_``, ``MASK_``, ``Y_``, ``VALMASK_`` in, ``PRED_`` out.

Each file is one block, its bands are the frames: read with the bands first they are (time, y, x). ``MASK_`` is 1
where ``X_`` was observed; ``Y_`` is the truth, and ``VALMASK_`` 1 where it was hidden to score on. A band's description
is its date where there is one.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import MemoryFile
from rasterio.transform import Affine

from stpipe.core.ports import VariableInfo
from stpipe.core.samples import is_nodata
from stpipe.core.windows import Triple, triple
from stpipe.errors import CubeError, MissingFileError, OutputError, ReadError, RunError
from stpipe.io.run_folder import check_writable

NODATA = -3.4e38
"""What the published training's files have in gaps."""

NODATA_FLAGS = 255
"""What its ``MASK_`` and ``VALMASK_`` name as nodata, and never have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockFile:
    """One block of a folder, its files checked against each other; no sample was read yet."""

    name: str
    """What follows ``X_``."""

    observed: Path
    """``X_NAME.tif``."""

    mask: Path
    """``MASK_NAME.tif``."""

    truth: Path | None
    """``Y_NAME.tif``, with `scored`; None unless both exist."""

    scored: Path | None
    """``VALMASK_NAME.tif``."""

    shape: Triple
    """(time, y, x)."""

    days: NDArray[np.float64] | None
    """(time,) days since the first frame where each band's description is a date; else None."""

    dates: tuple[str, str] | None
    """The first and the last of these dates."""

    bounds: tuple[float, float, float, float] | None
    """Left, bottom, right and top on the map; None if it lies nowhere."""

    def shares(self, other: BlockFile) -> bool:
        """Tell whether samples of two blocks are the same ones; False where there is no telling."""
        if self.dates is None or other.dates is None or self.bounds is None or other.bounds is None:
            return False
        ours, theirs = self.bounds, other.bounds
        meet = all(max(ours[i], theirs[i]) < min(ours[i + 2], theirs[i + 2]) for i in (0, 1))
        return meet and max(self.dates[0], other.dates[0]) <= min(self.dates[1], other.dates[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSamples:
    """The samples of one block."""

    stored: NDArray[Any]
    """(t, y, x), as in ``X_``."""

    valid: NDArray[np.bool_]
    """(t, y, x), ``MASK_`` is 1 and the sample is a number."""

    profile: dict[str, Any]
    """CRS and transform, as rasterio takes them."""

    descriptions: tuple[str | None, ...]
    """Of the bands."""


def find_blocks(folder: Path) -> list[BlockFile]:
    """Return the blocks of a folder in the order of their names, or say what is wrong with it."""
    if not folder.is_dir():
        raise MissingFileError(f"no folder {folder}; give the one that holds X_*.tif and MASK_*.tif")
    observed = sorted(folder.glob("X_*.tif"))
    if not observed:
        raise CubeError(f"{folder} holds no X_*.tif; blocks are X_NAME.tif with MASK_NAME.tif beside it")
    return [_describe(path) for path in observed]


def _describe(path: Path) -> BlockFile:
    name = path.name.removeprefix("X_").removesuffix(".tif")
    mask, truth, scored = (path.with_name(f"{kind}_{name}.tif") for kind in ("MASK", "Y", "VALMASK"))
    if not mask.is_file():
        raise CubeError(f"{path} has no {mask.name} beside it to say what was observed; make one, 1 = observed")
    if not path.is_file():
        raise CubeError(f"{path} is a pipe, a device or the like, and no plain file")
    shape, descriptions, kinds, bounds = _header(path)
    if kinds - set("iuf"):
        raise CubeError(f"{path} has samples that are no plain numbers; blocks hold integers or floats")
    pair = (truth, scored) if truth.is_file() and scored.is_file() else ()
    for other in (mask, *pair):
        found = _header(other)[0]
        if found != shape:
            raise CubeError(
                f"{other} has (bands, rows, columns) {found} but {path.name} has {shape}; "
                "the files of a block have one shape"
            )
    stamps = _stamps(descriptions)
    return BlockFile(
        name=name,
        observed=path,
        mask=mask,
        truth=truth if pair else None,
        scored=scored if pair else None,
        shape=shape,
        days=None if stamps is None else (stamps - stamps[0]) / np.timedelta64(1, "D"),
        dates=None if stamps is None else (str(stamps[0]), str(stamps[-1])),
        bounds=bounds,
    )


Bounds = tuple[float, float, float, float]


def _header(path: Path) -> tuple[Triple, tuple[str | None, ...], set[str], Bounds | None]:
    try:
        with _quiet(), rasterio.open(path) as source:
            kinds = {np.dtype(dtype).kind for dtype in source.dtypes}
            (x0, x1), (y0, y1) = (sorted(pair) for pair in zip(*_corners(source), strict=True))
            bounds = None if source.transform == Affine.identity() else (x0, y0, x1, y1)
            return triple((source.count, *source.shape)), tuple(source.descriptions), kinds, bounds
    except RasterioError as error:
        raise CubeError(f"{path} can't be opened as GeoTIFF: {error}") from error


_DATE = re.compile(r"(\d{4})-?(\d{2})-?(\d{2})([T ]\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?)?Z?")
"""A date of ISO 8601, with a time of day in UTC or without."""


def _corners(source: Any) -> tuple[tuple[float, float], tuple[float, float]]:
    return source.transform @ (0, 0), source.transform @ (source.width, source.height)


def _stamps(descriptions: Sequence[str | None]) -> NDArray[np.datetime64] | None:
    """Return the bands' dates, or None unless all descriptions are ascending dates.

    >>> _stamps(["20200101", "2020-01-03T12:00:00Z"]), _stamps(["1", "2"])
    (array(['2020-01-01T00:00:00', '2020-01-03T12:00:00'], dtype='datetime64[s]'), None)
    """
    try:
        # Of bare numbers NumPy would make years, and of a zone a warning.
        matches = [_DATE.fullmatch(text or "") for text in descriptions]
        stamps = np.array([np.datetime64("-".join(m.group(1, 2, 3)) + (m[4] or ""), "s") for m in matches if m])
        if stamps.size < len(matches):
            return None
    except ValueError:
        return None
    return stamps if (np.diff(stamps) > np.timedelta64(0, "s")).all() else None


def read_block(block: BlockFile) -> BlockSamples:
    """Read ``X_`` and ``MASK_``."""
    try:
        with _quiet(), rasterio.open(block.observed) as source, rasterio.open(block.mask) as mask:
            stored, told = source.read(), mask.read()
            profile = {"crs": source.crs, "transform": source.transform}
            info = VariableInfo(name="X", dtype=str(stored.dtype), chunks=(1, 1, 1), nodata=source.nodata)
            descriptions = tuple(source.descriptions)
    except RasterioError as error:
        raise ReadError(f"block {block.name} can't be read from {block.observed.parent}: {error}") from error
    observed = told == 1
    if not observed.any() and (others := np.unique(told[(told != 0) & ~np.isnan(told)])).size:
        raise CubeError(
            f"{block.mask} has the value {others[0]:g} and no 1, which is what marks observed samples; write 1 for "
            "observed and 0 for gap"
        )
    valid = observed & ~is_nodata(stored, info)
    if stored.dtype.kind == "f":
        valid &= np.isfinite(stored)
    return BlockSamples(stored=stored, valid=valid, profile=profile, descriptions=descriptions)


def read_truth(block: BlockFile) -> tuple[NDArray[np.float64], NDArray[np.bool_]] | None:
    """Return the truth and where to score, for a block that has both."""
    if block.truth is None or block.scored is None:
        return None
    try:
        with _quiet(), rasterio.open(block.truth) as truth, rasterio.open(block.scored) as scored:
            values, where = truth.read(), scored.read() == 1
            info = VariableInfo(name="Y", dtype=str(values.dtype), chunks=(1, 1, 1), nodata=truth.nodata)
    except RasterioError as error:
        raise ReadError(f"block {block.name} can't be read from {block.truth.parent}: {error}") from error
    return values.astype(np.float64), where & ~is_nodata(values, info) & np.isfinite(values)


def prepare_output(folder: Path, names: Sequence[str], *, overwrite: bool) -> None:
    """Make the output folder; refuse one that holds something.

    With `overwrite`, files of these names are replaced and nothing else is touched.
    """
    check_output(folder, names[0], overwrite=overwrite)
    check_writable(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"output folder {folder} can't be made: {error.strerror}") from error


def check_output(folder: Path, name: str, *, overwrite: bool) -> None:
    """Refuse an output folder that holds something, unless files such as `name` may be replaced in it."""
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file; the output is a folder")
    held = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    if held and not overwrite:
        several = f" and {len(held) - 1} more" if len(held) > 1 else ""
        raise OutputError(
            f"output folder {folder} holds {held[0]}{several}; choose an empty one, or --overwrite to replace "
            f"{name} and the like in it"
        )


def write_bands(
    path: Path,
    values: NDArray[Any],
    *,
    profile: dict[str, Any],
    nodata: float | None,
    descriptions: Sequence[str | None] = (),
) -> None:
    """Write (time, y, x) as the bands of a GeoTIFF, which appears under its name only when complete."""
    bands, height, width = values.shape
    draft = path.with_name(f".{path.name}.part")
    draft.unlink(missing_ok=True)  # it may be a link
    try:
        # By way of memory: GDAL tells nobody of a disk that is full when it closes a file.
        with _quiet(), MemoryFile() as memory:
            with memory.open(
                driver="GTiff",
                count=bands,
                height=height,
                width=width,
                dtype=values.dtype.name,
                nodata=nodata,
                compress="deflate",
                predictor=3 if values.dtype.kind == "f" else 2,
                BIGTIFF="IF_SAFER",
                **profile,
            ) as sink:
                sink.write(values)
                for band, text in enumerate(descriptions, start=1):
                    if text:
                        sink.set_band_description(band, text)
            draft.write_bytes(memory.getbuffer())
        draft.replace(path)
    except (RasterioError, OSError) as error:
        raise RunError(f"{path} can't be written: {error}") from error
    finally:
        draft.unlink(missing_ok=True)


def georeference(crs_wkt: str | None, transform: Sequence[float] | None) -> dict[str, Any]:
    """Return CRS and transform as `write_bands` takes them."""
    return {
        "crs": None if crs_wkt is None else CRS.from_wkt(crs_wkt),
        "transform": Affine.identity() if transform is None else Affine(*transform[:6]),
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Blocks need no georeference, so its absence is no news."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield
