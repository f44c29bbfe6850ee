"""Observation operators."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dacycle.forecast_adapter.channels import LEVELS, NAMES, index
from dacycle.forecast_adapter.grid import get_grid
from dacycle.forecast_adapter.physics import (
    DRY_AIR_GAS_CONSTANT,
    GRAVITY,
    LAPSE_RATE,
    STANDARD_TEMPERATURE,
    dewpoint,
    humidity_from_dewpoint,
    station_pressure_ratio,
    wind_components,
    wind_direction,
)
from dacycle.obs_ingest.operators.columns import equivalents, reduction_error
from tests.obs_ingest.helpers import observations

GRID = get_grid("5.625deg")
SEA = np.zeros(GRID.shape, np.float32)


def state(**fields: float) -> np.ndarray:
    """Return a state of constant fields, 0 where they are not named."""
    array = np.zeros((len(NAMES), *GRID.shape), np.float32)
    for name, value in fields.items():
        array[index(name)] = value
    return array


def h(table, current, orography=SEA):
    return equivalents(table, current, GRID, orography)


def test_surface_fields_are_found_by_name():
    table = observations(["u10", "v10", "t2m", "msl"], 0.0)
    assert h(table, state(u10=3, v10=-2, t2m=280, msl=100000)) == pytest.approx([3, -2, 280, 100000])


@given(st.floats(130, 310), st.floats(5000, 105000))
def test_humidity_and_dewpoint_say_the_same(temperature, pressure):
    humidity = humidity_from_dewpoint(min(temperature, 230 + pressure / 1500), pressure)
    assert humidity_from_dewpoint(dewpoint(humidity, pressure), pressure) == pytest.approx(humidity, rel=1e-9)


def test_dewpoints_of_saturated_air():
    assert dewpoint(0.622 * 611.2 / (100000 - 0.378 * 611.2), 100000) == pytest.approx(273.15)


@given(st.floats(0.1, 360), st.floats(0.01, 100))
def test_direction_is_that_of_the_components(direction, speed):
    found = wind_direction(*wind_components(np.array(direction), np.array(speed)))
    assert abs((found - direction + 180) % 360 - 180) < 1e-6


@settings(max_examples=30)
@given(st.floats(-400, 4000), st.floats(0, 4000))
def test_temperature_moves_with_height_at_the_standard_lapse_rate(elevation, ground):
    table = observations("t2m", 0.0, elevation=elevation)
    value = h(table, state(t2m=280), np.full(GRID.shape, ground))[0]
    assert value == pytest.approx(280 - 0.0065 * (elevation - ground), abs=1e-3)


def test_levels_are_exact_and_between_them_linear_in_log_pressure():
    current = state(**{f"t{level}": 200.0 + 100 * np.log(level / 50) for level in LEVELS})
    pressure = np.array([5000.0, 50000.0, 100000.0, 60000.0, 7300.0, 99000.0])
    table = observations("t", np.zeros(6), pressure=pressure)
    assert h(table, current) == pytest.approx(200 + 100 * np.log(pressure / 5000), rel=1e-6)


def test_each_variable_aloft_finds_its_own_levels():
    table = observations(["z", "q", "u", "v", "t"], np.zeros(5), pressure=50000.0)
    current = state(z500=54000, q500=0.002, u500=11, v500=-7, t500=255)
    assert h(table, current) == pytest.approx([54000, 0.002, 11, -7, 255])


def test_there_is_no_operator_for_means_sums_dewpoint_and_levels_outside():
    table = observations(["td2m", "tp", "olr", "t", "t"], 0.0, pressure=[np.nan, np.nan, np.nan, 3000.0, 101000.0])
    assert np.isnan(h(table, state(t50=200, t1000=290))).all()


def test_there_is_no_operator_between_the_last_row_of_cells_and_the_pole():
    """There interpolation gives the mean of the row, which is no cell's value."""
    table = observations(
        ["t2m", "msl", "z", "t2m"], 0.0, latitude=[-90.0, 88.0, -89.0, -87.0], pressure=[np.nan, np.nan, 5e4, np.nan]
    )
    found = h(table, state(t2m=250, msl=100000, z500=50000))
    assert np.isnan(found[:3]).all()
    assert found[3] == pytest.approx(250, abs=1e-3)


