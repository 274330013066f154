"""Which names arrays of a Zarr group can have: each is a folder, and it is the file's author who chose it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from stpipe.errors import CubeError

LONGEST_NAME = 200
"""Bytes; file systems stop at 255."""

_ZARR_FILES = frozenset({"zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata"})


def check_array_names(names: Sequence[str], *, taken: Collection[str], place: str) -> None:
    """Refuse names that no array of a Zarr group can have.

    Parameters
    ----------
    names : sequence of str
        Of the variables that are to be written.
    taken : collection of str
        Names that coordinates have.
    place : str
        What the variables are from, for messages.

    Raises
    ------
    CubeError
        With the first such name, and what is wrong with it.

    Examples
    --------
    >>> check_array_names(["ndvi", "../ndvi"], taken=["time", "y", "x"], place="cube.zarr")
    Traceback (most recent call last):
    ...
    stpipe.errors.CubeError: variable '../ndvi' of cube.zarr can't be written to Zarr by its name: it has a slash; \
rename it, or choose others with --var
    """
    for name in names:
        wrong = _what_is_wrong(name, taken)
        if wrong is not None:
            shown = name if len(name) <= LONGEST_NAME else f"{name[:40]}..."
            raise CubeError(
                f"variable {shown!r} of {place} can't be written to Zarr by its name: {wrong}; rename it, or choose "
                "others with --var"
            )


def _what_is_wrong(name: str, taken: Collection[str]) -> str | None:
    if name in taken:
        return "a coordinate has that name"
    if not name.strip() or name in {".", ".."}:
        return "it is no name of a folder"
    if "/" in name or "\\" in name:
        return "it has a slash"
    if any(ord(letter) < 32 or 0xD800 <= ord(letter) < 0xE000 or ord(letter) == 127 for letter in name):
        return "it has characters that are no text"
    if name in _ZARR_FILES:
        return "Zarr has a file of that name"
    size = len(name.encode())
    return f"it has {size} bytes, and the most is {LONGEST_NAME}" if size > LONGEST_NAME else None
