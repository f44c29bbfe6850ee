"""Methods that make an analysis from a background and gridded observations, and the guarded step around them.

Put the next trained method into `networks`, the next classical one into `classical`; README.md says how.
"""

from dacycle.assimilators.base import Analysis, Assimilator, AssimilatorError, known_assimilators, load_assimilator
from dacycle.assimilators.step import StepGuards, StepResult, assimilate

__all__ = [
    "Analysis",
    "Assimilator",
    "AssimilatorError",
    "StepGuards",
    "StepResult",
    "assimilate",
    "known_assimilators",
    "load_assimilator",
]
