"""From the levels of a sounding to the standard ones, on profiles whose answers are known."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dacycle.forecast_adapter.channels import LEVELS
from dacycle.forecast_adapter.physics import humidity_from_dewpoint
from dacycle.obs_ingest.sources.sounding import GAP, STANDARD, above_ground, standard_levels
from dacycle.obs_ingest.table import LEVEL_VARIABLES

R, G = 287.05, 9.80665
FINE = np.geomspace(101000.0, 3000.0, 60)
BREAK, BALANCE = "geopotential above a hydrostatic break", "level out of hydrostatic balance"


def sounding(pressure=FINE, ground=101000.0, elevation=100.0, **changed):
    """Nearly dry air that cools by 30 K per e-fold of pressure from 290 K, in hydrostatic balance; a linear wind."""
    p = np.unique(np.concatenate([pressure, STANDARD[ground >= STANDARD], [ground]]))[::-1]
    x = np.log(p / 100000.0)
    t = 290 + 30 * x
    x_ground = np.log(ground / 100000.0)
    z = G * elevation + R * (290 * (x_ground - x) + 15 * (x_ground**2 - x**2))
    direction, speed = np.full(len(p), 270.0), 10 - 5 * x
    levels = {"pressure": p, "z": z, "t": t, "td": t - 60, "direction": direction, "speed": speed}
    return levels | {"surface": p == ground} | changed


def at(levels, variable, pressure, elevation=100.0, rejected=None):
    table = standard_levels(levels, elevation, Counter() if rejected is None else rejected)
    return table[LEVEL_VARIABLES.index(variable), LEVELS.index(pressure)]


def without(levels, pressure):
    keep = levels["pressure"] != pressure * 100
    return {name: values[keep] for name, values in levels.items()}


def change(levels, variable, pressure, by):
    values = levels[variable].copy()
    values[levels["pressure"] == pressure * 100] += by
    return levels | {variable: values}


def test_reported_levels_are_taken_as_they_are():
    levels, rejected = sounding(), Counter()
    values = dict(zip(LEVEL_VARIABLES, standard_levels(levels, 100.0, rejected), strict=True))
    rows = [int(np.nonzero(levels["pressure"] == pressure)[0][0]) for pressure in STANDARD]
    for name, expected in (("z", levels["z"]), ("t", levels["t"]), ("u", levels["speed"]), ("v", 0 * levels["t"])):
        assert values[name] == pytest.approx(expected[rows], abs=1e-9)
    moist = STANDARD >= 20000
    assert values["q"][moist] == pytest.approx(humidity_from_dewpoint(levels["td"][rows], STANDARD)[moist])
    assert np.isnan(values["q"][~moist]).all()
    assert not +rejected


def test_another_value_at_the_same_pressure_is_counted_and_the_first_counts():
    levels, rejected = sounding(), Counter()
    row = int(np.nonzero(levels["pressure"] == 50000)[0][0])
    twice = {name: np.insert(values, row + 1, values[row]) for name, values in levels.items()}
    standard_levels(twice, 100.0, rejected)
    assert not +rejected  # it says the same again
    twice["t"][row + 1] += 1
    assert at(twice, "t", 500, rejected=rejected) == levels["t"][row]
    assert +rejected == {"level that repeats a pressure": 1}
    twice["t"][row + 1] = np.nan
    standard_levels(twice, 100.0, again := Counter())
    assert not +again  # it completes the other


def test_what_is_linear_between_levels_is_found_between_them():
    levels = sounding(pressure=np.array([60500.0, 59500.0]))
    between, whole = without(levels, 600), levels
    for variable in ("t", "u", "v", "z"):
        assert at(between, variable, 600) == pytest.approx(at(whole, variable, 600), rel=2e-6, abs=1e-6)


def test_wind_is_interpolated_as_components():
    levels = sounding(pressure=np.array([61000.0, 59000.0]))
    direction = np.where(levels["pressure"] > 60000, 350.0, 10.0)
    levels = without(levels | {"direction": direction, "speed": np.full(len(direction), 10.0)}, 600)
    assert abs(at(levels, "u", 600)) < 0.1
    assert at(levels, "v", 600) == pytest.approx(-10 * np.cos(np.deg2rad(10)))


def test_calm_needs_no_direction():
    levels = sounding()
    calm = levels | {"direction": np.full(len(levels["t"]), np.nan), "speed": np.zeros(len(levels["t"]))}
    assert at(calm, "u", 500) == at(calm, "v", 500) == 0
    assert np.isnan(at(calm | {"speed": np.ones(len(levels["t"]))}, "u", 500))


@pytest.mark.parametrize("variable", ["t", "q", "u", "v"])
def test_wide_gaps_are_left_open(variable):
    narrow = np.array([600 * np.exp(0.49 * GAP), 600 / np.exp(0.49 * GAP)]) * 100
    wide = np.array([600 * np.exp(0.51 * GAP), 600 / np.exp(0.51 * GAP)]) * 100
    assert np.isfinite(at(without(sounding(pressure=narrow), 600), variable, 600))
    assert np.isnan(at(without(sounding(pressure=wide), 600), variable, 600))


def test_geopotential_of_600_hpa_needs_only_its_mandatory_neighbours():
    """600 hPa is no mandatory level. A line in ln p from 700 to 500 hPa would be off by three observation errors."""
    levels = sounding(pressure=np.empty(0))
    truth = at(levels, "z", 600)
    assert at(without(levels, 600), "z", 600) == pytest.approx(truth, abs=1)
    share = np.log(7 / 6) / np.log(7 / 5)
    line = (1 - share) * at(levels, "z", 700) + share * at(levels, "z", 500)
    assert abs(line - truth) > 50


def test_nothing_is_given_below_the_station_or_above_the_top():
    levels = sounding(pressure=np.geomspace(90000, 22000, 30), ground=90000.0, elevation=1000.0)
    below = np.array([100000.0, 92500.0])
    extra = {"pressure": below, "z": np.array([100.0, 7000.0]), "surface": np.zeros(2, bool)}
    levels = {name: np.append(values, extra.get(name, [np.nan] * 2)) for name, values in levels.items()}
    levels = {name: values[levels["pressure"] >= 20000] for name, values in levels.items()}
    rejected = Counter()
    values = standard_levels(levels, 1000.0, rejected)
    assert np.isnan(values[:, STANDARD > 90000]).all()
    assert np.isnan(values[:, STANDARD < 20000]).all()
    assert np.isfinite(values[:, (STANDARD >= 20000) & (STANDARD <= 90000)]).all()
    assert rejected["level below the station"] == 2
    assert above_ground(levels).sum() == 11 * 4 + 8

    unmarked = levels | {"surface": np.zeros(len(levels["t"]), bool)}  # temperature is measured above ground only
    assert standard_levels(unmarked, 1000.0, Counter()) == pytest.approx(values, nan_ok=True)


def test_a_temperature_out_of_line_goes_and_takes_the_level_with_it():
    rejected = Counter()
    values = standard_levels(change(sounding(), "t", 500, 12), 100.0, rejected)
    assert rejected["superadiabatic level"] == 2  # it and the one above: either may be wrong
    level = LEVELS.index(500)
    assert np.isnan(values[[LEVEL_VARIABLES.index(v) for v in ("z", "q", "t")], level]).all()
    assert np.isfinite(values[LEVEL_VARIABLES.index("u"), level])


def test_a_hot_ground_is_believed():
    levels, rejected = sounding(), Counter()
    hot = levels | {"t": levels["t"] + 5 * levels["surface"]}
    standard_levels(hot, 100.0, rejected)
    assert rejected["superadiabatic level"] == 0


def test_a_wrong_height_is_found_and_only_that():
    rejected = Counter()
    values = standard_levels(change(sounding(), "z", 400, 1000), 100.0, rejected)
    assert +rejected == {BALANCE: 1}
    assert np.isnan(values[0]).sum() == np.isnan(values[4]).sum() == 1
    assert np.isnan(values[0, LEVELS.index(400)])


def test_above_a_break_no_height_can_be_trusted():
    levels, rejected = sounding(), Counter()
    shifted = levels | {"z": levels["z"] + 1000 * (levels["pressure"] <= 30000)}
    values = standard_levels(shifted, 100.0, rejected)
    assert +rejected == {BALANCE: 2, BREAK: 5}
    assert np.isnan(values[0, : LEVELS.index(400) + 1]).all()
    assert np.isfinite(values[0, LEVELS.index(500) :]).all()
    assert np.isnan(values[4, [LEVELS.index(300), LEVELS.index(400)]]).all()
    assert np.isfinite(values[4]).sum() == 11


def test_a_station_at_another_height_costs_all_heights_and_no_temperature():
    rejected = Counter()
    values = standard_levels(sounding(elevation=100.0), 150.0, rejected)
    assert +rejected == {BREAK: 13}
    assert np.isnan(values[0]).all()
    assert np.isfinite(values[4]).all()
    assert np.isfinite(standard_levels(sounding(), np.nan, Counter())).sum() == np.isfinite(values).sum() + 13


def test_heights_rounded_to_tens_of_metres_pass():
    levels, rejected = sounding(), Counter()
    rounded = np.where(levels["pressure"] <= 50000, np.rint(levels["z"] / (10 * G)) * 10 * G, levels["z"])
    standard_levels(levels | {"z": rounded}, 100.0, rejected)
    assert not +rejected


def test_impossible_temperatures_are_no_part_of_a_thickness():
    levels, rejected = sounding(), Counter()
    values = standard_levels(change(levels, "td", 500, -200), 100.0, rejected)
    assert +rejected == {"impossible temperature": 1}
    expected = standard_levels(levels, 100.0, Counter())
    others = np.delete(np.arange(13), LEVELS.index(500))
    assert values[:, others] == pytest.approx(expected[:, others], nan_ok=True)


@settings(max_examples=60)
@given(data=st.data())
def test_whatever_levels_say_values_are_possible_and_above_ground(data):
    n = data.draw(st.integers(0, 25))

    def column(low, high):
        value = st.one_of(st.just(np.nan), st.floats(low, high))
        return np.array(data.draw(st.lists(value, min_size=n, max_size=n)), float)

    pressure = np.array(
        data.draw(
            st.lists(
                st.sampled_from([*STANDARD, 101300.0, 60500.0, 59000.0, 7000.0, np.nan, 0.0]), min_size=n, max_size=n
            )
        ),
        float,
    )
    levels = {
        "pressure": pressure,
        "z": column(-5000, 300000),
        "t": column(0, 400),
        "td": column(0, 400),
        "direction": column(0, 360),
        "speed": column(0, 200),
        "surface": np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)), bool),
    }
    rejected = Counter()
    with np.errstate(divide="raise", over="raise", invalid="raise"):
        values = standard_levels(levels, data.draw(st.one_of(st.just(np.nan), st.floats(-400, 6000))), rejected)
    assert values.shape == (5, 13)
    assert not (np.isfinite(values) & ~above_ground(levels)).any()
    assert all(0 <= count <= n for count in rejected.values())
    _, q, u, v, t = values
    assert ((t[np.isfinite(t)] >= 100) & (t[np.isfinite(t)] <= 335)).all()
    assert (np.hypot(u, v)[np.isfinite(u)] <= 200.001).all()
    assert not (q[np.isfinite(q)] < 0).any()


@settings(max_examples=30)
@given(order=st.permutations(range(20)))
def test_the_order_of_levels_means_nothing(order):
    levels = sounding(pressure=np.geomspace(100500, 4000, 7), elevation=50.0)
    n = len(levels["t"])
    shuffled = {
        name: values[np.array([i for i in order if i < n] + list(range(20, n)))] for name, values in levels.items()
    }
    ordered = standard_levels(levels, 50.0, Counter())
    assert standard_levels(shuffled, 50.0, Counter()) == pytest.approx(ordered, nan_ok=True)
