"""One block as a plain function, and the plan on Dask."""
