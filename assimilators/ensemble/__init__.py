"""Ensemble Kalman filters: assimilation by members that are carried from cycle to cycle.

`algebra` holds the equations as functions of arrays, `settings` what an experiment sets, and `filters` the methods
`letkf` and `hybrid`, which `base.load_assimilator` makes and `cycler.cycle.run_cycle` runs. Put another kind of
inflation into `algebra`, and another ensemble filter beside `filters`; it implements `base.EnsembleAssimilator`.
"""
