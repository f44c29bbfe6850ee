"""Commands on experiments and archives: run, operate, verify, compare, benchmark.

`cycler.cli` collects them. Put the next command that names an experiment or an archive here.
"""
