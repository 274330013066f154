"""Opening the guides that a user names: cubes in files, or objects of xarray, and which of their variables to take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import xarray as xr

from stpipe.core.trust import Trust
from stpipe.errors import CubeError, OptionError
from stpipe.execution.storage import located
from stpipe.io.cube import Cube, open_source
from stpipe.io.fillable import open_fillable
from stpipe.io.guides import GridGuide, GuideOptions, Guides, Readable, placed
from stpipe.io.objects import NAMELESS, ObjectCube, understand
from stpipe.io.places import Place
from stpipe.io.stored import absolute

MOST_GUIDES = 8
"""Most variables that can be guides: each one is held for all frames of a block."""


def open_led(
    path: Path,
    guides: Sequence[Path],
    options: GuideOptions,
    *,
    variables: Sequence[str] | None = None,
    domain: str | None = None,
    time: tuple[str | None, str | None] | None = None,
    aoi: Path | None = None,
    trust: Trust | None = None,
) -> tuple[Cube, tuple[str, ...]]:
    """Open a cube to fill it, see `stpipe.io.fillable.open_fillable`; what of it is its own guide is not filled.

    Parameters
    ----------
    path, variables, domain, time, aoi, trust
        As there.
    guides : sequence of Path
        Cubes to lean on.
    options : GuideOptions
        Which of their variables.
    """
    cube, notes = open_fillable(path, variables=variables, domain=domain, time=time, aoi=aoi, trust=trust)
    if variables is None and options.variables and any(absolute(guide) == cube.path for guide in guides):
        names = [name for name in cube.names if name not in options.variables]
        if not names:
            raise CubeError(f"nothing is left to fill in {path} where {', '.join(options.variables)} is the guide")
        if len(names) < len(cube.names):
            cube = open_source(path, variables=names, domain=domain, time=time, aoi=aoi, trust=trust)
    return cube, notes


def open_guides(paths: Sequence[str | Path], cube: Cube, options: GuideOptions) -> Guides:
    """Open guides and place them on a cube; of their samples only a few are read.

    Parameters
    ----------
    paths : sequence of str or Path
        Cubes; one may be the cube itself.
    cube : Cube
        What is to be filled: its variables can't be guides.
    options : GuideOptions
        How.

    Raises
    ------
    RefusedError
        If there is no such file or variable, or a guide has nothing to do with the cube. One line.
    """
    target = Place.of_cube(cube)
    opened = _opened(paths, options.variables, cube)
    taken: dict[str, int] = {}
    parts = [
        replace(
            placed(
                Place.of_cube(guide),
                [(_named(info.name, taken), info, guide.reader([info.name])) for info in guide.variables],
                target,
                options,
                source=guide.fingerprint,
            ),
            quality=guide.quality_cost,
        )
        for guide in opened
    ]
    return _checked(Guides(parts=tuple(parts), files=tuple((guide.path, guide.sources) for guide in opened)))


def _opened(paths: Sequence[str | Path], asked: Sequence[str], cube: Cube | None) -> list[Cube]:
    """Open the variables of guides that were asked for, or all that are measurements, and not to be filled.

    Rules on what to trust are about the cube: they hold for its own variables, and for no other guide.
    """
    opened, found = [], set[str]()
    for path in dict.fromkeys(absolute(path) for path in paths):
        filled, trust = (cube.names, cube.trust) if cube is not None and path == cube.path else ((), None)
        if asked:
            there = [name for name in asked if name not in filled and _has(path, name)]
        else:
            there = [name for name in open_fillable(located(path), trust=trust)[0].names if name not in filled]
        if not there:
            which = f"none of {', '.join(asked)}" if asked else "nothing"
            besides = " besides what is to be filled; choose that with --var" if filled else ""
            raise CubeError(f"--guide {path} has {which}{besides}; it has {', '.join(_measured(path))}")
        found.update(there)
        opened.append(open_source(path, variables=there, trust=trust))
    for name in asked:
        if name not in found:
            there = [f"{path} has {', '.join(_measured(path))}" for path in dict.fromkeys(paths)]
            raise CubeError(f"--guide-var {name}: no guide has such a variable; {'; '.join(there)}")
    return opened


def _measured(path: str | Path) -> tuple[str, ...]:
    return open_source(path).names


def _has(path: str, name: str) -> bool:
    """Whether a cube has a variable; refuse what is no cube."""
    try:
        open_source(path, variables=[name])
    except CubeError:
        return name in _measured(path)
    return True


Guide = str | Path | xr.Dataset | xr.DataArray
"""What can be a guide in Python."""


def guides_of(guide: Guide | Sequence[Guide]) -> tuple[Guide, ...]:
    """Return one guide, or several, as a tuple.

    >>> guides_of("s1.zarr")
    ('s1.zarr',)
    """
    return (guide,) if isinstance(guide, str | Path | xr.Dataset | xr.DataArray) else tuple(guide)


def names_of(names: str | Sequence[str]) -> tuple[str, ...]:
    """Return one name, or several, as a tuple."""
    return (names,) if isinstance(names, str) else tuple(names)


def not_guides(
    obj: xr.Dataset | xr.DataArray, variables: Sequence[str] | None, given: Sequence[Guide], options: GuideOptions
) -> Sequence[str] | None:
    """Return which variables to fill: where an object is its own guide and none is named, all but those that guide."""
    if variables is not None or not options.variables or not any(guide is obj for guide in given):
        return variables
    names = tuple(name for name in understand(obj).names if name not in options.variables)
    if not names:
        raise CubeError(f"nothing is left to fill where {', '.join(options.variables)} is the guide")
    return names


def object_guides(objects: Sequence[Guide], cube: ObjectCube, options: GuideOptions) -> Guides:
    """Place guides on an object of xarray; takes objects too. See `open_guides`."""
    target = Place.of_object(cube, "the cube")
    taken: dict[str, int] = {}
    parts: list[GridGuide] = []
    files: list[tuple[str, tuple[str, ...]]] = []
    for number, guide in enumerate(objects, start=1):
        label = f"guide {number}"
        asked = options.variables
        if isinstance(guide, str | Path):
            named = [name for name in asked if _has(absolute(guide), name)]
            if asked and not named:
                continue
            (opened,) = _opened([guide], named, None)
            place, source, cost = Place.of_cube(opened), opened.fingerprint, opened.quality_cost
            readers: list[Readable] = [
                (_named(info.name, taken), info, opened.reader([info.name])) for info in opened.variables
            ]
            files.append((opened.path, opened.sources))
        else:
            known = (
                [str(guide.name or NAMELESS)] if isinstance(guide, xr.DataArray) else list(map(str, guide.data_vars))
            )
            chosen = [name for name in asked if name in known] if asked else None
            if chosen == []:
                continue
            seen = understand(guide, variables=chosen, codes=True)
            same = seen.dataset is cube.dataset
            filled = cube.names if same else ()
            about = cube.trust.variables if same and cube.trust is not None and not asked else ()
            there = [name for name in seen.names if name not in (*filled, *about)]
            if not there:
                continue
            if same:  # rules on what to trust are about the cube
                seen = replace(seen, trust=cube.trust, quality=cube.quality)
            place = Place.of_object(seen, label)
            readers = [(_named(name, taken), seen.info(name), seen.reader(name)) for name in there]
            source, cost = object_source(seen, there, place), seen.quality_cost
        parts.append(replace(placed(place, readers, target, options, source=source), quality=cost))
    if not parts:
        raise CubeError(f"no guide has a variable {', '.join(options.variables) or 'that is not to be filled'}")
    return _checked(Guides(parts=tuple(parts), files=tuple(files)))


def object_source(seen: ObjectCube, names: Sequence[str], place: Place) -> str:
    """Return what tells an object's variables at a place from others."""
    from dask.base import tokenize

    arrays = [seen.array(name).variable.data for name in names]
    if seen.trust is None:
        return str(tokenize(seen.days, arrays, place.told()))
    about = [quality.array for quality in seen.quality.values()]
    return str(tokenize(seen.days, arrays, seen.trust.identity(), about, place.told()))


def _named(name: str, taken: dict[str, int]) -> str:
    """Return a name of its own for a variable: the second ``vv`` is ``vv_2``."""
    taken[name] = taken.get(name, 0) + 1
    return name if taken[name] == 1 else f"{name}_{taken[name]}"


def _checked(guides: Guides) -> Guides:
    count = len(guides.names)
    if count > MOST_GUIDES:
        raise OptionError(
            f"at most {MOST_GUIDES} variables can be guides, got {count} ({', '.join(guides.names)}); choose with "
            "--guide-var"
        )
    return guides
