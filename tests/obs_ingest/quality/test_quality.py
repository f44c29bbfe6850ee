"""Quality control: the order of the checks, the withheld sites, and that no row is lost."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dacycle.forecast_adapter.channels import NAMES, index
from dacycle.forecast_adapter.grid import get_grid, great_circle_km
from dacycle.obs_ingest.operators.columns import equivalents
from dacycle.obs_ingest.quality.control import Checks, withhold
from dacycle.obs_ingest.sources.base import build_source
from dacycle.obs_ingest.table import ObservationError, concatenate
from dacycle.obs_ingest.window import Window
from tests.obs_ingest.helpers import TIME, checked, observations

GRID = get_grid("5.625deg")
SEA = np.zeros(GRID.shape)
WINDOW = Window(TIME, pd.Timedelta("3h"))
PINNED = [1, 3, 4, 5, 14, 19]


def verdict(table, background=None, *, window=WINDOW, orography=SEA, spread=1.0, share=0.0, **options):
    """Quality control against `background` (default: equal to the values, so that only other checks can object)."""
    h = table["value"].to_numpy() if background is None else np.broadcast_to(np.asarray(background, float), len(table))
    return checked(table, window, h, np.full(len(NAMES), spread), GRID, orography, share=share, **options)


def reasons(*args, **kwargs):
    return verdict(*args, **kwargs)["reason"].tolist()


@pytest.mark.parametrize(
    ("variable", "good", "gross"),
    [
        ("t2m", 300.0, 372.0),
        ("u10", 30.0, 349.0),
        ("v10", -30.0, -200.0),
        ("msl", 101000.0, 120000.0),
        ("td2m", 280.0, 330.0),
        ("tp", 5.0, -0.1),
        ("olr", 230.0, 20.0),
        ("q", 0.01, 0.055),
    ],
)
def test_gross_errors_are_rejected(variable, good, gross):
    longitude = [10.0, 20.0]
    table = observations(variable, [good, gross], longitude=longitude, pressure=85000.0, period=6.0)
    assert reasons(table) == ["", "gross_limits"]


@pytest.mark.parametrize(("variable", "value"), [("t2m", 15.0), ("msl", 1013.0), ("q", 5.0), ("t", -40.0)])
def test_a_single_value_in_another_unit_is_called_that(variable, value):
    assert reasons(observations(variable, [value], pressure=85000.0)) == ["unit"]


def test_missing_values_positions_and_times():
    assert reasons(observations("t2m", [np.nan])) == ["missing_value"]
    assert reasons(observations("t2m", [280.0], latitude=0.0, longitude=0.0)) == ["position"]
    point = observations("olr", [230.0], latitude=0.0, longitude=0.0, period=6.0)
    point["station"] = point["site"]
    assert reasons(point) == [""]  # a raster has a point there
    table = observations("t2m", [280.0] * 3, minutes=[-180, -179, 180], longitude=[1.0, 2.0, 3.0], delay=0)
    assert reasons(table) == ["outside_window", "", ""]


def test_of_several_reports_the_nearest_in_time_stays_and_of_equals_the_first():
    table = observations(
        ["t2m", "t2m", "t2m", "msl", "msl"], [280.0, 281.0, 282.0, 1e5, 1.001e5], minutes=[-60, 10, 20, 0, 0]
    )
    assert reasons(table) == ["duplicate", "", "duplicate", "", "duplicate"]


def test_levels_periods_and_places_are_not_duplicates_of_one_another():
    levels = observations("t", [250.0, 251.0], pressure=[50000.0, 60000.0])
    periods = observations("tp", [1.0, 2.0], period=[6.0, 12.0])
    places = observations("t2m", [280.0, 280.0], longitude=[10.0, 10.02])
    assert "duplicate" not in reasons(concatenate([levels, periods, places]))


def test_a_bad_or_late_report_does_not_displace_a_good_one():
    table = observations("t2m", [280.0, 400.0, 281.0], minutes=[60, 0, 10], delay=[30, 30, 300])
    assert reasons(table) == ["", "gross_limits", "after_cutoff"]


def test_two_sources_at_one_place_count_once():
    table = concatenate([observations("t2m", 280.0, source="a"), observations("t2m", 280.5, source="b")])
    assert reasons(table) == ["", "duplicate"]


def test_the_reports_of_a_moving_ship_count_once():
    """Each has a site of its own; those of another ship, of the same name but far away, stay."""
    hourly = observations("msl", [1e5] * 3, latitude=[50.0, 50.3, 50.6], minutes=[-60, 0, 60])
    hourly["station"] = pd.Categorical(["DBLK"] * 3)
    other = observations("msl", 1e5, latitude=-20.0, minutes=120)
    other["station"] = pd.Categorical(["DBLK"])
    assert reasons(concatenate([hourly, other])) == ["duplicate", "", "duplicate", ""]
    rounded = observations("msl", 1e5, latitude=50.28, source="b")
    rounded["station"] = pd.Categorical(["DBLK"])
    assert reasons(concatenate([hourly.iloc[[1]], rounded])) == ["", "duplicate"]


def test_reports_of_an_aircraft_at_one_level_all_count():
    level = observations("t", [220.0] * 2, latitude=[50.0, 50.5], pressure=25000.0)
    level["station"] = pd.Categorical(["EU1234"] * 2)
    assert "duplicate" not in reasons(level)


def test_stations_far_from_the_models_ground():
    table = observations("t2m", [280.0] * 4, elevation=[500.0, 501.0, -501.0, np.nan], longitude=[1.0, 2.0, 3.0, 4.0])
    assert reasons(table) == ["", "station_height", "station_height", "station_height"]
    wind = observations("u10", [5.0], elevation=2000.0)
    assert reasons(wind) == [""]
    assert reasons(observations("msl", [1e5, 1e5], elevation=[700.0, 3950.0], longitude=[1.0, 2.0])) == [
        "",
        "station_height",
    ]


def test_the_height_over_which_h_moves_a_temperature_is_kept():
    """H(x) moves the background's 280 K from its ground of 300 m by 6.5 K/km, 200 m up and 450 m down."""
    state = np.zeros((len(NAMES), *GRID.shape), np.float32)
    state[index("t2m")], state[index("msl")] = 280.0, 101325.0
    ground = np.full(GRID.shape, 300.0)
    table = observations(
        ["t2m", "t2m", "td2m", "t2m", "t2m", "u10", "ps"],
        280.0,
        longitude=np.arange(7.0),
        elevation=[500.0, -150.0, 900.0, 900.0, np.nan, 900, 500],
    )
    h = equivalents(table, state, GRID, ground)
    result = checked(table, WINDOW, h, np.full(len(NAMES), 1e6), GRID, ground, share=0)
    height = result["height_difference"].to_numpy()
    np.testing.assert_allclose(height, [200, -450, 600, 600, np.nan, np.nan, np.nan], atol=1e-3)
    np.testing.assert_allclose(h[[0, 1, 3]], 280 - 0.0065 * height[[0, 1, 3]], rtol=1e-6)
    assert (result["reason"] == "station_height").tolist() == [False, False, True, True, True, False, False]
    assert h[-1] == pytest.approx(95335, rel=1e-4)  # with 278.7 K at the station's own height


