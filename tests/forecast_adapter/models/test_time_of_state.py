"""The daily cycle of a world: states tell the hour, `mini` keeps the cycle, and hourly mean errors are removed."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dacycle.forecast_adapter.channels import NAMES, index
from dacycle.forecast_adapter.grid import get_grid
from dacycle.forecast_adapter.worlds.world import World, climatology_basis

torch = pytest.importorskip("torch")

from dacycle.assimilators.networks.blocks.base import AnalysisNetwork, Constants  # noqa: E402
from dacycle.assimilators.sampling.backgrounds import Backgrounds, systematic_error, year_times  # noqa: E402
from dacycle.assimilators.training.data import Year, hour_weights, load_states, season_weights  # noqa: E402
from dacycle.forecast_adapter.models.mini import MiniConstants, MiniNetwork, MiniSize, static_planes  # noqa: E402
from dacycle.forecast_adapter.models.time_of_state import annual_cycle, hour_of_day, local_time  # noqa: E402

GRID = get_grid("8x16")
T2M = index("t2m")
LAND = (np.arange(16) < 6) * np.ones((8, 1))
"""A continent in less than half of all longitudes."""
AMPLITUDE = 0.5
"""Of the daily wave of 2-m temperature over land, in standard deviations."""


def daily_wave(times: NDArray) -> NDArray[np.float32]:
    """Return the daily wave (n, H, W), warmest at 14 h local time over land, and strongest in the local summer."""
    hours = (times - times.astype("datetime64[D]")).astype(float)
    local = hours[:, None, None] + GRID.longitude / 15
    summer = -np.cos(2 * np.pi * (times - times.astype("datetime64[Y]")).astype(float) / 8766)
    size = 1 + 0.5 * summer[:, None, None] * np.sign(GRID.latitude)[:, None]
    return (AMPLITUDE * size * LAND * np.cos(2 * np.pi * (local - 14) / 24)).astype(np.float32)


def world_of(times: NDArray, wave: bool, seed: int) -> tuple[Year, NDArray[np.float32]]:
    """Return normalised states with an annual cycle, weather and perhaps the daily wave; and their climatology."""
    generator, pattern = np.random.default_rng(seed), np.random.default_rng(0).standard_normal((4, 69, 8, 1))
    climate = np.tensordot(climatology_basis(times, daily=False)[:, 1:], pattern, 1) * np.ones(16)
    if wave:
        climate[:, T2M] += daily_wave(times)
    weather = 0.3 * generator.standard_normal((len(times), 69, 8, 16))
    basis = climatology_basis(times, daily=True).astype(float)
    fitted = np.linalg.lstsq(basis, climate.reshape(len(times), -1), rcond=None)[0]
    states = torch.from_numpy((climate + weather).astype(np.float32))
    return Year(times, states), fitted.reshape(14, 69, 8, 16).astype(np.float32)


@pytest.fixture(scope="module")
def daily() -> Any:
    """Make a world with a daily cycle, its weights, and states of another year."""
    (training, climate), (other, _) = world_of(year_times(2021), True, 1), world_of(year_times(2022)[::5], True, 2)
    season = season_weights([training])
    return SimpleNamespace(
        climate=climate, season=season, hour=hour_weights([training], season, LAND), other=other,
        static=static_planes(GRID.latitude, np.zeros(GRID.shape), LAND),
    )  # fmt: skip


def mini(daily: Any, relaxation: float) -> MiniNetwork:
    ones = np.ones(69, np.float32)
    constants = MiniConstants(
        mean=0 * ones, std=ones, step_std=ones, floor=-np.inf * ones, static=daily.static, climate=daily.climate,
        season=daily.season, hour=daily.hour, relaxation=relaxation,
    )  # fmt: skip
    return MiniNetwork(constants, MiniSize(4, 4, 1)).eval()


def test_states_of_a_model_without_a_daily_cycle_do_not_tell_the_hour() -> None:
    year, _ = world_of(year_times(2021), wave=False, seed=1)
    assert hour_weights([year], season_weights([year]), LAND) is None


def test_a_week_of_states_does_not_tell_it(tiny: World) -> None:
    """The double's week has fewer states than coefficients, which would fit any hour to them."""
    year = load_states(tiny.reference, tiny.reference.times, tiny.grid, tiny.statistics)
    assert hour_weights([year], season_weights([year]), tiny.land_fraction) is None


