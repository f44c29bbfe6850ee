"""Errors of drawn observations against those that superobs state, by the number of stations in a cell."""

import numpy as np
import pandas as pd
import pytest

from dacycle.forecast_adapter.channels import LEVELS, LOG_LEVELS
from dacycle.forecast_adapter.grid import cells
from dacycle.forecast_adapter.physics import DRY_AIR_GAS_CONSTANT
from dacycle.obs_ingest.errors.table import ErrorTable
from dacycle.obs_ingest.operators.columns import equivalents
from dacycle.obs_ingest.sources.base import build_source
from dacycle.obs_ingest.superobs import grid_observations, superob_departures
from dacycle.obs_ingest.table import add_departures
from dacycle.obs_ingest.window import Window

TIME = np.datetime64("2024-01-02T12", "h")
COUNTS = ("1", "2", "3-4", "5-8", "9+")


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """Low stations in 120 cells with 1, 2, 3, 4, 6 or 12 of them."""
    rng = np.random.default_rng(0)
    rows = []
    for cell in range(120):
        latitude, longitude = 59.0625 - 5.625 * (cell // 6), 45.0 * (cell % 6)
        for _ in range((1, 2, 3, 4, 6, 12)[(cell + cell // 6) % 6]):
            place = latitude + rng.uniform(-2, 2), longitude + rng.uniform(-2, 2), 10
            rows.append((f"s{len(rows)}", *np.round(place, 3)))
    path = tmp_path_factory.mktemp("network") / "network.csv"
    pd.DataFrame(rows, columns=["station", "latitude", "longitude", "elevation"]).to_csv(path, index=False)
    return path


def draws(world, kind, network, count):
    """Departures of draws from the truth, with their seeds."""
    truth = world.reference.array(TIME)
    for seed in range(count):
        spec = {"source": kind, "network": str(network), "gross_rate": 0, "missing_rate": 0}
        table, _ = build_source(spec, world, seed).read(Window(TIME))
        h = equivalents(table, truth, world.grid, world.orography)
        yield table, h, truth


@pytest.mark.parametrize(("kind", "count"), [("stations", 40), ("sondes", 20)])
def test_superobs_have_the_error_that_they_state_whatever_the_number_of_stations(tiny, network, kind, count):
    superobs = pd.concat(
        superob_departures(add_departures(table, h, h), tiny.grid, ErrorTable())
        for table, h, _ in draws(tiny, kind, network, count)
    )
    surface = ["t2m", "msl", "u10", "v10"]
    variable = superobs["channel"].where(superobs["channel"].isin(surface), superobs["channel"].str[0])
    counts = pd.cut(superobs["stations"], [0, 1, 2, 4, 8, np.inf], labels=COUNTS)
    squares = np.square(superobs["o_b"] / superobs["error"])
    for (name, stations), ratio in squares.groupby([variable, counts], observed=True):
        allowed = 0.1 if name != "q" else 0.2  # below 0 humidity is drawn as 0
        assert len(ratio) > 200
        assert ratio.mean() ** -0.5 == pytest.approx(1, abs=allowed), (name, stations)
    several = superobs["stations"] > 2
    own = np.square(superobs["scatter"] / superobs["own"])[several].groupby(variable[several]).mean()
    assert own.drop("q", errors="ignore").to_numpy() == pytest.approx(1, abs=0.1)


def test_a_superob_states_less_for_more_stations_and_never_nothing(tiny, network):
    table, h, truth = next(draws(tiny, "stations", network, 1))
    gridded = grid_observations(table, h, truth, tiny.grid)
    y, x = cells(tiny.grid, table["latitude"].to_numpy(), table["longitude"].to_numpy())
    of_t2m = (table["variable"] == "t2m").to_numpy()
    counts = np.zeros(tiny.grid.shape, int)
    np.add.at(counts, (y[of_t2m], x[of_t2m]), 1)
    stated = [gridded.errors[2][counts == n].mean() for n in (1, 2, 6, 12)]
    assert stated == sorted(stated, reverse=True)
    assert stated[0] == pytest.approx(np.hypot(0.3, 1.2), rel=1e-4)
    assert stated[3] == pytest.approx(np.sqrt(0.1 * 1.44 + (0.9 * 1.44 + 0.09) / 12), rel=1e-4)


@pytest.fixture(scope="module")
def soundings(tiny, network):
    """Errors (draws, 13, stations) of the heights and temperatures of drawn soundings over the sea."""
    found = {"z": [], "t": []}
    for table, h, _ in draws(tiny, "sondes", network, 6):
        error = (table["value"] - h).to_numpy()
        for name, profiles in found.items():
            rows = (table["variable"] == name).to_numpy()
            profile = pd.DataFrame({"s": table["station"][rows], "p": table["pressure"][rows], "e": error[rows]})
            profiles.append(profile.pivot(index="p", columns="s", values="e").dropna(axis=1).to_numpy())
    return {name: np.concatenate(profiles, axis=1) for name, profiles in found.items()}


def test_heights_of_a_sounding_have_one_error_that_its_temperatures_imply(soundings):
    """Thicknesses differ from those of the temperatures by no more than the noise of single levels explains."""
    z, t = soundings["z"], soundings["t"]
    assert len(z) == len(LEVELS)
    assert z.shape == t.shape
    correlation = np.corrcoef(z)
    near, far = correlation[8, 9], correlation[0, 12]
    assert near > 0.9
    assert abs(far) < 0.1
    step = np.diff(LOG_LEVELS)[:, None]
    thickness = -np.diff(z, axis=0) / (DRY_AIR_GAS_CONSTANT * step)
    mean_temperature = (t[1:] + t[:-1]) / 2
    related = (thickness * mean_temperature).mean(1) / np.square(thickness).mean(1)
    assert related == pytest.approx(1, abs=0.25)


def test_errors_of_temperature_change_their_sign_with_the_height_as_real_ones_do(soundings):
    correlation = np.corrcoef(soundings["t"])
    assert correlation[9, 10] > 0.02
    assert correlation[3, 8] < 0.02
