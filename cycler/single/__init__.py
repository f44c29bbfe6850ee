"""Single analyses outside a cycle: from files without a world, and with one observation.

`dacycle analyse` and `dacycle single-observation` call it. The next kind of single analysis is a module here, like
`observation`.
"""
