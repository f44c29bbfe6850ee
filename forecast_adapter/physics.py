"""Physical constants and conversions: each stands here once, with its unit and its source.

A new constant or conversion goes here. Quantities are in SI units unless a name says otherwise. Geopotential is
`GRAVITY` times geopotential height. Some constants and formulas come in two versions, because a product or a method is
defined by one of them; the docstring of each says what uses it.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "CENTRES_WITH_KNOWN_HUMIDITY",
    "DEWPOINT_LAPSE_RATE",
    "DRY_AIR_GAS_CONSTANT",
    "EARTH_RADIUS_KM",
    "GRAVITY",
    "HALF_GLOBE_KM",
    "KAPPA",
    "KNOT",
    "LAPSE_RATE",
    "STANDARD_PRESSURE",
    "STANDARD_TEMPERATURE",
    "TROPOPAUSE_HEIGHT",
    "TROPOPAUSE_PRESSURE",
    "TROPOPAUSE_TEMPERATURE",
    "ZERO_CELSIUS",
    "dewpoint",
    "dewpoint_from_relative_humidity",
    "humidity_from_dewpoint",
    "humidity_from_relative_humidity",
    "saturation_vapour_pressure",
    "standard_altitude",
    "standard_pressure",
    "station_pressure_ratio",
    "virtual_temperature",
    "wind_components",
    "wind_direction",
]

GRAVITY = 9.80665
"""Standard gravity, m s-2 (WMO): geopotential = GRAVITY x geopotential height."""

EARTH_RADIUS_KM = 6371.0
"""Mean radius of the Earth, km; all distances are great circles, or chords, of this sphere."""

HALF_GLOBE_KM = 20015.0
"""Largest distance of two places on it, km."""

DRY_AIR_GAS_CONSTANT = 287.05
"""Specific gas constant of dry air, J kg-1 K-1 (ICAO standard atmosphere, 1993: 287.053)."""

KAPPA = 2 / 7
"""Gas constant over heat capacity at constant pressure, of dry air."""

ZERO_CELSIUS = 273.15
"""0 degrees Celsius, K."""

KNOT = 1852 / 3600
"""One knot, m s-1."""

LAPSE_RATE = 0.0065
"""Decrease of temperature with height in the troposphere of the standard atmosphere, K m-1."""

DEWPOINT_LAPSE_RATE = 0.0045
"""Decrease of dewpoint with height near the ground, K m-1, for simulated stations."""

STANDARD_TEMPERATURE, STANDARD_PRESSURE = 288.15, 101325.0
"""Temperature (K) and pressure (Pa) at sea level in the standard atmosphere (ICAO 1993)."""

TROPOPAUSE_HEIGHT, TROPOPAUSE_TEMPERATURE, TROPOPAUSE_PRESSURE = 11000, 216.65, 22632.0
"""Height (m), temperature (K) and pressure (Pa) where the standard atmosphere becomes isothermal (ICAO 1993)."""

_TRIPLE_POINT = 273.16
"""Temperature (K) at and above which relative humidity refers to saturation over water."""

_IFS_EPSILON = 0.621981
"""Ratio of the gas constants of dry air and water vapour in the IFS: for humidity from relative humidity."""

_EPSILON, _ONE_MINUS_EPSILON = 0.622, 0.378
"""The same ratio rounded, and 1 minus it: for humidity from dewpoint, and dewpoint from humidity."""

_BOLTON_PRESSURE, _BOLTON_FACTOR, _BOLTON_OFFSET = 611.2, 17.67, 243.5
"""Vapour pressure over water: 611.2 Pa exp(17.67 T / (T + 243.5)), T in degrees Celsius.

