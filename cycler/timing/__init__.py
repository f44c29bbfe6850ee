"""Timing: time and memory of cycles, forecasts, the reading of observations and networks on this machine.

`dacycle bench` calls it. Put the next measurement beside `networks`, with the clocks and the memory of `measure`.
"""
