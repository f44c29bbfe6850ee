"""The base of all errors that a user can mend."""

from typing import ClassVar

__all__ = ["DacycleError"]


class DacycleError(Exception):
    """Say what is wrong, where, and what mends it; the command line prints the message without a traceback.

    Every component derives its own errors from this class.

    Attributes:
        label: the word before the message.
        exit_status: of a command that ends with this error.
    """

    label: ClassVar[str] = "error"
    exit_status: ClassVar[int] = 2
