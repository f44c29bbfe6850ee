"""The estimate of a forecast model's mean error: the recipe of `kind: bias`.

Trained methods remove the same estimate (`backgrounds.systematic_error`); with a file of its own a cycle can remove it
for any other method.
"""

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import ConfigDict, Field

from dacycle.assimilators.exceptions import RecipeError
from dacycle.assimilators.sampling.backgrounds import read_store, systematic_error
from dacycle.common.configuration import Strict, read_checked
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.worlds.model_bias import ModelBias
from dacycle.forecast_adapter.worlds.world import ANNUAL_TERMS, load_world

__all__ = ["BiasRecipe", "estimate_bias"]


class BiasRecipe(Strict):
    """Hold a recipe of `kind: bias`.

    Attributes:
        world, model: by name or path: the errors are of forecasts of this model, in this world.
        backgrounds: the folder of forecasts' errors that `dacycle backgrounds` made.
        years: those of the training.
    """

    model_config = ConfigDict(strict=True)

    kind: Literal["bias"]
    world: str
    model: str
    backgrounds: str
    years: list[int] = Field(min_length=1)


def estimate_bias(path: Path, out: Path, backgrounds: str | None = None) -> ModelBias:
    """Estimate the mean error of a recipe of `kind: bias`, write it to `out` (netCDF) and return it.

    Hours of the day are told apart where the world's climatology tells them apart.

    Args:
        path: the recipe.
        out: the file to write.
        backgrounds: folder of the errors, in place of the recipe's.

    Raises:
        RecipeError: the recipe is wrong, or the errors are of another model or grid.
    """
    recipe = read_checked(path, BiasRecipe, "a recipe", RecipeError)
    world, model = load_world(recipe.world), load_model(recipe.model)
    folder = Path(backgrounds or recipe.backgrounds)
    store = read_store(folder, world, recipe.years)
    if store.model != model.digest or not model.grid.matches(world.grid):
        raise RecipeError(
            f"{path}: backgrounds: {folder} holds errors of another model than {recipe.model}, or on another grid "
            f"({world.grid.name}) than its own ({model.grid.name}); make them anew with `dacycle backgrounds`"
        )
    daily = len(world.climatology.coefficients) > ANNUAL_TERMS
    coefficients = systematic_error(store, daily).astype(np.float32) * world.statistics.std[:, None, None]
    bias = ModelBias(coefficients, world.grid, model.digest, tuple(recipe.years), out.name)
    bias.save(out)
    return bias
