"""The errors an experiment assumes: by grid, by its own numbers, by source."""

from importlib import import_module

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dacycle.forecast_adapter.channels import NAMES, index
from dacycle.forecast_adapter.grid import get_grid
from dacycle.obs_ingest.errors.model import ERRORS, KINDS, LOCAL_SHARE, representativeness_factor, standard_error
from dacycle.obs_ingest.errors.table import ErrorTable, read_errors
from dacycle.obs_ingest.simulation.drawing import Simulated
from dacycle.obs_ingest.sources.base import DRAWN, SOURCES
from dacycle.obs_ingest.superobs import grid_observations
from dacycle.obs_ingest.table import UNITS, ObservationError, concatenate
from tests.obs_ingest.helpers import observations

FINE = ErrorTable(spacing=get_grid("0.25deg").spacing)


def test_reports_of_another_kind_have_their_own_errors():
    """A ship's on any grid, and in the parts of a superob."""
    table = observations("msl", 1e5, source="ships", error=standard_error("msl", 1e5, kind="marine"))
    assumed = ErrorTable(kinds={"ships": "marine"})
    assert assumed.restate(table)["error"].to_numpy() == pytest.approx(table["error"].to_numpy())
    assert assumed.model("ships", "msl") == KINDS["marine"]["msl"]
    assert assumed.model("isd", "msl") == ERRORS["msl"]
    fine = ErrorTable(spacing=0.25, kinds={"ships": "marine"})
    assert KINDS["marine"]["msl"].instrument < fine.restate(table)["error"].iloc[0] < table["error"].iloc[0]
    assert assumed.shared_share(table)[0] < ErrorTable().shared_share(table)[0]


def test_on_the_grid_that_networks_were_trained_for_nothing_changes_to_the_last_bit():
    table = observations(list(UNITS), 0.1 + np.arange(len(UNITS)), pressure=52000.0, error=np.pi, period=6.0)
    restated = ErrorTable(spacing=get_grid("5.625deg").spacing).restate(table)
    assert (restated["error"] == table["error"]).all()


@pytest.mark.parametrize("name", UNITS)
def test_representativeness_grows_with_the_grid_and_never_vanishes_where_it_is_the_sites_own(name):
    fine, middle, coarse = (
        representativeness_factor(name, get_grid(g).spacing) for g in ("0.25deg", "1.5deg", "5.625deg")
    )
    assert 0.3 < fine < middle < coarse == 1
    local = name in ("t2m", "td2m", "u10", "v10", "tp")
    assert (representativeness_factor(name, 0.001) > 0.7) == local


def test_a_finer_grid_takes_representativeness_from_real_values_only():
    drawn = ErrorTable(spacing=1.5, drawn=frozenset({"stations"}))
    stated = float(standard_error("msl", 101000.0))
    table = concatenate([observations("msl", [101000.0], error=stated, source=s) for s in ("synop_bufr", "stations")])
    real, simulated = drawn.restate(table)["error"]
    assert real == pytest.approx(np.hypot(30, 80 * (1.5 / 5.625) ** (1 / 3)))
    assert simulated == stated


def test_whatever_is_drawn_from_a_reference_is_known_as_such():
    places = {kind: where.split(":") for kind, where in SOURCES.items()}
    classes = {kind: getattr(import_module(f"dacycle.obs_ingest.{m}"), name) for kind, (m, name) in places.items()}
    assert {kind for kind, source in classes.items() if issubclass(source, Simulated)} == DRAWN


def test_own_numbers_hold_on_any_grid_and_those_of_a_source_go_first():
    settings = read_errors(
        {"t2m": {"instrument": 0.5, "representativeness": 1.0}, "isd:t2m": {"representativeness": 2}}
    )
    table = concatenate(
        [
            observations("t2m", [280.0], error=standard_error("t2m", 280.0), source=source)
            for source in ("synop_bufr", "isd")
        ]
    )
    for spacing in (5.625, 0.25):
        restated = ErrorTable(settings, spacing).restate(table)["error"]
        assert restated.tolist() == pytest.approx([np.hypot(0.5, 1.0), np.hypot(0.5, 2.0)])
    assert FINE.restate(table)["error"].iloc[0] > 0.3


def test_a_profile_is_taken_at_the_pressure():
    profile = [float(level) for level in range(1, 14)]  # 50 to 1000 hPa
    table = ErrorTable(read_errors({"u": {"instrument": profile, "representativeness": 0}}))
    winds = observations("u", [10.0, 10.0], pressure=[5000.0, 100000.0], error=standard_error("u", 10.0, [5e3, 1e5]))
    assert table.restate(winds)["error"].tolist() == pytest.approx([1.0, 13.0])


def test_a_profile_between_levels_is_linear_in_the_logarithm_of_pressure():
    """Halfway from 200 to 250 hPa in ln p it is halfway from 4 to 6; halfway in p it would be less."""
    profile = [1.0] * 3 + [4.0, 6.0] + [1.0] * 8
    table = ErrorTable(read_errors({"u": {"instrument": profile, "representativeness": 0}}))
    pressure = 100 * np.sqrt(200 * 250)
    wind = observations("u", [10.0], pressure=pressure, error=standard_error("u", 10.0, pressure))
    assert table.restate(wind)["error"].iloc[0] == pytest.approx(5.0)


