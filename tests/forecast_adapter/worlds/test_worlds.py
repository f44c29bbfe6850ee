"""Worlds: built from a nature run's files, opened, and refused when their files do not belong together."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from dacycle.forecast_adapter.channels import GROUPS, index
from dacycle.forecast_adapter.grid import get_grid
from dacycle.forecast_adapter.scores import anomaly_correlation
from dacycle.forecast_adapter.state import make_state, to_arrays, to_dataset
from dacycle.forecast_adapter.statistics import Statistics
from dacycle.forecast_adapter.worlds.reference import Reference, ReferenceDataError, write_times
from dacycle.forecast_adapter.worlds.world import Climatology, World, WorldError, build_world, load_world
from tests.conftest import TinyWorld
from tests.worlds import profile


@pytest.fixture(scope="module")
def nature(world: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the tiny world's truth like a nature run, once as 2023 (training) and once as 2024."""
    folder = tmp_path_factory.mktemp("nature")
    (source,) = sorted((world.folder / "reference").glob("*.nc"))
    with xr.open_dataset(source, engine="h5netcdf") as file:
        dataset = file.load()
    for year, shift in ((2023, -365), (2024, 0)):
        moved = dataset.assign_coords(time=dataset.time + np.timedelta64(shift, "D"))
        write_times(moved, folder / str(year) / f"{year}-01.nc")
    (folder / "static.nc").write_bytes((world.folder / "static.nc").read_bytes())
    return folder


def times(days: int = 3) -> np.ndarray:
    return np.datetime64("2024-01-01T00", "h") + 6 * np.arange(4 * days)


def test_a_built_world_opens_and_keeps_the_truth_within_its_rounding(nature: Path, tmp_path: Path) -> None:
    build_world(nature, tmp_path / "w", "w", [2023], times(), "for a test")
    world, truth = load_world(tmp_path / "w"), Reference(nature)
    assert list(world.reference.times) == list(times())
    error = np.abs(world.reference.array(times()[5]) - truth.array(times()[5])) / world.statistics.std[:, None, None]
    assert 0 < error.max() <= 0.03
    surface, exact = world.reference.surface(times()[5]), truth.surface(times()[5])
    assert abs(surface["olr"] - exact["olr"]).max() <= 0.5
    assert abs(surface["tp6h"] - exact["tp6h"]).max() <= 0.01  # mm


def test_statistics_are_the_area_weighted_ones_of_the_training_years(nature: Path, tmp_path: Path) -> None:
    build_world(nature, tmp_path / "w", "w", [2023], times(), "for a test")
    reference = Reference(nature / "2023")
    states = np.stack([reference.array(time) for time in reference.times]).astype(np.float64)
    weights = np.broadcast_to(reference.grid.weights, states[:, 0].shape)
    statistics = load_world(tmp_path / "w").statistics
    for name in ("z500", "q50", "t2m"):
        values = states[:, index(name)]
        mean = np.average(values, weights=weights)
        assert statistics.mean[index(name)] == pytest.approx(mean, rel=1e-5)
        expected = np.sqrt(np.average((values - mean) ** 2, weights=weights))
        assert statistics.std[index(name)] == pytest.approx(expected, rel=1e-3)


def test_climatology_follows_the_annual_cycle(nature: Path, tmp_path: Path) -> None:
    year = np.datetime64("2022-01-01T00", "h") + 24 * 15 * np.arange(24)
    with xr.open_dataset(nature / "2024/2024-01.nc", engine="h5netcdf") as file:
        still = file.isel(time=[0] * 24).load().assign_coords(time=year.astype("datetime64[ns]"))
    season = 8 * np.cos(2 * np.pi * 15 * np.arange(24) / 365.2425)
    still["2m_temperature"] = still["2m_temperature"] + xr.DataArray(season.astype(np.float32), dims="time")
    write_times(still, tmp_path / "nature/2022/2022-01.nc")
    (tmp_path / "nature/2024").mkdir()
    for name in ("2024/2024-01.nc", "static.nc"):
        (tmp_path / "nature" / name).write_bytes((nature / name).read_bytes())
    build_world(tmp_path / "nature", tmp_path / "w", "w", [2022], times(), "for a test")
    climatology = load_world(tmp_path / "w").climatology
    summer, winter = (climatology.at(np.datetime64(day))[index("t2m")] for day in ("2024-07-02T00", "2024-01-01T00"))
    np.testing.assert_allclose(winter - summer, 16, atol=0.6)


