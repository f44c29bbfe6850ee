"""Verification of runs: errors by cycle, drift of forecasts, use of observations, consistency of errors.

Reports, comparisons and the command line call it. Put the next score of a run here; a score of two fields belongs to
`forecast_adapter.scores`.
"""