@given(st.floats(0.1, 5), st.floats(0, 0.02), st.floats(0.2, 3), st.sampled_from([20000.0, 62000.0, 100000.0]))
def test_a_table_that_is_so_many_times_the_built_in_one_multiplies_whatever_a_source_states(
    stated, q, factor, pressure
):
    parts = ("instrument", "representativeness", "relative_instrument", "relative_representativeness")
    times = {part: np.multiply(getattr(ERRORS["q"], part), factor).tolist() for part in parts}
    table = observations("q", [q], pressure=pressure, error=stated)
    restated = ErrorTable(read_errors({"q": times})).restate(table)["error"].iloc[0]
    assert restated == pytest.approx(stated * factor)


def test_a_missing_value_keeps_an_error():
    restated = FINE.restate(observations("tp", [np.nan, 3.0], error=1.0))["error"]
    assert np.isfinite(restated).all()
    assert restated[0] == 1.0


@pytest.mark.parametrize(("shared", "kept"), [(1.0, 40.0), (0.25, 20.0), (0, 0.0)])
def test_a_superob_keeps_the_share_of_representativeness_that_the_experiment_says(shared, kept):
    errors = {"msl": {"instrument": 300.0, "representativeness": 40.0, "shared": shared}}
    assumed = ErrorTable(read_errors(errors))
    many = assumed.restate(observations("msl", np.full(10000, 101e3), error=standard_error("msl", 101e3)))
    background = np.zeros((len(NAMES), 32, 64), np.float32)
    grid = get_grid("5.625deg")
    made = grid_observations(many, np.full(len(many), 101e3), background, grid, assumed=assumed)
    assert made.errors[index("msl")].max() == pytest.approx(np.hypot(kept, 3), rel=1e-2)


@pytest.mark.parametrize("name", UNITS)
def test_on_finer_grids_a_station_has_more_of_its_representativeness_to_itself(name):
    """The part of a station's own does not depend on the grid; of the rest the shared part stays the same share."""
    coarse, fine = ErrorTable().model("isd", name), FINE.model("isd", name)
    assert np.all(np.less_equal(fine.shared, coarse.shared))
    assert (np.max(fine.shared) < np.max(coarse.shared)) == (name in LOCAL_SHARE)
    assert ErrorTable(spacing=0.25, drawn=frozenset({"isd"})).model("isd", name) == coarse


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"t2n": {"instrument": 1}}, "t2n is no VARIABLE or SOURCE:VARIABLE; variables are t2m, td2m"),
        ({"t2m": {"instrumental": 1}}, "it says some of instrument, representativeness, relative_instrument"),
        ({"t2m": {}}, r"t2m is \{\}; it says some of"),
        ({"t2m": 1.0}, "t2m is 1.0; it says some of"),
        ({"t2m": {"instrument": [1.0] * 13}}, "t2m: instrument is a list of 13; it takes one number"),
        ({"t": {"instrument": [1.0] * 12}}, "t: instrument is a list of 12; it takes one number, or 13"),
        ({"t": {"instrument": -0.1}}, "t: instrument is -0.1, not a number of at least 0"),
        ({"t": {"instrument": "0.5 K"}}, "t: instrument is '0.5 K', not a number"),
        ({"t": {"instrument": float("nan")}}, "not a number of at least 0"),
        ({"t2m": {"instrument": 0, "representativeness": 0}}, "t2m: instrument and representativeness are both 0"),
        ({"t2m": {"shared": 1.2}}, "t2m: shared is 1.2; it is a share, 0 to 1"),
        ({"t2m": {"shared": -0.1}}, "t2m: shared is -0.1, not a number of at least 0"),
        ({"t2m": {"instrument": 0}, "isd:t2m": {"representativeness": 0}}, "isd:t2m: .* both 0"),
        (["t2m"], "errors are a mapping"),
        ("nowhere.yaml", "there is no file nowhere.yaml"),
    ],
)
def test_what_cannot_be_meant_is_refused(settings, complaint):
    with pytest.raises(ObservationError, match=complaint):
        read_errors(settings)


@pytest.mark.parametrize("text", ["<html><body>404</body></html>", "t2m: {instrument: 0.5", "", "t2m: [1"])
def test_a_damaged_file_is_refused(tmp_path, text):
    path = tmp_path / "errors.yaml"
    path.write_text(text)
    with pytest.raises(
        ObservationError, match=r"errors\.yaml:\d: (a file of observation errors is a mapping|not valid YAML)"
    ):
        read_errors(str(path))


def test_precipitation_has_the_error_of_the_larger_of_value_and_equivalent():
    """A dry report in a wet background is no surer than the background's own rain would be."""
    table = observations(["tp", "tp", "tp", "tp", "t2m"], [0.0, 20.0, 0.0, 8.0, 280.0], period=[6, 6, 6, 6, 0])
    table["error"] = [*standard_error("tp", [0.0, 20.0, 0.0, 8.0]), 1.0]
    larger = ErrorTable().with_equivalents(table, np.array([10.0, 10.0, np.nan, -1.0, 300.0]))["error"]
    assert larger.to_numpy() == pytest.approx([*standard_error("tp", [10.0, 20.0, 0.0, 8.0]), 1.0])
