"""Superobs on channels and observation planes."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dacycle.forecast_adapter.channels import LEVELS, NAMES, index
from dacycle.forecast_adapter.grid import cells, get_grid
from dacycle.forecast_adapter.physics import humidity_from_dewpoint, station_pressure_ratio
from dacycle.obs_ingest.errors.model import ERRORS, standard_error
from dacycle.obs_ingest.errors.table import ErrorTable
from dacycle.obs_ingest.operators.columns import equivalents
from dacycle.obs_ingest.superobs import grid_observations, superob_departures
from dacycle.obs_ingest.table import ObservationError, add_departures, concatenate
from tests.obs_ingest.helpers import observations

GRID = get_grid("5.625deg")


def background(seed=0):
    rng = np.random.default_rng(seed)
    array = rng.normal(280, 5, (len(NAMES), *GRID.shape)).astype(np.float32)
    array[index("msl")] = 101325
    return array


def gridded(table, h=None, state=None, **options):
    state = background() if state is None else state
    h = equivalents(table, state, GRID, np.zeros(GRID.shape)) if h is None else h
    return grid_observations(table, np.asarray(h, float), state, GRID, **options)


@settings(max_examples=30)
@given(
    st.integers(1, 30),
    st.floats(-20, 20),
    st.floats(0.1, 5),
    st.integers(0, 1000),
)
def test_identical_departures_give_the_cells_background_plus_that_departure(n, departure, error, seed):
    rng = np.random.default_rng(seed)
    lat, lon = 47.8 + rng.uniform(-1, 1, n), 11.2 + rng.uniform(-1, 1, n)  # one cell
    elevation = rng.uniform(0, 3000, n)
    state = background(seed)
    table = observations("t2m", np.zeros(n), latitude=lat, longitude=lon, elevation=elevation, error=error)
    h = equivalents(table, state, GRID, np.zeros(GRID.shape))
    result = gridded(table.assign(value=h + departure), h, state)
    y, x = (int(k[0]) for k in cells(GRID, lat[:1], lon[:1]))
    assert result.values[index("t2m"), y, x] == pytest.approx(state[index("t2m"), y, x] + departure, abs=1e-3)
    shared, own = ERRORS["t2m"].parts(280.0)
    expected = error * np.sqrt((shared + own / n) / (shared + own))
    assert result.errors[index("t2m"), y, x] == pytest.approx(expected, rel=1e-5)
    assert (result.errors > 0).sum() == 1


def test_one_observation_keeps_its_error_and_many_keep_the_shared_representativeness():
    error = float(standard_error("msl", 101000.0))
    one = gridded(observations("msl", [101000.0], error=error))
    many = gridded(observations("msl", np.full(10000, 101000.0), error=error))
    assert one.errors.max() == pytest.approx(error)
    assert many.errors.max() == pytest.approx(80 * np.sqrt(0.4), rel=1e-2)


@settings(max_examples=30)
@given(st.lists(st.floats(0.5, 3), min_size=2, max_size=12), st.integers(0, 1000))
def test_rows_with_larger_errors_weigh_less_and_the_error_is_that_of_the_weighted_mean(errors, seed):
    """A report from three hours away has a larger error. The error is computed here from the whole covariance."""
    departures, errors = np.random.default_rng(seed).normal(0, 5, len(errors)), np.array(errors)
    result = gridded(observations("msl", departures, error=errors), h=np.zeros(len(errors)), state=background() * 0)
    weights = errors**-2 / (errors**-2).sum()
    share = 0.4 * 80**2 / (80**2 + 30**2)
    covariance = share * np.outer(errors, errors) + (1 - share) * np.diag(errors**2)
    y, x = (int(k[0]) for k in cells(GRID, [50.0], [10.0]))
    assert result.values[index("msl"), y, x] == pytest.approx(weights @ departures, rel=1e-4, abs=1e-4)
    assert result.errors[index("msl"), y, x] == pytest.approx(np.sqrt(weights @ covariance @ weights), rel=1e-5)


def test_dry_gauges_do_not_outweigh_wet_ones():
    rain = np.array([0.0, 0.0, 0.0, 20.0])
    result = gridded(observations("tp", rain, period=6.0, error=standard_error("tp", rain)))
    assert result.values[index_of("tp6h")].max() == pytest.approx(5.0)


def index_of(plane):
    return len(NAMES) + ("tp6h", "olr", "q2m").index(plane)


def test_departures_of_superobs_are_those_that_the_analysis_was_given():
    rng = np.random.default_rng(0)
    n = 300
    table = concatenate(
        [
            observations(
                name, rng.normal(0, 3, n), latitude=rng.uniform(-60, 60, n), longitude=rng.uniform(0, 360, n),
                error=rng.uniform(1, 3, n), pressure=rng.choice([50000.0, 85000.0], n),
            )
            for name in ("t2m", "msl", "u")
        ]
    )  # fmt: skip
    zero = np.zeros(len(table))
    made = gridded(table, h=zero, state=background() * 0)
    superobs = superob_departures(add_departures(table, zero, zero + 1), GRID, ErrorTable())
    channels = np.array(NAMES)[np.nonzero(made.errors[: len(NAMES)])[0]]
    assert superobs["channel"].tolist() == channels.tolist()
    assert superobs["stations"].sum() == 3 * n
    assert superobs["o_b"].to_numpy() == pytest.approx(made.values[made.errors > 0], abs=1e-5)
    assert superobs["o_a"].to_numpy() == pytest.approx(superobs["o_b"] - 1)
    assert superobs["error"].to_numpy() == pytest.approx(made.errors[made.errors > 0], rel=1e-5)
    assert superobs["scatter"].isna().tolist() == (superobs["stations"] == 1).tolist()


@settings(max_examples=30)
@given(st.floats(-85, 85), st.floats(-540, 540))
def test_an_observation_lands_in_its_cell_whatever_the_longitude_convention(latitude, longitude):
    state = background()
    wrapped = (longitude + 180) % 360 - 180
    places = []
    for lon in (wrapped, wrapped % 360):
        result = gridded(observations("u10", [5.0], latitude=latitude, longitude=lon), state=state)
        channel, y, x = (int(k[0]) for k in np.nonzero(result.errors))
        places.append((channel, y, x))
        assert abs(GRID.latitude[y] - latitude) <= 5.625 / 2 + 1e-6
        distance = abs((GRID.longitude[x] - lon + 180) % 360 - 180)
        assert distance <= 5.625 / 2 + 1e-6
    assert places[0] == places[1]
    assert places[0][0] == index("u10")


def test_where_nothing_was_observed_both_planes_are_exactly_zero():
    result = gridded(observations(["t2m", "olr"], [280.0, 230.0], period=[0.0, 6.0], error=2.0))
    assert result.values.shape == (72, 32, 64)
    assert result.values.dtype == result.errors.dtype == np.float32
    assert (result.errors > 0).sum() == 2
    assert (result.values[result.errors == 0] == 0).all()
    assert np.isfinite(result.values).all()


def test_only_assimilated_rows_count():
    table = observations("t2m", [280.0] * 4, longitude=[10.0, 30.0, 50.0, 70.0])
    table["use"] = table["use"].cat.set_categories(table["use"].cat.categories)
    for i, use in enumerate(("assimilated", "withheld", "rejected", "late")):
        table.loc[i, "use"] = use
    assert (gridded(table).errors > 0).sum() == 1


def test_errors_are_floored_by_the_channels_spread():
    table = observations("t2m", [280.0], error=1e-6)
    std = np.full(len(NAMES), 10.0, np.float32)
    assert gridded(table, std=std).errors.max() == pytest.approx(0.1)
    assert gridded(table).errors.max() == pytest.approx(1e-6)


def test_the_floor_is_that_of_the_superobs_own_channel():
    std = np.linspace(10, 500, len(NAMES)).astype(np.float32)
    table = observations(
        ["t2m", "u10", "v"], 280.0, error=1e-6, longitude=[10.0, 50.0, 90.0], latitude=[50.0, -20.0, 5.0], pressure=5e4
    )
    errors = gridded(table, std=std).errors
    for name in ("t2m", "u10", "v500"):
        assert errors[index(name)].max() == pytest.approx(0.01 * std[index(name)])


def test_each_level_goes_to_its_channel_and_others_to_the_nearest():
    """The nearest in log p: 549 hPa is nearer to 600 hPa than to 500 hPa, in p it is not."""
    pressure = [5000.0, 50000.0, 100000.0, 52000.0, 99000.0, 54900.0]
    lon = [0.0, 40.0, 80.0, 120.0, 160.0, 200.0]
    result = gridded(observations("v", np.zeros(6), pressure=pressure, longitude=lon))
    channels = [NAMES[c] for c in np.nonzero(result.errors)[0]]
    assert sorted(channels) == sorted(["v50", "v500", "v1000", "v500", "v1000", "v600"])


@pytest.mark.parametrize(("above", "below"), list(pairwise(LEVELS)))
def test_the_border_between_two_levels_is_their_geometric_mean(above, below):
    border = 100 * np.sqrt(above * below)
    result = gridded(observations("v", np.zeros(2), pressure=[0.999 * border, 1.001 * border], longitude=[0.0, 40.0]))
    assert [NAMES[c] for c in np.nonzero(result.errors)[0]] == [f"v{above}", f"v{below}"]


def test_a_row_without_a_model_equivalent_makes_no_superob():
    table = observations("t2m", [280.0, 281.0], longitude=[10.0, 50.0])
    result = gridded(table, h=[np.nan, 280.0])
    assert (result.errors > 0).sum() == 1
    assert np.isfinite(result.values).all()


def test_planes_are_plain_means_in_the_order_asked_for():
    rain = observations("tp", [2.0, 4.0], period=6.0)
    olr = observations("olr", [200.0, 240.0], period=6.0)
    half_day = observations("tp", [90.0], period=12.0)
    result = gridded(concatenate([rain, olr, half_day]), planes=("olr", "tp6h"))
    assert result.planes == ("olr", "tp6h")
    assert result.values.shape[0] == 71
    assert result.values[69].max() == pytest.approx(220.0)
    assert result.values[70].max() == pytest.approx(3.0)
    assert gridded(rain, planes=()).values.shape[0] == 69


def test_a_daily_mean_of_olr_says_less_about_six_hours_however_many_there_are():
    error = float(standard_error("olr", 230.0))
    for n in (1, 400):
        six, day = (gridded(observations("olr", np.full(n, 230.0), period=p, error=error)) for p in (6.0, 24.0))
        assert day.values.max() == pytest.approx(230.0)
        extra = np.sqrt(day.errors.max() ** 2 - six.errors.max() ** 2)
        assert extra == pytest.approx(13, abs=1)
    one, two = (gridded(observations("olr", [230.0], period=p, error=error)).errors.max() for p in (12.0, 24.0))
    assert error < one < two


def test_dewpoint_becomes_humidity_at_the_stations_pressure():
    table = observations("td2m", [283.15], elevation=1000.0, error=1.5)
    state = background()
    state[index("t2m")] = 284.0
    result = gridded(table, state=state, planes=("q2m",))
    pressure = 101325 * station_pressure_ratio(1000.0, 284.0)
    expected = humidity_from_dewpoint(283.15, pressure)
    assert result.values[69].max() == pytest.approx(expected, rel=1e-5)
    slope = humidity_from_dewpoint(283.65, pressure) - humidity_from_dewpoint(282.65, pressure)
    assert result.errors[69].max() == pytest.approx(1.5 * slope, rel=1e-4)
    assert expected == pytest.approx(8.5e-3, rel=0.02)


def test_station_pressure_stands_in_for_sea_level_pressure_only_where_there_is_none():
    state = background()
    ps = observations("ps", [0.0], elevation=500.0, error=100.0)
    h = equivalents(ps, state, GRID, np.zeros(GRID.shape))
    high = gridded(ps.assign(value=h + 100.0), h, state)
    ratio = h[0] / 101325
    assert high.values.max() == pytest.approx(101325 + 100 / ratio, rel=1e-6)
    assert high.errors.max() == pytest.approx(100 / ratio, rel=1e-5)
    both = concatenate([ps.assign(value=h + 5000.0), observations("msl", [101325.0])])
    assert gridded(both, state=state).values.max() == pytest.approx(101325.0)


def test_an_unknown_plane_is_refused():
    with pytest.raises(ObservationError, match="unknown observation plane snow"):
        gridded(observations("t2m", [280.0]), planes=("snow",))


def test_nothing_gives_nothing():
    table = observations("t2m", [280.0]).iloc[:0]
    result = gridded(table)
    assert not result.errors.any()
    assert not result.values.any()
