"""What a training reads: parts of cubes and folders of blocks, each on one side of a split.

Opening reads no sample; then parts are read one at a time, in an order that the seed decides, until there are enough.
A variable of a cube is a family of its own, and so are the blocks of a variable in a folder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stpipe.core.gaps import Purpose, generator
from stpipe.core.ports import JSON, VariableInfo
from stpipe.core.samples import check_fillable, credible, valid_samples
from stpipe.core.split import LARGEST_PART, NameSplit, Split, parts_of, split_cube, split_names, stem_of
from stpipe.core.survey import location_and_spread
from stpipe.core.trust import Trust, remarks
from stpipe.core.windows import Triple, Window
from stpipe.errors import CubeError, OptionError
from stpipe.execution.context import read_samples
from stpipe.execution.storage import located
from stpipe.io.block_folders import BlockFile, find_blocks, read_block, read_truth
from stpipe.io.cube import Cube, Period
from stpipe.io.fillable import open_fillable
from stpipe.io.run_folder import file_state
from stpipe.io.stored import absolute, kind_of
from stpipe.methods.curriculum import Scene
from stpipe.methods.guides import GuideMaker
from stpipe.methods.teaching import LEAST_LEFT

LARGEST_BLOCK: Triple = (60, 128, 128)
"""Frames and pixels of a part of a block, at most: blocks of the usual size stay whole."""

FARTHEST = 1e4
"""Values farther from the median than this, in spreads, are taken to lie there: examples are of half precision."""

SUFFIXES = (".zarr", ".nc", ".nc4", ".h5")
"""What the names of cubes are called by without."""

TRIED = 4
"""Parts with next to nothing in them are passed over, until so many times the wanted samples were looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A cube or a folder of blocks; no sample was read yet."""

    name: str
    """What its families are called by."""

    families: tuple[str, ...]
    """One a variable."""

    identity: JSON
    """Tells whether it is what it was."""

    cube: Cube | None = None
    """The cube."""

    blocks: tuple[BlockFile, ...] = ()
    """Or the blocks."""

    rule_counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 2), dtype=np.int64), compare=False)
    """How often each rule on what to trust matched, in what was read of the cube so far."""

    def remarks(self) -> tuple[str, ...]:
        """Return a line for each rule that matched nothing, or everything, in what was read so far."""
        trust = None if self.cube is None else self.cube.trust
        if trust is None or not self.rule_counts.any():
            return ()
        return tuple(f"{self.name}: {line} (of the parts that were read)" for line in remarks(trust, self.rule_counts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of a family that can be read."""

    samples: int
    """How many, observed or not."""

    read: Callable[[], Scene]
    """Reads it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Two sides of what belongs together."""

    name: str
    """Such as ``hls:NIR``."""

    split: str
    """How it was split, in words."""

    learned: tuple[Part, ...]
    """Parts to learn from, in the order in which they are tried."""

    held_out: tuple[Part, ...]
    """Parts that are held out."""


def open_sources(
    paths: Sequence[Path],
    *,
    variables: Sequence[str] | None = None,
    domain: str | None = None,
    time: Period | None = None,
    trust: Trust | None = None,
) -> tuple[list[Source], list[str]]:
    """Open cubes and folders of blocks.

    Parameters
    ----------
    paths : sequence of Path
        Zarr groups, NetCDF files, and folders that hold ``X_*.tif``.
    variables, domain, time, trust
        As for `stpipe.io.fillable.open_fillable`; they go with cubes.

    Returns
    -------
    sources : list of Source
        With names that tell them apart.
    notes : list of str
        What the user should know.

    Raises
    ------
    RefusedError
        If one is neither a cube nor a folder of blocks, lacks what was asked for, or is named twice.
    """
    places = [absolute(path) for path in paths]
    for number, place in enumerate(places):
        if place in places[:number]:
            raise OptionError(f"{paths[number]} is named twice; --family-weight makes a source count more")
    folders = [_holds_blocks(Path(place)) for place in places]
    if all(folders):
        rules = ("--qa, --keep or --drop", trust)
        for option, value in (("--var", variables), ("--domain", domain), ("--time", time), rules):
            if value:
                raise OptionError(f"{option} goes with cubes, but {', '.join(map(str, paths))} hold blocks")
    sources: list[Source] = []
    notes: list[str] = []
    for path, place, folder in zip(paths, places, folders, strict=True):
        name = Path(place).name
        for suffix in SUFFIXES:
            name = name.removesuffix(suffix)
        name = _unused(name, [source.name for source in sources])
        if folder:
            sources.append(_block_source(path, name))
        else:
            _check_kind(path)
            cube, said = open_fillable(path, variables=variables, domain=domain, time=time, trust=trust)
            sources.append(_cube_source(cube, name))
            notes += [f"{name}: {line}" for line in said]
    return sources, notes


