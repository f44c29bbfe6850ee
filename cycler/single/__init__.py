"""Single analyses outside a cycle: from files without a world, and of one observation.

`dacycle analyse` and `dacycle single-observation` call it. Put the next experiment with one analysis here.
"""
