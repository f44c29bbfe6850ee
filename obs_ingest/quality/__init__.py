"""Quality control: which values a cycle assimilates, which it withholds, and why it rejects the others.

`cycler.cycle.collect`, `cycler.single` and `assimilators.sampling` call `control.check`. Put the next check here, one
module for each kind, copied from `limits`, and call it from `control.check` in its order.
"""
