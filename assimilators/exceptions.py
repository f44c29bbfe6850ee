"""Errors that a user can mend, apart from the code that raises them: the command line knows them without torch."""

from dacycle.common.errors import DacycleError

__all__ = ["DataError", "ExportError", "RecipeError", "TrainingError"]


class RecipeError(DacycleError, ValueError):
    """Say which entry of a recipe is unknown, missing or impossible, with file and line."""


class DataError(DacycleError, ValueError):
    """Say which file, time and channel of the training data is missing, not finite or on another grid."""


class TrainingError(DacycleError, RuntimeError):
    """Say why a training cannot go on, or that a folder holds no run, and what to do next."""


class ExportError(DacycleError, RuntimeError):
    """Say where an exported graph differs from its network, or what is missing to judge it."""
