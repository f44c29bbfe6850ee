"""Timing: what cycles, forecasts, decoding and networks cost on this machine.

`dacycle bench` calls it. Put the next measurement here.
"""
