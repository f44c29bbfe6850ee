"""Observation errors from departures: against analyses whose statistics are known, and through the command."""

import numpy as np
import pandas as pd
import pytest

from dacycle.common.configuration import parse_value, write_yaml
from dacycle.common.errors import DacycleError
from dacycle.cycler.verification.desroziers import cycle_sums, estimate, propose
from dacycle.forecast_adapter.worlds.world import load_world
from dacycle.obs_ingest.errors.model import ERRORS, standard_error
from dacycle.obs_ingest.errors.table import ErrorTable, read_errors
from dacycle.obs_ingest.table import USES, add_departures, concatenate
from tests.cycler import replays, runs
from tests.cycler.cli.test_run_cli import dacycle
from tests.obs_ingest.helpers import observations
from tests.worlds import make_model, make_world

SIGMA_O, SIGMA_B, STATIONS, WITHHELD = 1.2, 0.9, 60, 20


def optimal(cycles, assumed_o=SIGMA_O, mean=0.0, variable="t2m", pressure=np.nan, seed=0):
    """Departures of optimal analyses in one dimension: correlated background errors, independent observation errors.

    The last stations are withheld; `assumed_o` is what the analysis takes the observation error to be.
    """
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 10, STATIONS + WITHHELD)
    b = SIGMA_B**2 * np.exp(-0.5 * np.subtract.outer(x, x) ** 2)
    used = slice(0, STATIONS)
    gain = b[:, used] @ np.linalg.inv(b[used, used] + assumed_o**2 * np.eye(STATIONS))
    root = np.linalg.cholesky(b + 1e-9 * np.eye(len(x)))
    use = pd.Categorical(np.repeat(["assimilated", "withheld"], [STATIONS, WITHHELD]), USES)
    for i in range(cycles):
        background = root @ rng.standard_normal(len(x))
        value = SIGMA_O * rng.standard_normal(len(x))
        analysis = background + gain @ (value - background)[used]
        table = observations(variable, value + mean, longitude=x, pressure=pressure, error=assumed_o, source="isd")
        yield (
            pd.Timestamp("2024-01-01") + i * pd.Timedelta("6h"),
            add_departures(table.assign(use=use), background, analysis),
        )


def estimated(cycles):
    return estimate((time, cycle_sums(table)) for time, table in cycles)


def test_the_errors_of_an_optimal_analysis_are_found_whatever_the_mean():
    for mean in (0.0, 5.0):
        (row,) = estimated(optimal(200, mean=mean)).to_dict("records")
        assert (row["source"], row["variable"], row["level"], row["values"]) == ("isd", "t2m", 0, 200 * STATIONS)
        assert row["estimated"] == pytest.approx(SIGMA_O, rel=0.02)
        assert row["low"] < SIGMA_O < row["high"] < row["low"] + 0.1
        assert row["background"] == pytest.approx(SIGMA_B, rel=0.05)
        assert row["mean"] == pytest.approx(mean, abs=0.1)
        assert row["withheld_o_b"] == pytest.approx(np.hypot(SIGMA_O, SIGMA_B), rel=0.03)
        assert SIGMA_O < row["withheld_o_a"] < row["withheld_o_b"]


def test_a_wrong_error_is_corrected_in_the_right_direction_and_less_at_the_next_turn():
    first = estimated(optimal(200, assumed_o=2 * SIGMA_O))["estimated"].item()
    second = estimated(optimal(200, assumed_o=first))["estimated"].item()
    assert SIGMA_O < second < first < 2 * SIGMA_O


def test_a_short_run_gives_no_interval_and_no_proposal():
    found = estimated(optimal(8))
    assert np.isfinite(found["estimated"]).all()
    assert found[["low", "high"]].isna().all(axis=None)
    assert propose(found, ErrorTable()) == {}
    assert estimated([]).empty


def test_the_proposal_is_in_the_form_that_an_experiment_takes_and_makes_errors_as_estimated():
    levels = [optimal(100, variable="q", pressure=p, seed=int(p)) for p in (20000.0, 85000.0)]
    cycles = [(parts[0][0], concatenate([table for _, table in parts])) for parts in zip(*levels, strict=True)]
    found = estimated(cycles)
    assert found["level"].tolist() == [200, 850]
    proposed = read_errors(propose(found, ErrorTable()))
    table = ErrorTable(proposed).restate(cycles[0][1])
    for level, rows in table.groupby("pressure"):
        row = found[found["level"] == level / 100].iloc[0]
        assert rows["error"].to_numpy() == pytest.approx(row["estimated"], rel=2e-3)
    at_500 = observations("q", [1e-3], pressure=50000.0, error=standard_error("q", 1e-3, 50000.0), source="isd")
    assert ErrorTable(proposed).restate(at_500)["error"].item() == pytest.approx(at_500["error"].item(), rel=1e-3)


