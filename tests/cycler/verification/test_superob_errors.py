"""Errors of superobs from departures, by number of stations: where the truth is known, and through the command."""

import numpy as np
import pandas as pd
import pytest

from dacycle.cycler.verification.superob_errors import COUNTS, estimate_superobs, superob_sums
from dacycle.forecast_adapter.grid import get_grid
from dacycle.forecast_adapter.worlds.world import load_world
from dacycle.obs_ingest.errors.model import ERRORS
from dacycle.obs_ingest.errors.table import ErrorTable
from dacycle.obs_ingest.table import add_departures
from tests.cycler import runs
from tests.cycler.cli.test_run_cli import dacycle
from tests.obs_ingest.helpers import observations
from tests.worlds import make_world

GRID, SIGMA_B, STATIONS = get_grid("5.625deg"), 1.5, (1, 2, 3, 7, 12)


def cycles(number, assumed):
    """Departures of optimal analyses of t2m, by cell; `assumed` says which errors the stations have."""
    rng = np.random.default_rng(0)
    cell = np.repeat(np.arange(60), [STATIONS[k % 5] for k in range(60)])
    shared, own = ERRORS["t2m"].parts(280.0)
    n = np.bincount(cell)
    gain = SIGMA_B**2 / (SIGMA_B**2 + shared + own / n)
    longitude = 5.625 * cell + rng.uniform(-2, 2, len(cell))
    error = np.sqrt(shared + own)
    for i in range(number):
        background = SIGMA_B * rng.standard_normal(60)
        common, single = rng.standard_normal(60)[cell], rng.standard_normal(len(cell))
        o_b = background[cell] + np.sqrt(shared) * common + np.sqrt(own) * single
        o_a = o_b - (gain * np.bincount(cell, o_b) / n)[cell]
        table = observations("t2m", 280 + o_b, longitude=longitude, error=error, source="isd")
        yield pd.Timestamp("2024-01-01") + i * pd.Timedelta("6h"), add_departures(table, 280 + 0 * o_b, 280 + o_b - o_a)


def estimated(number, assumed):
    return estimate_superobs((time, superob_sums(table, GRID, assumed)) for time, table in cycles(number, assumed))


def test_stated_and_estimated_errors_agree_for_any_number_of_stations_where_the_model_is_right():
    found = estimated(120, ErrorTable())
    assert found["stations"].tolist() == list(COUNTS)
    assert set(found["variable"]) == {"t2m"}
    assert found["values"].tolist() == [120 * 12] * 5
    assert found["assumed"].is_monotonic_decreasing
    assert (found["assumed"] / found["estimated"]).to_numpy() == pytest.approx(1, abs=0.05)
    assert (found["own"] / found["scatter"])[1:].to_numpy() == pytest.approx(1, abs=0.05)
    assert found[["own", "scatter"]].iloc[0].isna().all()


def test_errors_that_are_not_shared_as_stated_are_found_by_both():
    """An experiment that takes all of the representativeness for shared states too much for many stations."""
    found = estimated(120, ErrorTable({"t2m": {"shared": 1.0}})).set_index("stations")
    assert found.loc["1", "assumed"] / found.loc["1", "estimated"] == pytest.approx(1, abs=0.05)
    assert found.loc["9 and more", "assumed"] / found.loc["9 and more", "estimated"] > 2
    assert found.loc["9 and more", "scatter"] / found.loc["9 and more", "own"] > 3


def test_the_command_shows_the_superobs_of_an_archive(tmp_path, monkeypatch):
    folder = make_world(tmp_path / "tiny", days=3)
    monkeypatch.chdir(tmp_path)
    branch = runs.make_run(tmp_path / "archive", load_world(str(folder)), cycles=4, end="2024-01-03T00")
    said = dacycle("errors", "run", "--superobs")
    table = branch.departures()
    stations = (table["variable"] == "u10") & (table["use"] == "assimilated")
    assert f"u10 (m/s) 1 {stations.sum()} 1.00 " in said  # each is alone in its cell
    assert "Nothing is proposed" not in said
    dacycle("errors", "run", "--superobs", "--out", "errors.yaml", status=2)
