"""How scenes are hidden to learn from and to be judged by: by their own gaps, borrowed ones, and every other kind.

The packaged weights and those that users train come about in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stpipe.core.gaps import GAP_KINDS, artificial_gaps, draw_gaps
from stpipe.methods.teaching import Visit, visit

LEAST_GAPS = 0.05
"""A scene with a smaller share of gaps counts as complete: it borrows the shapes of others."""

OFTEN_THINNED = 0.55
"""Share of the complete scenes that are learned from as if they had gaps."""

MOST_THINNED = 0.8
"""No more of a scene is taken away."""

LENDABLE = (0.03, 0.9)
"""A frame lends its gaps where they are a share of its domain between these."""

MOST_LENT = 200
"""Gap shapes in a pool."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A cube, or a part of one, in memory."""

    name: str
    """For reports."""

    values: NDArray[np.float32]
    """(time, y, x), in any units; zero where not valid."""

    valid: NDArray[np.bool_]
    """(time, y, x), observed and trusted."""

    days: NDArray[np.float64]
    """(time,), ascending."""

    hidden: NDArray[np.bool_] | None = None
    """(time, y, x), artificial gaps that came with the data; they are valid too."""

    domain: NDArray[np.bool_] | None = None
    """(y, x), where values can exist; None: everywhere."""

    @property
    def complete(self) -> bool:
        """Whether it has next to no gaps."""
        return bool((~self.valid).mean() < LEAST_GAPS)


def learning_visit(
    scene: Scene, family: str, rng: np.random.Generator, shapes: NDArray[np.bool_] | None, count: int
) -> Visit:
    """Hide a scene in several ways to learn from it; a complete one often loses some of its samples first.

    Parameters
    ----------
    scene : Scene
        What to hide.
    family : str
        See `stpipe.methods.teaching.Visit`.
    rng : numpy Generator
        Seeded by the caller.
    shapes : (n, y, x) ndarray of bool, optional
        Gaps of other scenes, for complete ones; without any those get blobs.
    count : int
        Ways.
    """
    if scene.complete and rng.random() < OFTEN_THINNED:
        scene = _thinned(scene, rng, shapes)
    hidden = list(_ways(scene, rng, shapes, count))
    return visit(scene.name, family, scene.values, scene.valid, scene.days, hidden)


def judging_visit(scene: Scene, family: str, rng: np.random.Generator, shapes: NDArray[np.bool_] | None) -> Visit:
    """Hide a scene in two ways to be judged by: as the data say or by borrowed gaps, and by its own."""
    first = artificial_gaps(scene.valid, rng, kind="own", shapes=shapes, frames_share=0.5) if scene.complete else None
    if scene.hidden is not None:
        first = scene.hidden
    both = [draw_gaps(scene.valid, rng, domain=scene.domain, days=scene.days) for _ in range(2)]
    hidden = both if first is None else [first, both[0]]
    return visit(scene.name, family, scene.values, scene.valid, scene.days, hidden)


def _ways(
    scene: Scene, rng: np.random.Generator, shapes: NDArray[np.bool_] | None, count: int
) -> Iterator[NDArray[np.bool_]]:
    """Hide a scene: by the gaps that came with it, its own shapes at other dates, borrowed ones, and other kinds."""
    complete = scene.complete
    for _ in range(count):
        if scene.hidden is not None and rng.random() < 0.3:
            yield scene.hidden
            continue
        choice, share = rng.random(), rng.uniform(0.15, 0.7)
        if complete and choice < 0.5:
            yield artificial_gaps(scene.valid, rng, kind="own", shapes=shapes, frames_share=share)
        elif choice < 0.85:
            yield draw_gaps(scene.valid, rng, domain=scene.domain, share=(0.05, 0.5), days=scene.days)
        else:
            kind = str(rng.choice(GAP_KINDS))
            yield artificial_gaps(
                scene.valid, rng, kind=kind, shapes=shapes if complete else None, frames_share=0.8 * share
            )


def _thinned(scene: Scene, rng: np.random.Generator, shapes: NDArray[np.bool_] | None) -> Scene:
    """Take some of a complete scene away, as if it had never been observed."""
    kind = str(rng.choice(["own", "own", "blobs", "stripes", "speckle", "frames"]))
    gone = artificial_gaps(scene.valid, rng, kind=kind, shapes=shapes, frames_share=rng.uniform(0.1, 0.9))
    if gone.mean() > MOST_THINNED:
        return scene
    hidden = None if scene.hidden is None else scene.hidden & ~gone
    return replace(scene, valid=scene.valid & ~gone, values=np.where(gone, np.float32(0), scene.values), hidden=hidden)


def shapes_to_lend(scenes: Sequence[Scene], side: int) -> NDArray[np.bool_] | None:
    """Return gap shapes of scenes for those without any, or None where there is no gap to borrow.

    Parameters
    ----------
    scenes : sequence of Scene
        Whatever is learned from.
    side : int
        Length of the shapes along y and x; smaller frames are repeated.

    Returns
    -------
    (n, side, side) ndarray of bool, or None
        True = gap.

    Examples
    --------
    >>> valid = np.ones((3, 4, 4), dtype=bool)
    >>> valid[1, :2] = False
    >>> scene = Scene(name="a", values=valid.astype(np.float32), valid=valid, days=np.arange(3.0))
    >>> shapes = shapes_to_lend([scene], side=8)
    >>> shapes.shape, float(shapes.mean())
    ((1, 8, 8), 0.5)
    """
    found = []
    for scene in scenes:
        inside = scene.valid.any(axis=0) if scene.domain is None and len(scene.valid) > 1 else scene.domain
        gaps = ~scene.valid if inside is None else inside & ~scene.valid
        share = gaps.sum(axis=(1, 2)) / max(1, gaps[0].size if inside is None else int(inside.sum()))
        found += [_to_size(gap, side) for gap in gaps[(share > LENDABLE[0]) & (share < LENDABLE[1])]]
    if not found:
        return None
    step = -(-len(found) // MOST_LENT)
    return np.stack(found[::step])


def _to_size(shape: NDArray[np.bool_], side: int) -> NDArray[np.bool_]:
    """Repeat a shape, or cut it."""
    repeats = [-(-side // length) for length in shape.shape]
    return np.tile(shape, repeats)[:side, :side]
