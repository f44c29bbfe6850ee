"""Timing: what cycles, forecasts, the reading of observations, and networks cost on this machine.

`dacycle bench` calls it. Put the next measurement beside `networks`, with the clocks and the memory of `measure`.
"""
