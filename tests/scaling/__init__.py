"""Trials of long and parallel runs.

    python -m tests.scaling.year FOLDER             # 1464 cycles: memory, time a cycle and disk, as the run grows
    python -m tests.scaling.year FOLDER --prefect   # the same as the flow `hindcast`, and Prefect's database
    python -m tests.scaling.workers FOLDER          # two workers against one, in processes and on a Dask cluster
    python -m tests.scaling.states FOLDER           # committing and reading cycles at 0.25 degrees

The folder must be new. Progress is written to standard error; the table comes at the end, in Markdown, and is in
docs/scaling.md.
"""
