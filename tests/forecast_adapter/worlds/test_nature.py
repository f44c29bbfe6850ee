"""The nature run's vertical interpolation against atmospheres whose answer is known in closed form."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dacycle.forecast_adapter import physics
from dacycle.forecast_adapter.channels import LEVELS
from dacycle.forecast_adapter.worlds import nature

SIGMA = np.array([0.025, 0.095, 0.2, 0.34, 0.51, 0.685, 0.835, 0.95])
G, R, LAPSE = physics.GRAVITY, physics.DRY_AIR_GAS_CONSTANT, physics.LAPSE_RATE


def constant_lapse_column(t_sea: float, p_sea: float, height: float) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return a (1, 8, 1, 1) atmosphere with 6.5 K/km everywhere, over ground at `height` m."""
    ps = p_sea * (1 - LAPSE * height / t_sea) ** (G / (R * LAPSE))
    z = G * t_sea / LAPSE * (1 - (SIGMA * ps / p_sea) ** (R * LAPSE / G))
    t = t_sea - LAPSE * z / G
    column = {"z": z, "t": t, "q": np.full(8, 0.004), "u": np.full(8, 10.0), "v": np.full(8, -3.0)}
    fields = {name: values[None, :, None, None] for name, values in column.items()}
    return fields, np.full((1, 1, 1), ps)


@given(st.floats(258, 289), st.floats(98000, 104000), st.floats(0, 3500))
def test_constant_lapse_atmosphere_is_recovered_on_every_level(t_sea: float, p_sea: float, height: float) -> None:
    assume(t_sea - LAPSE * height >= 256)  # colder ground is damped on purpose, see the next test
    fields, ps = constant_lapse_column(t_sea, p_sea, height)
    out, msl = nature.to_pressure_levels(fields, ps, SIGMA)
    assert msl[0, 0, 0] == pytest.approx(p_sea, rel=3e-3)
    for k, level in enumerate(LEVELS):
        if level < 300:
            continue  # with a constant lapse rate there is no stratosphere: eight levels cannot follow it
        exact_z = G * t_sea / LAPSE * (1 - (100.0 * level / p_sea) ** (R * LAPSE / G))
        assert out["z"][0, k, 0, 0] == pytest.approx(exact_z, abs=200), level  # 20 m
        assert out["t"][0, k, 0, 0] == pytest.approx(t_sea - LAPSE * exact_z / G, abs=1.5), level


def test_extrapolation_is_damped_over_cold_plateaus() -> None:
    fields, ps = constant_lapse_column(t_sea=250.0, p_sea=100000.0, height=3000.0)
    _, msl = nature.to_pressure_levels(fields, ps, SIGMA)
    assert 85000 < msl[0, 0, 0] < 100000  # a warmer column below the ground than 6.5 K/km gives: less pressure


@given(st.floats(220, 310), st.floats(-300, 300), st.sampled_from([700, 850, 925, 1000]))
def test_nothing_jumps_when_surface_pressure_crosses_a_level(t_sea: float, offset: float, level: int) -> None:
    """The column's hydrostatic balance decides, for any height of the lowest level and any temperature."""
    k = LEVELS.index(level)
    sides = []
    for ps in (100.0 * level - 0.5, 100.0 * level + 0.5):
        fields, _ = constant_lapse_column(t_sea, 101325.0, 1000.0)
        fields["z"] = fields["z"] + offset
        out, _ = nature.to_pressure_levels(fields, np.full((1, 1, 1), ps), SIGMA)
        sides.append(out)
    assert sides[0]["z"][0, k, 0, 0] == pytest.approx(sides[1]["z"][0, k, 0, 0], abs=5)
    assert sides[0]["t"][0, k, 0, 0] == pytest.approx(sides[1]["t"][0, k, 0, 0], abs=0.1)


def test_humidity_is_never_negative_and_wind_is_kept_below_the_lowest_level() -> None:
    fields, ps = constant_lapse_column(280.0, 101000.0, 2000.0)
    fields["q"] = fields["q"] - 0.0041
    out, _ = nature.to_pressure_levels(fields, ps, SIGMA)
    assert (out["q"] >= 0).all()
    assert out["u"][0, -1, 0, 0] == 10.0


def test_years_are_independent_realisations_and_reproducible() -> None:
    seeds = {nature._year_seed(1, year) for year in range(2000, 2030)}
    assert len(seeds) == 30
    assert nature._year_seed(1, 2021) == nature._year_seed(1, 2021) != nature._year_seed(2, 2021)


@pytest.mark.slow
def test_a_month_of_speedy_has_an_earthly_climate(tmp_path: Path) -> None:
    pytest.importorskip("jcm", reason="the extra `nature` is not installed")
    import pandas as pd

    speedy = nature._Speedy(pd.Timestamp("2021-01-01"), seed=3)
    first = next(iter(speedy.days(5)))
    assert list(first.time.values) == list(pd.date_range("2021-01-01", periods=20, freq="6h").values)
    assert 98000 < float(first["mean_sea_level_pressure"].mean()) < 104000
    assert float(first["total_precipitation_6hr"].min()) >= 0
    speedy.save(tmp_path / "checkpoint")
    now = speedy.model.run_state
    expected = next(iter(speedy.days(1)))
    then = speedy.model.run_state
    speedy.restore(now)
    speedy.shift(-0.01, then)  # now, and a hundredth of the day that follows
    twin = next(iter(speedy.days(1)))
    assert list(twin.time.values) == list(expected.time.values)
    apart, day = (abs(other["temperature"] - expected["temperature"]).mean() for other in (twin, first.isel(time=-1)))
    assert 0.002 * day < apart < 0.05 * day
    speedy.restore(now)
    np.testing.assert_array_equal(next(iter(speedy.days(1)))["geopotential"], expected["geopotential"])
    again = nature._Speedy(pd.Timestamp("2021-01-01"), seed=99)
    again.load(tmp_path / "checkpoint")
    np.testing.assert_array_equal(next(iter(again.days(1)))["geopotential"], expected["geopotential"])