def test_the_background_check_weighs_both_errors():
    table = observations("t2m", [284.9, 285.1, 275.1, 274.9], error=1.0, longitude=[1.0, 2.0, 3.0, 4.0])
    expected = ["", "background_check", "", "background_check"]
    assert reasons(table, 280.0, spread=0.75) == expected  # 4 sqrt(1 + 0.5625) = 5
    assert reasons(table, 280.0, spread=3.0) == [""] * 4
    assert reasons(table, 280.0, spread=0.75, checks=Checks(background_check=5.0)) == [""] * 4


def test_background_error_aloft_belongs_to_the_level():
    spread = np.full(len(NAMES), 0.1)
    spread[index("t500")] = 5.0
    table = observations("t", [260.0, 260.0], error=0.1, pressure=[50000.0, 85000.0])
    assert checked(table, WINDOW, np.array([250.0, 250.0]), spread, GRID, SEA, share=0)["reason"].tolist() == [
        "",
        "background_check",
    ]


def test_background_error_of_station_pressure_is_that_at_sea_level_and_the_reduction_has_its_own():
    """With 100 Pa at sea level: 4 x 100 Pa at 0 m; at 700 m the reduction adds 115 Pa: 4 sqrt(100^2 + 115^2) = 611."""
    table = observations("ps", 9e4 + np.array([395.0, 405.0, 600.0, 620.0]), longitude=np.arange(4.0), error=1e-3,
                         elevation=[0.0, 0.0, 700.0, 700.0])  # fmt: skip
    assert reasons(table, 9e4, spread=100.0) == ["", "background_check"] * 2
    grown = verdict(table, 9e4, spread=100.0)["error"].to_numpy()
    assert grown == pytest.approx([0, 0, 115, 115], abs=1)


