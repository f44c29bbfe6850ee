"""States in files: readers of GRIB, netCDF and Zarr products, and writers of GRIB, netCDF and Zarr.

`products.open_states` is the way in; datasets, worlds, `dacycle forecast` and `dacycle write` call it. Put the next
product or format here: a class derived from `source.StateSource`, chosen in `products`.
"""
