"""The increment test, for models whose response to an increment is known."""

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from dacycle.assimilators.judging.increments import IncrementTest, run_increment_test
from dacycle.forecast_adapter.channels import GROUPS
from dacycle.forecast_adapter.models.frames import older_frame
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.worlds.world import World
from tests.conftest import TinyWorld
from tests.worlds import DAMPING, MEMORY


class Momentum:
    """Repeat the last change times `factor`."""

    name, digest = "momentum", ""

    def __init__(self, world: World, factor: float) -> None:
        self.factor, self.grid, self.world = factor, world.grid, world.name

    def forecast(self, previous: NDArray, current: NDArray, steps: int) -> Iterator[NDArray[np.float32]]:
        for _ in range(steps):
            previous, current = current, current + np.float32(self.factor) * (current - previous)
            yield current


def tried(model: object, world: World) -> IncrementTest:
    times = world.reference.times[4:20:8]
    previous, current = (np.stack([world.reference.array(t - lag) for t in times]) for lag in (6, 0))
    return run_increment_test(model, previous, current)


def sizes(found: IncrementTest, frames: str, lead: int) -> list[float]:
    return [found.sizes[frames][lead][group] for group in GROUPS]


def test_an_increment_taken_for_a_tendency_grows_in_the_newer_frame_alone(tiny: World) -> None:
    found = tried(Momentum(tiny, 0.5), tiny)
    np.testing.assert_allclose(sizes(found, "newest", 6), 1.5, rtol=1e-2)
    np.testing.assert_allclose(sizes(found, "newest", 24), 1.9375, rtol=1e-2)
    np.testing.assert_allclose(sizes(found, "both", 24), 1, rtol=1e-2)
    assert found.frames == "both"
    assert "frames: both" in found.sentence


def test_a_model_that_carries_increments_along_needs_the_newest_frame_only(tiny: World) -> None:
    assert tried(Momentum(tiny, 0.1), tiny).frames == "newest"


def test_an_increment_that_the_older_frame_dilutes_is_lost_by_its_share(tiny: World, world: TinyWorld) -> None:
    found = tried(load_model(world.model), tiny)
    np.testing.assert_allclose(sizes(found, "newest", 6), DAMPING * (1 - MEMORY), rtol=1e-2)
    assert min(sizes(found, "both", 6)) > 0.9
    assert found.frames == "both"


def test_the_growth_of_small_perturbations_is_that_of_the_model(tiny: World) -> None:
    class Growing(Momentum):
        def forecast(self, previous: NDArray, current: NDArray, steps: int) -> Iterator[NDArray[np.float32]]:
            mean = current.mean((0, 2, 3), keepdims=True)
            for step in range(1, steps + 1):
                yield mean + (current - mean) * np.float32(2 ** (step / 8))

    for days in tried(Growing(tiny, 0), tiny).doubling_days.values():
        assert days == pytest.approx(2, rel=0.05)


def test_the_older_frame_gets_its_share_and_stays_without_negative_humidity(tiny: World) -> None:
    older, background = (tiny.reference.array(time) for time in tiny.reference.times[:2])
    analysis = background + 0.1 * tiny.statistics.std[:, None, None]
    analysis[GROUPS["q"]] = 0
    moved = older_frame(older, background, analysis, 0.5)
    np.testing.assert_allclose(moved[GROUPS["z"]], older[GROUPS["z"]] + 0.5 * (analysis - background)[GROUPS["z"]])
    assert (moved[GROUPS["q"]] >= 0).all()
    assert (moved[GROUPS["q"]] < older[GROUPS["q"]]).all()
