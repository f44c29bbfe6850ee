"""Relaxation of backgrounds towards the climate of their date.

Errors that nothing observes and that the model keeps stay in cycles for weeks, most of all in the tropics. What is left
of an error there goes along with the departure from climate, so that a step towards it makes the background better: a
correction that depends linearly on the state (Leith 1978, doi:10.1146/annurev.fl.10.010178.000543). A cycle knows the
date, which many models do not.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.forecast_adapter.channels import GROUPS
from dacycle.forecast_adapter.state import STEP
from dacycle.forecast_adapter.worlds.world import World

__all__ = ["Relaxation"]

TROPICS, BEYOND = 20.0, 30.0
"""Degrees of latitude: in the tropics as far as the first, elsewhere from the second on, and linear between them."""


@dataclass(frozen=True, eq=False)
class Relaxation:
    """Draw states towards a world's climatology.

    Attributes:
        world: whose climatology it is.
        rate: (H, 1) share of the departure from climate that one step of six hours takes away.
    """

    world: World
    rate: NDArray[np.float32]

    @classmethod
    def within(cls, world: World, tropics: pd.Timedelta, elsewhere: pd.Timedelta | None) -> "Relaxation":
        """Return the relaxation with these time scales; None: there is none elsewhere."""
        step = pd.Timedelta(STEP)
        inside, outside = step / tropics, 0.0 if elsewhere is None else step / elsewhere
        share = np.clip((BEYOND - np.abs(world.grid.latitude)) / (BEYOND - TROPICS), 0, 1)
        return cls(world, (outside + (inside - outside) * share)[:, None].astype(np.float32))

    def __call__(self, states: NDArray, time: np.datetime64) -> NDArray[np.float32]:
        """Return states (..., 69, H, W), SI, after a step that ends at `time`; humidity is at least 0."""
        drawn: NDArray[np.float32] = states + self.rate * (self.world.climatology.at(time) - states)
        humidity = drawn[..., GROUPS["q"], :, :]
        drawn[..., GROUPS["q"], :, :] = np.maximum(humidity, 0)
        return drawn
