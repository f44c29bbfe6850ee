"""Kept forecasts against observations: by hand, beside the reference, and what is kept of it."""

import numpy as np
import pandas as pd
import pytest

from dacycle.cycler.archive.branches import ArchiveError
from dacycle.cycler.report.at_observations import observation_rows, observation_table
from dacycle.cycler.verification.at_observations import WITHHELD, at_observations, by_lead
from dacycle.cycler.verification.drift import forecasts, make_forecasts
from dacycle.forecast_adapter.channels import HEADLINE, index
from dacycle.forecast_adapter.grid import interpolate_to_points
from dacycle.forecast_adapter.models.model import load_model
from tests.cycler.runs import START, make_run

CYCLES = 8


@pytest.fixture(scope="module")
def model(world):
    return load_model(world.model)


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny, model):
    branch = make_run(tmp_path_factory.mktemp("run") / "archive", tiny, cycles=CYCLES, model_digest=model.digest)
    assert len(list(make_forecasts(branch, tiny, model))) == 4
    return branch


@pytest.fixture(scope="module")
def scored(run, tiny):
    return at_observations(run, tiny)


def accepted(run, time, channel):
    table = run.departures([time])
    table = table[table["use"].isin(["assimilated", "withheld"])]
    return table[table["variable"] == "msl"] if channel == "msl" else table[table["pressure"] == 85000]


@pytest.mark.parametrize("channel", ["msl", "t850"])
def test_sums_by_hand(run, tiny, scored, channel):
    table = accepted(run, START + pd.Timedelta(hours=12), channel)
    field = forecasts(run)[channel].sel(time=START, lead=12).values
    reference = tiny.reference.array(np.datetime64(START, "h") + 12)[index(channel)]
    place = tiny.grid, table["latitude"].to_numpy(), table["longitude"].to_numpy()
    modelled = [interpolate_to_points(x, *place).astype(float) for x in (field, reference)]
    row = scored[(scored["start"] == START) & (scored["lead"] == 12) & (scored["channel"] == channel)]
    apart = row["source"].str.endswith(WITHHELD)
    withheld, row = row[apart & (row["region"] == "globe")].iloc[0], row[~apart]
    globe = row[row["region"] == "globe"].iloc[0]
    value, error = (table[name].to_numpy(float) for name in ("value", "error"))
    assert globe["n"] == globe["verified"] == len(table) == 36
    at_withheld = (table["use"] == "withheld").to_numpy()
    assert withheld["n"] == at_withheld.sum() == 4
    assert withheld["d_squared"] == pytest.approx(np.square(value - modelled[0])[at_withheld].sum(), rel=1e-4)
    assert globe["d_squared"] == pytest.approx(np.square(value - modelled[0]).sum(), rel=1e-4)
    assert globe["error_squared"] == pytest.approx(np.square(error).sum(), rel=1e-5)
    assert globe["from_reference_squared"] == pytest.approx(np.square(modelled[0] - modelled[1]).sum(), rel=1e-4)
    assert globe["reference_d_squared"] == pytest.approx(np.square(value - modelled[1]).sum(), rel=1e-4)
    parts = row[row["region"] != "globe"]
    assert parts["n"].sum() == globe["n"]
    assert parts["d_squared"].sum() == pytest.approx(globe["d_squared"])


def test_an_analysis_is_compared_with_what_it_has_not_seen(run, scored):
    at_start = scored[(scored["start"] == START) & (scored["lead"] == 0) & (scored["region"] == "globe")]
    assert (accepted(run, START, "msl")["use"] == "withheld").sum() == 4
    assert at_start.set_index("channel").loc["msl", "n"] == 4


def test_without_their_own_error_observations_tell_what_the_reference_tells(scored):
    later = by_lead(scored[scored["lead"] > 0].assign(lead=12))
    later = later[(later["region"] == "globe") & ~later["source"].str.endswith(WITHHELD)].set_index("channel")
    for channel in ("t850", "msl"):
        row = later.loc[channel]
        assert row["n"] > 150
        assert row["error"] == pytest.approx(row["against_reference"], rel=0.15)
        assert row["rms"] ** 2 == pytest.approx(row["error"] ** 2 + row["observation_error"] ** 2)
        assert not row["reference_error"] > 0.5 * row["observation_error"]  # the reference is the truth here


def test_leads_beyond_the_run_have_no_observations(run, scored):
    last = run.times[-1]
    valid = scored["start"] + pd.to_timedelta(scored["lead"].astype(int), unit="h")
    assert valid.max() <= last
    assert set(scored["channel"]) == {"msl", "t850"}  # t2m has no elevation here
    assert set(scored["channel"]) <= set(HEADLINE)


def test_what_was_scored_is_kept_and_new_cycles_are_added(tmp_path, tiny, model):
    folder, options = tmp_path / "archive", {"model_digest": model.digest}
    run = make_run(folder, tiny, cycles=3, **options)
    list(make_forecasts(run, tiny, model))
    before = at_observations(run, tiny)
    file = run.folder / "at_observations/at_observations.parquet"
    content = file.read_bytes()
    pd.testing.assert_frame_equal(at_observations(run, tiny), before)
    assert file.read_bytes() == content
    run = make_run(folder, tiny, cycles=CYCLES, **options)
    after = at_observations(run, tiny)
    key = ["start", "lead", "source", "channel", "region"]
    both = before.merge(after, on=key, suffixes=("", "_after"))
    assert len(both) == len(before) < len(after)
    assert (both["d_squared"] == both["d_squared_after"]).all()
    file.unlink()
    pd.testing.assert_frame_equal(at_observations(run, tiny), after)


def test_rows_are_in_readable_units(run, tiny, scored):
    rows = observation_rows(run, tiny)
    pressure = next(r for r in rows if (r["channel"], r["region"], r["lead_hours"]) == ("msl", "globe", 12))
    errors = by_lead(scored)
    same = errors[(errors["channel"] == "msl") & (errors["region"] == "globe") & (errors["lead"] == 12)].iloc[0]
    assert pressure["unit"] == "hPa"
    assert pressure["error"] == pytest.approx(same["error"] / 100)
    leads, table = observation_table(rows)
    assert leads == [0, 24]
    assert [row["channel"] for row in table] == ["t850", "t850", "msl", "msl"], "of all, and of withheld sites alone"
    assert observation_table([]) == ([], [])


def test_a_run_without_forecasts_says_how_they_are_made(tmp_path, tiny):
    run = make_run(tmp_path / "archive", tiny, cycles=2)
    with pytest.raises(ArchiveError, match="has no forecasts; make them with `dacycle drift run`"):
        at_observations(run, tiny)
