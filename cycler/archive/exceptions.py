"""The errors of everything that reads or writes an archive."""

from dacycle.common.errors import DacycleError

__all__ = ["ArchiveError", "NotInArchiveError"]


class ArchiveError(DacycleError, RuntimeError):
    """A request does not fit the archive, or the archive is damaged; the message says where and what to do."""


class NotInArchiveError(ArchiveError):
    """There is no archive, experiment or cycle of that name; the message says which there are."""
