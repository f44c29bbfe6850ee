"""Observation errors: one standard deviation per variable, in two parts that a superob treats differently.

The **instrument** error is independent from station to station and averages out; the **representativeness** error, what
a point knows that a grid cell does not, is common to the stations of a cell and does not. The figures are of the size
that operational centres assign to SYNOP, TEMP and broadband OLR values; their representativeness is that of cells of
5.625 degrees, and `representativeness_factor` brings it to other grids. Sources state these errors whatever the grid;
`error_table` makes of them those of an experiment.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dacycle.forecast_adapter.channels import LOG_LEVELS

__all__ = [
    "ERRORS",
    "LOCAL_SHARE",
    "OLR_PERIOD_ERROR",
    "REFERENCE_SPACING",
    "ErrorModel",
    "Profile",
    "period_variance",
    "representativeness_factor",
    "standard_error",
]

Profile = float | tuple[float, ...]


@dataclass(frozen=True)
class ErrorModel:
    """Errors of one variable: variance = absolute^2 + (relative * value)^2, for each of the two parts.

    Attributes:
        instrument, representativeness: absolute parts, SI; one number, or one per level of `LEVELS` (50 to 1000 hPa).
        relative_instrument, relative_representativeness: fractions of the value; likewise.
    """

    instrument: Profile
    representativeness: Profile
    relative_instrument: Profile = 0.0
    relative_representativeness: Profile = 0.0

    def variances(self, value: ArrayLike, pressure: ArrayLike) -> tuple[NDArray, NDArray]:
        """Instrument and representativeness variance of `value` (SI) at `pressure` (Pa; unused at the surface)."""
        squared = np.square(np.asarray(value, float))
        return (
            np.square(_at(self.instrument, pressure)) + np.square(_at(self.relative_instrument, pressure)) * squared,
            np.square(_at(self.representativeness, pressure))
            + np.square(_at(self.relative_representativeness, pressure)) * squared,
        )

    def instrument_share(self, value: ArrayLike, pressure: ArrayLike = np.nan) -> NDArray:
        """The instrument's share of the variance, in [0, 1]: how a given total error divides into the two parts."""
        instrument, representativeness = self.variances(value, pressure)
        return instrument / (instrument + representativeness)


# fmt: off
_WIND = ErrorModel(
    (1.5, 1.5, 1.5, 1.5, 1.5, 1.4, 1.2, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
    (1.8, 1.8, 2.0, 2.3, 2.5, 2.5, 2.2, 2.0, 1.8, 1.7, 1.7, 1.8, 1.8),
)
ERRORS: dict[str, ErrorModel] = {
    "t2m": ErrorModel(0.3, 1.2),
    "td2m": ErrorModel(0.5, 1.5),
    "msl": ErrorModel(30.0, 80.0),
    "ps": ErrorModel(30.0, 80.0),
    "u10": ErrorModel(0.7, 1.7),
    "v10": ErrorModel(0.7, 1.7),
    "tp": ErrorModel(0.2, 0.5, 0.1, 0.5),
    "olr": ErrorModel(4.0, 6.0),
    "z": ErrorModel(
        (200.0, 150.0, 130.0, 110.0, 100.0, 90.0, 70.0, 60.0, 50.0, 40.0, 35.0, 30.0, 25.0),
        (150.0, 130.0, 120.0, 120.0, 110.0, 100.0, 90.0, 80.0, 70.0, 60.0, 60.0, 60.0, 60.0),
    ),
    "q": ErrorModel(
        (5e-8, 1e-7, 2e-7, 1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 4e-5, 5e-5, 8e-5, 1e-4, 1e-4),
        (1e-7, 2e-7, 5e-7, 2e-6, 5e-6, 1e-5, 3e-5, 6e-5, 1e-4, 1.5e-4, 2.5e-4, 3e-4, 3e-4),
        0.08, 0.15,
    ),
    "u": _WIND,
    "v": _WIND,
    "t": ErrorModel(
        (0.7, 0.6, 0.5, 0.5, 0.5, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4),
        (1.0, 0.9, 0.8, 0.8, 0.7, 0.6, 0.5, 0.5, 0.6, 0.7, 0.9, 1.0, 1.1),
    ),
}
# fmt: on
OLR_PERIOD_ERROR = 0.7
"""W/m2 for each hour by which the period of a mean differs from the six hours that the OLR plane stands for.

For a day it makes 13 W/m2: half of what one day's mean differs from the next one's in NOAA's daily record, the share
that it was in the nature run, where the difference grew in proportion to the hours.
"""
REFERENCE_SPACING = 5.625
"""Degrees between the rows of the grid for which `ERRORS` states representativeness."""

LOCAL_SHARE: dict[str, float] = dict.fromkeys(("t2m", "td2m", "u10", "v10", "tp"), 0.5)
"""Share of the representativeness variance that is the site's own (shelter, slope, coast, a shower).

A judgement; for it speaks that a grid of 0.56 degrees leaves 1.25 K to European stations (`docs/real-input.md`).
"""


def _at(profile: Profile, pressure: ArrayLike) -> ArrayLike:
    """The profile at each pressure, linear in log p, constant beyond its ends."""
    if isinstance(profile, tuple):
        return np.interp(np.log(np.asarray(pressure, float)), LOG_LEVELS, profile)
    return profile


def standard_error(variable: str, value: ArrayLike, pressure: ArrayLike = np.nan) -> NDArray:
    """Total standard deviation of an observed value (SI, any shape that broadcasts with `pressure` in Pa)."""
    instrument, representativeness = ERRORS[variable].variances(value, pressure)
    return np.sqrt(instrument + representativeness)


def period_variance(period: ArrayLike) -> NDArray:
    """(W/m2)^2 that a mean of OLR over `period` hours is wrong by as one over six hours; the same for a whole cell."""
    return np.square(OLR_PERIOD_ERROR * (np.asarray(period, float) - 6))


def representativeness_factor(variable: str, spacing: float) -> float:
    """By how much representativeness (one standard deviation) is larger on a grid of `spacing` degrees than at 5.625.

    Its variance is that of the scales below the grid's. From a few hundred kilometres downwards spectra of wind and
    temperature fall as k^(-5/3) (Nastrom and Gage 1985, doi:10.1175/1520-0469(1985)042<0950:ACOAWS>2.0.CO;2): squared
    differences grow with the distance to the power 2/3, and so does that variance; for the concept see Janjic et al.
    (2018, doi:10.1002/qj.3130). `LOCAL_SHARE` of it stays. Smooth fields such as pressure lose more than this on finer
    grids, where the factor is on the safe side.
    """
    local = LOCAL_SHARE.get(variable, 0.0)
    return float(np.sqrt(local + (1 - local) * (spacing / REFERENCE_SPACING) ** (2 / 3)))
