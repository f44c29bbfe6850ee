"""Spatial checks of departures: what they find, what they leave alone, and that order decides nothing."""

import numpy as np
import pytest
import titanlib
from hypothesis import given, settings
from hypothesis import strategies as st

from dacycle.forecast_adapter.channels import NAMES
from dacycle.forecast_adapter.grid import get_grid
from dacycle.forecast_adapter.states.points import read_points
from dacycle.obs_ingest.operators.points import PointOperator
from dacycle.obs_ingest.quality.control import Checks
from dacycle.obs_ingest.quality.spatial import buddy_check, spatial_consistency
from dacycle.obs_ingest.sources.bufr.synop import SynopBufr
from dacycle.obs_ingest.window import Window
from tests.obs_ingest.helpers import TIME, checked, observations

GRID = get_grid("5.625deg")
GRIB, BUFR = "grid/ecmwf_fc48_2t_N160_valid_2018112012.grib", "obs/synop_europe_2018112012.bufr"


def network(seed, n=60, variable="t2m", scatter=1.0):
    """Stations within some 400 km of one another, with departures about a common error of the background."""
    rng = np.random.default_rng(seed)
    cell = rng.choice(30 * 40, n, replace=False)  # no two at one place, which would be duplicates
    place = {"latitude": 48 + 0.1 * (cell // 40), "longitude": 8 + 0.1 * (cell % 40)}
    departure = 1.0 + scatter * np.clip(rng.normal(size=n), -2, 2)
    return observations(variable, 280.0 + departure, **place)


def judged(table, share=0.0, deny=(), **checks):
    """Check against a background of 280 with so large an error that only the spatial checks can reject."""
    spread, h = np.full(len(NAMES), 1e6), np.full(len(table), 280.0)
    return checked(table, Window(TIME), h, spread, GRID, np.zeros(GRID.shape), share=share, deny=deny,
                 checks=Checks(**checks))  # fmt: skip


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.integers(0, 59), st.sampled_from([-15.0, 15.0, 40.0]))
def test_a_gross_error_among_neighbours_that_agree_is_rejected_alone(seed, who, size):
    """The spatial consistency test, which estimates the neighbours' scatter anew at each place, may err once in 59."""
    table = network(seed)
    table.loc[who, "value"] += size
    for name, threshold, most in (("buddy_check", 4.0, 0), ("spatial_consistency", 12.0, 1)):
        reasons = judged(table, **{name: threshold})["reason"]
        assert reasons[who] == name
        assert (reasons.drop(who) != "").sum() <= most


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_decides_nothing(seed, random):
    table = network(seed, scatter=2.0)
    table.loc[:5, "value"] += [8, -8, 9, -7, 12, 10]
    order = list(range(len(table)))
    random.shuffle(order)
    shuffled = table.iloc[order].reset_index(drop=True)
    for checks in ({"buddy_check": 2.0}, {"spatial_consistency": 5.0}):
        verdicts = judged(table, share=0.2, **checks)
        assert len(verdicts) == len(table)
        for column in ("use", "reason"):
            assert verdicts[column].iloc[order].tolist() == judged(shuffled, share=0.2, **checks)[column].tolist()


def test_a_station_without_neighbours_is_left_to_the_background_check():
    table = observations("t2m", [280.0, 280.0, 300.0], latitude=[0.0, 30.0, 60.0], longitude=[1.0, 1.0, 1.0])
    assert judged(table, buddy_check=4.0, spatial_consistency=9.0)["reason"].tolist() == ["", "", ""]
    crowd = network(1, n=6)
    crowd.loc[0, "value"] += 20
    assert judged(crowd, buddy_check=4.0)["reason"].tolist() == ["buddy_check", "", "", "", "", ""]
    assert judged(crowd[:5], buddy_check=4.0)["reason"].tolist() == [""] * 5


def test_variables_are_judged_by_their_own_kind_and_those_without_operator_not_at_all():
    """Thirty values of t2m say nothing about a wind or a dewpoint."""
    table = network(2, n=33)
    table["variable"] = table["variable"].cat.codes.map({0: "t2m"}).astype(table["variable"].dtype)
    table.loc[30:, "variable"] = ["u10", "v10", "td2m"]
    table.loc[30:, "value"] = 320.0
    departures = (table["value"] - 280).to_numpy()
    every = np.ones(len(table), bool)
    assert not buddy_check(table, departures, every, every, 4.0).any()
    table["variable"] = table["variable"].where(table["variable"] == "td2m", "msl")
    assert buddy_check(table, departures, every, every, 4.0).tolist() == [False] * 30 + [True, True, False]


def test_longitude_conventions_agree():
    table = network(3)
    table["longitude"] -= 10.0
    table.loc[7, "value"] += 20
    east = table.assign(longitude=table["longitude"] % 360)
    for one in (table, east):
        assert judged(one, buddy_check=4.0)["reason"].tolist() == [*[""] * 7, "buddy_check", *[""] * 52]


@pytest.mark.parametrize("use", ["withheld_site", "denied"])
def test_what_is_not_assimilated_is_judged_but_judges_nothing(use):
    """The values at withheld sites, and denied ones, do not change what becomes of the others."""
    table = network(4, n=80)
    options = {"share": 0.3} if use == "withheld_site" else {"deny": ["other"]}
    unseen = judged(table, **options)["reason"] == "withheld_site"
    if use == "denied":
        unseen = table.index >= 56
        table["source"] = table["source"].cat.add_categories("other").where(~unseen, "other")
    assert 10 < unseen.sum() < 40
    before = judged(table, buddy_check=3.0, spatial_consistency=6.0, **options)["reason"]
    wild = table.copy()
    wild.loc[unseen, "value"] += np.random.default_rng(0).normal(0, 20, unseen.sum())
    after = judged(wild, buddy_check=3.0, spatial_consistency=6.0, **options)["reason"]
    assert (after[~unseen] == before[~unseen]).all()
    assert (after[unseen] == "buddy_check").any()
    assert use in set(after[unseen])


def test_the_european_sample_is_flagged_as_titanlib_flags_it(shared):
    background = read_points(shared / GRIB)
    table, _ = SynopBufr(shared / BUFR).read(Window(background.time))
    operator = PointOperator(background, table, None)
    departures = ((table["value"] - operator(background.values, 0.0065)) / table["error"]).to_numpy()
    rows = np.isfinite(departures)
    assert rows.sum() > 1400
    titanlib.set_omp_threads(1)
    there = table[rows]
    points = titanlib.Points(there["latitude"].to_numpy(), there["longitude"].to_numpy(), np.zeros(rows.sum()))
    for threshold in (3.0, 4.0):
        flags = titanlib.buddy_check(points, departures[rows], [3e5], [5], threshold, -1, 0, 1, 5)
        found = buddy_check(table, departures, rows, rows, threshold)
        assert found[rows].tolist() == (flags == 1).tolist()
        assert 1 < found.sum() < 30
    strict = spatial_consistency(table, departures, rows, rows, 6.0)
    assert spatial_consistency(table, departures, rows, rows, 9.0).sum() < strict.sum() < 100
    assert np.median(abs(departures[strict])) > 2 * np.median(abs(departures[rows]))