@pytest.mark.parametrize("every", [3, 11, 51])
def test_few_states_without_a_daily_cycle_do_not_tell_it_either(every: int) -> None:
    year, _ = world_of(year_times(2021)[::every], wave=False, seed=1)
    assert hour_weights([year], season_weights([year]), LAND) is None


def test_a_few_hundred_states_with_a_daily_cycle_tell_the_hour() -> None:
    year, _ = world_of(year_times(2021)[::3], wave=True, seed=1)
    assert hour_weights([year], season_weights([year]), LAND) is not None


def test_states_at_one_hour_of_the_day_do_not_tell_it() -> None:
    year, _ = world_of(year_times(2021)[::4], wave=True, seed=1)
    assert hour_weights([year], season_weights([year]), LAND) is None


def test_relaxation_does_not_damp_the_daily_cycle(daily: Any) -> None:
    """Relaxed wholly to the climate of its time, a state has the daily wave of that time."""
    network, states, times = mini(daily, relaxation=1.0), daily.other.states, daily.other.times
    with torch.no_grad():
        relaxed = network.step(states, states).numpy()[:, T2M]
    wave = daily_wave(times)
    found = (relaxed * wave).sum() / (wave**2).sum()
    assert found == pytest.approx(1, abs=0.15)
    expected = np.tensordot(climatology_basis(times, daily=True), daily.climate[:, T2M], 1)
    assert np.abs(relaxed - expected)[:, LAND > 0].std() < 0.3 * AMPLITUDE


def test_the_hour_of_another_year_is_found(daily: Any) -> None:
    states, times = daily.other.states, daily.other.times
    annual = annual_cycle(states, torch.from_numpy(daily.season))
    land = torch.from_numpy(LAND.astype(np.float32))
    cos, sin = hour_of_day(states, torch.from_numpy(daily.hour), land, annual).unbind(1)
    found = torch.atan2(sin, cos).numpy() * 12 / np.pi
    hours = (times - times.astype("datetime64[D]")).astype(float)
    assert np.sqrt(np.mean(((found - hours + 12) % 24 - 12) ** 2)) < 2.5


def test_local_time_is_that_of_the_longitude() -> None:
    """At 6 UTC it is 6 h at Greenwich and 12 h at 90 degrees east."""
    six = torch.tensor([[0.0, 1.0]])
    cos, sin = local_time(six, 8, 16)[0, :, 0].numpy()
    np.testing.assert_allclose((np.arctan2(sin, cos) * 12 / np.pi)[[0, 4]] % 24, [6, 12], atol=1e-5)


def test_the_mean_error_of_an_hour_is_removed(daily: Any) -> None:
    """A model that damps the daily wave errs by the hour; what a network corrects first is that error."""
    times = year_times(2021)
    errors = np.zeros((len(times), 69, *GRID.shape), np.float16)
    errors[:, T2M] = -0.4 * daily_wave(times)
    coefficients = systematic_error(Backgrounds(times, np.full(len(times), 6), errors, "model"), daily=True)
    assert coefficients.shape == (14, 69, *GRID.shape)
    ones, planes = np.ones(69, np.float32), np.ones(3, np.float32)
    constants = Constants(
        mean=0 * ones, std=ones, error=ones, plane_mean=0 * planes, plane_std=planes, static=daily.static,
        season=daily.season, hour=daily.hour, bias=coefficients.astype(np.float32),
    )  # fmt: skip
    network = AnalysisNetwork(GRID, constants, 2500.0)
    with torch.no_grad():
        _, bias = network.unbiased(daily.other.states)
    wave = daily_wave(daily.other.times)
    found = (bias.numpy()[:, T2M] * wave).sum() / (wave**2).sum()
    assert -0.42 < found < -0.28, "the regression of one year is drawn towards 0"
    assert np.abs(np.delete(bias.numpy(), T2M, axis=1)).max() < 1e-6
    assert len(NAMES) == bias.shape[1]
