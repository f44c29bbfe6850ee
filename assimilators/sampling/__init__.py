"""Samples to train and to judge with: backgrounds with known errors, drawn observations, cycles in memory.

Needs no torch. `assimilators.training` and `assimilators.judging` call it. Put the next kind of background or of
simulated observing system here.
"""
