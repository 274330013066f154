"""Which variables of a file make a cube: those over (time, y, x), bands as variables, and the domain."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

import xarray as xr

from stpipe.core.trust import Trust
from stpipe.errors import CubeError, OptionError
from stpipe.io.dimensions import NAMES, Role, role_of, roles_of
from stpipe.io.stored import CONTIGUOUS_CHUNKS, StoredVariable, chunks_of, describe, stored_dtype

MOST_BANDS = 10_000
"""Hyperspectral cubes have hundreds; each becomes a variable."""

_SHOWN = 12

Candidate = tuple[str, str, tuple[tuple[str, int], ...], tuple[str, str, str]]
"""Name for the user, array in the file, picked indices, and (time, y, x) dimensions."""


def over_time_y_x(raw: xr.Dataset) -> list[tuple[str, dict[Role, str]]]:
    """Return the variables that have all three axes, with the dimension of each role."""
    known = {dim for dim in raw.dims if role_of(raw, dim) is not None}
    found = []
    for name, variable in raw.variables.items():
        if variable.ndim < 3 or name in raw.dims:
            continue
        roles = roles_of(raw, [dim for dim in variable.dims if dim in known])
        if not {"time", "y", "x"} <= roles.keys():
            continue
        spare = [dim for dim in variable.dims if dim not in roles.values() and variable.sizes[dim] != 1]
        if not spare:
            found.append((str(name), roles))
    return found


def expand_bands(raw: xr.Dataset, found: list[tuple[str, dict[Role, str]]], path: str) -> list[Candidate]:
    """Return one candidate a variable, or one a band where there is a band dimension."""
    candidates: list[Candidate] = []
    for name, roles in found:
        variable = raw.variables[name]
        dims = (roles["time"], roles["y"], roles["x"])
        band = roles.get("band")
        fixed = tuple((str(dim), 0) for dim in variable.dims if dim not in dims and dim != band)
        if band is None or band not in variable.dims:
            candidates.append((name, name, fixed, dims))
            continue
        if raw.sizes[band] > MOST_BANDS:
            raise CubeError(f"axis {band!r} of {path} claims {raw.sizes[band]} bands; the most is {MOST_BANDS}")
        labels = _band_labels(raw, band)
        if len(labels) == 1 and band not in raw.variables:
            candidates.append((name, name, (*fixed, (band, 0)), dims))
            continue
        for number, text in enumerate(labels):
            candidates.append((text if len(found) == 1 else f"{name}_{text}", name, (*fixed, (band, number)), dims))
    return candidates


def _band_labels(raw: xr.Dataset, band: str) -> list[str]:
    """Return one name a band: its coordinate as text, or its number, each once."""
    coordinate = raw.variables.get(band)
    values = coordinate.values.tolist() if coordinate is not None else range(1, raw.sizes[band] + 1)
    labels: list[str] = []
    for value in values:
        text = value.decode() if isinstance(value, bytes) else str(value)
        text = f"b{text}" if text.isdigit() else text.strip().replace("/", "_")
        labels.append(text if text and text not in labels else f"{text}_{len(labels) + 1}")
    return labels


def choose(raw: xr.Dataset, candidates: list[Candidate], names: Sequence[str] | None, path: str) -> list[Candidate]:
    """Return the candidates that were named, in that order; all numeric ones if none was."""
    by_name = {candidate[0]: candidate for candidate in candidates}
    if names is None:
        numeric = [c for c in candidates if stored_dtype(raw.variables[c[1]]).kind in "iuf"]
        if not numeric:
            kinds = ", ".join(f"{c[0]} ({raw.variables[c[1]].dtype})" for c in candidates)
            raise CubeError(f"no variable of {path} holds numbers: {kinds}")
        return numeric
    if not names:
        raise CubeError(f"no variable is named; {path} has {_listed(by_name)}")
    chosen = []
    for name in dict.fromkeys(names):
        if name not in by_name:
            raise CubeError(_why_not_this(raw, name, list(by_name), path))
        dtype = raw.variables[by_name[name][1]].dtype
        if dtype.kind not in "iufb":
            raise CubeError(f"variable {name!r} of {path} has type {dtype}; only numbers can be used")
        chosen.append(by_name[name])
    return chosen


def stored_variable(
    raw: xr.Dataset,
    name: str,
    source: str,
    picks: tuple[tuple[str, int], ...],
    dims: tuple[str, str, str],
    path: str,
) -> StoredVariable:
    """Return where the samples of a chosen variable lie."""
    variable = raw.variables[source]
    if 0 in (variable.encoding.get("chunks") or ()) and 0 not in variable.shape:
        raise CubeError(f"variable {source!r} of {path} has chunks of no length; its metadata are damaged")
    info, also_nodata = describe(variable, name, chunks_of(variable, dims), path)
    return StoredVariable(
        info=info,
        source=source,
        dims=tuple(str(dim) for dim in variable.dims),
        shape=tuple(variable.shape),
        picks=picks,
        also_nodata=also_nodata,
    )


def quality_names(raw: xr.Dataset, candidates: list[Candidate], trust: Trust, path: str) -> list[str]:
    """Return the variables that rules may be about; refuse one that is in the file but not over (time, y, x)."""
    names = [candidate[0] for candidate in candidates]
    lowered = {name.lower() for name in names}
    for rule in trust.rules:
        if lowered.isdisjoint(wanted.lower() for wanted in (rule.variable, *rule.also)):
            for name, variable in raw.variables.items():
                if str(name).lower() == rule.variable.lower():
                    over = ", ".join(f"{dim} ({size})" for dim, size in variable.sizes.items()) or "no axis"
                    raise OptionError(
                        f"{rule.text}: {name!r} of {path} is over {over}, and rules are about variables over "
                        "(time, y, x); one over (y, x) goes with --domain"
                    )
    return names


def stored_quality(
    raw: xr.Dataset, candidates: list[Candidate], trust: Trust, dims: tuple[str, str, str], path: str
) -> tuple[StoredVariable, ...]:
    """Return where the variables lie that rules are about; refuse those on another grid, or of a type that can't tell.

    Parameters
    ----------
    raw : Dataset
        The file.
    candidates : list of Candidate
        All its variables over (time, y, x).
    trust : Trust
        The rules, resolved.
    dims : (time, y, x)
        Dimensions of the cube.
    path : str
        The file, for messages.
    """
    by_name = {candidate[0]: candidate for candidate in candidates}
    found = {}
    for rule in trust.rules:
        name, source, picks, own = by_name[rule.variable]
        if own != dims:
            mine, theirs = (" x ".join(f"{dim} {raw.sizes[dim]}" for dim in grid) for grid in (own, dims))
            raise OptionError(
                f"{rule.text}: {name!r} of {path} is on another grid ({mine}) than the cube ({theirs}); bring it onto "
                "that grid, by the nearest neighbour"
            )
        found[name] = stored_variable(raw, name, source, picks, dims, path)
    trust.check({name: stored.info for name, stored in found.items()})
    return tuple(found[name] for name in trust.variables)


def statics_over(raw: xr.Dataset, dims: tuple[str, str, str]) -> list[str]:
    """Return the names of numbers and flags over y and x, but not time.

    >>> statics_over(xr.Dataset({"land": (("y", "x"), [[1]]), "v": (("t", "y", "x"), [[[1]]])}), ("t", "y", "x"))
    ['land']
    """
    time, y, x = dims
    return [
        str(name)
        for name, variable in raw.variables.items()
        if {y, x} <= set(variable.dims) and time not in variable.dims and variable.dtype.kind in "iufb"
    ]


def stored_domain(raw: xr.Dataset, name: str, dims: tuple[str, str, str], path: str) -> StoredVariable:
    """Return where the domain variable lies; refuse one that is not static, or on another grid."""
    _, y, x = dims
    statics = statics_over(raw, dims)
    if name not in raw.variables:
        known = f"; static variables: {_listed(statics)}" if statics else f"; it has no static variable over ({y}, {x})"
        raise CubeError(f"--domain: {path} has no variable {name!r}{known}")
    variable = raw.variables[name]
    if dims[0] in variable.dims:
        raise CubeError(
            f"--domain takes a static variable over ({y}, {x}), but {name!r} of {path} also has the axis {dims[0]!r}; "
            f'take one frame of it, such as ds["{name}"].isel({dims[0]}=0)'
        )
    extra = [dim for dim in variable.dims if dim not in (y, x)]
    if not {y, x} <= set(variable.dims) or any(variable.sizes[dim] != 1 for dim in extra):
        raise CubeError(
            f"--domain takes a variable over ({y}, {x}) of shape {(raw.sizes[y], raw.sizes[x])}, but {name!r} of "
            f"{path} is over ({', '.join(map(str, variable.dims))}) of shape {variable.shape}"
        )
    if variable.dtype.kind not in "iufb":
        raise CubeError(f"--domain takes numbers, non-zero where values can exist; {name!r} of {path} is not")
    _, rows, columns = CONTIGUOUS_CHUNKS
    chunks = (1, min(rows, variable.sizes[y]), min(columns, variable.sizes[x]))
    info, also_nodata = describe(variable, name, chunks, path)
    return StoredVariable(
        info=info,
        source=name,
        dims=tuple(str(dim) for dim in variable.dims),
        shape=tuple(variable.shape),
        picks=tuple((str(dim), 0) for dim in extra),
        also_nodata=also_nodata,
    )


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def suggest(name: str, known: Sequence[str]) -> str:
    """Return the tail of a message about a name that does not exist.

    >>> suggest("B04,B08", ["B04", "B08", "SCL"])
    '; each is named by itself: B04, then B08. It has B04, B08, SCL'
    """
    several = [part.strip() for part in name.split(",")]
    if len(several) > 1 and set(several) <= set(known):
        return f"; each is named by itself: {', then '.join(several)}. It has {_listed(known)}"
    near = difflib.get_close_matches(name, known, n=1) or [k for k in known if k.lower() == name.lower()]
    return f"; did you mean {near[0]!r}? It has {_listed(known)}" if near else f"; it has {_listed(known)}"


def _why_not_this(raw: xr.Dataset, name: str, known: list[str], path: str) -> str:
    if name not in raw.variables:
        return f"{path} has no variable {name!r}{suggest(name, known)}"
    dims = ", ".join(f"{dim} ({size})" for dim, size in raw.variables[name].sizes.items())
    over = dims or "no axis"
    return f"variable {name!r} of {path} is not over (time, y, x) alone but over {over}; usable: {_listed(known)}"


def why_not_a_cube(raw: xr.Dataset, path: str) -> str:
    """Return the message for a file without a variable over (time, y, x)."""
    if not raw.variables:
        return f"{path} holds no variable; if it has groups inside, name one of them as PATH/GROUP"
    wide = [(str(n), v) for n, v in raw.variables.items() if v.ndim >= 2]
    known = roles_of(raw, list(raw.dims))
    needed: tuple[Role, ...] = ("time", "y", "x")
    missing = [role for role in needed if role not in known]
    over = [f"{name} over ({', '.join(map(str, variable.dims))})" for name, variable in wide[:4]]
    shown = ", ".join(over) or _listed(map(str, raw.variables))
    if missing:
        hint = "; ".join(f"{role}: {', '.join(sorted(NAMES[role]))}" for role in missing)
        return (
            f"{path} has no {' and no '.join(missing)} axis; it has {shown}; rename the dimension or give its "
            f"coordinate a CF axis attribute (names known for {hint})"
        )
    return f"{path} has no variable over time, y and x alone; it has {shown}"