def test_values_without_an_operator_and_those_not_used_do_not_count():
    (_, table), *_ = optimal(1)
    table.loc[:9, "o_b"] = np.nan
    table["use"] = table["use"].where(table.index >= 20, "rejected")
    sums = cycle_sums(table).set_index("use")["values"]
    assert sums.to_dict() == {"assimilated": STATIONS - 20, "withheld": WITHHELD}


def test_a_value_belongs_to_the_level_that_is_nearest_in_the_logarithm_of_pressure():
    (_, table), *_ = optimal(1, variable="t", pressure=7300.0)
    assert cycle_sums(table)["level"].unique().tolist() == [100]  # 50 hPa is nearer in pressure
    (_, table), *_ = optimal(1, variable="t", pressure=7000.0)
    assert cycle_sums(table)["level"].unique().tolist() == [50]


def test_errors_are_proposed_only_where_the_interval_is_above_zero():
    row = {"source": "isd", "variable": "t2m", "level": 0, "assumed": 1.0, "estimated": 2.0, "low": 1.5}
    assert "isd:t2m" in propose(pd.DataFrame([row]), ErrorTable())
    for low in (0.0, np.nan):
        assert propose(pd.DataFrame([row | {"low": low}]), ErrorTable()) == {}


def test_the_command_proposes_what_the_next_experiment_takes(tmp_path, monkeypatch):
    folder = make_world(tmp_path / "tiny", days=23)
    make_model(tmp_path / "double.onnx")
    monkeypatch.chdir(tmp_path)
    branch = runs.make_run(tmp_path / "archive", load_world(str(folder)), cycles=82, end="2024-01-23T00")
    said = dacycle("errors", "run", "--since", "2024-01-02T06", "--out", "errors.yaml")
    assert "20240102T06 to 20240122T06" in said
    assert "Withheld values cannot be used for it" in said

    table = branch.departures()
    own = table[(table["cycle"] > "2024-01-02T00") & (table["variable"] == "u10") & (table["use"] == "assimilated")]
    expected = np.sqrt(np.cov(own["o_b"], own["o_a"], bias=True)[0, 1])
    assert f"stations u10 (m/s) {len(own)} 1.00 {expected:.2f} (" in said
    proposed = parse_value((tmp_path / "errors.yaml").read_text(), "a file of the test", DacycleError)
    assert proposed["stations:u10"]["instrument"] == pytest.approx(ERRORS["u10"].instrument * expected, rel=1e-3)
    assert len(proposed["sondes:t"]["representativeness"]) == 13

    next_one = runs.experiment(load_world(str(folder)), errors="errors.yaml")
    assert next_one.errors == proposed
    assert next_one.error_table().model("stations", "u10").instrument == proposed["stations:u10"]["instrument"]


def test_a_real_replay_with_other_errors_draws_the_same_and_weighs_it_otherwise(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = replays.content(world.folder, world.model, tmp_path)
    for name, changes in (("plain", {}), ("own", {"errors": {"t2m": {"instrument": 2, "representativeness": 0}}})):
        (tmp_path / f"{name}.yaml").write_text(write_yaml(content | changes | {"name": name}))
        dacycle("hindcast", f"{name}.yaml")
        said = dacycle("errors", name)
        assert "stations t2m (K)" in said
        assert "Nothing is proposed" in said
    plain, own = (replays.Archive("archive").branch(name).departures() for name in ("plain", "own"))
    assert (plain["value"] == own["value"]).all()
    t2m = own["variable"] == "t2m"
    assert own.loc[t2m, "error"].to_numpy() == pytest.approx(2.0)
    assert (own.loc[~t2m, "error"] == plain.loc[~t2m, "error"]).all()


def test_what_the_command_cannot_do_is_said(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = replays.content(world.folder, world.model, tmp_path, assimilator="none", end="2024-01-03T12")
    (tmp_path / "demo.yaml").write_text(write_yaml(content))
    dacycle("hindcast", "demo.yaml")
    dacycle("errors", "demo", status=2)
    dacycle("errors", "other", status=2)
    dacycle("errors", "demo", "--since", "yesterday", status=2)
