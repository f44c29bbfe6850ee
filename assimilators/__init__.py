"""From a background and gridded observations to an analysis: the methods, and the guarded step around them."""

from dacycle.assimilators.base import Analysis, Assimilator, AssimilatorError, known_assimilators, load_assimilator
from dacycle.assimilators.classical import oi as oi  # registers the suffix of its files
from dacycle.assimilators.step import Guards, StepResult, assimilate
from dacycle.assimilators.trained import network as network  # the same

__all__ = [
    "Analysis",
    "Assimilator",
    "AssimilatorError",
    "Guards",
    "StepResult",
    "assimilate",
    "known_assimilators",
    "load_assimilator",
]
