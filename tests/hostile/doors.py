"""A tiny cube to spoil by hand, and what lies in a folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

QUICK = ("--method", "linear", "--workers", "1")
"""Options of a fill that takes no longer than it must."""


def tiny_cube(path: Path, name: str = "ndvi", **attrs: Any) -> Path:
    """Write 4 frames of 8 x 8 pixels, with gaps, as Zarr v3 without groups, filters or compression."""
    values = np.random.default_rng(1).random((4, 8, 8)).astype(np.float32)
    values[1, 2:5, 2:5] = np.nan
    cube = xr.Dataset(
        {name: (("time", "y", "x"), values, attrs)},
        coords={
            "time": np.datetime64("2024-03-01", "ns") + np.arange(4) * np.timedelta64(5, "D"),
            "y": 5_000_000 - 10.0 * np.arange(8),
            "x": 600_000 + 10.0 * np.arange(8),
        },
    )
    # As plain as Zarr can be, so that tests can spoil it by hand.
    encoding = {str(each): {"compressors": None, "filters": None} for each in cube.variables}
    cube.to_zarr(path, mode="w", zarr_format=3, consolidated=False, encoding=encoding)
    return path


@contextmanager
def edited(path: Path) -> Iterator[dict[str, Any]]:
    """Give the content of a JSON file to change; it is written back."""
    content = json.loads(path.read_bytes())
    yield content
    path.write_text(json.dumps(content))


def snapshot(folder: Path) -> dict[str, bytes | str]:
    """Return all that lies below a folder; links by where they lead."""
    return {
        str(path.relative_to(folder)): f"-> {path.readlink()}" if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }
