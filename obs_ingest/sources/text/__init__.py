"""Stations in delimited or fixed-width text and Parquet: the sources `isd`, `ghcnh`, `ndbc` and `metar`.

`obs_ingest.sources.base` loads the sources by name. Put the next archive of surface reports here: one module that
maps its columns to the records of `obs_ingest.sources.surface`.
"""
