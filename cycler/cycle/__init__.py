"""The cycle: load an experiment's inputs, collect observations, assimilate, forecast, commit.

Flows, the service and the command line call `replay.run_due_cycles`. Put the steps of every cycle here; code that only
verifies cycles belongs to `cycler.verification`.
"""
