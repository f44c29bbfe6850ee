"""Scores of methods and networks: evaluation on held-out samples, the benchmark's single analyses, the gate.

Needs no torch. `assimilators.export`, `cycler.benchmark` and the command line call it. Put the next score of a method
here.
"""
