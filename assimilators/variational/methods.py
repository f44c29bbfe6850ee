"""The methods `3dvar` and `4dvar` by name, with an experiment's settings."""

from pathlib import Path
from typing import TYPE_CHECKING

from dacycle.assimilators.base import Assimilator, AssimilatorError, check_fits, packaged_assimilators
from dacycle.assimilators.variational.covariance import Covariance
from dacycle.assimilators.variational.four_dimensional import FourDVar
from dacycle.assimilators.variational.olr import Learned
from dacycle.assimilators.variational.settings import VariationalSettings
from dacycle.assimilators.variational.three_dimensional import ThreeDVar, ThreeDVarWithPast
from dacycle.forecast_adapter.channels import NAMES
from dacycle.forecast_adapter.models.gradient import load_gradient
from dacycle.forecast_adapter.models.model import ForecastModel
from dacycle.obs_ingest.operators.learned import LearnedOperator

if TYPE_CHECKING:
    from dacycle.forecast_adapter.worlds.world import World

__all__ = ["load"]


def load(
    name: str,
    world: "World",
    settings: VariationalSettings | None = None,
    threads: int = 1,
    model: ForecastModel | None = None,
    operator: LearnedOperator | None = None,
) -> Assimilator:
    """Load `3dvar` or `4dvar` for a world, with an experiment's settings.

    Args:
        name: of the method.
        world: whose states it corrects.
        settings: of the cost function.
        threads: of its products.
        model: for `4dvar` only.
        operator: of OLR, for `olr: learned` only.

    Raises:
        AssimilatorError: the covariance is none, or was made for another grid, world or set of channels; `4dvar` has no
            model, or one on another grid; `olr: learned` has no operator.
        ModelFileError: the model or the operator has no gradient, which says how to make it.
    """
    settings = settings or VariationalSettings()
    path = packaged_assimilators().get(settings.covariance, Path(settings.covariance))
    covariance = Covariance.load(path)
    check_fits(path, grid=covariance.grid.name, world=covariance.world, channels=NAMES, target=world)
    olr = _learned(settings, operator, threads) if settings.olr == "learned" else None
    if name == "3dvar":
        return (ThreeDVar if olr is None else ThreeDVarWithPast)(covariance, settings, threads, olr)
    if model is None:
        raise AssimilatorError("4dvar needs the model that its window is forecast with; run it in an experiment")
    if not model.grid.matches(covariance.grid):
        raise AssimilatorError(
            f"{path}: its grid is {covariance.grid.name}, but {model.name} runs on {model.grid.name}"
        )
    return FourDVar(covariance, settings, model, load_gradient(model, threads), threads, olr)


def _learned(settings: VariationalSettings, operator: LearnedOperator | None, threads: int) -> Learned:
    if operator is None:
        raise AssimilatorError("variational.olr: learned, but there is no learned operator; leave it out")
    return Learned(operator, load_gradient(operator, threads), settings.olr_inflation)
