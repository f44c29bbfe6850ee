"""Observation errors: one standard deviation per variable, in parts that a superob treats differently.

The **instrument** error is independent from station to station and averages out. The **representativeness** error is
the difference between a point and its grid cell. A share of its variance is common to the stations of a cell and does
not average out; the rest is each station's own and does. Superobs state errors by this model, and simulated sources
draw theirs by it (`simulation.errors`).

The sizes are those that operational centres assign to SYNOP, TEMP and broadband OLR values. The representativeness is
that of cells of 5.625 degrees, which `representativeness_factor` and `shared_factor` convert to other grids. Sources
state these errors whatever the grid; `table` turns them into those of an experiment.

The shared part is measured on genuine fields (docs/real-input.md): ERA5 of 1 degree and ERA-Interim of 1.5 degrees,
averaged to 5.625 degrees and interpolated to the packaged stations. The errors of two stations of a cell have a
correlation of 0.2 in t2m and 10-m wind, 0.1 in precipitation, 0.4 in msl, and 0.35 in t, u and v aloft. `LOCAL_SHARE`,
which such fields do not resolve, is the station's own. The points of an OLR product share their errors: the conversion
to broadband and the hours of the overpasses depend on the scene.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dacycle.forecast_adapter.channels import LEVELS, LOG_LEVELS
from dacycle.forecast_adapter.grid import interpolate_to_points
from dacycle.forecast_adapter.worlds.world import World
from dacycle.obs_ingest.table import LEVEL_VARIABLES

__all__ = [
    "ERRORS",
    "FORMER_KIND",
    "HUMIDITY_TOP",
    "KIND",
    "KINDS",
    "LOCAL_SHARE",
    "OLR_PERIOD_ERROR",
    "REFERENCE_SPACING",
    "ErrorModel",
    "Profile",
    "errors_of",
    "level_errors",
    "level_parts",
    "period_variance",
    "representativeness_factor",
    "shared_factor",
    "standard_error",
]

Profile = float | tuple[float, ...]


@dataclass(frozen=True)
class ErrorModel:
    """Errors of one variable: variance = absolute^2 + (relative * value)^2, for each of the two parts.

    Attributes:
        instrument, representativeness: absolute parts, SI; one number, or one per level of `LEVELS` (50 to 1000 hPa).
        relative_instrument, relative_representativeness: fractions of the value; likewise.
        shared: share of the representativeness variance that is common to the stations of a cell, 0 to 1; likewise.
        shared_instrument: the same share of the instrument variance; above 0 where one instrument sees a whole cell.
    """

    instrument: Profile
    representativeness: Profile
    relative_instrument: Profile = 0.0
    relative_representativeness: Profile = 0.0
    shared: Profile = 0.3
    shared_instrument: Profile = 0.0

    def variances(self, value: ArrayLike, pressure: ArrayLike) -> tuple[NDArray, NDArray]:
        """Return instrument and representativeness variance (n,) of values (n,), SI, at pressures (n,), Pa or NaN."""
        squared = np.square(np.asarray(value, float))
        return (
            np.square(_at(self.instrument, pressure)) + np.square(_at(self.relative_instrument, pressure)) * squared,
            np.square(_at(self.representativeness, pressure))
            + np.square(_at(self.relative_representativeness, pressure)) * squared,
        )

    def parts(self, value: ArrayLike, pressure: ArrayLike = np.nan) -> tuple[NDArray, NDArray]:
        """Return the variance that the stations of a cell share, and that which is each station's own."""
        instrument, representativeness = self.variances(value, pressure)
        shared = np.multiply(_at(self.shared, pressure), representativeness)
        shared = shared + np.multiply(_at(self.shared_instrument, pressure), instrument)
        return shared, instrument + representativeness - shared


