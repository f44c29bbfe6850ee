"""States in files: readers of GRIB, netCDF and Zarr products, and writers of GRIB, netCDF and Zarr.

Start at `products.open_states` to read, and at `files.write_states` to write; datasets, worlds, `dacycle forecast` and
`dacycle write` call them. The next product or format goes here: a class derived from `source.StateSource`, which
`products` chooses.
"""
