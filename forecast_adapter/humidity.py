"""Specific humidity from relative humidity, as the weather centres define it."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["DEFINED", "saturation_vapour_pressure", "specific_humidity"]

EPSILON = 0.621981
"""Ratio of the gas constants of dry air and water vapour."""

TRIPLE_POINT = 273.16
"""Temperature (K) at and above which relative humidity refers to saturation over water."""

# Relative humidity refers to water above the triple point, to ice below a temperature T_ice (K), and in
# between to a mix whose water share is ((T - T_ice) / (T_0 - T_ice)) ** power: (T_ice, power) by the GRIB
# code of the centre. NCEP: function FPVSNEW of its post-processing. ECMWF: IFS documentation, part IV,
# section 7.4.2.
_ICE_MIX = {"kwbc": (253.16, 1.0), "ecmf": (250.16, 2.0)}

DEFINED = frozenset(_ICE_MIX)
"""Centres (by their GRIB code) of which it is known what their relative humidity refers to."""


def saturation_vapour_pressure(temperature: NDArray[np.floating], centre: str) -> NDArray[np.floating]:
    """Saturation vapour pressure (Pa) that a centre's relative humidity refers to, from temperature (K).

    Over water at and above the triple point, over ice below 253.16 K (NCEP, `kwbc`) or 250.16 K (ECMWF,
    `ecmf`), over a mix in between (linear at NCEP, quadratic at ECMWF). Coefficients as in the IFS: Buck
    (1981) over water, Alduchov and Eskridge (1996) over ice.

    Raises:
        KeyError: another centre, whose definition is not known here.
    """
    ice, power = _ICE_MIX[centre]
    above = temperature - TRIPLE_POINT
    over_water = 611.21 * np.exp(17.502 * above / (temperature - 32.19))
    over_ice = 611.21 * np.exp(22.587 * above / (temperature + 0.7))
    share = np.clip((temperature - ice) / (TRIPLE_POINT - ice), 0, 1) ** power
    return share * over_water + (1 - share) * over_ice


def specific_humidity(
    relative_humidity: NDArray[np.floating],
    temperature: NDArray[np.floating],
    pressure: NDArray[np.floating] | float,
    centre: str,
) -> NDArray[np.floating]:
    """Specific humidity, kg/kg: q = eps e / (p - (1 - eps) e), e being the stated share of saturation.

    relative_humidity in per cent, temperature in K, pressure in Pa; centre as for the saturation pressure.
    """
    vapour = relative_humidity / 100 * saturation_vapour_pressure(temperature, centre)
    return EPSILON * vapour / (pressure - (1 - EPSILON) * vapour)
