"""The 69 channels of a state, in FengWu's order, with units and plausible ranges.

The order is `u10 v10 t2m msl`, then `z q u v t`, each on 13 pressure levels from 50 to 1000 hPa (FengWu's README
and released inference code). Other modules look channels up here by name.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dacycle.forecast_adapter.physics import GRAVITY

__all__ = [
    "CHANNELS",
    "CHANNEL_COUNT",
    "EXTRA_CHANNELS",
    "GROUPS",
    "HEADLINE",
    "LEVELS",
    "LOG_LEVELS",
    "NAMES",
    "PLANES",
    "WB2_NAMES",
    "Channel",
    "index",
    "nearest_level",
    "readable",
    "readable_variable",
]

LEVELS: tuple[int, ...] = (50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000)
"""Pressure levels in hPa, from the top of the atmosphere down."""

LOG_LEVELS: NDArray[np.float64] = np.log(np.array(LEVELS, float) * 100)
"""(13,) natural logarithm of the levels' pressure in Pa, in which quantities are interpolated in the vertical."""

WB2_NAMES: dict[str, str] = {
    "u10": "10m_u_component_of_wind",
    "v10": "10m_v_component_of_wind",
    "t2m": "2m_temperature",
    "msl": "mean_sea_level_pressure",
    "z": "geopotential",
    "q": "specific_humidity",
    "u": "u_component_of_wind",
    "v": "v_component_of_wind",
    "t": "temperature",
}
"""WeatherBench2's name by short variable name."""

PLANES: dict[str, str] = {"tp6h": "kg m-2", "olr": "W m-2", "q2m": "kg kg-1"}
"""Observation planes beyond the 69 channels, with their units: 6-h precipitation, mean OLR, humidity at 2 m."""


@dataclass(frozen=True)
class Channel:
    """One channel of a state.

    Attributes:
        name: short name with its level, e.g. `z500`.
        variable: short name without the level, e.g. `z`.
        level: pressure in hPa, or None at the surface.
        unit: SI unit.
        low, high: plausible limits: wide enough for the extremes of every level, narrow enough to catch hPa for Pa,
            degrees Celsius for kelvin and a geopotential height for a geopotential.
    """

    name: str
    variable: str
    level: int | None
    unit: str
    low: float
    high: float


# Standard-atmosphere heights (m) of the levels; the plausible height is within 20 %, and at least within 1100 m.
_HEIGHTS = (20576, 16180, 13608, 11784, 10363, 9164, 7185, 5574, 4206, 3012, 1457, 762, 111)


def _level_channel(variable: str, level: int, height: int) -> Channel:
    name = f"{variable}{level}"
    if variable == "z":
        margin = max(0.2 * height, 1100.0)
        return Channel(name, variable, level, "m2 s-2", GRAVITY * (height - margin), GRAVITY * (height + margin))
    if variable == "q":
        return Channel(name, variable, level, "kg kg-1", -1e-3, 0.05)
    if variable == "t":
        return Channel(name, variable, level, "K", 130.0, 345.0)
    return Channel(name, variable, level, "m s-1", -200.0, 200.0)


CHANNELS: tuple[Channel, ...] = (
    Channel("u10", "u10", None, "m s-1", -90.0, 90.0),
    Channel("v10", "v10", None, "m s-1", -90.0, 90.0),
    Channel("t2m", "t2m", None, "K", 170.0, 345.0),
    Channel("msl", "msl", None, "Pa", 85000.0, 112000.0),
    *(
        _level_channel(variable, level, height)
        for variable in ("z", "q", "u", "v", "t")
        for level, height in zip(LEVELS, _HEIGHTS, strict=True)
    ),
)
CHANNEL_COUNT = len(CHANNELS)
"""69, the number of channels of a state; a pair of frames has twice as many."""

EXTRA_CHANNELS: dict[str, Channel] = {
    "tp6h": Channel("tp6h", "tp6h", None, "kg m-2", -1.0, 2000.0),  # packing makes some of no rain negative
    "olr": Channel("olr", "olr", None, "W m-2", 20.0, 500.0),
    "td2m": Channel("td2m", "td2m", None, "K", 130.0, 335.0),
    "ps": Channel("ps", "ps", None, "Pa", 40000.0, 112000.0),
}
"""Surface fields beside the 69 channels, which some products and references hold."""

NAMES: list[str] = [channel.name for channel in CHANNELS]
HEADLINE: tuple[str, ...] = ("z500", "t850", "u500", "q700", "t2m", "msl")
GROUPS: dict[str, list[int]] = {
    "surface": [0, 1, 2, 3],
    **{v: [i for i, c in enumerate(CHANNELS) if c.variable == v and c.level] for v in ("z", "q", "u", "v", "t")},
}

_INDEX = {name: i for i, name in enumerate(NAMES)}


def nearest_level(pressure: ArrayLike) -> NDArray[np.intp]:
    """Return the position in `LEVELS` of the level nearest in log p to each pressure, Pa; of NaN any."""
    return np.searchsorted((LOG_LEVELS[1:] + LOG_LEVELS[:-1]) / 2, np.log(pressure))


def index(name: str) -> int:
    """Return the position of a channel, e.g. `index("z500") == 11`; raise KeyError for an unknown one."""
    try:
        return _INDEX[name]
    except KeyError:
        raise KeyError(
            f"unknown channel {name!r}; the channels are u10 v10 t2m msl and z q u v t with a level"
        ) from None


_READABLE = {"msl": (0.01, "hPa"), "ps": (0.01, "hPa"), "q": (1000.0, "g/kg")}
_UNITS = {"m2 s-2": "m²/s²", "m s-1": "m/s", "kg kg-1": "kg/kg", "K": "K", "Pa": "Pa"}


def readable(channel: str) -> tuple[float, str]:
    """Return the factor from SI and the name of the unit in which tables, figures and cards print a channel."""
    described = CHANNELS[index(channel)]
    return _READABLE.get(described.variable, (1.0, _UNITS[described.unit]))


def readable_variable(variable: str) -> tuple[float, str]:
    """Return the factor from SI and the name of the unit in which an observed variable is printed."""
    units = {"t2m": "K", "td2m": "K", "t": "K", "u": "m/s", "v": "m/s", "u10": "m/s", "v10": "m/s"}
    units |= {"z": "m²/s²", "tp": "kg/m²", "tp6h": "kg/m²", "olr": "W/m²"}
    return _READABLE.get(variable, (1.0, units.get(variable, "SI")))
