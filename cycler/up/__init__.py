"""`dacycle up`: everything that one machine needs to run experiments under Prefect, as processes that are looked after.

The command line calls `bring_up`. A further kind of process goes to `bring_up.py`, beside the database, the server and
the workers.
"""
