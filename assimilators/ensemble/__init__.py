"""Methods with members that are carried from cycle to cycle.

`algebra` holds the equations of ensemble Kalman filters as functions of arrays, `filters` the methods `letkf` and
`hybrid`, and `perturbed` the ensemble of analyses of any other method. `static` holds what their members are drawn
from, and `settings` what an experiment sets. `base.load_assimilator` makes them and `cycler.cycle.run_cycle` runs them.
Put another kind of inflation into `algebra`, and another ensemble filter beside `filters`; it implements
`base.EnsembleAssimilator`.
"""
