"""Analyses by increments from a coarser grid, and the hydrostatic balance of increments."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from dacycle.assimilators.balance import LAYER_NAMES, thickness_imbalance
from dacycle.assimilators.base import Analysis, AssimilatorError
from dacycle.assimilators.incremental import Incremental
from dacycle.assimilators.step import StepGuards, assimilate
from dacycle.forecast_adapter.channels import GROUPS, LEVELS, index
from dacycle.forecast_adapter.grid import Grid, conservative_average, get_grid
from dacycle.forecast_adapter.physics import DRY_AIR_GAS_CONSTANT
from dacycle.forecast_adapter.scores import zonal_power_spectrum
from tests.worlds import Nudge, profile

FINE, COARSE = get_grid("1.5deg"), get_grid("5.625deg")
SIZE = (69, *FINE.shape)


def background(seed: int = 0) -> NDArray[np.float32]:
    """Return a state with structure down to the scale of the grid."""
    mean, std = profile()
    noise = gaussian_filter(np.random.default_rng(seed).standard_normal(SIZE), (0, 0.7, 0.7), mode=("wrap",) * 3)
    return (mean[:, None, None] + std[:, None, None] * noise / noise.std()).astype(np.float32)


class Smooth(Nudge):
    """An assimilator whose increment is smooth: planetary waves up to zonal wavenumber 5."""

    def analyse(self, background: NDArray, values: NDArray, errors: NDArray) -> Analysis:
        """See `Assimilator.analyse`."""
        lat, lon = np.deg2rad(self.grid.latitude)[:, None], np.deg2rad(self.grid.longitude)[None, :]
        wave = sum(np.cos(lat) ** 3 * np.sin(m * lon + m) for m in range(1, 6))
        return Analysis((background + self.weight * profile()[1][:, None, None] * wave).astype(np.float32))


def observed(value: float, *cells: tuple[int, int]) -> tuple[NDArray, NDArray]:
    """Return planes of the coarse grid with t850 observed in some cells."""
    values = np.zeros((1, 69, *COARSE.shape), np.float32)
    errors = np.zeros_like(values)
    for cell in cells:
        values[(0, index("t850"), *cell)], errors[(0, index("t850"), *cell)] = value, 1.0
    return values, errors


def analysed(method: Nudge, state: NDArray, value: float = 290.0) -> NDArray:
    return Incremental(method, FINE).analyse(state[None], *observed(value, (10, 20))).state[0]


def test_the_coarse_method_sees_the_means_of_its_cells() -> None:
    class Seen(Nudge):
        def analyse(self, background: NDArray, values: NDArray, errors: NDArray) -> Analysis:
            """Keep what it is given."""
            seen.append(background)
            return Analysis(background)

    seen: list[NDArray] = []
    state = background()
    analysis = analysed(Seen("tiny"), state)
    np.testing.assert_allclose(seen[0][0], conservative_average(state, FINE, COARSE))
    np.testing.assert_array_equal(analysis, state)  # no increment, no change


def test_scales_that_the_coarse_grid_does_not_hold_stay_the_backgrounds() -> None:
    """The increment has zonal wavenumbers up to 32, the last one of the coarse grid."""
    state = background()
    analysis = analysed(Smooth("tiny", weight=0.3), state)
    channels = [index(name) for name in ("z500", "t850", "u500", "q700")]
    before, after = (zonal_power_spectrum(x[channels].astype(float), FINE) for x in (state, analysis))
    np.testing.assert_allclose(after[:, 33:], before[:, 33:], rtol=0.02)
    assert (after[:, 1:6] > 1.5 * before[:, 1:6]).all()


def test_an_increment_comes_up_as_it_was_made() -> None:
    state = background()
    coarse = conservative_average(state, FINE, COARSE)
    wanted = Smooth("tiny", weight=0.3).analyse(coarse[None], *observed(1, (0, 0))).state[0] - coarse
    increment = conservative_average(analysed(Smooth("tiny", weight=0.3), state) - state, FINE, COARSE)
    k = index("t850")
    assert np.abs(increment - wanted)[k].max() < 0.05 * np.abs(wanted[k]).max()


@settings(max_examples=15)
@given(st.integers(1, 30), st.integers(0, 63), st.floats(-20, 20))
def test_one_observed_cell_changes_nothing_beyond_its_neighbours(row: int, column: int, departure: float) -> None:
    state = np.broadcast_to(profile()[0][:, None, None], SIZE).astype(np.float32)
    value = float(state[index("t850"), 0, 0]) + departure
    analysis = Incremental(Nudge("tiny"), FINE).analyse(state[None], *observed(value, (row, column))).state[0]
    increment = (analysis - state)[index("t850")]
    lat, lon = np.meshgrid(FINE.latitude, FINE.longitude, indexing="ij")
    apart = np.abs((lon - COARSE.longitude[column] + 180) % 360 - 180)
    away = (np.abs(lat - COARSE.latitude[row]) >= 5.625) | (apart >= 5.625)
    assert not increment[away].any()
    # float32 at 280 K resolves 3e-5
    assert (np.sign(increment) * np.sign(departure) >= 0).all()
    assert np.abs(increment).max() <= abs(departure) / 2 + 1e-4


def test_the_step_keeps_humidity_positive_on_the_fine_grid() -> None:
    class Drying(Nudge):
        def analyse(self, background: NDArray, values: NDArray, errors: NDArray) -> Analysis:
            """Take away nine tenths of each cell's mean humidity."""
            dry = background.copy()
            dry[:, GROUPS["q"]] *= 0.1
            return Analysis(dry)

    std = profile()[1]
    method = Incremental(Drying("tiny"), FINE)
    guards = StepGuards(1e9, 1e9, water_limit=1e9)
    result = assimilate(method, background()[None], *observed(290, (10, 20)), guards, std[:, None, None])
    assert result.status == ["degraded"]  # one observation
    assert result.state[0, GROUPS["q"]].min() >= 0
    assert result.clipped_water[0] > 0


