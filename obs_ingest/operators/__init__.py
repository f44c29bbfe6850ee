"""Observation operators H(x): what a state says an observation should have been.

Quality control, superobs and the simulation call it. Put the operator of a new variable in `columns` if it needs one
column of the state, in `learned` if a network computes it.
"""
