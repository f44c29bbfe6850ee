"""The cycle: load an experiment's inputs, collect observations, assimilate, forecast, commit.

Flows, the service and the command line call `replay.run_due_cycles`. Put here what belongs to every cycle; what only
verifies cycles belongs to `cycler.verification`.
"""
