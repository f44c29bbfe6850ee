"""The methods `3dvar` and `4dvar` by name, with an experiment's settings."""

from pathlib import Path
from typing import TYPE_CHECKING

from dacycle.assimilators.base import Assimilator, AssimilatorError, check_fits, packaged_assimilators
from dacycle.assimilators.variational.covariance import Covariance
from dacycle.assimilators.variational.four_dimensional import FourDVar
from dacycle.assimilators.variational.settings import VariationalSettings
from dacycle.assimilators.variational.three_dimensional import ThreeDVar
from dacycle.forecast_adapter.channels import NAMES
from dacycle.forecast_adapter.models.gradient import load_gradient
from dacycle.forecast_adapter.models.model import ForecastModel

if TYPE_CHECKING:
    from dacycle.forecast_adapter.worlds.world import World

__all__ = ["load"]


def load(
    name: str,
    world: "World",
    settings: VariationalSettings | None = None,
    threads: int = 1,
    model: ForecastModel | None = None,
) -> Assimilator:
    """Load `3dvar` or `4dvar` for a world, with an experiment's settings; `model` is for `4dvar` only.

    Raises:
        AssimilatorError: the covariance is none, or was made for another grid, world or set of channels; `4dvar` has no
            model, or one on another grid.
        ModelFileError: the model has no gradient, which says how to make it.
    """
    settings = settings or VariationalSettings()
    path = packaged_assimilators().get(settings.covariance, Path(settings.covariance))
    covariance = Covariance.load(path)
    check_fits(path, grid=covariance.grid.name, world=covariance.world, channels=NAMES, target=world)
    if name == "3dvar":
        return ThreeDVar(covariance, settings, threads)
    if model is None:
        raise AssimilatorError("4dvar needs the model that its window is forecast with; run it in an experiment")
    if not model.grid.matches(covariance.grid):
        raise AssimilatorError(
            f"{path}: its grid is {covariance.grid.name}, but {model.name} runs on {model.grid.name}"
        )
    return FourDVar(covariance, settings, model, load_gradient(model, threads), threads)
