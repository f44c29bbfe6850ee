"""Steps that exports share: the check against torch, and the metadata of a training."""

from __future__ import annotations

from typing import Any

from dacycle.assimilators.exceptions import ExportError
from dacycle.assimilators.training.recipe import ForecastRecipe, OperatorRecipe

__all__ = ["PARITY_LIMIT", "check_parity", "training_metadata"]

PARITY_LIMIT = 1e-4
"""Largest difference between ONNX Runtime and torch, in standard deviations."""


def check_parity(difference: float, field: str) -> None:
    """Raise ExportError where a field differs from torch by more than `PARITY_LIMIT` standard deviations."""
    if not difference <= PARITY_LIMIT:
        raise ExportError(f"{field} differs from torch by {difference:.1e} standard deviations")


def training_metadata(recipe: ForecastRecipe | OperatorRecipe, record: dict[str, Any]) -> dict[str, Any]:
    """Return the `training` entry of a file's metadata, for a network that is trained in epochs alone."""
    return {
        "recipe": recipe.digest(),
        "years": recipe.training_years,
        "samples": record["samples"],
        "data_sha256": record["data"],
        "statistics": record["statistics"],
        "epochs": f"{record['epochs_done']} of {recipe.epochs}",
        "weights": record["weights"],
        "versions": record["versions"],
    }
