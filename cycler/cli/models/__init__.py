"""Commands on models, methods and worlds: list, train, export, judge, make worlds.

`cycler.cli` collects them. Put the next command about networks or worlds here.
"""
