"""Work beyond one process: Dask clusters, hindcasts in parallel streams, forecasts side by side.

Commands of `cli` call it. A new kind of cluster is a file in `deploy/dask`; other work that falls into independent
pieces takes an `Each` of `common.pieces` where it is, as `sweep` and `verification.drift` do.
"""
