"""Zarr groups as users of xarray open them: by one file, and without a warning."""

from __future__ import annotations

import warnings
from pathlib import Path

import zarr

from stpipe.execution.storage import zarr_place


def consolidate(path: str | Path) -> None:
    """Put the metadata of a group's arrays into its own, when all are there.

    Zarr 3 does not specify that yet, of which zarr warns; yet xarray looks for it, and warns where there is none.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part in the Zarr format 3")
        zarr.consolidate_metadata(zarr_place(path))
