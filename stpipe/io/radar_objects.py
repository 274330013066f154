"""Radar as an object of xarray, or for one: see `stpipe.io.radar`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import xarray as xr

from stpipe.core.ports import VariableInfo
from stpipe.core.resampling import Resampling
from stpipe.errors import CubeError, OptionError
from stpipe.io.guide_sources import Guide, object_source
from stpipe.io.objects import NAMELESS, ObjectCube, understand
from stpipe.io.places import Place
from stpipe.io.radar import Radar, RadarSource, named_radar, radar_file, radar_on, radar_variables
from stpipe.io.stored import absolute
from stpipe.methods.sar.options import WINDOW_DAYS, RadarOptions

LABEL = "guide 1"
"""What an object is called in messages, as other guides are."""


def radar_options(
    given: Sequence[Guide], variables: Sequence[str], resampling: Resampling | None, window_days: float | None
) -> RadarOptions:
    """Return how radar is to be brought onto an object, its variables by name.

    Parameters
    ----------
    given : sequence of path, Dataset or DataArray
        One.
    variables : sequence of str
        What is radar in it; VV and VH if there are none.
    resampling : {"nearest", "bilinear", "average"}, optional
        In space.
    window_days : float, optional
        Images count so long before and after a frame.

    Raises
    ------
    RefusedError
        If there are more guides, or no such variables.

    Examples
    --------
    >>> radar = xr.Dataset({"VV": ("x", [1.0]), "VH": ("x", [1.0])})
    >>> radar_options([radar], (), None, None).variables
    ('VV', 'VH')
    """
    if len(given) != 1:
        raise OptionError(f"method sar takes one guide, the cube with the radar, got {len(given)}")
    (guide,) = given
    if isinstance(guide, xr.Dataset | xr.DataArray):
        chosen = named_radar(_names(guide), variables, LABEL)
    else:
        chosen = radar_variables([guide], variables)
    window = WINDOW_DAYS if window_days is None else window_days
    return RadarOptions(variables=chosen, resampling=resampling, window_days=window)


def object_radar(guide: Guide, cube: ObjectCube, options: RadarOptions) -> Radar:
    """Place radar on an object of xarray; takes a path too.

    Parameters
    ----------
    guide : path, Dataset or DataArray
        The radar; may be the very object that is to be filled.
    cube : ObjectCube
        What is to be filled.
    options : RadarOptions
        How, see `radar_options`.

    Raises
    ------
    RefusedError
        As `stpipe.io.radar.open_radar` does.
    """
    target = Place.of_object(cube, "the cube")
    if not isinstance(guide, xr.Dataset | xr.DataArray):
        return radar_on(radar_file(absolute(guide), options.variables, None), target, options)
    names = list(options.variables)
    filled = [name for name in names if guide is cube.dataset and name in cube.names]
    if filled:
        raise CubeError(f"{', '.join(filled)} would be filled and be the radar; choose other variables")
    seen = understand(guide, variables=names)
    place = Place.of_object(seen, LABEL)
    source = RadarSource(
        place=place,
        readable=[(name, _with_units(seen, name), seen.reader(name)) for name in names],
        identity=object_source(seen, names, place),
        quality=seen.quality_cost,
    )
    return radar_on(source, target, options)


def _with_units(seen: ObjectCube, name: str) -> VariableInfo:
    """Describe a variable, its units included: they may not be what its numbers say."""
    return replace(seen.info(name), attrs={"units": str(seen.dataset[name].attrs.get("units", ""))})


def _names(guide: xr.Dataset | xr.DataArray) -> list[str]:
    if isinstance(guide, xr.DataArray):
        return [str(guide.name or NAMELESS)]
    return [str(name) for name in guide.data_vars]