Bolton (1980, doi:10.1175/1520-0493(1980)108<1046:TCOEPT>2.0.CO;2), equation 10.
"""

# Relative humidity refers to water above the triple point, to ice below a temperature T_ice (K), and in between to a
# mix whose share of water is ((T - T_ice) / (T_0 - T_ice)) ** power: (T_ice, power) by the centre's GRIB code. NCEP:
# function FPVSNEW of its post-processing. ECMWF: IFS documentation, part IV, section 7.4.2.
_ICE_MIX = {"kwbc": (253.16, 1.0), "ecmf": (250.16, 2.0)}

CENTRES_WITH_KNOWN_HUMIDITY = frozenset(_ICE_MIX)
"""Centres (by their GRIB code) whose definition of relative humidity is known here."""


def saturation_vapour_pressure(temperature: NDArray[np.floating], centre: str) -> NDArray[np.floating]:
    """Return the saturation vapour pressure (Pa) that a centre's relative humidity refers to, from temperature (K).

    It is that over water at and above the triple point, over ice below 253.16 K (NCEP, `kwbc`) or 250.16 K (ECMWF,
    `ecmf`), and over a mix in between (linear at NCEP, quadratic at ECMWF). Coefficients are those of the IFS: Buck
    (1981) over water, Alduchov and Eskridge (1996) over ice.

    Raises:
        KeyError: the definition of another centre is not known here.
    """
    ice, power = _ICE_MIX[centre]
    above = temperature - _TRIPLE_POINT
    over_water = 611.21 * np.exp(17.502 * above / (temperature - 32.19))
    over_ice = 611.21 * np.exp(22.587 * above / (temperature + 0.7))
    share = np.clip((temperature - ice) / (_TRIPLE_POINT - ice), 0, 1) ** power
    return share * over_water + (1 - share) * over_ice


def humidity_from_relative_humidity(
    relative_humidity: NDArray[np.floating],
    temperature: NDArray[np.floating],
    pressure: NDArray[np.floating] | float,
    centre: str,
) -> NDArray[np.floating]:
    """Return specific humidity (kg/kg) from a centre's relative humidity, for its GRIB fields.

    q = eps e / (p - (1 - eps) e), where the vapour pressure e is the relative humidity's share of the saturation
    pressure and eps is 0.621981. Arrays are of one shape, or broadcast.

    Args:
        relative_humidity: per cent.
        temperature: K.
        pressure: Pa.
        centre: as for `saturation_vapour_pressure`.
    """
    vapour = relative_humidity / 100 * saturation_vapour_pressure(temperature, centre)
    return _IFS_EPSILON * vapour / (pressure - (1 - _IFS_EPSILON) * vapour)


def humidity_from_dewpoint(dewpoint: ArrayLike, pressure: ArrayLike) -> NDArray:
    """Return the specific humidity (kg/kg) of air with a dewpoint (K) at a pressure (Pa), for observations.

    q = eps e / (p - (1 - eps) e) with eps = 0.622 and Bolton's vapour pressure e over water. Arrays broadcast.
    """
    celsius = np.asarray(dewpoint, float) - ZERO_CELSIUS
    vapour = _BOLTON_PRESSURE * np.exp(_BOLTON_FACTOR * celsius / (celsius + _BOLTON_OFFSET))
    return _EPSILON * vapour / (np.asarray(pressure, float) - _ONE_MINUS_EPSILON * vapour)


def dewpoint(humidity: ArrayLike, pressure: ArrayLike, least: float | None = None) -> NDArray:
    """Return the dewpoint (K) of air with a specific humidity (kg/kg) at a pressure (Pa).

    This inverts `humidity_from_dewpoint`. Arrays broadcast.

    Args:
        humidity: above 0, or `least` given.
        pressure: Pa.
        least: humidity that the vapour pressure has at least, for a model whose humidity may be 0 or below.
    """
    q = np.asarray(humidity, float)
    moist = q if least is None else np.maximum(q, least)
    ratio = np.log(moist * np.asarray(pressure, float) / (_EPSILON + _ONE_MINUS_EPSILON * q) / _BOLTON_PRESSURE)
    return ZERO_CELSIUS + _BOLTON_OFFSET * ratio / (_BOLTON_FACTOR - ratio)


def dewpoint_from_relative_humidity(relative_humidity: ArrayLike, temperature: ArrayLike) -> NDArray:
    """Return the dewpoint (K) of air with a relative humidity over water (per cent, above 0) at a temperature (K).

    Vapour pressures are Bolton's, as in `humidity_from_dewpoint`.
    """
    celsius = np.asarray(temperature, float) - ZERO_CELSIUS
    ratio = _BOLTON_FACTOR * celsius / (celsius + _BOLTON_OFFSET) + np.log(np.asarray(relative_humidity, float) / 100)
    return ZERO_CELSIUS + _BOLTON_OFFSET * ratio / (_BOLTON_FACTOR - ratio)


def virtual_temperature(temperature: NDArray[np.floating], humidity: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the virtual temperature (K), T (1 + 0.608 q), from temperature (K) and specific humidity (kg/kg).

    All three arrays have the same shape.
    """
    return temperature * (1 + 0.608 * humidity)