def test_background_error_between_levels_is_linear_in_the_logarithm_of_pressure():
    """Halfway from 600 to 700 hPa in ln p it is (1 + 9) / 2 K, so that 20 K pass; linear in p, only 19.4 K would."""
    spread = np.full(len(NAMES), 0.1)
    spread[[index("t600"), index("t700")]] = 1.0, 9.0
    table = observations("t", 250 + np.array([19.8, 20.2]), error=1e-3, pressure=100 * np.sqrt(600 * 700),
                         longitude=[0.0, 20.0])  # fmt: skip
    result = checked(table, WINDOW, np.full(2, 250.0), spread, GRID, SEA, share=0)
    assert result["reason"].tolist() == ["", "background_check"]


def test_late_values_are_late_by_their_sources_cutoff():
    table = concatenate([observations("t2m", [280.0, 280.0], delay=[179, 181], longitude=[1.0, 2.0], source="a")] * 1)
    assert verdict(table)["use"].tolist() == ["assimilated", "late"]
    assert verdict(table, cutoffs={"a": None})["use"].tolist() == ["assimilated", "assimilated"]
    assert verdict(table, cutoffs={"a": pd.Timedelta("2h")})["use"].tolist() == ["late", "late"]
    assert verdict(table, cutoffs={"b": None})["use"].tolist() == ["assimilated", "late"]


def test_what_no_plane_takes_has_no_operator():
    table = observations(["tp", "tp", "olr", "td2m", "t"], [1.0, 1.0, 230.0, 280.0, 250.0], period=[6, 12, 6, 0, 0],
                         pressure=3000.0)  # fmt: skip
    assert reasons(table, np.nan) == ["", "no_operator", "", "", "no_operator"]
    assert reasons(table, np.nan, planes=("olr",)) == ["no_operator", "no_operator", "", "no_operator", "no_operator"]


@pytest.mark.parametrize(
    ("deny", "expected"),
    [
        (["sondes"], ["", "", "denied"]),
        (["msl"], ["", "denied", ""]),
        (["stations:t2m"], ["denied", "", ""]),
        (["sondes:t2m"], ["", "", ""]),
    ],
)
def test_observations_are_denied_by_source_variable_or_both(deny, expected):
    surface = observations(["t2m", "msl"], [280.0, 1e5], source="stations")
    table = concatenate([surface, observations("t", [250.0], pressure=50000.0, source="sondes")])
    result = verdict(table, deny=deny)
    assert result["reason"].tolist() == expected
    assert (result["use"] == "rejected").tolist() == [bool(reason) for reason in expected]


def test_errors_grow_with_the_distance_in_time():
    table = observations("t2m", [280.0, 280.0, 280.0], minutes=[0, 90, 180], longitude=[1.0, 2.0, 3.0], error=2.0)
    assert verdict(table)["error"].tolist() == pytest.approx([2.0, 2 * np.sqrt(1.25), 2 * np.sqrt(2)])


def test_names_that_cannot_exist_are_refused():
    table = observations("t2m", 280.0)
    with pytest.raises(ObservationError, match="unknown observation plane q1000"):
        verdict(table, planes=("q1000",))
    with pytest.raises(ObservationError, match="unknown variable to deny sst"):
        verdict(table, deny=["stations:sst"])
    with pytest.raises(ObservationError, match="2 background equivalents for 1 observations"):
        checked(table, WINDOW, np.zeros(2), np.ones(len(NAMES)), GRID, SEA)
    with pytest.raises(ObservationError, match="withheld share is 1"):
        withhold(table, share=1.0)


