"""Consistency of departures, and degrees of freedom for signal: against analyses whose gain is known."""

import numpy as np
import pandas as pd
import pytest

from dacycle.cycler.archive.record import CycleRecord
from dacycle.cycler.verification.consistency import consistency
from dacycle.cycler.verification.cycles import fit_table
from dacycle.forecast_adapter.channels import NAMES
from tests.cycler.verification.test_desroziers import SIGMA_B, SIGMA_O, STATIONS, WITHHELD, optimal

CYCLES = 400


def found(assumed_o=SIGMA_O, mean=0.0, records=()):
    """Return the one row of a run of optimal analyses, whose background errors are correlated in space."""
    fits = pd.concat([fit_table(time, table) for time, table in optimal(CYCLES, assumed_o=assumed_o, mean=mean)])
    (row,) = consistency(fits, records).to_dict("records")
    return row


def trace_of_gain():
    """Return tr(HK) of the analyses of `optimal`, written out."""
    x = np.random.default_rng(0).uniform(0, 10, STATIONS + WITHHELD)[:STATIONS]
    b = SIGMA_B**2 * np.exp(-0.5 * np.subtract.outer(x, x) ** 2)
    return float(np.trace(b @ np.linalg.inv(b + SIGMA_O**2 * np.eye(STATIONS))))


@pytest.mark.parametrize("mean", [0.0, 5.0])
def test_optimal_analyses_are_consistent_whatever_the_mean(mean):
    row = found(mean=mean)
    assert (row["source"], row["variable"], row["layer"], row["values"]) == ("isd", "t2m", "surface", STATIONS)
    assert row["chi_squared"] == pytest.approx(1, abs=0.03)
    assert row["estimated"] == pytest.approx(row["stated"], rel=0.02)
    assert row["background"] == pytest.approx(SIGMA_B, rel=0.05)


def test_degrees_of_freedom_are_the_trace_of_the_gain():
    row = found()
    assert row["dfs"] == pytest.approx(trace_of_gain(), rel=0.05)
    assert row["share"] == pytest.approx(row["dfs"] / STATIONS)


def test_errors_that_are_assumed_too_small_or_too_large_are_seen():
    assert found(assumed_o=0.5 * SIGMA_O)["chi_squared"] > 1.3
    assert found(assumed_o=2 * SIGMA_O)["chi_squared"] < 0.7


def test_where_there_are_members_their_spread_counts():
    spread = {**dict.fromkeys(NAMES, 99.0), "t2m": 2 * SIGMA_B}
    record = CycleRecord(pd.Timestamp("2024-01-01"), "ok", {}, background_spread=spread)
    row = found(records=[record, record])
    assert row["spread"] == pytest.approx(2 * SIGMA_B)
    expected = (SIGMA_O**2 + SIGMA_B**2) / (SIGMA_O**2 + 4 * SIGMA_B**2)
    assert row["chi_squared"] == pytest.approx(expected, rel=0.04)


def test_a_run_without_observations_has_no_row():
    fits = pd.concat([fit_table(time, table) for time, table in optimal(2)])
    assert consistency(fits[fits["use"] == "rejected"], []).empty
