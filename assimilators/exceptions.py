"""What a user can mend in a training or an export; apart, so that the command line knows them without torch."""

from dacycle.common.errors import DacycleError

__all__ = ["DataError", "ExportError", "RecipeError", "TrainingError"]


class RecipeError(DacycleError, ValueError):
    """A recipe has an unknown, missing or impossible entry; names the file and the entry."""


class DataError(DacycleError, ValueError):
    """Training data are incomplete, not finite, or on another grid; says which file, time and channel."""


class TrainingError(DacycleError, RuntimeError):
    """Training cannot go on, or a folder holds no run; says what to do next."""


class ExportError(DacycleError, RuntimeError):
    """An exported graph does not compute what the network does, or there is nothing to judge it with."""