# fmt: off
_WIND = ErrorModel(
    (1.5, 1.5, 1.5, 1.5, 1.5, 1.4, 1.2, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
    (1.8, 1.8, 2.0, 2.3, 2.5, 2.5, 2.2, 2.0, 1.8, 1.7, 1.7, 1.8, 1.8),
)
_TEMPERATURE = ErrorModel(
    (0.7, 0.6, 0.5, 0.5, 0.5, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4),
    (1.0, 0.9, 0.8, 0.8, 0.7, 0.6, 0.5, 0.5, 0.6, 0.7, 0.9, 1.0, 1.1),
)
_HUMIDITY = ErrorModel(
    (5e-8, 1e-7, 2e-7, 1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 4e-5, 5e-5, 8e-5, 1e-4, 1e-4),
    (1e-7, 2e-7, 5e-7, 2e-6, 5e-6, 1e-5, 3e-5, 6e-5, 1e-4, 1.5e-4, 2.5e-4, 3e-4, 3e-4),
    0.08, 0.15,
)
ERRORS: dict[str, ErrorModel] = {
    "t2m": ErrorModel(0.3, 1.2, shared=0.1),
    "td2m": ErrorModel(0.5, 1.5, shared=0.1),
    "msl": ErrorModel(30.0, 80.0, shared=0.4),
    "ps": ErrorModel(30.0, 80.0, shared=0.4),
    "u10": ErrorModel(0.7, 1.7, shared=0.1),
    "v10": ErrorModel(0.7, 1.7, shared=0.1),
    "tp": ErrorModel(0.2, 0.5, 0.1, 0.5, shared=0.05),
    "olr": ErrorModel(4.0, 6.0, shared=1.0),
    "z": ErrorModel(
        (200.0, 150.0, 130.0, 110.0, 100.0, 90.0, 70.0, 60.0, 50.0, 40.0, 35.0, 30.0, 25.0),
        (150.0, 130.0, 120.0, 120.0, 110.0, 100.0, 90.0, 80.0, 70.0, 60.0, 60.0, 60.0, 60.0),
    ),
    "q": _HUMIDITY,
    "u": _WIND,
    "v": _WIND,
    "t": _TEMPERATURE,
}
KINDS: dict[str, dict[str, ErrorModel]] = {
    "marine": {
        "t2m": ErrorModel(1.0, 1.2, shared=0.1),
        "td2m": ErrorModel(1.2, 1.5, shared=0.1),
        "msl": ErrorModel(100.0, 80.0, shared=0.4),
        "ps": ErrorModel(100.0, 80.0, shared=0.4),
        "u10": ErrorModel(2.0, 1.7, shared=0.1),
        "v10": ErrorModel(2.0, 1.7, shared=0.1),
    },
    "aircraft": {
        "t": ErrorModel(0.9, _TEMPERATURE.representativeness),
        "q": replace(_HUMIDITY, relative_instrument=0.12),
        **dict.fromkeys(("u", "v"), ErrorModel(1.8, _WIND.representativeness)),
    },
    "motion vectors": dict.fromkeys(
        ("u", "v"),
        ErrorModel(
            (5.0, 5.0, 5.0, 5.0, 5.0, 4.6, 4.0, 2.5, 2.2, 2.0, 1.9, 1.9, 1.9),
            _WIND.representativeness,
            shared_instrument=0.5,
        ),
    ),
}
# fmt: on
"""Errors of reports that are not of stations or radiosondes, by kind; variables not named have `ERRORS`.

They are set so that the whole error is near that of NCEP's table for these types (as NCAR's DART lists it): at sea
1.6 hPa, 2.5 K and 2.5 m/s; of aircraft 1 to 1.5 K and 2.5 m/s; of motion vectors 1.8 m/s near the ground, 5 m/s aloft.
The representativeness is that of `ERRORS`. A motion vector's error is that of its height and of its tracer, which
neighbours share: such errors are correlated over several hundred kilometres (Bormann et al. 2003, Monthly Weather
Review 131, 706-718), and half of the variance is taken as common to a cell.
"""
OLR_PERIOD_ERROR = 0.7
"""W/m2 for each hour by which the period of a mean differs from the six hours of the OLR plane.

For a day it is 12.6 W/m2. In the nature run (2023) the mean over the 24, 18 or 12 hours that end at a time differs from
that over the last six by 6.9, 5.1 or 2.9 W/m2 (rms), in proportion to the hours. The first is 0.54 of the difference
between the means of two days in a row, which is 12.8 W/m2. In NOAA's daily record that difference is 25 W/m2 (35 points
of 1 degree, tropics and subtropics, 2000 to 2005), and 0.54 of it is 13 W/m2. Averages over large cells vary less, and
the nature run has no diurnal cycle.
"""
KIND = "drawn and stated with a part of the representativeness that the stations of a cell share"
FORMER_KIND = "drawn independently at every station, stated in superobs as if a cell shared all representativeness"
"""What the card of a method says of the observation errors that it was trained with."""
REFERENCE_SPACING = 5.625
"""Degrees between the rows of the grid for which `ERRORS` states representativeness."""

LOCAL_SHARE: dict[str, float] = dict.fromkeys(("t2m", "td2m", "u10", "v10", "tp"), 0.5)
"""Share of the representativeness variance that is the site's own (shelter, slope, coast, a shower).

An estimate, supported by the 1.25 K that remain at European stations on a 0.56-degree grid (`docs/real-input.md`).
"""
HUMIDITY_TOP = 20000.0
"""Pa; humidity above this level is not used, because sensors cannot measure it there."""


def _at(profile: Profile, pressure: ArrayLike) -> ArrayLike:
    """Return the profile at each pressure, linear in log p, constant beyond its ends."""
    if isinstance(profile, tuple):
        return np.interp(np.log(np.asarray(pressure, float)), LOG_LEVELS, profile)
    return profile


def errors_of(kind: str, variable: str) -> ErrorModel:
    """Return the built-in errors of a variable in reports of a kind of `KINDS`; of other kinds the usual ones."""
    return KINDS.get(kind, {}).get(variable, ERRORS[variable])


def standard_error(variable: str, value: ArrayLike, pressure: ArrayLike = np.nan, kind: str = "") -> NDArray:
    """Return the total error (one standard deviation) of values (SI), of a shape that broadcasts with pressure (Pa).

    Args:
        variable: its name.
        value: SI.
        pressure: Pa; NaN at the surface.
        kind: whose errors, see `errors_of`.
    """
    instrument, representativeness = errors_of(kind, variable).variances(value, pressure)
    return np.sqrt(instrument + representativeness)


def level_errors(world: World, time: np.datetime64, latitude: NDArray, longitude: NDArray) -> NDArray[np.float64]:
    """Return the errors (5, 13, n) of z, q, u, v, t on the standard levels above n places; see `level_parts`."""
    return np.sqrt(sum(level_parts(world, time, latitude, longitude)))


def level_parts(
    world: World, time: np.datetime64, latitude: NDArray, longitude: NDArray
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the shared and own variances (5, 13, n) of z, q, u, v, t above n places at a time of the year.

    The error of humidity is proportional to the season's mean humidity there. If it were proportional to the observed
    value, dry errors would weigh more than moist ones.
    """
    usual = interpolate_to_points(world.climatology.at(time)[4:], world.grid, latitude, longitude).astype(float)
    usual = usual.reshape(len(LEVEL_VARIABLES), len(LEVELS), -1)
    pressure = np.array(LEVELS, float)[:, None] * 100
    shared, own = zip(*(ERRORS[v].parts(x, pressure) for v, x in zip(LEVEL_VARIABLES, usual, strict=True)), strict=True)
    return np.stack(shared), np.stack(own)


def period_variance(period: ArrayLike) -> NDArray:
    """Return the variance, (W/m2)^2, added to a mean of OLR over `period` hours that stands for six; cells share it."""
    return np.square(OLR_PERIOD_ERROR * (np.asarray(period, float) - 6))


def representativeness_factor(variable: str, spacing: float) -> float:
    """Return the ratio of representativeness (one standard deviation) at `spacing` degrees to that at 5.625 degrees.

    The variance is that of the scales below the grid's. From a few hundred kilometres downwards spectra of wind and
    temperature fall as k^(-5/3) (Nastrom and Gage 1985, doi:10.1175/1520-0469(1985)042<0950:ACOAWS>2.0.CO;2): squared
    differences grow with the distance to the power 2/3, and so does the variance; for the concept see Janjic et al.
    (2018, doi:10.1002/qj.3130). `LOCAL_SHARE` of it does not depend on the grid. Smooth fields such as pressure lose
    more than this on finer grids, so that the factor is an upper bound for them.
    """
    local = LOCAL_SHARE.get(variable, 0.0)
    return float(np.sqrt(local + (1 - local) * _resolved(spacing)))


def shared_factor(variable: str, spacing: float) -> float:
    """Return the ratio of `ErrorModel.shared` at `spacing` degrees to that at 5.625 degrees.

    `LOCAL_SHARE` is the station's own on any grid; of the rest the shared part is the same.
    """
    return _resolved(spacing) / representativeness_factor(variable, spacing) ** 2


def _resolved(spacing: float) -> float:
    return float((spacing / REFERENCE_SPACING) ** (2 / 3))