@pytest.fixture(scope="module")
def with_days(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Build a world from 2022 on a small grid, in which t2m has a year, and a day that is larger in summer."""
    folder, grid = tmp_path_factory.mktemp("days"), get_grid("6x12")
    mean, std = profile()
    generator = np.random.default_rng(5)
    for start, days in (("2022-01-01T00", 365), ("2023-07-01T00", 12)):
        times = np.datetime64(start, "h") + 6 * np.arange(4 * days)
        states = mean[:, None, None] + 0.1 * std[:, None, None] * generator.standard_normal((len(times), 69, 6, 12))
        states[:, index("t2m")] += warmth(times)[:, None, None]
        states[:, GROUPS["q"]] = np.maximum(states[:, GROUPS["q"]], 0)
        first = to_dataset(make_state(states[0].astype(np.float32), grid, times[0]))
        fields = {name: (first[name].dims, values) for name, values in to_arrays(states.astype(np.float32)).items()}
        coordinates = {name: first[name] for name in ("level", "latitude", "longitude")}
        write_times(xr.Dataset(fields, {"time": times, **coordinates}), folder / f"nature/{start[:4]}/{start[:10]}.nc")
    flat = (("latitude", "longitude"), np.zeros(grid.shape))
    static = dict.fromkeys(("geopotential_at_surface", "land_sea_mask"), flat)
    xr.Dataset(static).to_netcdf(folder / "nature/static.nc", engine="h5netcdf")
    build_world(folder / "nature", folder / "w", "w", [2022], None, "for a test")
    return load_world(folder / "w")


def warmth(times: np.ndarray) -> np.ndarray:
    """Return what t2m (K) has beyond its mean: 8 K between the seasons, 3 K in a day in winter, 7 K in summer."""
    day = (times - times.astype("datetime64[Y]")).astype("timedelta64[h]").astype(float) / 24
    hour = 2 * np.pi * times.astype(int) / 24
    summer = -np.cos(2 * np.pi * day / 365.2425)
    return 4 * summer + (2.5 + summer) * np.cos(hour - 3.5) + 0.8 * np.cos(2 * hour)


def test_climatology_follows_the_day_as_each_season_has_it(with_days: World) -> None:
    times = np.datetime64("2023-01-01T00", "h") + 6 * np.arange(0, 1460, 7)
    found = np.stack([with_days.climatology.at(time)[index("t2m")] for time in times])
    np.testing.assert_allclose(found.mean((1, 2)) - found.mean(), warmth(times) - warmth(times).mean(), atol=0.1)


def test_a_forecast_that_knows_the_usual_day_alone_has_no_skill(with_days: World) -> None:
    i, correlations = index("t2m"), []
    of_the_year_alone = Climatology(with_days.climatology.coefficients[:5])
    for time in with_days.reference.times_of([2023]):
        truth = with_days.reference.array(time)[i]
        usual = np.full_like(truth, profile()[0][i] + warmth(np.array([time]))[0])
        correlations.append([
            anomaly_correlation(usual[None], truth[None], climatology.at(time)[i][None], with_days.grid)[0, 0]
            for climatology in (with_days.climatology, of_the_year_alone)
        ])  # fmt: skip
    with_hours, without = np.mean(correlations, axis=0)
    assert abs(with_hours) < 0.2
    assert without > 0.8


def test_training_years_may_not_be_sampled(nature: Path, tmp_path: Path) -> None:
    with pytest.raises(WorldError, match="training years"):
        build_world(nature, tmp_path / "w", "w", [2023, 2024], times(), "for a test")


def test_a_world_with_another_worlds_statistics_is_refused(nature: Path, tmp_path: Path) -> None:
    build_world(nature, tmp_path / "w", "w", [2023], times(), "for a test")
    other = Statistics(np.zeros(69, np.float32), np.ones(69, np.float32), "elsewhere", "")
    other.save(tmp_path / "w/statistics.nc")
    with pytest.raises(WorldError, match=r"statistics\.nc belongs to 'elsewhere', not to 'w'"):
        load_world(tmp_path / "w")


def test_an_unknown_or_incomplete_world_names_where_it_was_sought(world: TinyWorld, tmp_path: Path) -> None:
    with pytest.raises(WorldError, match=r"no world 'atlantis'.*world\.yaml"):
        load_world("atlantis")
    (tmp_path / "world.yaml").write_text("name: x\ngrid: 5.625deg\n")
    with pytest.raises(WorldError, match=r"no statistics\.nc"):
        load_world(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\n", r"world\.yaml:1: grid: this key is required \(such as 5\.625deg\)"),
        ("", r"world\.yaml:1: a world is a mapping"),
        ("name: x\ngird: 5.625deg\n", r"world\.yaml:2: gird: unknown key; did you mean grid\?"),
        ("name: x\n\ngrid: 5deg\n", r"world\.yaml:3: grid: unknown grid '5deg'"),
        ("name: x\nname: y\n", r"world\.yaml:2: a key is there twice"),
    ],
)
def test_a_mistake_in_world_yaml_is_named_with_file_line_and_key(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "world.yaml").write_text(text)
    with pytest.raises(WorldError, match=message):
        load_world(tmp_path)


@pytest.mark.parametrize(("kind", "states"), [("", False), ("era5", True)])
def test_a_built_worlds_description_is_read_back(nature: Path, tmp_path: Path, kind: str, states: bool) -> None:
    description = "made for a test: with a colon, #, and more words than fit into one line of eighty characters of YAML"
    build_world(nature, tmp_path / "w", "w", [2023], None if states else times(), description, kind=kind)
    world = load_world(tmp_path / "w")
    assert (world.name, world.reference_kind, world.grid.name) == ("w", kind, "5.625deg")
    assert np.isin(times(), world.reference.times).all()


def test_a_missing_time_names_the_folder_and_the_span(world: TinyWorld) -> None:
    reference = load_world(world.folder).reference
    with pytest.raises(ReferenceDataError, match=r"reference: no state at 2031-05-01T00; it holds 2024-01-01T00 to"):
        reference.array(np.datetime64("2031-05-01T00"))
    assert reference.missing([reference.times[0], np.datetime64("2031-05-01T00", "h")]) == [
        np.datetime64("2031-05-01T00")
    ]


def test_a_time_in_two_files_is_refused(nature: Path, tmp_path: Path) -> None:
    for name in ("2024-01.nc", "2024-01-again.nc"):
        (tmp_path / name).write_bytes((nature / "2024/2024-01.nc").read_bytes())
    with pytest.raises(ReferenceDataError, match="is also in"):
        Reference(tmp_path)


def test_statistics_without_spread_are_refused() -> None:
    std = np.ones(69, np.float32)
    std[index("q700")] = 0
    with pytest.raises(ValueError, match="q700"):
        Statistics(np.zeros(69, np.float32), std, "w", "")
