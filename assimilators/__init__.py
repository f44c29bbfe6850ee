"""From a background and gridded observations to an analysis: the methods, and the guarded step around them."""

from dacycle.assimilators import oi as oi  # registers its files' suffix
from dacycle.assimilators import trained as trained  # the same
from dacycle.assimilators.base import Analysis, Assimilator, AssimilatorError, known_assimilators, load_assimilator
from dacycle.assimilators.step import Guards, StepResult, assimilate

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
