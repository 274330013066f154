"""Cubes of other files: sources are described as layers, layers become a plan, and the plan is written as Zarr.

`layers` says what a layer is; `files` and `cubes` find them, and `sources` says which; `options` is what is wanted;
`target` decides the grid, `scenes` the frames, `variables` the types, and `plan` puts it together; `pictures` reads
windows of frames; `write` puts them into the cube, and `records` knows what is there already.
"""
