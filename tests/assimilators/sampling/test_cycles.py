"""Cycles in memory: each forecast starts from the analyses, and the errors are those of the scored cycles."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from dacycle.assimilators.base import Analysis, FreeRun, Past
from dacycle.assimilators.exceptions import DataError
from dacycle.assimilators.sampling.cycles import LAG, ChainCycle, CycledModel, cycled_errors, run_chain
from dacycle.assimilators.sampling.observing import Observing, Subset, observing_of
from dacycle.forecast_adapter.channels import HEADLINE, index
from dacycle.forecast_adapter.grid import Grid
from dacycle.forecast_adapter.models.frames import older_frame
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.worlds.relaxation import Relaxation, RelaxationSettings
from dacycle.forecast_adapter.worlds.world import World, load_world
from tests.conftest import TinyWorld
from tests.worlds import Nudge


@pytest.fixture(scope="module")
def tiny(world: TinyWorld) -> World:
    return load_world(world.folder)


@pytest.fixture(scope="module")
def model(world: TinyWorld) -> CycledModel:
    return CycledModel(load_model(world.model))


@pytest.fixture(scope="module")
def observing(tiny: World) -> Observing:
    return observing_of(tiny, tiny.reference, [{"source": "mask", "fraction": 0.2, "error": 0.05}])


@dataclass(frozen=True)
class Unsure(Nudge):
    """Nudge, with a spread of two standard deviations of every channel; `wrong` analyses are not finite."""

    world_std: NDArray | None = None
    wrong: bool = False

    def analyse(self, background: NDArray, values: NDArray, errors: NDArray) -> Analysis:
        """See `Assimilator.analyse`."""
        state = super().analyse(background, values, errors).state
        spread = np.broadcast_to(2 * self.world_std[:, None, None], state.shape).astype(np.float32)
        return Analysis(state * (np.nan if self.wrong else 1), spread)


@dataclass(frozen=True)
class Remembering:
    """Forecast the last frame plus a tenth of its difference from the older one, which most of the doubles ignore."""

    grid: Grid
    name: str = "remembering"
    world: str = "tiny"
    digest: str = ""

    def forecast(self, previous: NDArray, current: NDArray, steps: int) -> Iterator[NDArray]:
        """Yield the states of the next steps."""
        for _ in range(steps):
            previous, current = current, (current + np.float32(0.1) * (current - previous)).astype(np.float32)
            yield current


def chain(method: Nudge, model: CycledModel, observing: Observing, **options: Subset) -> list[ChainCycle]:
    first = observing.world.reference.times[LAG + 2]
    return list(run_chain(method, model, observing, first, 4, seed=1, **options))


def test_a_forecast_starts_from_the_last_two_analyses(tiny: World, observing: Observing) -> None:
    model = Remembering(tiny.grid)
    cycles = chain(Nudge("tiny"), CycledModel(model), observing)
    reference = tiny.reference
    assert [cycle.time for cycle in cycles] == list(reference.times[LAG + 2 : LAG + 6])
    for older, newer, following in zip(cycles, cycles[1:], cycles[2:], strict=False):
        assert (newer.analysis != newer.background).any()
        expected = next(iter(model.forecast(older.analysis[None], newer.analysis[None], 1)))[0]
        np.testing.assert_array_equal(following.background, expected)
        np.testing.assert_array_equal(following.truth, reference.array(following.time))


def test_a_chain_starts_from_a_forecast_of_48_hours(tiny: World, observing: Observing) -> None:
    reference, model = tiny.reference, Remembering(tiny.grid)
    frames = [reference.array(time)[None] for time in reference.times[:2]]
    *_, last = model.forecast(*frames, LAG + 1)
    np.testing.assert_allclose(chain(Nudge("tiny"), CycledModel(model), observing)[0].background, last[0], rtol=1e-6)


@dataclass(frozen=True)
class Looking(Nudge):
    """Nudge with a window of three steps, which keeps each past that it is given."""

    steps: int = 3
    pasts: list[Past] = field(default_factory=list)

    def with_past(self, past: Past) -> Nudge:
        """See `WindowAssimilator`."""
        self.pasts.append(past)
        return Nudge("tiny")


def test_a_method_with_a_window_is_given_the_cycles_before(
    tiny: World, model: CycledModel, observing: Observing
) -> None:
    method = Looking("tiny")
    cycles = chain(method, model, observing)
    assert [len(past.observations) for past in method.pasts] == [0, 1, 2, 2]
    for number, past in enumerate(method.pasts):
        before = cycles[max(number - 2, 0) : number]
        for cycle, background, (values, errors) in zip(before, past.backgrounds, past.observations, strict=True):
            np.testing.assert_array_equal(background, cycle.background)
            moved = Nudge("tiny").analyse(background[None], values[None], errors[None]).state[0]
            np.testing.assert_allclose(moved, cycle.analysis, rtol=1e-6)
    np.testing.assert_array_equal(method.pasts[3].newer, cycles[0].analysis)
    assert chain(Looking("tiny", steps=0), model, observing)[3].analysis.tolist() == cycles[3].analysis.tolist()


def test_a_subset_decides_what_a_chain_observes(model: CycledModel, observing: Observing) -> None:
    blind = chain(Nudge("tiny"), model, observing, subset=Subset(deny=("mask",)))
    np.testing.assert_array_equal(blind[0].analysis, blind[0].background)
    assert [cycle.status for cycle in blind] == ["degraded"] * 4


def test_a_spread_belongs_to_an_analysis_that_is_used(tiny: World, model: CycledModel, observing: Observing) -> None:
    std = tiny.statistics.std
    used, unused = (chain(Unsure("tiny", world_std=std, wrong=wrong), model, observing)[0] for wrong in (False, True))
    assert used.spread is not None
    assert (used.status, unused.status, unused.spread) == ("ok", "fallback", None)
    np.testing.assert_array_equal(unused.analysis, unused.background)


def test_errors_are_those_of_the_cycles_after_three_days(tiny: World, model: CycledModel, observing: Observing) -> None:
    """Four chains of four days: 16 cycles each, of which 4 are scored; fallbacks count in all of them."""
    std, area = tiny.statistics.std, tiny.grid.weights
    errors = cycled_errors(Unsure("tiny", world_std=std), model, observing, seed=3, days=4)
    assert (errors.cycles, errors.fallbacks) == (16, 0)
    times = tiny.reference.times
    squares = []
    for k, start in enumerate(times[np.linspace(LAG + 2, len(times) - 16, 4).astype(int)]):
        scored = list(run_chain(Nudge("tiny"), model, observing, start, 16, seed=3 + k))[12:]
        squares += [(np.square((cycle.analysis - cycle.truth).astype(float)) * area).mean((1, 2)) for cycle in scored]
    rmse = np.sqrt(np.mean(squares, axis=0))
    for name in HEADLINE:
        assert errors.analysis[name] == pytest.approx(rmse[index(name)], rel=1e-4)
        assert errors.analysis[name] < errors.background[name]
    np.testing.assert_allclose(errors.spread_ratio, 2 * std / rmse, rtol=1e-4)

    refused = cycled_errors(Unsure("tiny", world_std=std, wrong=True), model, observing, seed=3, days=4)
    assert (refused.cycles, refused.fallbacks, refused.spread_ratio) == (16, 64, None)
    assert refused.analysis == refused.background


def test_a_free_run_has_no_spread(tiny: World, model: CycledModel, observing: Observing) -> None:
    errors = cycled_errors(FreeRun(tiny.grid, "tiny"), model, observing, seed=3, days=4)
    assert errors.spread_to_skill() is None
    assert errors.analysis == errors.background


@pytest.mark.parametrize("days", [3, 30])
def test_chains_that_are_too_short_or_too_long_are_refused(model: CycledModel, observing: Observing, days: int) -> None:
    with pytest.raises(DataError, match=f"too few for chains of {days} days"):
        cycled_errors(Nudge("tiny"), model, observing, seed=3, days=days)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_the_older_frame_gets_its_share_of_the_increment(tiny: World, observing: Observing, share: float) -> None:
    """As `frames` says in an experiment; the humidity of that frame stays above 0."""
    model, first = Remembering(tiny.grid), tiny.reference.times[LAG + 2]
    cycled = CycledModel(model, frames=share)
    cycles = list(run_chain(Nudge("tiny"), cycled, observing, first, 4, seed=1))
    for older, newer, following in zip(cycles, cycles[1:], cycles[2:], strict=False):
        moved = older_frame(older.analysis, newer.background, newer.analysis, share)
        assert (moved != older.analysis).any()
        expected = next(iter(model.forecast(moved[None], newer.analysis[None], 1)))[0]
        np.testing.assert_array_equal(following.background, expected)
    both = cycled_errors(Nudge("tiny"), cycled, observing, seed=3, days=4)
    assert both.analysis != cycled_errors(Nudge("tiny"), CycledModel(model), observing, seed=3, days=4).analysis


def test_backgrounds_are_relaxed_as_those_of_an_experiment(tiny: World, observing: Observing) -> None:
    model = Remembering(tiny.grid)
    relaxation = Relaxation.of(tiny, RelaxationSettings(tropics=pd.Timedelta(days=1), elsewhere=pd.Timedelta(days=2)))
    assert relaxation is not None
    cycles = chain(Nudge("tiny"), CycledModel(model, relaxation=relaxation), observing)
    for older, newer, following in zip(cycles, cycles[1:], cycles[2:], strict=False):
        forecast = next(iter(model.forecast(older.analysis[None], newer.analysis[None], 1)))[0]
        np.testing.assert_array_equal(following.background, relaxation(forecast, following.time))
        assert (following.background != forecast).any()
