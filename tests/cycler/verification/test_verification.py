"""The verification of a run, cycle by cycle, against errors that are known."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from dacycle.cycler.archive.branches import Archive
from dacycle.cycler.experiment import STEP
from dacycle.cycler.verification.cycles import QUANTITIES, Verification, global_means, layer_of, trends, verify
from dacycle.forecast_adapter.worlds.reference import Reference, write_times
from tests.cycler.runs import START, make_run
from tests.worlds import make_world

CYCLES = 6


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny):
    return make_run(tmp_path_factory.mktemp("run") / "archive", tiny, cycles=CYCLES, error=0.3)


@pytest.fixture(scope="module")
def verified(run, tiny):
    return verify(run, tiny)


def copied(run, folder):
    shutil.copytree(run.archive.folder, folder / "archive")
    return Archive(folder / "archive").branch(run.name)


def test_errors_are_those_the_run_was_made_with(verified, tiny):
    globe = verified.errors[verified.errors["region"] == "globe"].copy()
    globe["std"] = globe["channel"].map(dict(zip(globe["channel"].unique(), tiny.statistics.std, strict=True)))
    levels = np.sqrt((globe["mse"] / globe["std"] ** 2).groupby([globe["time"], globe["kind"]]).mean()).unstack()
    usual = levels.drop(pd.Timestamp("2024-01-03T06"))
    np.testing.assert_allclose(usual["analysis"], 0.3, rtol=0.1)
    np.testing.assert_allclose(usual["background"] / usual["analysis"], 1.5, rtol=0.02)
    fallback = levels.loc[pd.Timestamp("2024-01-03T06")]
    assert fallback["analysis"] == fallback["background"]


def test_the_bias_is_that_of_the_state_against_the_reference(verified, run, tiny):
    difference = run.state("background", START).values - tiny.reference.array(np.datetime64(START, "h"))
    expected = (difference * tiny.grid.weights).mean(axis=(1, 2))
    rows = verified.errors.query("kind == 'background' and region == 'globe'")
    np.testing.assert_allclose(
        rows[rows["time"] == START]["bias"], expected, rtol=1e-3, atol=1e-6 * np.abs(difference).max()
    )


def test_a_cold_start_is_not_verified(verified, run):
    assert verified.errors["time"].min() == START
    assert verified.errors["time"].nunique() == len(run.times) - 2 == CYCLES


def test_bias_and_mean_squared_error_belong_together(verified):
    assert (verified.errors["bias"] ** 2 <= verified.errors["mse"] * (1 + 1e-9)).all()
    assert (verified.errors["mae"] ** 2 <= verified.errors["mse"] * (1 + 1e-9)).all()


def test_fits_count_every_observation_once_and_sum_its_departures(verified, run):
    table = run.departures()
    assert verified.fits["count"].sum() == len(table)
    withheld = verified.fits[verified.fits["use"] == "withheld"]
    expected = table[(table["use"] == "withheld") & table["o_b"].notna()]
    assert withheld["compared"].sum() == len(expected) > 0
    in_errors = {name: expected[name] / expected["error"] for name in ("o_b", "o_a")}
    sums = {"error_squared": (expected["error"] ** 2).sum(), "o_b": expected["o_b"].sum(), "o_a": expected["o_a"].sum()}
    for name, departure in in_errors.items():
        sums |= {f"{name}_squared": (expected[name] ** 2).sum(), f"{name}_in_errors_squared": (departure**2).sum()}
    for column, total in sums.items():
        assert withheld[column].sum() == pytest.approx(total, rel=1e-5), column
    # 1.5 times the error before the analysis as after it, beside the observations' own
    assert withheld["o_b_squared"].sum() > withheld["o_a_squared"].sum()


def test_layers_hold_their_lowest_pressure():
    pressure = np.array([np.nan, 100000.0, 70000.0, 69999.0, 20000.0, 19999.0])
    expected = ["surface", "1000-700 hPa", "1000-700 hPa", "700-300 hPa", "300-200 hPa", "above 200 hPa"]
    assert layer_of(pressure).tolist() == expected


def test_global_means_of_an_atmosphere_that_is_the_same_everywhere(tiny):
    state = np.zeros((69, *tiny.grid.shape), np.float32)
    state[3], state[17:30], state[30:43], state[56:69] = 101325, 0.001, 10, 250
    means = global_means(state, tiny.grid)
    assert list(means) == list(QUANTITIES)
    assert means["mean sea-level pressure"] == pytest.approx(101325)
    assert means["temperature"] == pytest.approx(250)
    assert means["kinetic energy"] == pytest.approx(50)
    assert means["column water"] == pytest.approx(0.001 * 95000 / 9.80665)


def test_global_means_are_weighted_by_area(tiny):
    """Wind, warmth and water in the northernmost row alone count by the row's area."""
    share = tiny.grid.weights[0].sum() / tiny.grid.weights.sum()
    state = np.zeros((69, *tiny.grid.shape), np.float32)
    state[17:30, 0], state[30:43, 0], state[56:69, 0] = 0.001, 10, 250
    means = global_means(state, tiny.grid)
    assert means["temperature"] == pytest.approx(250 * share, rel=1e-5)
    assert means["kinetic energy"] == pytest.approx(50 * share, rel=1e-5)
    assert means["column water"] == pytest.approx(0.001 * 95000 / 9.80665 * share, rel=1e-5)
    assert share < 0.5 / tiny.grid.shape[0]


