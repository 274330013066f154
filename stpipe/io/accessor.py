"""`cube.stpipe`: the Python interface as an accessor of xarray objects; `import stpipe.io.accessor` brings it."""

from __future__ import annotations

from typing import Any

import xarray as xr

from stpipe.io.api import fill


class _Accessor:
    """What stpipe can do with a cube."""

    def __init__(self, obj: Any) -> None:
        self._obj = obj

    def fill(self, **options: Any) -> xr.Dataset:
        """Fill the gaps; takes the options of `stpipe.fill`."""
        return fill(self._obj, **options)


xr.register_dataset_accessor("stpipe")(type("DatasetAccessor", (_Accessor,), {"__doc__": _Accessor.__doc__}))
xr.register_dataarray_accessor("stpipe")(type("DataArrayAccessor", (_Accessor,), {"__doc__": _Accessor.__doc__}))
