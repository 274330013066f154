"""``cube.stpipe``: the Python interface as an accessor of xarray objects; ``import stpipe`` brings it."""

from __future__ import annotations

from typing import Any

import xarray as xr


class CubeAccessor:
    """What stpipe can do with a cube.

    Examples
    --------
    >>> import numpy as np
    >>> when = np.array(["2024-05-01"], dtype="M8[ns]")
    >>> cube = xr.DataArray(np.array([[[1.0, np.nan]]]), dims=("time", "y", "x"), coords={"time": when}, name="ndvi")
    >>> cube.stpipe.fill(method="pyramid").ndvi.values
    array([[[1., 1.]]])
    """

    def __init__(self, obj: Any) -> None:
        self._obj = obj

    def fill(self, **options: Any) -> xr.Dataset:
        """Fill the gaps; takes the options of `stpipe.fill`."""
        from stpipe.io.api import fill  # it brings Dask's scheduler, and any xarray user may have imported us

        return fill(self._obj, **options)

    def evaluate(self, **options: Any) -> xr.Dataset:
        """Score methods on artificial gaps; takes the options of `stpipe.evaluate`."""
        from stpipe.io.evaluate import evaluate

        return evaluate(self._obj, **options)

    def gap_statistics(self, **options: Any) -> xr.Dataset:
        """Return statistics of the days between clear observations; takes the options of `stpipe.gap_statistics`."""
        from stpipe.io.gaps.objects import gap_statistics

        return gap_statistics(self._obj, **options)


xr.register_dataset_accessor("stpipe")(CubeAccessor)
xr.register_dataarray_accessor("stpipe")(CubeAccessor)
