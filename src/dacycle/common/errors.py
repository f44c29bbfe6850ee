"""The base of all errors that a user can mend."""

__all__ = ["DacycleError"]


class DacycleError(Exception):
    """Say what is wrong, where, and what mends it; the command line prints the message without a traceback.

    Every component derives its own errors from this class. A command that ends with one has exit status 2.
    """
