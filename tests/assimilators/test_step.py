"""The guarded step with good analyses, with unusable ones, and without observations."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from dacycle.assimilators import Analysis, StepGuards, StepResult, assimilate
from dacycle.assimilators.balance import supersaturated
from dacycle.forecast_adapter.channels import GROUPS, NAMES, index
from dacycle.forecast_adapter.grid import Grid, get_grid
from dacycle.forecast_adapter.scores import water_column

GRID = get_grid("5.625deg")
SHAPE = (1, len(NAMES), *GRID.shape)
STD = np.linspace(1, 3, len(NAMES)).astype(np.float32)
ERROR = STD[:, None, None]
GUARDS = StepGuards(increment_limit=6.0, cold_factor=2.0, water_limit=0.5, minimum_observations=10)


@dataclass
class Adding:
    """Add a given increment to every background, and count the calls."""

    increment: NDArray
    grid: Grid = GRID
    name: str = "adding"
    world: str = "synthetic"
    digest: str = ""
    planes: tuple[str, ...] = ()
    calls: int = 0

    def analyse(self, background: NDArray, values: NDArray, errors: NDArray) -> Analysis:
        self.calls += 1
        return Analysis(
            (background + self.increment).astype(np.float32), np.ones_like(background), {"method": "adding"}
        )


def background(chains: int = 1) -> NDArray:
    return np.full((chains, *SHAPE[1:]), 2.0, np.float32)


def observations(*counts: int) -> tuple[NDArray, NDArray]:
    values, errors = (np.zeros((len(counts), *SHAPE[1:]), np.float32) for _ in range(2))
    for chain, count in enumerate(counts):
        errors[chain].reshape(-1)[:count] = 1.0
    return values, errors


def run(increment: NDArray, count: int = 50, cold: bool = False) -> StepResult:
    return assimilate(Adding(increment), background(), *observations(count), GUARDS, ERROR, cold=cold)


def only(channel: str, value: float) -> NDArray:
    increment = np.zeros(SHAPE[1:], np.float32)
    increment[index(channel), 5, 7] = value
    return increment


def test_a_sound_analysis_is_kept_and_its_increment_described_in_physical_units() -> None:
    increment = np.zeros(SHAPE[1:], np.float32)
    increment[index("t850")] = -1.5
    result = run(increment)
    assert (result.status, result.reason) == (["ok"], [""])
    np.testing.assert_array_equal(result.state[0], background()[0] + increment)
    assert result.increment_rms[0, index("t850")] == pytest.approx(1.5)
    assert result.increment_max[0, index("t850")] == pytest.approx(1.5)
    assert (result.spread == 1).all()
    assert result.thickness_imbalance.shape == (1, 12)
    virtual = 0.75 * (1 + 0.608 * 2)  # half the change of temperature, in the layers above and below, q being 2
    np.testing.assert_allclose(np.sort(result.thickness_imbalance[0])[-3:], [0, virtual, virtual], atol=1e-3)
    assert result.increment_rms[0, index("t500")] == 0
    assert result.observations.tolist() == [50]
    assert result.diagnostics == {"method": "adding"}


def test_increment_rms_is_weighted_by_area() -> None:
    increment = np.zeros(SHAPE[1:], np.float32)
    increment[index("z500"), :8] = 1.0  # the northernmost quarter of the rows covers much less of the sphere
    share = (1 - np.sin(np.deg2rad(45))) / 2
    assert run(increment).increment_rms[0, index("z500")] == pytest.approx(np.sqrt(share), rel=1e-6)


def test_no_observations_keep_the_background_bit_for_bit_without_asking_the_method() -> None:
    method = Adding(only("t850", 1.0))
    first = background()
    result = assimilate(method, first, *observations(0), GUARDS, ERROR)
    assert method.calls == 0
    assert result.state.tobytes() == first.tobytes()
    assert result.status == ["degraded"]
    assert result.reason == ["no observations"]


def test_too_few_observations_are_used_but_marked() -> None:
    result = run(only("t850", 1.0), count=9)
    assert result.status == ["degraded"]
    assert "9 observed values, fewer than 10" in result.reason[0]
    assert result.increment_max[0, index("t850")] == 1.0


def test_as_many_observations_as_needed_are_enough() -> None:
    assert run(only("t850", 1.0), count=10).status == ["ok"]


def test_the_channel_that_is_named_is_the_furthest_beyond_its_own_limit() -> None:
    """The increment of t1000 is the larger one and within its limit; that of u10, which varies less, is not."""
    std = STD[index("u10")]
    assert std == STD.min()
    increment = only("u10", 6.5 * std) + only("t1000", 7.0 * std)
    result = run(increment)
    assert result.status == ["fallback"]
    assert "u10 reaches 6.5 background errors, the limit is 6" in result.reason[0]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("channel", ["t850", "q700"])
def test_values_that_are_not_finite_fall_back_to_the_background(channel: str, value: float) -> None:
    result = run(only(channel, value))
    assert result.status == ["fallback"]
    assert channel in result.reason[0]
    assert result.state.tobytes() == background().tobytes()
    assert result.increment_max.max() == 0
    assert np.isnan(result.spread).all()


def test_an_increment_beyond_the_limit_falls_back_and_a_cold_start_allows_more() -> None:
    std = STD[index("z500")]
    within, beyond = only("z500", 5.9 * std), only("z500", -6.1 * std)
    assert run(within).status == ["ok"]
    refused = run(beyond)
    assert refused.status == ["fallback"]
    assert "z500 reaches 6.1 background errors" in refused.reason[0]
    assert refused.state.tobytes() == background().tobytes()
    assert run(beyond, cold=True).status == ["ok"]
    assert run(only("z500", 12.1 * std), cold=True).status == ["fallback"]


def test_the_limit_is_that_of_the_background_at_the_latitude() -> None:
    """16000 m2 s-2 at one point of z500 are refused; the increments of a good cycle are not."""
    error = np.ones((len(NAMES), GRID.shape[0], 1))
    error[index("z500")] = 150.0
    error[index("z500"), 5] = 3000.0
    method = Adding(only("z500", 16000.0))
    assert assimilate(method, background(), *observations(50), GUARDS, error).status == ["ok"]
    error[index("z500"), 5] = 150.0
    assert assimilate(method, background(), *observations(50), GUARDS, error).status == ["fallback"]


def test_an_increment_that_is_large_everywhere_falls_back_unless_such_increments_are_usual() -> None:
    increment = np.zeros(SHAPE[1:], np.float32)
    increment[index("z500")] = 4 * STD[index("z500")]
    refused = run(increment)
    assert refused.status == ["fallback"]
    assert "increment of z500 is 4 times the usual one (rms), the limit is 3" in refused.reason[0]
    assert run(increment, cold=True).status == ["ok"]
    usual = 2 * STD
    assert assimilate(Adding(increment), background(), *observations(50), GUARDS, ERROR, usual).status == ["ok"]


@settings(max_examples=20)
@given(arrays(np.float32, (13, 1, 1), elements=st.floats(-4, 4, width=32)))
def test_humidity_is_never_negative_and_the_clipped_water_is_recorded(change: NDArray) -> None:
    increment = np.zeros(SHAPE[1:], np.float32)
    increment[GROUPS["q"]] = change
    result = assimilate(Adding(increment), background(), *observations(50), StepGuards(water_limit=np.inf), ERROR)
    assert result.state[0, GROUPS["q"]].min() >= 0
    before = (background() + increment)[0, GROUPS["q"]]
    expected = water_column(result.state[0, GROUPS["q"]] - before, GRID.weights)
    assert result.clipped_water[0] == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert (result.clipped_water[0] > 0) == bool((before < 0).any())


def test_water_column_of_a_well_mixed_atmosphere() -> None:
    # 1 g/kg from 50 to 1000 hPa everywhere: 1e-3 * 95000 Pa / g.
    assert water_column(np.full((13, *GRID.shape), 1e-3), GRID.weights) == pytest.approx(1e-3 * 95000 / 9.80665)


def test_too_much_clipped_water_falls_back() -> None:
    increment = np.zeros(SHAPE[1:], np.float32)
    increment[index("q850")] = -2.001
    refused = run(increment)  # 1 g/kg short in about 112 hPa: 1.1 kg m-2
    assert refused.status == ["fallback"]
    assert "clipping humidity" in refused.reason[0]
    assert refused.clipped_water[0] == pytest.approx(1e-3 * 11250 / 9.80665, rel=1e-2)
    assert refused.state.tobytes() == background().tobytes()


def test_each_chain_is_judged_by_itself() -> None:
    increment = np.zeros((2, *SHAPE[1:]), np.float32)
    increment[0, 0, 0, 0] = np.nan
    increment[1, 0, 0, 0] = 1.0
    result = assimilate(Adding(increment), background(3), *observations(50, 0, 50), GUARDS, ERROR)
    assert result.status == ["fallback", "degraded", "ok"]
    assert result.state[:2].tobytes() == background(2).tobytes()
    assert result.state[2, 0, 0, 0] == 3.0
    assert np.isnan(result.spread[:2]).all()
    assert (result.spread[2] == 1).all()


def test_humidity_beyond_saturation_is_counted_up_to_200_hpa() -> None:
    state = np.zeros(SHAPE[1:], np.float32)
    state[GROUPS["t"]] = 273.15  # saturated at 1000 hPa with 3.81 g/kg
    state[index("q1000"), 0, :3] = 1.05 * 3.81e-3, 1.15 * 3.81e-3, 0.01
    state[index("q150"), 0, 0] = 1.0
    assert supersaturated(state) == 2