def test_verified_cycles_are_read_again_not_computed_again(run, tiny, tmp_path):
    branch = copied(run, tmp_path)
    first = verify(branch, tiny)
    # Without its departures, only the stored tables can be read.
    shutil.rmtree(branch.folder / "departures")
    again = verify(branch, tiny)
    for name in ("errors", "means", "fits"):
        pd.testing.assert_frame_equal(getattr(first, name), getattr(again, name))


def test_a_rewound_and_different_cycle_is_verified_anew(tiny, tmp_path):
    branch = make_run(tmp_path / "archive", tiny, cycles=3)
    before = verify(branch, tiny)
    branch.archive.rewind(branch.name, START)
    assert verify(branch, tiny).errors["time"].unique().tolist() == [START]
    make_run(tmp_path / "archive", tiny, cycles=3, error=0.9)
    after = verify(branch, tiny)
    joined = before.errors.merge(after.errors, on=["time", "kind", "channel", "region"])
    same = joined[joined["time"] == START]
    assert (same["mse_x"] == same["mse_y"]).all()
    later = joined[(joined["time"] > START) & (joined["kind"] == "analysis")]
    np.testing.assert_allclose(later["mse_y"] / later["mse_x"], 9, rtol=0.05)


def test_cycles_beyond_the_reference_are_verified_when_it_has_grown(tiny, tmp_path):
    branch = make_run(tmp_path / "archive", tiny, cycles=3)
    make_world(tmp_path / "short", days=1)
    short = replace(tiny, reference=Reference(tmp_path / "short" / "reference"))
    early = verify(branch, short)
    assert early.errors["time"].nunique() == 1
    assert early.fits["time"].nunique() == early.means["time"].nunique() == 3
    late = verify(branch, tiny)
    shutil.rmtree(branch.folder / "verification")
    fresh = verify(branch, tiny)
    assert fresh.errors["time"].nunique() == 3
    for name in ("errors", "means", "fits"):
        pd.testing.assert_frame_equal(getattr(late, name), getattr(fresh, name))


def test_errors_remain_where_the_reference_no_longer_holds_a_state(tiny, tmp_path, caplog):
    branch = make_run(tmp_path / "archive", tiny, cycles=3)
    before = verify(branch, tiny)
    make_world(tmp_path / "short", days=1)
    after = verify(branch, replace(tiny, reference=Reference(tmp_path / "short/reference")))
    for name in ("errors", "means", "fits"):
        pd.testing.assert_frame_equal(getattr(after, name), getattr(before, name))
    assert not caplog.text


