"""Physical conversions against published tables, independent formulas and their own inverses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from dacycle.forecast_adapter.physics import (
    dewpoint,
    humidity_from_dewpoint,
    humidity_from_relative_humidity,
    saturation_vapour_pressure,
)

MIXES = {"kwbc": (253.16, 1), "ecmf": (250.16, 2)}
"""By centre: temperature (K) of pure ice, and power of the water share (NCEP's post-processing; IFS documentation)."""


def over_water(t: float) -> float:
    """Return the saturation vapour pressure (Pa) over water: Murphy and Koop (2005, doi:10.1256/qj.04.94), eq. 10."""
    low = 54.842763 - 6763.22 / t - 4.210 * np.log(t) + 0.000367 * t
    high = 53.878 - 1331.22 / t - 9.44523 * np.log(t) + 0.014025 * t
    return np.exp(low + np.tanh(0.0415 * (t - 218.8)) * high)


def over_ice(t: float) -> float:
    """Return the saturation vapour pressure (Pa) over ice: Murphy and Koop (2005), equation 7."""
    return np.exp(9.550426 - 5723.265 / t + 3.53068 * np.log(t) - 0.00728332 * t)


@pytest.mark.parametrize("centre", ["kwbc", "ecmf"])
@pytest.mark.parametrize(
    ("celsius", "pascals"), [(30, 4246.0), (20, 2338.8), (0.01, 611.66), (-40, 12.84), (-60, 1.080)]
)
def test_published_saturation_pressures(centre: str, celsius: float, pascals: float) -> None:
    """The tables are over water above freezing, and over ice well below it (Smithsonian Meteorological Tables)."""
    assert saturation_vapour_pressure(np.array(celsius + 273.15), centre) == pytest.approx(pascals, rel=4e-3)


@pytest.mark.parametrize("centre", ["kwbc", "ecmf"])
@pytest.mark.parametrize("temperature", [245.0, 251.5, 253.0, 256.0, 259.0, 262.0, 265.0, 268.0, 271.0, 280.0])
def test_the_mix_of_water_and_ice_is_the_centres(centre: str, temperature: float) -> None:
    """Another power, or another temperature of pure ice, is off by more than 1 % at some of these temperatures."""
    pure_ice, power = MIXES[centre]
    water = min(max((temperature - pure_ice) / (273.16 - pure_ice), 0.0), 1.0) ** power
    expected = water * over_water(temperature) + (1 - water) * over_ice(temperature)
    assert saturation_vapour_pressure(np.array(temperature), centre) == pytest.approx(expected, rel=2.5e-3)


@given(st.floats(180, 320), st.floats(0.01, 5), st.sampled_from(["kwbc", "ecmf"]))
def test_saturation_rises_with_temperature(temperature: float, more: float, centre: str) -> None:
    low, high = saturation_vapour_pressure(np.array([temperature, temperature + more]), centre)
    assert 0 < low < high


@given(st.floats(0, 110), st.floats(180, 320), st.floats(4e4, 1.05e5))
def test_relative_humidity_is_recovered(humidity: float, temperature: float, pressure: float) -> None:
    t = np.array(temperature)
    q = humidity_from_relative_humidity(np.array(humidity), t, pressure, "ecmf")
    vapour = q * pressure / (0.621981 + (1 - 0.621981) * q)
    assert_allclose(100 * vapour / saturation_vapour_pressure(t, "ecmf"), humidity, atol=1e-9, rtol=1e-9)


@given(st.floats(200, 310), st.floats(4e4, 1.05e5))
def test_dewpoint_inverts_the_humidity_from_dewpoint(temperature: float, pressure: float) -> None:
    q = humidity_from_dewpoint(temperature, pressure)
    assert dewpoint(q, pressure) == pytest.approx(temperature, abs=1e-6)


def test_air_without_humidity_has_the_dewpoint_of_the_least_one() -> None:
    q = np.array([-1e-4, 0.0, 1e-7, 1e-3])
    values = dewpoint(q, 1e5, least=1e-7)
    assert_allclose(values[:2], values[2], atol=0.01)
    assert values[2] < 190 < values[3]
