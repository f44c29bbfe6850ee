"""What becomes of an archive over time: retention, backup, restoring, and the check that all of it is whole.

The service, the flows and `dacycle archive` call it. Put here what looks after archives as a whole; what a cycle needs
of one is in `archive/`.
"""
