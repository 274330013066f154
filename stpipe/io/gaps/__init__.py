"""Gap statistics of a cube on disk and of xarray objects: planned, worked out tile by tile, put together."""
