"""The cycle: load an experiment's inputs, collect observations, assimilate, forecast, commit.

Flows, the service and the command line call `replay.hindcast`. Put what belongs to every cycle here; what only judges
a cycle belongs to `cycler.verification`.
"""
