"""Commands on files of states and observations: states, forecast, write, ingest, dataset, analyse.

`cycler.cli` collects them. Put the next command that reads or writes files for others here.
"""