def test_on_a_grid_with_poles_the_rows_before_them_are_the_last():
    grid = get_grid("1.5deg")
    table = observations("t2m", 0.0, latitude=[89.0, 88.0, -89.0, -88.0])
    found = equivalents(table, np.full((len(NAMES), *grid.shape), 250, np.float32), grid, np.zeros(grid.shape))
    assert np.isnan(found).tolist() == [True, False, True, False]


def test_station_pressure_follows_sea_level_pressure_below_750_metres_only():
    table = observations("ps", np.zeros(4), elevation=[0.0, 500.0, 751.0, np.nan])
    value = h(table, state(msl=101325, t2m=288.15))
    assert value[0] == pytest.approx(101325)
    assert value[1] == pytest.approx(95461, rel=1e-4)  # ICAO standard atmosphere at 500 m
    assert np.isnan(value[2:]).all()


@pytest.mark.parametrize("orography", [0.0, 300.0])
@pytest.mark.parametrize("temperature", [240.0, 255.0, 270.0, 288.0, 300.0])
@pytest.mark.parametrize("height", [-50.0, 200.0, 400.0, 700.0])
def test_station_pressure_is_that_of_the_hydrostatic_column_at_the_temperature_of_the_day(
    height, temperature, orography
):
    """The background's 2-m temperature is at the model's ground; brought to the station it is `temperature`."""
    at_ground = temperature + LAPSE_RATE * (height - orography)
    value = h(observations("ps", 0.0, elevation=height), state(msl=101325, t2m=at_ground), SEA + np.float32(orography))
    mean = temperature + LAPSE_RATE * height / 2
    truth = 101325 * np.exp(-GRAVITY * height / (DRY_AIR_GAS_CONSTANT * mean))
    assert value[0] == pytest.approx(truth, abs=50)


def test_the_error_of_station_pressure_grows_with_height():
    table = observations(["ps", "ps", "ps", "ps", "msl"], 0.0, elevation=[0.0, 100.0, 700.0, -100.0, 700.0])
    error = reduction_error(table, np.array([101325.0, 100000.0, 93000.0, 102500.0, 101325.0]))
    assert error == pytest.approx([0, 18, 119, 19, 0], abs=1)
    assert reduction_error(table, np.full(5, np.nan)).tolist() == [0.0] * 5


@settings(max_examples=30)
@given(st.floats(-87, 87), st.floats(-180, 180))
def test_longitude_conventions_agree_and_a_smooth_field_is_reproduced(latitude, longitude):
    lat, lon = np.meshgrid(np.deg2rad(GRID.latitude), np.deg2rad(GRID.longitude), indexing="ij")
    current = state()
    current[index("u10")] = 10 * np.cos(lat) * np.sin(lon)
    table = observations("u10", [0.0, 0.0], latitude=latitude, longitude=[longitude, longitude % 360])
    values = h(table, current)
    assert values[0] == pytest.approx(values[1], abs=1e-5)
    assert values[0] == pytest.approx(10 * np.cos(np.deg2rad(latitude)) * np.sin(np.deg2rad(longitude)), abs=0.05)


@pytest.mark.parametrize(
    ("dewpoint", "pressure", "expected"),
    [(273.15, 100000.0, 3.810e-3), (293.15, 101325.0, 14.47e-3), (253.15, 85000.0, 0.918e-3)],
)
def test_specific_humidity_agrees_with_tables(dewpoint, pressure, expected):
    # Saturation vapour pressure over water (Smithsonian tables): 6.11, 23.37, 1.254 hPa.
    assert humidity_from_dewpoint(dewpoint, pressure) == pytest.approx(expected, rel=0.01)


def test_standard_atmosphere():
    height = np.array([0, 1000, 3000])
    ratio = station_pressure_ratio(height, STANDARD_TEMPERATURE - LAPSE_RATE * height)
    assert ratio == pytest.approx([1, 0.88699, 0.69203], rel=1e-3)
