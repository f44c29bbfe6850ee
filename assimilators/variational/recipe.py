"""The recipe of the variational methods' covariance, `kind: 3dvar`.

Its samples are errors of the backgrounds of another method's cycles, and errors of long forecasts, scaled down. Those
of cycles have the size of a cycle's errors in each place, those of forecasts the scales of errors that no observation
has corrected.
"""

import logging
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from dacycle.assimilators.base import Assimilator, AssimilatorError, load_assimilator
from dacycle.assimilators.classical.background_error import draw_forecast_errors, fit_olr_operator
from dacycle.assimilators.classical.ensemble_recipe import Leads
from dacycle.assimilators.exceptions import DataError
from dacycle.assimilators.sampling.cycles import DROPPED, LAG, CycledModel, run_chain
from dacycle.assimilators.sampling.observing import observing_of
from dacycle.assimilators.variational.covariance import Covariance
from dacycle.assimilators.variational.estimation import estimate_covariance
from dacycle.common.configuration import Number, Strict, read_checked
from dacycle.forecast_adapter.models.model import ForecastModel, load_model
from dacycle.forecast_adapter.worlds.reference import Reference
from dacycle.forecast_adapter.worlds.world import World, load_world

__all__ = ["CovarianceRecipe", "estimate_from_recipe"]

logger = logging.getLogger(__name__)

EVERY = 4
"""Of so many cycles one is a sample: errors of neighbouring ones are nearly the same."""


class CovarianceRecipe(Strict):
    """Hold a recipe of `kind: 3dvar`.

    Attributes:
        world, model: by name or path: the errors are of cycles with this model, in this world.
        data: folder of the years, in WeatherBench2's schema.
        years: that the chains of cycles go through.
        cycling: the method of these cycles, by name or file.
        observations: sources, as an experiment's, which are drawn from the data.
        chains, days: number of chains, spread evenly over the years, and their length; their first three days are left
            out.
        leads: of the forecasts, h, multiples of 6.
        forecasts: number of forecasts.
        forecast_size: factor on their errors.
        seed: of what is drawn.
        truncation: largest total wavenumber of the covariance.
        olr: whether to fit an operator, so that OLR is assimilated.
    """

    model_config = ConfigDict(strict=True)

    kind: Literal["3dvar"]
    world: str
    model: str
    data: str
    years: list[int] = Field(min_length=1)
    cycling: str
    observations: list[dict[str, Any]] = Field(min_length=1)
    chains: int = Field(ge=1)
    days: int = Field(ge=4)
    leads: Leads
    forecasts: int = Field(ge=0)
    forecast_size: Number = Field(gt=0)
    seed: int
    truncation: int = Field(ge=5)
    olr: bool


def estimate_from_recipe(path: Path, out: Path, data: Path | str | None = None) -> Covariance:
    """Estimate the covariance of a recipe of `kind: 3dvar`, write it to `out` (netCDF) and return it.

    Args:
        path: the recipe.
        out: the file to write.
        data: folder of the years, in place of the recipe's.

    Raises:
        AssimilatorError: the recipe is wrong, its truncation is finer than the grid, or there are too few samples.
        DataError: a year is too short for a chain.
    """
    recipe = read_checked(path, CovarianceRecipe, "a recipe", AssimilatorError)
    world, model, folder = load_world(recipe.world), load_model(recipe.model), Path(data or recipe.data)
    if recipe.truncation >= min(world.grid.shape[0], world.grid.shape[1] // 2):
        raise AssimilatorError(f"{path}: truncation: {recipe.truncation} is finer than the grid {world.grid.name}")
    cycling = load_assimilator(recipe.cycling, world)
    samples = np.concatenate(
        [
            sample_errors(cycling, model, world, Reference(folder / str(year)), recipe, chains, recipe.seed + year)
            for year, chains in zip(recipe.years, _shared_out(recipe.chains, len(recipe.years)), strict=True)
        ]
    )
    if recipe.forecasts:
        errors, _ = draw_forecast_errors(
            model, Reference(folder), world.grid, recipe.leads, recipe.forecasts, recipe.seed, recipe.years
        )
        samples = np.concatenate([samples, np.float32(recipe.forecast_size) * (errors - errors.mean(axis=0))])
    covariance = estimate_covariance(
        samples,
        world.grid,
        world.name,
        recipe.truncation,
        fit_olr_operator(Reference(folder), world.grid, recipe.years) if recipe.olr else None,
        model=model.name,
        model_digest=model.digest,
        cycling=cycling.name,
        cycling_digest=cycling.digest,
        years=recipe.years,
        chains=recipe.chains,
        days=recipe.days,
        leads=recipe.leads,
        forecasts=recipe.forecasts,
        forecast_size=recipe.forecast_size,
        seed=recipe.seed,
    )
    covariance.save(out)
    return covariance


def sample_errors(
    cycling: Assimilator,
    model: ForecastModel,
    world: World,
    reference: Reference,
    recipe: CovarianceRecipe,
    chains: int,
    seed: int,
) -> NDArray[np.float32]:
    """Return errors of the backgrounds of cycles, (S, 69, H, W) SI, of chains that are spread over a reference.

    Raises:
        DataError: the reference is shorter than a chain.
    """
    observing = observing_of(world, reference, recipe.observations)
    cycles, times = 4 * recipe.days, reference.times
    first, last = LAG + 2, len(times) - cycles
    if last < first:
        raise DataError(f"{reference.folder}: {len(times)} times are too few for a chain of {recipe.days} days")
    errors = []
    for number, start in enumerate(times[np.linspace(first, last, chains + 1)[:-1].astype(int)]):
        chain = list(run_chain(cycling, CycledModel(model), observing, start, cycles, seed + number))
        errors += [cycle.background - cycle.truth for cycle in chain[DROPPED::EVERY]]
        logger.info("%s: %d samples of cycles from %s on", reference.folder, len(chain[DROPPED::EVERY]), start)
    return np.stack(errors)


def _shared_out(chains: int, years: int) -> list[int]:
    """Return how many of the chains each year gets."""
    return [len(part) for part in np.array_split(np.arange(chains), years)]
