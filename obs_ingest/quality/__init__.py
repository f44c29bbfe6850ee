"""Quality control: which values a cycle assimilates, which it withholds, and why it rejects the others.

`cycler.cycle.collect`, `cycler.single` and `assimilators.sampling` call `control.check`. Put the next check here, one
module for each kind, copied from `limits`, and call it at its place in `control.check`.
"""