def _unused(name: str, used: Sequence[str]) -> str:
    """Return a name, with a number where it is taken.

    >>> _unused("cube", ["cube", "cube-2"])
    'cube-3'
    """
    number, made = 1, name
    while made in used:
        number += 1
        made = f"{name}-{number}"
    return made


def _holds_blocks(path: Path) -> bool:
    return path.is_dir() and next(path.glob("X_*.tif"), None) is not None


def _check_kind(path: Path) -> None:
    """Refuse what is neither a cube nor a folder of blocks."""
    try:
        kind_of(absolute(path))
    except CubeError as error:
        if not path.is_dir():
            raise
        raise CubeError(f"{error}; nor is it a folder of blocks, which holds X_NAME.tif and MASK_NAME.tif") from error


def _cube_source(cube: Cube, name: str) -> Source:
    for info in cube.variables:
        check_fillable(info)
    state = file_state(located(cube.path), cube.sources)
    return Source(
        name=name,
        families=tuple(f"{name}:{variable}" for variable in cube.names),
        identity={"name": name, "cube": cube.fingerprint, "files": state},
        cube=cube,
        rule_counts=np.zeros((0 if cube.trust is None else len(cube.trust.rules), 2), dtype=np.int64),
    )


def _block_source(path: Path, name: str) -> Source:
    blocks = find_blocks(path)
    files = [
        place.name for block in blocks for place in (block.observed, block.mask, block.truth, block.scored) if place
    ]
    return Source(
        name=name,
        families=tuple(dict.fromkeys(_family_of(name, block) for block in blocks)),
        identity={"name": name, "blocks": len(blocks), "files": file_state(path.resolve(), files)},
        blocks=tuple(blocks),
    )


def _family_of(folder: str, block: BlockFile) -> str:
    return ":".join(filter(None, [folder, stem_of(block.name)]))


def split_sources(
    sources: Sequence[Source],
    *,
    share: float,
    learned_samples: int,
    held_out_samples: int,
    seed: int,
    valid_range: tuple[float, float] | None = None,
) -> list[Family]:
    """Split sources into what is learned from and what is held out, and cut both into parts.

    Parameters
    ----------
    sources : sequence of Source
        From `open_sources`.
    share : float
        What to hold out of each.
    learned_samples, held_out_samples : int
        How many will be read of a family: parts are cut so that several fit.
    seed : int
        Decides the order of the parts.
    valid_range : (low, high), optional
        Physical values outside of it are gaps.

    Raises
    ------
    RefusedError
        If a source can't be split.
    """
    families: list[Family] = []
    wanted = (learned_samples, held_out_samples)
    for source in sources:
        if source.cube is not None:
            strip = max(GuideMaker().halo[1:])
            split = split_cube(source.cube.extent, share=share, strip=strip, name=source.name)
            for info, name in zip(source.cube.variables, source.families, strict=True):
                sides = _cube_sides(source, info, name, split, wanted, valid_range)
                families.append(_family(name, str(split), sides, seed, len(families)))
            continue
        apart = split_names([block.name for block in source.blocks], share=share, place=source.name)
        apart = _without_shared(apart, source.blocks)
        for name in source.families:
            blocks = [block for block in source.blocks if _family_of(source.name, block) == name]
            sides = _block_sides(blocks, name, apart, wanted, valid_range)
            families.append(_family(name, str(apart), sides, seed, len(families)))
    return families


def _without_shared(split: NameSplit, blocks: Sequence[BlockFile]) -> NameSplit:
    """Leave out what has samples of blocks that are held out, as blocks that overlap do; say so if that is all."""
    judges = [block for block in blocks if block.name in split.held_out]
    shared = {
        block.name for block in blocks if block.name in split.learned and any(block.shares(judge) for judge in judges)
    }
    if not shared:
        return split
    if shared.issuperset(split.learned):
        return replace(split, shared=len(shared))
    return replace(
        split,
        learned=tuple(name for name in split.learned if name not in shared),
        between=(*split.between, *sorted(shared)),
    )


def _family(name: str, split: str, sides: tuple[list[Part], list[Part]], seed: int, number: int) -> Family:
    """Put parts into an order."""
    shuffled = [
        tuple(parts[i] for i in generator(purpose, seed, number, 0).permutation(len(parts)))
        for purpose, parts in zip((Purpose.TRAINING, Purpose.TRAINING_JUDGES), sides, strict=True)
    ]
    return Family(name=name, split=split, learned=shuffled[0], held_out=shuffled[1])


