"""HDF5 files of weights that came from elsewhere: what may be read of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stpipe.errors import ModelFileError

MOST_NUMBERS = 2**28
"""In one array; the published network has two million in all."""


def check_arrays(file: Any, path: Path) -> None:
    """Refuse arrays that take all memory, or whose numbers lie in other files.

    Parameters
    ----------
    file : h5py.File
        Opened; links out of it are not followed.
    path : Path
        For messages.

    Raises
    ------
    ModelFileError
        With the name of the array.
    """
    import h5py

    def visit(name: str, item: object) -> None:
        if not isinstance(item, h5py.Dataset):
            return
        if item.external or item.is_virtual:
            raise ModelFileError(f"{path} has the numbers of {name!r} in other files; a model is one file")
        if item.size is not None and item.size > MOST_NUMBERS:
            raise ModelFileError(f"{path} claims {item.size:,} numbers in {name!r}; the most is {MOST_NUMBERS:,}")

    file.visititems(visit)
