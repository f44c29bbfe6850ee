"""Observation errors: the built-in model, an experiment's own table, and the bias of single stations.

Sources, superobs, the cycle and the simulation call it. Put the errors of a new observation type in `model.ERRORS`.
"""