def test_the_spread_and_the_diagnostics_are_those_of_the_coarse_method() -> None:
    """A spread that grows eastwards is interpolated; a method without one has none on the fine grid either."""

    class Spreading(Nudge):
        def analyse(self, background: NDArray, values: NDArray, errors: NDArray) -> Analysis:
            """Return the background with a spread of the sine of longitude plus 2."""
            wave = 2 + np.sin(np.deg2rad(self.grid.longitude))
            return Analysis(background, np.broadcast_to(wave, background.shape).astype(np.float32), {"wave": 1})

    state = background()
    analysis = Incremental(Spreading("tiny"), FINE).analyse(state[None], *observed(290, (10, 20)))
    assert analysis.spread is not None
    assert analysis.diagnostics == {"wave": 1}
    expected = np.broadcast_to(2 + np.sin(np.deg2rad(FINE.longitude)), (111, len(FINE.longitude)))
    np.testing.assert_allclose(analysis.spread[0, 30, 5:-5], expected, atol=5e-3)  # at a pole there is one value
    method = Incremental(Nudge("tiny"), FINE)
    assert method.analyse(state[None], *observed(290, (10, 20))).spread is None
    assert (method.name, method.world, method.digest, method.planes, method.grid) == ("nudge", "tiny", "", (), FINE)


def test_only_a_coarser_grid_is_brought_up() -> None:
    with pytest.raises(AssimilatorError, match=r"nudge is on 5\.625deg, not coarser than 5\.625deg"):
        Incremental(Nudge("tiny"), COARSE)
    with pytest.raises(AssimilatorError, match="not coarser"):
        Incremental(replace(Nudge("tiny"), grid=FINE), COARSE)


def hydrostatic(grid: Grid, temperature: NDArray) -> NDArray[np.float32]:
    """Return a dry state in hydrostatic balance with temperatures (13, H, W)."""
    state = np.zeros((69, *grid.shape), np.float64)
    state[GROUPS["t"]] = temperature
    thickness = DRY_AIR_GAS_CONSTANT * np.diff(np.log(LEVELS))[:, None, None] * (temperature[1:] + temperature[:-1]) / 2
    upwards = np.cumsum(thickness[::-1], axis=0)[::-1]
    state[GROUPS["z"]] = np.concatenate([upwards, np.zeros((1, *grid.shape))])
    return state


def test_warming_with_its_thickness_is_in_balance_and_without_it_is_not() -> None:
    rng = np.random.default_rng(0)
    cold = 250 + rng.standard_normal((13, *COARSE.shape))
    warm = cold + 2 * rng.standard_normal((13, 1, 1))
    before, after = hydrostatic(COARSE, cold), hydrostatic(COARSE, warm)
    assert thickness_imbalance(before, after, COARSE.weights).max() < 1e-6
    after[GROUPS["z"]] = before[GROUPS["z"]]
    changes = np.abs((warm - cold)[1:] + (warm - cold)[:-1])[:, 0, 0] / 2
    imbalance = thickness_imbalance(before, after, COARSE.weights)
    np.testing.assert_allclose(imbalance, changes, rtol=1e-6)
    assert len(imbalance) == len(LAYER_NAMES)
    assert LAYER_NAMES[0] == "50-100"


def test_the_imbalance_of_the_background_is_no_imbalance_of_the_increment() -> None:
    """Such an imbalance exists below ground, where heights on pressure levels are extrapolated."""
    rng = np.random.default_rng(0)
    cold = 250 + rng.standard_normal((13, *COARSE.shape))
    before, after = hydrostatic(COARSE, cold), hydrostatic(COARSE, cold + 2 * rng.standard_normal((13, 1, 1)))
    below_ground = 500 * rng.standard_normal((13, *COARSE.shape))
    for state in (before, after):
        state[GROUPS["z"]] += below_ground
    assert thickness_imbalance(before, after, COARSE.weights).max() < 1e-6
    assert thickness_imbalance(before, before, COARSE.weights).max() == 0


def test_moisture_counts_in_the_virtual_temperature() -> None:
    """10 g/kg more at 280 K raise the virtual temperature by 1.7 K, without a change of thickness."""
    before = hydrostatic(COARSE, np.full((13, *COARSE.shape), 280.0))
    after = before.copy()
    after[GROUPS["q"]] += 0.01
    np.testing.assert_allclose(thickness_imbalance(before, after, COARSE.weights), 0.608 * 0.01 * 280, rtol=1e-6)


def test_the_imbalance_is_weighted_by_area() -> None:
    before = hydrostatic(COARSE, np.full((13, *COARSE.shape), 250.0))
    after = before.copy()
    after[GROUPS["t"], :8] += 2.0  # north of 45 N
    share = (1 - np.sin(np.deg2rad(45))) / 2
    np.testing.assert_allclose(thickness_imbalance(before, after, COARSE.weights), 2 * np.sqrt(share), rtol=1e-6)


def test_a_method_that_needs_the_cycles_before_is_refused() -> None:
    class Windowed(Nudge):
        steps = 5

        def with_past(self, past: object) -> "Windowed":
            """Return the method itself."""
            return self

    with pytest.raises(AssimilatorError, match=r"needs the cycles before.*leave out assimilation_grid"):
        Incremental(Windowed("tiny"), FINE)
