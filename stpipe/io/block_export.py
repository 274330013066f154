"""Cut a cube into a folder of blocks, with artificial gaps: ``X_``, ``MASK_``, ``Y_`` and ``VALMASK_``.

Two passes. The first counts the valid samples of every block and decides which are written; the second reads what was
chosen, hides some of it and writes. Both take all frames of a block's pixels at once, so that memory depends on a
block's side and the length of the series, and not on the scene.

Gaps are drawn over the whole series of a block's pixels and cut to its frames: a short block borrows the gap shapes of
all other dates. They depend on what is observed, the seed and the place, not on the variable: variables that are
observed at the same samples are hidden at the same, as under a real cloud.
"""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stpipe.core.blocks import Block, BlockGrid, BlockSpec
from stpipe.core.gaps import SHARE, Purpose, draw_gaps, generator
from stpipe.core.ports import VariableInfo
from stpipe.core.samples import check_fillable
from stpipe.core.trust import remarks
from stpipe.core.windows import Triple, Window, round_up
from stpipe.errors import CubeError, OptionError, OutputError
from stpipe.execution.context import read_samples
from stpipe.io.block_folders import NODATA, NODATA_FLAGS, georeference, write_bands
from stpipe.io.cube import Cube
from stpipe.io.frames import frame_dates, safe_names
from stpipe.io.georeference import shifted

KINDS = ("Y", "VALMASK", "MASK", "X")
"""Files of a block. ``X_`` comes last, for it is by ``X_`` that a folder's blocks are found."""

DRAFT = ".export.part"
"""Folder in the output where files lie until all are complete."""

_DRAWS = 20
"""How often gaps are drawn until the share that they hide in each block is what was asked for."""

MOST_BLOCKS = 10**7
"""Blocks that may be looked at; each is read, and their numbers are in memory."""

_READ_SAMPLES = 2**23
"""Most samples that are read at once, unless a single frame has more."""

