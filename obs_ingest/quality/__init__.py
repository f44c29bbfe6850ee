"""Quality control: which values a cycle assimilates, which it withholds, and why it rejects the others.

`cycler.cycle.collect` and `assimilators.sampling` call `control.check`. Put the next check here, one module a kind,
and call it from `control` in its order.
"""
