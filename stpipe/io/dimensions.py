"""Which dimension of a dataset is time, which y and which x: by CF attributes first, then by name."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import xarray as xr

Role = Literal["time", "y", "x", "band"]
"""What a dimension means."""

NAMES: dict[Role, frozenset[str]] = {
    "time": frozenset({"time", "t", "timestamp", "times", "date", "dates", "datetime"}),
    "y": frozenset({"y", "lat", "latitude", "northing", "yc"}),
    "x": frozenset({"x", "lon", "long", "lng", "longitude", "easting", "xc"}),
    "band": frozenset({"band", "bands", "variable"}),
}
"""Names that settle the role of a dimension when no attribute does; case is ignored."""

_STANDARD_NAMES: dict[str, Role] = {
    "time": "time",
    "latitude": "y",
    "grid_latitude": "y",
    "projection_y_coordinate": "y",
    "longitude": "x",
    "grid_longitude": "x",
    "projection_x_coordinate": "x",
}
_AXES: dict[str, Role] = {"T": "time", "Y": "y", "X": "x"}
_DEGREES: dict[str, Role] = {
    **{f"degree{s}_{end}": "y" for s in ("", "s") for end in ("north", "n")},
    **{f"degree{s}_{end}": "x" for s in ("", "s") for end in ("east", "e")},
}


def role_from_attributes(variable: xr.Variable) -> Role | None:
    """Return what a coordinate variable says of itself, or None.

    >>> import xarray as xr
    >>> role_from_attributes(xr.Variable("j", [1.0, 2.0], {"units": "degrees_north"}))
    'y'
    >>> role_from_attributes(xr.Variable("n", [1, 2], {"units": "days since 2020-01-01"}))
    'time'
    """
    attrs = variable.attrs
    if role := _AXES.get(str(attrs.get("axis", "")).upper()):
        return role
    if role := _STANDARD_NAMES.get(str(attrs.get("standard_name", "")).lower()):
        return role
    if role := degrees_role(variable):
        return role
    units = str(attrs.get("units", "")).lower()
    return "time" if " since " in units or variable.dtype.kind == "M" else None


def degrees_role(variable: xr.Variable) -> Role | None:
    """Return "y" for a coordinate in degrees north, "x" for one in degrees east, else None.

    >>> import xarray as xr
    >>> degrees_role(xr.Variable("lon", [1.0], {"units": "degrees East"}))
    'x'
    """
    return _DEGREES.get("_".join(str(variable.attrs.get("units", "")).lower().split()))


def role_of(dataset: xr.Dataset, dim: Hashable) -> Role | None:
    """Return the role of a dimension, or None where nothing tells."""
    named = dataset.variables.get(dim)
    if named is not None and named.dims == (dim,) and (role := role_from_attributes(named)):
        return role
    for known, names in NAMES.items():
        if str(dim).lower() in names:
            return known
    for variable in dataset.variables.values():
        if variable.dims == (dim,) and (role := role_from_attributes(variable)):
            return role
    return None


def roles_of(dataset: xr.Dataset, dims: Iterable[Hashable]) -> dict[Role, str]:
    """Return the dimension of each role among `dims`; where two share one, the one with a plain name wins."""
    found: dict[Role, str] = {}
    for dim in dims:
        role = role_of(dataset, dim)
        if role is None:
            continue
        if role not in found or (found[role].lower() not in NAMES[role] and str(dim).lower() in NAMES[role]):
            found[role] = str(dim)
    return found


def coordinate_of(dataset: xr.Dataset, dim: str, role: Role) -> xr.Variable | None:
    """Return the one-dimensional coordinate along a dimension, or None if there is none."""
    named = dataset.variables.get(dim)
    if named is not None and named.dims == (dim,):
        return named
    for variable in dataset.variables.values():
        if variable.dims == (dim,) and role_from_attributes(variable) == role:
            return variable
    return None
