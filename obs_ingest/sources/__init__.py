"""Sources of observations: readers of real files, each from a window to one checked table and an inventory.

`cycler.cycle.collect` and `dacycle ingest` call it through `base.build_source`. Put a new source in `bufr/`, `text/`
or, for netCDF, `netcdf_fields`; list its class in `base.SOURCES`. Readers never import `obs_ingest.simulation`.
"""