def positions(seed, n=400):
    """Clusters of stations a few km apart, as around cities."""
    rng = np.random.default_rng(seed)
    centres = np.stack([rng.uniform(-80, 80, 40), rng.uniform(-180, 180, 40)])
    return centres[:, rng.integers(0, 40, n)] + rng.normal(0, 0.08, (2, n))


@settings(max_examples=15)
@given(st.integers(0, 10_000))
def test_everything_near_a_chosen_site_is_withheld_with_it(seed):
    lat, lon = np.round(positions(seed), 4)  # as files and records hold positions
    table = observations("t2m", np.full(len(lat), 280.0), latitude=lat, longitude=lon)
    withheld = withhold(table)
    alone = np.array([withhold(table.iloc[i : i + 1])[0] for i in range(len(table))])
    near = great_circle_km(lat[:, None], lon[:, None], lat, lon) < 10
    assert (withheld == (near & alone).any(1)).all()


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.randoms(use_true_random=False))
def test_the_withheld_sites_depend_on_positions_alone(seed, random):
    lat, lon = positions(seed, 100)
    table = observations("t2m", np.full(100, 280.0), latitude=lat, longitude=lon)
    order = list(range(100))
    random.shuffle(order)
    other = observations("olr", np.full(100, 230.0), latitude=lat[order], longitude=lon[order] % 360, source="olr")
    assert (withhold(table)[order] == withhold(other)).all()


def test_a_place_just_west_of_the_zero_meridian_is_withheld_with_the_one_on_it():
    """Both round to 0.0 E."""
    latitude = np.arange(-80.0, 81.0)
    west, zero = (
        withhold(observations("t2m", np.full(161, 280.0), latitude=latitude, longitude=longitude), 0.5)
        for longitude in (359.97, 0.0)
    )
    assert 40 < zero.sum() < 120
    assert (west == zero).all()


def test_about_a_tenth_of_isolated_sites_is_withheld_and_another_salt_takes_others():
    lat, lon = np.meshgrid(np.arange(-60, 60, 2.0), np.arange(0, 360, 4.0))
    table = observations("t2m", np.full(lat.size, 280.0), latitude=lat.ravel(), longitude=lon.ravel())
    withheld = withhold(table)
    assert withheld.mean() == pytest.approx(0.1, abs=0.015)
    assert withhold(table, 0.3).mean() == pytest.approx(0.3, abs=0.025)
    assert (withhold(table, 0.3) >= withheld).all()
    assert not (withhold(table, salt="other") == withheld).all()
    assert not withhold(table, 0).any()


def scattered_sites():
    """Twenty sites far from one another."""
    latitude = np.arange(-50, 50, 5.0)
    return observations("t2m", np.full(20, 280.0), latitude=latitude, longitude=3 * latitude + 1)


def test_the_withheld_set_is_pinned():
    """A change of the hash would silently compare old archives with other sites."""
    table = scattered_sites()
    assert np.nonzero(withhold(table, 0.3))[0].tolist() == PINNED


def test_a_gross_error_at_a_withheld_site_is_rejected_and_denial_keeps_withheld_values():
    table = scattered_sites()
    table.loc[PINNED[0], "value"] = 400.0
    result = verdict(table, share=0.3, deny=["t2m"])
    assert result["reason"][PINNED[0]] == "gross_limits"
    assert set(result["use"][PINNED[1:]]) == {"withheld"}
    assert set(result["use"].drop(PINNED)) == {"rejected"}


def test_no_row_disappears_and_most_of_a_good_network_is_used(tiny):
    tables = [build_source({"source": kind}, tiny, 1).read(WINDOW)[0] for kind in ("stations", "sondes", "olr")]
    table = concatenate(tables)
    state = tiny.reference.array(TIME)
    h = equivalents(table, state, tiny.grid, tiny.orography)
    result = checked(table, WINDOW, h, 0.1 * tiny.statistics.std, tiny.grid, tiny.orography)
    kept = ["time", "site", "variable", "pressure", "value", "source"]
    pd.testing.assert_frame_equal(result[kept], table[kept])
    assert (result["use"] == "assimilated").mean() > 0.75
    assert (result["reason"] == "background_check").mean() < 0.01
    assert ((result["use"] == "assimilated") == (result["reason"] == "")).all()
