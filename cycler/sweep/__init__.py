"""Sweeps: methods and settings, each run in the same cycles, and their table; the study's file says which.

`dacycle sweep` calls it: `study` reads the file, `run` runs what is not yet in the archive, `table` compares. A new key
of a study belongs in `study`, a new column in `table`.
"""
