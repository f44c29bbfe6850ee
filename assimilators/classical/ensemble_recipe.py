"""The recipe of optimal interpolation's ensemble, `kind: oi`."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, field_validator

from dacycle.assimilators.base import AssimilatorError
from dacycle.assimilators.classical.background_error import BackgroundError, Tuning, estimate_background_error
from dacycle.assimilators.classical.settings import Inflation
from dacycle.common.configuration import Number, Strict, read_checked
from dacycle.forecast_adapter.grid import get_grid
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.physics import HALF_GLOBE_KM
from dacycle.forecast_adapter.worlds.reference import Reference
from dacycle.forecast_adapter.worlds.world import World, load_world

__all__ = ["EnsembleRecipe", "Leads", "estimate_from_recipe", "read_ensemble_recipe"]


def _whole_steps(leads: list[int]) -> list[int]:
    if any(lead < 6 or lead % 6 for lead in leads):
        raise ValueError("leads are multiples of 6 h, above 0")
    return leads


Leads = Annotated[list[int], Field(min_length=1), AfterValidator(_whole_steps)]
"""Leads of forecasts, h, multiples of 6."""


class EnsembleRecipe(Strict):
    """Hold a recipe of `kind: oi`: the arguments of `estimate_background_error`, with names in place of objects.

    Attributes:
        world, model: by name or path: the errors are of forecasts of this model, in the world's units.
        data: folder of the years, in WeatherBench2's schema.
        grid: of the increments, where it is coarser than the world's: experiments then say `assimilation_grid`.
        years: whose forecasts' errors the ensemble is drawn from.
        leads: of the forecasts, h, multiples of 6.
        members: of the ensemble.
        seed: of the draw.
        inflation: factor on the ensemble's deviations: one number, or one for each group of channels.
        distance_km: beyond which covariances are zero; at most half the globe.
        shift, block: see `background_error.Tuning`.
        olr: whether to fit an operator, so that OLR is assimilated.
    """

    model_config = ConfigDict(strict=True)

    kind: Literal["oi"]
    world: str
    model: str
    data: str
    grid: str | None = None
    years: list[int] = Field(min_length=1)
    leads: Leads
    members: int = Field(ge=2)
    seed: int
    inflation: Inflation
    distance_km: Number = Field(gt=0, le=HALF_GLOBE_KM)
    shift: Number = Field(default=0, ge=0, lt=180)
    block: int = Field(default=1, ge=1)
    olr: bool

    @field_validator("grid")
    @classmethod
    def _is_known(cls, grid: str | None) -> str | None:
        if grid is not None:
            get_grid(grid)
        return grid


def read_ensemble_recipe(path: Path) -> EnsembleRecipe:
    """Read and check a recipe of `kind: oi`.

    Raises:
        AssimilatorError: one line for each mistake, with file, line and key.
    """
    return read_checked(path, EnsembleRecipe, "a recipe", AssimilatorError)


def estimate_from_recipe(path: Path, out: Path, data: Path | str | None = None) -> BackgroundError:
    """Estimate the ensemble of a recipe of `kind: oi`, write it to `out` (netCDF) and return it.

    Args:
        path: the recipe.
        out: the file to write.
        data: folder of the reference, in place of the recipe's.
    """
    recipe = read_ensemble_recipe(path)
    world = _world(recipe, path)
    error = estimate_background_error(
        load_model(recipe.model),
        Reference(data or recipe.data),
        world,
        leads=recipe.leads,
        members=recipe.members,
        seed=recipe.seed,
        years=recipe.years,
        tuning=Tuning(recipe.inflation, recipe.distance_km, recipe.shift, recipe.block),
        olr=recipe.olr,
    )
    error.save(out)
    return error


def _world(recipe: EnsembleRecipe, path: Path) -> World:
    """Return the recipe's world, on the grid of its increments."""
    world = load_world(recipe.world)
    if recipe.grid is None:
        return world
    grid = get_grid(recipe.grid)
    if grid.spacing < world.grid.spacing:
        raise AssimilatorError(f"{path}: grid: {grid.name} is finer than {world.grid.name}, on which the world is")
    return world.on(grid)
