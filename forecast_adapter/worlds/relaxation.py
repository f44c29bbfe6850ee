"""Relaxation of backgrounds towards the climate of their date.

Errors that nothing observes and that the model keeps stay in cycles for weeks, most of all in the tropics. What is left
of an error there goes along with the departure from climate, so that a step towards it makes the background better: a
correction that depends linearly on the state (Leith 1978, doi:10.1146/annurev.fl.10.010178.000543). A cycle knows the
date, which many models do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import field_validator

from dacycle.common.configuration import Strict
from dacycle.forecast_adapter.channels import GROUPS
from dacycle.forecast_adapter.durations import Duration
from dacycle.forecast_adapter.state import STEP

if TYPE_CHECKING:
    from dacycle.forecast_adapter.worlds.world import World

__all__ = ["Relaxation", "RelaxationSettings", "relaxation_text"]

TROPICS, BEYOND = 20.0, 30.0
"""Degrees of latitude: in the tropics as far as the first, elsewhere from the second on, and linear between them."""


class RelaxationSettings(Strict):
    """Set how fast backgrounds of cycles are drawn towards the climate of their date."""

    tropics: Duration
    """Time scale within 20 degrees of the equator; from there to 30 degrees the rate changes to that of elsewhere."""
    elsewhere: Duration | None = None
    """Time scale from 30 degrees on; default: none."""

    @field_validator("tropics", "elsewhere")
    @classmethod
    def _at_least_a_step(cls, value: pd.Timedelta | None) -> pd.Timedelta | None:
        if value is not None and value < STEP:
            raise ValueError("a background is six hours old; give at least 6h")
        return value


def relaxation_text(settings: Mapping[str, str] | None) -> str:
    """Return settings, as a file holds them, in one line; `none` where there are none."""
    return "none" if settings is None else "{" + ", ".join(f"{key}: {value}" for key, value in settings.items()) + "}"


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
    def of(cls, world: World, settings: RelaxationSettings | None) -> Relaxation | None:
        """Return the relaxation with the time scales of settings; without settings there is none."""
        if settings is None:
            return None
        step = pd.Timedelta(STEP)
        inside, outside = step / settings.tropics, 0.0 if settings.elsewhere is None else step / settings.elsewhere
        share = np.clip((BEYOND - np.abs(world.grid.latitude)) / (BEYOND - TROPICS), 0, 1)
        return cls(world, (outside + (inside - outside) * share)[:, None].astype(np.float32))

    def __call__(self, states: NDArray, time: np.datetime64) -> NDArray[np.float32]:
        """Return states (..., 69, H, W), SI, after a step that ends at `time`; humidity is at least 0."""
        drawn: NDArray[np.float32] = states + self.rate * (self.world.climatology.at(time) - states)
        humidity = drawn[..., GROUPS["q"], :, :]
        drawn[..., GROUPS["q"], :, :] = np.maximum(humidity, 0)
        return drawn