def test_cycles_are_verified_anew_when_the_world_has_another_reference(tiny, tmp_path, caplog):
    branch = make_run(tmp_path / "archive", tiny, cycles=3)
    make_world(tmp_path / "other", days=2, seed=7)
    other = replace(tiny, reference=Reference(tmp_path / "other/reference"))
    there = verify(branch, other)
    assert "other states" not in caplog.text
    here = verify(branch, tiny)
    said = "3 cycles from 20240102T00 on had been scored against other states of the reference than those of"
    assert f"{branch.name}: {said} {tiny.reference.folder}" in caplog.text
    shutil.rmtree(branch.folder / "verification")
    for kept, world in ((here, tiny), (there, other)):
        fresh = verify(branch, world)
        for name in ("errors", "means", "fits"):
            pd.testing.assert_frame_equal(getattr(kept, name), getattr(fresh, name))
    assert (here.errors["mse"] != there.errors["mse"]).any()


def test_tables_are_in_order_of_time_whichever_cycle_is_verified_last(world, tiny, tmp_path):
    branch = make_run(tmp_path / "archive", tiny, cycles=3)
    (path,) = (world.folder / "reference").glob("*.nc")
    with xr.open_dataset(path, engine="h5netcdf") as whole:
        write_times(whole.sel(time=slice(START + STEP, None)).load(), tmp_path / "late/2024-01-02.nc")
    without_the_first = replace(tiny, reference=Reference(tmp_path / "late"))
    assert verify(branch, without_the_first).errors["time"].min() == START + STEP
    tables = verify(branch, tiny)
    assert tables.errors["time"].min() == START
    for table in (tables.errors, tables.means, tables.fits):
        assert table["time"].is_monotonic_increasing


def test_trends_find_a_run_that_drifts_and_none_in_one_that_does_not():
    times = pd.date_range("2024-01-01", periods=80, freq=STEP)
    generator = np.random.default_rng(3)
    rows, means = [], []
    for day, time in zip(np.arange(80) / 4, times, strict=True):
        for kind, slope in (("background", 2.0), ("analysis", 0.0)):
            rmse = 50 + slope * day + generator.normal()
            rows.append({"time": time, "kind": kind, "channel": "z500", "region": "globe", "mse": rmse**2})
        for quantity in QUANTITIES:
            truth = 100 + 3 * np.sin(day)
            means.append({"time": time, "kind": "reference", "quantity": quantity, "value": truth})
            means.append({"time": time, "kind": "analysis", "quantity": quantity, "value": truth - 0.1 * day})
    found = trends(Verification(pd.DataFrame(rows), pd.DataFrame(means), pd.DataFrame()), ("z500",))
    drifting, steady = found[found["of"] == "z500 error"].to_dict("records")
    assert drifting["low"] < 2.0 < drifting["high"]
    assert drifting["low"] > 0
    assert steady["low"] < 0 < steady["high"]
    # The wave that both share is no trend of the run: it is taken off with the reference.
    water = found[found["of"] == "column water"].iloc[0]
    assert water["estimate"] == pytest.approx(-0.1)


def test_a_trend_has_an_interval_from_twenty_days_of_cycles_on():
    """An interval takes four blocks of five days, whatever the number of cycles in them."""

    def slopes(cycles, freq):
        times = pd.date_range("2024-01-01", periods=cycles, freq=freq)
        rows = pd.DataFrame({"time": times, "kind": "analysis", "channel": "z500", "region": "globe"})
        means = pd.DataFrame(columns=["time", "kind", "quantity", "value"])
        noise = np.random.default_rng(1).uniform(1, 2, cycles)
        return trends(Verification(rows.assign(mse=noise), means, pd.DataFrame()), ("z500",)).iloc[0]

    for cycles, freq in ((80, "6h"), (40, "12h")):
        assert np.isfinite(slopes(cycles, freq)["low"])
        assert np.isnan(slopes(cycles - 1, freq)["low"])
        assert not slopes(cycles - 1, freq)["excludes_zero"]
