"""Files in, files out: cubes, the scratch store, the filled cube and GeoTIFF."""
