"""Tests of the daily cycle of increments: what is put in comes out, and what differs between places does not."""

import numpy as np
import pandas as pd
import pytest

from dacycle.cycler.archive.record import CycleRecord
from dacycle.cycler.report.tables import SAMPLE, sampled_of
from dacycle.cycler.verification.daily_cycle import daily_cycles, project
from dacycle.forecast_adapter.channels import HEADLINE

WARMEST = 14.0
DAMPED = 0.06


@pytest.fixture(scope="module")
def projections(tiny):
    """Cycles of twelve days in January whose backgrounds have a daily cycle over land, and increments a part of it."""
    generator = np.random.default_rng(0)
    times = pd.date_range("2024-01-04", periods=48, freq="6h")
    shape = (len(HEADLINE), *tiny.grid.shape)
    places = 3 * generator.standard_normal(shape)
    increments, backgrounds = [], []
    for time in times:
        local = time.hour + tiny.grid.longitude / 15
        daily = 5 * np.cos((local - WARMEST) * np.pi / 12) * tiny.land_fraction
        half_daily = 0.1 * np.cos((local - 2) * np.pi / 6) * tiny.land_fraction
        noise = 0.2 * generator.standard_normal(shape)
        increments.append(project(DAMPED * daily + half_daily + places + noise, time.hour, tiny))
        backgrounds.append(project(daily + 10 * places, time.hour, tiny))
    return times, np.array(increments), np.array(backgrounds)


def test_a_damped_daily_cycle_is_found_over_land_with_its_hour_and_share(tiny, projections):
    found = daily_cycles(*projections, tiny).set_index(["surface", "channel"])
    assert set(found["season"]) == {"December to February"}
    land = found.loc["land"]
    weight = np.sum(tiny.land_fraction**2 * tiny.grid.weights) / np.sum(tiny.land_fraction * tiny.grid.weights)
    np.testing.assert_allclose(land["amplitude"], DAMPED * 5 * weight, atol=4 * land["error"].max())
    np.testing.assert_allclose(land["share"], DAMPED, rtol=0.15)
    np.testing.assert_allclose(land["hour"], WARMEST, atol=0.5)
    np.testing.assert_allclose(land["amplitude_12"], 0.1 * weight, atol=0.03)


def test_an_amplitude_of_noise_is_within_its_errors_and_has_no_share(tiny, projections):
    generator = np.random.default_rng(1)
    times = projections[0]
    noise = [project(generator.standard_normal((6, *tiny.grid.shape)), time.hour, tiny) for time in times]
    found = daily_cycles(times, np.array(noise), np.array(noise), tiny)
    assert (found["amplitude"] < 4 * found["error"]).all()
    assert found["share"].isna().mean() > 0.8


def test_a_season_without_all_four_hours_has_no_rows(tiny, projections):
    times, increments, backgrounds = projections
    chosen = np.flatnonzero(times.hour != 6)
    assert daily_cycles(times[chosen], increments[chosen], backgrounds[chosen], tiny).empty


@pytest.mark.parametrize("cycles", [SAMPLE // 2, 2 * SAMPLE, 3 * SAMPLE, 4 * SAMPLE, 1464])
def test_a_sample_has_all_hours_of_the_day_alike(cycles):
    times = pd.date_range("2024-01-04", periods=cycles, freq="6h")
    chosen = [record.time for record in sampled_of([CycleRecord(time, "ok", {}) for time in times])]
    assert chosen == sorted(set(chosen))
    assert len(chosen) >= 0.9 * min(SAMPLE, cycles)
    counts = pd.Series([time.hour for time in chosen]).value_counts()
    assert len(counts) == 4
    assert counts.max() - counts.min() <= 2
