"""What the members of an ensemble are drawn from: the static ensemble of `oi`.

It gives the first members, and samples of the model's error that members get in each cycle: perturbations of the
initial state do not show what the model does wrong.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dacycle.assimilators.base import AssimilatorError, check_fits, packaged_assimilators
from dacycle.assimilators.classical.background_error import BackgroundError
from dacycle.assimilators.ensemble.algebra import limit_spread, spread
from dacycle.forecast_adapter.channels import NAMES

if TYPE_CHECKING:
    from dacycle.assimilators.ensemble.settings import EnsembleSettings
    from dacycle.forecast_adapter.worlds.world import World

__all__ = ["Draws", "load_static"]


class Draws:
    """Draw perturbations of N members from a static ensemble: the base of methods that carry members.

    Args:
        name: of the method, for errors.
        error: the static ensemble.
        settings: of the members.

    Raises:
        AssimilatorError: the static ensemble has fewer members than are wanted.
    """

    def __init__(self, name: str, error: BackgroundError, settings: "EnsembleSettings") -> None:
        self.size, self._error, self._additive = settings.members, error, np.float32(settings.additive)
        self._inflation = error.tuning.inflation_by_channel()[:, None, None]
        self._most_spread = spread(error.members)
        if self.size > len(error.members):
            raise AssimilatorError(
                f"{name}: {self.size} members, but the static ensemble {settings.static} that the first ones are "
                f"drawn from has {len(error.members)}"
            )

    def first_members(self, generator: np.random.Generator) -> NDArray[np.float32]:
        """Return perturbations (N, 69, H, W), SI, for both frames of a cold start: the static ensemble, inflated."""
        return self._draw(generator) * self._inflation

    def background(self, forecasts: NDArray, generator: np.random.Generator) -> tuple[NDArray, NDArray]:
        """Return the mean (69, H, W) of the members' forecasts (N, 69, H, W), and their perturbations.

        Where their spread is more than that of the static ensemble before inflation, which are errors of forecasts of
        days, they are made smaller: with few observations around, what a model amplifies would grow without end. Each
        perturbation has a sample of the model's error added.
        """
        mean = forecasts.mean(axis=0, dtype=np.float64).astype(np.float32)
        return mean, limit_spread(forecasts - mean, self._most_spread) + self._additive * self._draw(generator)

    def _draw(self, generator: np.random.Generator) -> NDArray[np.float32]:
        """Return N of the static members (N, 69, H, W), with random signs and without their mean."""
        chosen = generator.choice(len(self._error.members), self.size, replace=False)
        signs = generator.choice(np.array([-1, 1], np.float32), self.size)
        drawn = self._error.members[chosen] * signs[:, None, None, None]
        return drawn - drawn.mean(axis=0)


def load_static(name: str, world: "World") -> BackgroundError:
    """Read a static ensemble, a packaged one or a file, for a world.

    Raises:
        AssimilatorError: it is none, or was made for another grid, world or set of channels.
    """
    path = packaged_assimilators().get(name, Path(name))
    error = BackgroundError.load(path)
    check_fits(path, grid=error.grid.name, world=error.world, channels=NAMES, target=world)
    return error
