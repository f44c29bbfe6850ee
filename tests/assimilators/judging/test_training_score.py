"""The scores on a model's card, for models whose errors are known."""

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from dacycle.assimilators.judging.forecast_scores import run_freely, score_forecasts
from dacycle.forecast_adapter.channels import HEADLINE, index
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.worlds.world import World, load_world
from tests.conftest import TinyWorld

LEADS = (6, 24)


class Oracle:
    """Forecast the truth of the reference plus `bias` standard deviations."""

    name, digest = "oracle", ""

    def __init__(self, world: World, bias: float = 0.0) -> None:
        self.opened, self.bias, self.grid, self.world = world, bias, world.grid, world.name

    def forecast(self, previous: NDArray, current: NDArray, steps: int) -> Iterator[NDArray[np.float32]]:
        reference, std = self.opened.reference, self.opened.statistics.std[:, None, None]
        where = [
            next(i for i, time in enumerate(reference.times) if np.array_equal(reference.array(time), state))
            for state in current
        ]
        for step in range(1, steps + 1):
            truth = np.stack([reference.array(reference.times[i + step]) for i in where])
            yield (truth + self.bias * std).astype(np.float32)


@pytest.fixture(scope="module")
def opened(world: TinyWorld) -> World:
    return load_world(world.folder)


def test_a_perfect_model_has_no_error_and_full_correlation(opened: World) -> None:
    scores = score_forecasts(Oracle(opened), opened.reference, opened.climatology, opened.reference.times, 4, LEADS)
    assert scores.starts == 4
    np.testing.assert_allclose(scores.model, 0, atol=1e-6)
    np.testing.assert_allclose(scores.correlation, 1, atol=1e-6)
    assert (scores.persistence > 0).all()


def test_a_bias_of_half_a_standard_deviation_is_the_error(opened: World) -> None:
    scores = score_forecasts(
        Oracle(opened, 0.5), opened.reference, opened.climatology, opened.reference.times, 3, LEADS
    )
    std = opened.statistics.std[[index(name) for name in HEADLINE]]
    np.testing.assert_allclose(scores.model, np.broadcast_to(0.5 * std, scores.model.shape), rtol=1e-3)


def test_the_double_beats_persistence(opened: World, world: TinyWorld) -> None:
    scores = score_forecasts(
        load_model(world.model), opened.reference, opened.climatology, opened.reference.times, 4, LEADS
    )
    assert (scores.model < scores.persistence).all()
    listed = scores.as_dict()
    assert listed["leads_h"] == [6, 24]
    assert listed["model"]["z500"] == pytest.approx(scores.model[:, 0], rel=1e-4)


def test_a_free_run_is_compared_with_the_reference_of_its_last_days(opened: World) -> None:
    common = (opened.reference, opened.climatology, opened.statistics, opened.reference.times)
    true = run_freely(Oracle(opened), *common, days=4, starts=2)
    shifted = run_freely(Oracle(opened, 2.0), *common, days=4, starts=2)
    for name in HEADLINE:
        assert true.spread[name] == pytest.approx(1, abs=1e-4)
        assert true.drift[name] == pytest.approx(0, abs=1e-4)
        assert shifted.drift[name] == pytest.approx(2, abs=1e-2)
    assert shifted.largest > true.largest + 1
