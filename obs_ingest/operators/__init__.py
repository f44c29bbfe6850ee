"""Observation operators H(x): the value that an observation would have if the state x were true.

Quality control, superobs and the simulation call it. Put the operator of a new variable in `columns` if it needs one
column of the state, in `learned` if a network computes it.
"""