Progress = Callable[[int, int], None]
"""Called with blocks done and blocks there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSpec:
    """How a cube becomes a folder of blocks.

    Examples
    --------
    >>> ExportSpec(size=(8, 64, 64), overlap=(0, 16, 16)).cut.size
    (8, 64, 64)
    """

    size: Triple = (16, 128, 128)
    """Length of a block along (time, y, x); clipped to the cube."""

    overlap: Triple = (0, 0, 0)
    """Length shared with the next block."""

    gaps: Literal["own", "none"] = "own"
    """Artificial gaps like the cube's own, or none."""

    share: tuple[float, float] = SHARE
    """Least and most of a block's valid samples to hide, about."""

    least_valid: float = 0.2
    """Blocks with a smaller share of valid samples are left out; those without any always are."""

    most: int | None = None
    """Most blocks of a variable, chosen by chance; None: all."""

    seed: int = 0
    """Decides the gaps and the choice."""

    valid_range: tuple[float, float] | None = None
    """Physical values outside of it are gaps."""

    def __post_init__(self) -> None:
        _ = self.cut  # checks size and overlap
        low, high = self.share
        if not (0 <= low <= high < 1 and high > 0):
            raise OptionError(f"--share needs 0 <= LO <= HI < 1, and HI above 0, got {low:g},{high:g}")
        if not 0 <= self.least_valid <= 1:
            raise OptionError(f"--least-valid is a share between 0 and 1, got {self.least_valid:g}")
        if self.most is not None and self.most < 1:
            raise OptionError(f"--most must be at least 1, got {self.most}")
        if self.seed < 0:
            raise OptionError(f"--seed must be at least 0, got {self.seed}")

    @property
    def cut(self) -> BlockSpec:
        """How blocks lie in the cube."""
        return BlockSpec(size=self.size, overlap=self.overlap)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Which blocks of a variable are written."""

    info: VariableInfo
    """The variable."""

    blocks: tuple[Block, ...]
    """Those with the same pixels one after another, in ascending order."""

    left_out: int
    """How many of those that were looked at have too few valid samples."""

    best: float
    """Largest share of valid samples among those that were looked at."""

    remarks: tuple[str, ...] = ()
    """What to say of rules on what to trust that matched nothing, or everything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written of a variable."""

    variable: str
    """Its name."""

    blocks: int
    """Number of blocks."""

    valid: int
    """Observed samples in them, hidden or not."""

    samples: int
    """All samples in them where values can exist."""

    hidden: int
    """Samples hidden on purpose."""

    astray: int
    """Blocks of which less or more is hidden than was asked for."""


def choose_blocks(cube: Cube, spec: ExportSpec, *, progress: Progress | None = None) -> list[Chosen]:
    """Count the valid samples of blocks, and return those of each variable that are to be written.

    Nothing is written. Where only some are wanted, blocks are looked at in a random order until there are enough.

    Raises
    ------
    CubeError
        If no block of any variable has enough valid samples, or two variables would have files of one name.
    """
    safe_names(cube.names)
    for info in cube.variables:
        check_fillable(info)
    grid = BlockGrid(cube.extent, spec.cut)
    if len(grid) > MOST_BLOCKS:
        raise CubeError(
            f"{cube.path} has {len(grid):,} blocks, too many to look at; choose a part with --time or --aoi, or larger "
            "blocks with --block"
        )
    chosen = []
    for number, info in enumerate(cube.variables):

        def step(done: int, first: int = number * len(grid)) -> None:
            if progress is not None:
                progress(first + done, len(cube.variables) * len(grid))

        chosen.append(_choose(cube, info, grid, spec, step))
    if not any(choice.blocks for choice in chosen):
        best = max(chosen, key=lambda choice: choice.best)
        if best.best == 0:
            raise CubeError(
                f"{', '.join(cube.names)} of {cube.path} has no valid sample, so that there is no block to export; "
                "look at the cube with stpipe info, and at --valid-range, --domain and --aoi"
            )
        raise CubeError(
            f"no block of {cube.path} has {100 * spec.least_valid:g} % valid samples; the most is "
            f"{100 * best.best:.3g} % (of {best.info.name}); ask for less with --least-valid, or for smaller blocks"
        )
    return chosen


def _choose(cube: Cube, info: VariableInfo, grid: BlockGrid, spec: ExportSpec, step: Callable[[int], None]) -> Chosen:
    order: Sequence[int] = range(len(grid))
    if spec.most is not None:
        # Draws of gaps are counted from 1, so that these numbers are nobody else's.
        order = generator(Purpose.BLOCKS, spec.seed, 0, 0, 0).permutation(len(grid)).tolist()
    rule_counts = np.zeros((0 if cube.trust is None else len(cube.trust.rules), 2), dtype=np.int64)
    counts: dict[tuple[int, int], NDArray[np.int64]] = {}
    found: list[Block] = []
    left_out, best = 0, 0.0
    for done, number in enumerate(order, start=1):
        block = grid.block(number)
        place = block.index[1:]
        if place not in counts:
            counts[place] = np.array([valid.sum() for _, valid in _frames(cube, info, spec, block.write, rule_counts)])
        count = int(counts[place][block.write.slices[0]].sum())
        best = max(best, count / block.write.size)
        if count >= max(1, spec.least_valid * block.write.size):
            found.append(block)
        else:
            left_out += 1
        step(done)
        if len(found) == spec.most:
            break
    blocks = tuple(sorted(found, key=lambda block: (*block.index[1:], block.index[0])))
    said = () if cube.trust is None else remarks(cube.trust, rule_counts)
    return Chosen(info=info, blocks=blocks, left_out=left_out, best=best, remarks=said)


def _frames(
    cube: Cube,
    info: VariableInfo,
    spec: ExportSpec,
    window: Window,
    rule_counts: NDArray[np.int64] | None = None,
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.bool_]]]:
    """Yield physical values and where they are valid, of the pixels of a window, a frame of the cube at a time.

    How often rules on what to trust matched is added to `rule_counts`.
    """
    reader = cube.reader([info.name])
    (_, top, left), (_, bottom, right) = window.start, window.stop
    frames = cube.extent[0]
    # Whole chunks at a time, or each would be decoded as often as it is long.
    at_once = min(round_up(window.shape[0], info.chunks[0]), max(1, _READ_SAMPLES // ((bottom - top) * (right - left))))
    for start in range(0, frames, at_once):
        box = Window((start, top, left), (min(start + at_once, frames), bottom, right))
        part = read_samples(reader, info, box, spec.valid_range)
        if rule_counts is not None and part.rule_counts is not None:
            np.add(rule_counts, part.rule_counts, out=rule_counts)
        for t in range(len(part.stored)):
            yield part.believed(t)


def hide_in_blocks(
    valid: NDArray[np.bool_],
    spans: Sequence[slice],
    generators: Callable[[int], np.random.Generator],
    *,
    domain: NDArray[np.bool_] | None = None,
    share: tuple[float, float] = SHARE,
    days: NDArray[np.float64] | None = None,
) -> tuple[list[NDArray[np.bool_]], int]:
    """Return what to hide in each span of frames, and in how many it is not the share that was asked for.

    Gaps are drawn for the whole series, and what falls into a span may be too much or too little of it: such a span
    takes the next draw, or after twenty the one that came nearest.

    Parameters
    ----------
    valid : (time, y, x) ndarray of bool
        What is observed, all dates.
    spans : sequence of slice
        Frames of each block.
    generators : callable
        Returns the generator of each draw by its number, from 1.
    domain : (y, x) ndarray of bool, optional
        Where values can exist.
    share : (least, most)
        Of a block's valid samples.
    days : (time,) ndarray of float64, optional
        See `stpipe.core.gaps.draw_gaps`.

    Examples
    --------
    >>> valid = np.ones((12, 32, 32), dtype=bool)
    >>> valid[3, :9], valid[7, :, 20:], valid[10] = False, False, False
    >>> hidden, astray = hide_in_blocks(valid, [slice(0, 6), slice(6, 12)], np.random.default_rng, share=(0.1, 0.2))
    >>> [0.1 <= part.sum() / valid[span].sum() <= 0.2 for part, span in zip(hidden, [slice(6), slice(6, 12)])], astray
    ([np.True_, np.True_], 0)
    """
    low, high = share
    best = [np.zeros_like(valid[span]) for span in spans]
    off = [np.inf] * len(spans)
    for draw in range(1, _DRAWS + 1):
        drawn = draw_gaps(valid, generators(draw), domain=domain, share=share, days=days)
        for i, span in enumerate(spans):
            if off[i] == 0:
                continue
            here = float(drawn[span].sum() / max(1, valid[span].sum()))
            far = max(low - here, here - high, 0.0)
            if far < off[i]:
                best[i], off[i] = drawn[span].copy(), far
        if not any(off):
            break
    return best, sum(far > 0 for far in off)


def export_blocks(
    cube: Cube,
    chosen: Sequence[Chosen],
    spec: ExportSpec,
    folder: Path,
    *,
    progress: Progress | None = None,
) -> list[Exported]:
    """Write blocks into a folder, where they appear when all are complete.

    Blocks of the same variables that the folder holds from before are replaced; nothing else in it is touched.

    Parameters
    ----------
    cube : Cube
        What they are cut from.
    chosen : sequence of Chosen
        From `choose_blocks` with the same `spec`.
    spec : ExportSpec
        How.
    folder : Path
        Made if there is none.
    progress : callable, optional
        Called with blocks done and blocks there are.

    Returns
    -------
    list of Exported
        One a variable.
    """
    names = safe_names(cube.names)
    total, done = sum(len(choice.blocks) for choice in chosen), 0
    results = []
    with _draft(folder) as draft:
        for choice in chosen:
            parts = []
            for _, column in itertools.groupby(choice.blocks, key=lambda block: block.index[1:]):
                parts.append(_export_column(cube, choice.info, list(column), spec, draft / names[choice.info.name]))
                done += parts[-1].blocks
                if progress is not None:
                    progress(done, total)
            results.append(
                Exported(
                    variable=choice.info.name,
                    blocks=sum(part.blocks for part in parts),
                    valid=sum(part.valid for part in parts),
                    samples=sum(part.samples for part in parts),
                    hidden=sum(part.hidden for part in parts),
                    astray=sum(part.astray for part in parts),
                )
            )
        _publish(draft, folder, list(names.values()))
    return results


def _export_column(cube: Cube, info: VariableInfo, blocks: Sequence[Block], spec: ExportSpec, stem: Path) -> Exported:
    """Write blocks that have the same pixels; a stem is a folder and the beginning of what follows ``X_``."""
    window, place = blocks[0].write, blocks[0].index[1:]
    values = np.zeros((cube.extent[0], *window.shape[1:]), dtype=np.float32)
    valid = np.zeros(values.shape, dtype=bool)
    for t, (frame, known) in enumerate(_frames(cube, info, spec, window)):
        values[t][known], valid[t] = frame[known], known
    spans = [block.write.slices[0] for block in blocks]
    hidden, astray = [np.zeros_like(valid[span]) for span in spans], 0
    domain = cube.reader([info.name]).read_domain(window)
    inside = np.broadcast_to(True if domain is None else domain, valid.shape)
    if spec.gaps == "own":
        hidden, astray = hide_in_blocks(
            valid,
            spans,
            lambda draw: generator(Purpose.BLOCKS, spec.seed, *place, draw),
            domain=domain,
            share=spec.share,
            days=cube.days,
        )
    for block, span, away in zip(blocks, spans, hidden, strict=True):
        name = f"{stem.name}_{'_'.join(map(str, block.index))}"
        _write_block(cube, block, stem.with_name(name), values[span], valid[span], away)
    return Exported(
        variable=info.name,
        blocks=len(blocks),
        valid=sum(int(valid[span].sum()) for span in spans),
        samples=sum(int(inside[span].sum()) for span in spans),
        hidden=sum(int(away.sum()) for away in hidden),
        astray=astray,
    )


def _write_block(
    cube: Cube,
    block: Block,
    stem: Path,
    values: NDArray[np.float32],
    valid: NDArray[np.bool_],
    hidden: NDArray[np.bool_],
) -> None:
    _, top, left = block.write.start
    transform = None if cube.transform is None else shifted(cube.transform, top, left)
    profile = georeference(cube.crs_wkt, transform)
    dates = frame_dates(cube.times[block.write.slices[0]])
    shown = valid & ~hidden
    for kind, where in (("Y", valid), ("X", shown)):
        bands = np.where(where, values, np.float32(NODATA))
        path = stem.with_name(f"{kind}_{stem.name}.tif")
        write_bands(path, bands, profile=profile, nodata=float(np.float32(NODATA)), descriptions=dates)
    for kind, where in (("MASK", shown), ("VALMASK", hidden)):
        path = stem.with_name(f"{kind}_{stem.name}.tif")
        write_bands(path, where.astype(np.uint8), profile=profile, nodata=NODATA_FLAGS, descriptions=dates)


@contextmanager
def _draft(folder: Path) -> Iterator[Path]:
    """Give a folder in the output to write into; nothing stays behind if that fails."""
    new = not folder.exists()
    draft = folder / DRAFT
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
    except OSError as error:
        raise OutputError(f"output folder {folder} can't be written to: {error.strerror}") from error
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        if new:
            with suppress(OSError):  # it is not empty: all went well
                folder.rmdir()


def _publish(draft: Path, folder: Path, variables: Sequence[str]) -> None:
    """Move what is complete to its place; what is left of an earlier export of the variables goes."""
    names = "|".join(re.escape(name) for name in variables)
    ours = re.compile(rf"({'|'.join(KINDS)})_({names})_\d+_\d+_\d+\.tif")
    made = {path.name for path in draft.iterdir()}
    for path in sorted(folder.iterdir(), reverse=True):  # X_ first
        if ours.fullmatch(path.name) and path.name not in made:
            path.unlink()
    for kind in KINDS:
        for path in sorted(draft.glob(f"{kind}_*.tif")):
            path.replace(folder / path.name)
