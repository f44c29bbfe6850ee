"""The archive: transactional stores, branches, and the tables derived from them.

The cycle writes it; verification, reports and `dacycle.open` read it. Put the storage of other content here, and
nothing that computes a score.
"""