def standard_pressure(altitude: ArrayLike) -> NDArray:
    """Return the pressure (Pa) at an altitude (m) of the standard atmosphere: what a flight level stands for."""
    height = np.asarray(altitude, float)
    with np.errstate(invalid="ignore"):
        below = STANDARD_PRESSURE * np.maximum(1 - LAPSE_RATE * height / STANDARD_TEMPERATURE, 0) ** (
            GRAVITY / (DRY_AIR_GAS_CONSTANT * LAPSE_RATE)
        )
        depth = GRAVITY * (height - TROPOPAUSE_HEIGHT) / (DRY_AIR_GAS_CONSTANT * TROPOPAUSE_TEMPERATURE)
        return np.where(height > TROPOPAUSE_HEIGHT, TROPOPAUSE_PRESSURE * np.exp(-depth), below)


def standard_altitude(pressure: ArrayLike) -> NDArray:
    """Return the altitude (m) of a pressure (Pa) in the standard atmosphere: the inverse of `standard_pressure`."""
    ratio = np.asarray(pressure, float) / STANDARD_PRESSURE
    below = STANDARD_TEMPERATURE / LAPSE_RATE * (1 - ratio ** (DRY_AIR_GAS_CONSTANT * LAPSE_RATE / GRAVITY))
    depth = -np.log(np.asarray(pressure, float) / TROPOPAUSE_PRESSURE)
    above = TROPOPAUSE_HEIGHT + depth * DRY_AIR_GAS_CONSTANT * TROPOPAUSE_TEMPERATURE / GRAVITY
    return np.where(np.asarray(pressure) < TROPOPAUSE_PRESSURE, above, below)


def station_pressure_ratio(elevation: ArrayLike, temperature: ArrayLike) -> NDArray:
    """Return pressure at a height (m) over pressure at sea level, from the temperature (K) of the air at that height.

    Below that height temperature rises by `LAPSE_RATE` (G) down to sea level: the ratio is the hydrostatic integral
    (T / (T + G z)) ** (g / (R G)), which is (1 - G z / (T + G z)) ** (g / (R G)). With the temperature of the standard
    atmosphere at the height it is that atmosphere's ratio.
    """
    at_height = np.asarray(temperature, float)
    sea_level = at_height + LAPSE_RATE * np.asarray(elevation, float)
    return (at_height / sea_level) ** (GRAVITY / (DRY_AIR_GAS_CONSTANT * LAPSE_RATE))


def wind_components(direction: NDArray, speed: NDArray) -> tuple[NDArray, NDArray]:
    """Return eastward and northward wind (m/s) from speed and the direction (degrees) that the wind blows from.

    All arrays have the same shape. A calm needs no direction.
    """
    angle = np.deg2rad(np.where(speed == 0, 0.0, direction))
    return -speed * np.sin(angle), -speed * np.cos(angle)


def wind_direction(u: ArrayLike, v: ArrayLike) -> NDArray:
    """Return the direction (degrees from north, 0 to below 360) that a wind (m/s) blows from; of a calm, any."""
    return np.rad2deg(np.arctan2(-np.asarray(u, float), -np.asarray(v, float))) % 360
