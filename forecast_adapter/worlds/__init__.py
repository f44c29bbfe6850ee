"""Worlds: a reference, its statistics, climatology and static fields, and what makes them.

`world.load_world` is the way in; every experiment, recipe and benchmark names a world. Put the next way of making a
reference here, as `nature` (the nature run) and `dataset` (a product) are.
"""
