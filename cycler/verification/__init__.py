"""Verification of runs: errors by cycle, drift of forecasts, use of observations, consistency of errors.

Reports, comparisons and the command line call it. The next score of a cycle is a column in `cycles`, the next score of
a forecast a column in `drift_scores`. A score that needs other sums over a run is a module like `usage`. A score of two
fields belongs to `forecast_adapter.scores`.
"""
