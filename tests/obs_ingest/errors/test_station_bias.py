"""Biases of stations, from departures that are made up so that the right answer is known."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dacycle.obs_ingest.errors.station_bias import StationBias
from dacycle.obs_ingest.table import add_departures
from tests.obs_ingest.helpers import observations

START = pd.Timestamp("2024-01-01T00")
SIX = pd.Timedelta(hours=6)
MONTH = pd.Timedelta(days=30)
N = 9
LATITUDE, LONGITUDE = 50 + 0.5 * (np.arange(N) // 3), 10 + 0.5 * (np.arange(N) % 3)


def cycle(o_b, use="assimilated", variable="t2m", longitude=LONGITUDE, removed=None):
    """Departures of nine stations within 150 km."""
    table = observations(variable, 280.0 + np.zeros(N), latitude=LATITUDE, longitude=longitude)
    background = 280.0 - np.broadcast_to(np.asarray(o_b, float), N)
    table = add_departures(table.assign(use=use), background, background)
    return table if removed is None else table.assign(bias=removed)


def learnt(departures, n0=5.0, memory=MONTH, radius_km=300.0):
    """Return biases learned from these departures, a table for each cycle."""
    bias = StationBias(("t2m",), memory, n0, radius_km)
    past = [(START + i * SIX, table) for i, table in enumerate(departures)]

    def read(first, last):
        return [(time, table) for time, table in past if first <= time <= last]

    bias.catch_up(START + len(past) * SIX, read)
    return bias


def removed(bias, variable="t2m", longitude=LONGITUDE):
    table = observations(variable, 280.0 + np.zeros(N), latitude=LATITUDE, longitude=longitude)
    out = bias.remove(table)
    assert (out["value"] + out["bias"] == table["value"]).all()
    return out["bias"].to_numpy()


def test_only_a_stations_own_deviation_is_removed_shrunk_by_its_number_of_departures():
    o_b = np.full(N, -1.5)  # the model is too warm everywhere
    o_b[4] += 2.0
    for cycles in (1, 20):
        found = removed(learnt([cycle(o_b)] * cycles))
        assert found[4] == pytest.approx(2.0 * cycles / (cycles + 5), rel=1e-6)
        assert not np.delete(found, 4).any()


def test_before_any_cycle_and_for_other_variables_nothing_is_removed():
    assert not removed(learnt([])).any()
    assert not removed(learnt([cycle(np.arange(N), variable="u10")]), "u10").any()
    assert not removed(learnt([cycle(np.arange(N))]), "u10").any()


def test_a_station_without_neighbours_is_left_alone():
    apart = LONGITUDE.copy()
    apart[0] += 40
    found = removed(learnt([cycle(np.arange(N) ** 2, longitude=apart)] * 9), longitude=apart)
    assert found[0] == 0
    assert np.count_nonzero(found[1:]) > 5


def test_another_source_at_the_same_site_is_no_neighbour():
    """Four sources at one place would confirm one another; the median of the other places stands against them."""
    o_b = np.zeros(N)
    o_b[4] = 2.0
    sources = [cycle(o_b), *(cycle(o_b).iloc[[4]].assign(source=pd.Categorical([f"other {i}"])) for i in range(12))]
    names = dict.fromkeys(("source", "site", "variable"), "category")
    departures = pd.concat(sources, ignore_index=True).astype(names)
    assert removed(learnt([departures] * 20))[4] == pytest.approx(2.0 * 20 / 25, rel=1e-6)


@pytest.mark.parametrize("use", ["withheld", "rejected", "late"])
def test_what_was_not_assimilated_neither_changes_nor_counts(use):
    o_b = np.zeros(N)
    o_b[4] = 2.0
    uses = np.full(N, "assimilated", object)
    uses[[4, 5]] = use
    o_b[5] = 50.0
    assert not removed(learnt([cycle(o_b, uses)] * 9)).any()


def test_what_was_removed_before_counts_as_observed():
    o_b = np.zeros(N)
    o_b[4] = 2.0
    taken = np.where(o_b > 0, 1.2, 0.0)
    assert removed(learnt([cycle(o_b - taken, removed=taken)] * 9)) == pytest.approx(removed(learnt([cycle(o_b)] * 9)))


def test_what_is_older_than_the_memory_is_forgotten():
    o_b = np.zeros(N)
    o_b[4] = 2.0
    assert removed(learnt([cycle(o_b)] * 4, memory=4 * SIX))[4] > 0
    assert not removed(learnt([cycle(o_b)] * 4 + [cycle(0.0)] * 4, memory=4 * SIX)).any()


@settings(max_examples=25)
@given(st.integers(0, 1000), st.floats(-5, 5))
def test_a_shift_of_all_stations_and_their_order_change_nothing(seed, shift):
    rng = np.random.default_rng(seed)
    past = [cycle(rng.normal(0, 1, N)) for _ in range(5)]
    found = removed(learnt(past))
    shifted = [table.assign(o_b=table["o_b"] + shift) for table in past]
    assert removed(learnt(shifted)) == pytest.approx(found, abs=1e-5)
    order = rng.permutation(N)
    assert (removed(learnt([table.iloc[order] for table in past])) == found).all()


def test_one_that_went_on_and_one_that_begins_again_agree_to_the_last_bit():
    rng = np.random.default_rng(3)
    past = [(START + i * SIX, cycle(rng.normal(0, 1, N)).iloc[rng.permutation(N)[:6]]) for i in range(20)]

    def read(first, last):
        return [(time, table) for time, table in past if first <= time <= last]

    going = StationBias(("t2m",), 6 * SIX, 5.0, 300.0)
    for i in range(21):
        fresh = StationBias(("t2m",), 6 * SIX, 5.0, 300.0)
        for bias in (going, fresh):
            bias.catch_up(START + i * SIX, read)
        assert (removed(going) == removed(fresh)).all()
    assert removed(going).any()
