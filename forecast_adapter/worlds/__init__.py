"""Worlds: a reference, its statistics, climatology and static fields, and the code that makes them.

Start at `world.load_world`; every experiment, recipe and benchmark names a world. The next way of making a reference
goes here, beside `nature` (the nature run) and `dataset` (a product).
"""
