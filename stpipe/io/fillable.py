"""Opening a cube to fill it: which of its variables are measurements, where the user named none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stpipe.core.trust import Trust
from stpipe.errors import CubeError
from stpipe.io.cube import Cube, open_source
from stpipe.io.frames import SOURCE_SUFFIX, holds_codes, holds_sources, infos_of
from stpipe.io.mosaic import mosaic_variables


def open_fillable(
    path: Path,
    *,
    variables: Sequence[str] | None = None,
    domain: str | None = None,
    time: tuple[str | None, str | None] | None = None,
    aoi: Path | None = None,
    trust: Trust | None = None,
) -> tuple[Cube, tuple[str, ...]]:
    """Open a cube with the variables that are worth filling, and say what was left out.

    Parameters
    ----------
    path, domain, time, aoi, trust
        As for `stpipe.io.cube.open_source`.
    variables : sequence of str, optional
        Taken as they are; unless given, all but codes, what rules are about, and what came with variables that were
        filled before.

    Returns
    -------
    cube : Cube
        Opened.
    notes : tuple of str
        What the user should know.

    Raises
    ------
    CubeError
        If there is nothing but codes, or it is no cube.
    OptionError
        If a rule can't be met, or is about a variable that is to be filled.
    """
    cube = open_source(path, variables=variables, domain=domain, time=time, aoi=aoi, trust=trust)
    if variables is not None:
        if cube.trust is not None:
            cube.trust.refuse_measured(cube.names)
        return cube, ()
    names, notes = worth_filling(cube)
    if names != cube.names:
        cube = open_source(path, variables=names, domain=domain, time=time, aoi=aoi, trust=trust)
    return cube, notes


def worth_filling(cube: Cube) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the variables that hold measurements, and notes on what was left out."""
    infos = infos_of(cube)
    names = mosaic_variables(infos)
    codes = [name for name in names if holds_codes(name, infos[name].attrs)]
    rules_about = () if cube.trust is None else cube.trust.variables
    codes += [name for name in names if name in rules_about and name not in codes]
    names = tuple(name for name in names if name not in codes)
    notes = []
    if codes:
        notes.append(f"left out {', '.join(codes)}: codes are no measurements; name one with --var to take it as one")
    filled = [name for name in names if name + SOURCE_SUFFIX in infos and holds_sources(infos[name + SOURCE_SUFFIX])]
    if filled:
        notes.append(f"{', '.join(filled)} was filled before: what was filled then counts as observed now")
    if not names:
        raise CubeError(
            f"{cube.path} holds nothing but codes ({', '.join(codes)}); name one with --var to take it all the same"
        )
    return names, tuple(notes)