def _cube_sides(
    source: Source,
    info: VariableInfo,
    name: str,
    split: Split,
    wanted: tuple[int, int],
    valid_range: tuple[float, float] | None,
) -> tuple[list[Part], list[Part]]:
    def part(window: Window) -> Part:
        return Part(samples=window.size, read=lambda: _read_part(source, info, name, window, valid_range))

    first, second = (
        [part(window) for window in parts_of(side, samples=samples, largest=LARGEST_PART)]
        for side, samples in zip((split.learned, split.held_out), wanted, strict=True)
    )
    return first, second


def _block_sides(
    blocks: Sequence[BlockFile],
    name: str,
    split: NameSplit,
    wanted: tuple[int, int],
    valid_range: tuple[float, float] | None,
) -> tuple[list[Part], list[Part]]:
    def part(block: BlockFile, window: Window) -> Part:
        return Part(samples=window.size, read=lambda: _read_block_part(block, name, window, valid_range))

    sides = [
        [
            part(block, window)
            for block in blocks
            if block.name in names
            for window in parts_of(Window.of(block.shape), samples=samples, largest=LARGEST_BLOCK)
        ]
        for names, samples in zip((split.learned, split.held_out), wanted, strict=True)
    ]
    return sides[0], sides[1]


def _read_part(
    source: Source, info: VariableInfo, name: str, window: Window, valid_range: tuple[float, float] | None
) -> Scene:
    """Read a part of a cube."""
    cube = source.cube
    assert cube is not None
    samples = read_samples(cube.reader([info.name]), info, window, valid_range)
    if samples.rule_counts is not None:
        np.add(source.rule_counts, samples.rule_counts, out=source.rule_counts)
    values, valid = np.zeros(window.shape), np.zeros(window.shape, dtype=bool)
    for t in range(len(valid)):
        values[t], valid[t] = samples.believed(t)
    at = ",".join(map(str, window.start))
    return _scene(f"{name} at {at}", values, valid, cube.days[window.slices[0]], domain=samples.domain)


def _read_block_part(block: BlockFile, name: str, window: Window, valid_range: tuple[float, float] | None) -> Scene:
    """Read a part of a block: what ``Y_`` knows of samples hidden on purpose counts as observed."""
    samples, truth = read_block(block), read_truth(block)
    values, valid = samples.stored.astype(np.float64), samples.valid
    hidden = None
    if truth is not None:
        known, hidden = truth
        values, valid = np.where(hidden, known, values), valid | hidden
    info = VariableInfo(name=name, dtype=samples.stored.dtype.name, chunks=samples.stored.shape)
    valid &= valid_samples(np.where(valid, values, np.nan), valid_range=valid_range, info=info)
    valid = credible(values, valid)
    days = np.arange(float(block.shape[0])) if block.days is None else block.days
    cut = window.slices
    hidden = None if hidden is None else hidden[cut] & valid[cut]
    return _scene(f"{name} {block.name}", values[cut], valid[cut], days[cut[0]], hidden=hidden)


def _scene(
    name: str,
    values: NDArray[np.float64],
    valid: NDArray[np.bool_],
    days: NDArray[np.float64],
    *,
    hidden: NDArray[np.bool_] | None = None,
    domain: NDArray[np.bool_] | None = None,
) -> Scene:
    """Return a scene in spreads about its median: single precision can't hold every unit."""
    location, spread = location_and_spread(values[valid])
    standard = (np.where(valid, values, location) - location) / spread
    return Scene(
        name=name,
        values=standard.clip(-FARTHEST, FARTHEST).astype(np.float32),
        valid=valid,
        days=days,
        hidden=hidden if hidden is not None and hidden.any() else None,
        domain=domain,
    )


def gather(
    parts: Sequence[Part], samples: int, *, step: Callable[[int], None] | None = None
) -> tuple[list[Scene], int]:
    """Read parts, one at a time, until there are enough; return them, and how many had next to no valid sample.

    Parameters
    ----------
    parts : sequence of Part
        In the order in which they are tried.
    samples : int
        The first part that would bring more than so many ends it; one part there is in any case.
    step : callable, optional
        Called with the samples of each part that was kept.
    """
    scenes: list[Scene] = []
    kept, tried, empty = 0, 0, 0
    for part in parts:
        if (scenes and kept + part.samples > samples) or tried >= TRIED * max(samples, part.samples):
            break
        scene = part.read()
        tried += part.samples
        if scene.valid.sum() < LEAST_LEFT:
            empty += 1
            continue
        scenes.append(scene)
        kept += part.samples
        if step is not None:
            step(part.samples)
    return scenes, empty
