"""Single analyses under controlled observations: the observations, the scores, and that all methods get the same."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from dacycle.assimilators.base import Analysis
from dacycle.assimilators.judging.benchmark import OVERALL, Setting, score_single_analyses
from dacycle.assimilators.sampling.backgrounds import held_out
from dacycle.assimilators.sampling.observing import observing_of
from dacycle.forecast_adapter.channels import GROUPS, HEADLINE
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.worlds.world import load_world


@dataclass
class Draws:
    """Return every observation as the analysis, with half its error as spread, and keep the inputs."""

    planes: tuple[str, ...] = ("tp6h", "olr")
    seen: list = field(default_factory=list)

    def analyse(self, background, values, errors):
        self.seen.append((background, values, errors))
        observed = errors[:, :69] > 0
        state = np.where(observed, values[:, :69], background)
        return Analysis(state, np.where(observed, errors[:, :69] / 2, 0).astype(np.float32))


@pytest.fixture(scope="module")
def given():
    """Return the observing system of the demonstration's world, and four backgrounds of it."""
    world = load_world("demonstration")
    observing = observing_of(world, world.reference, [{"source": "stations"}, {"source": "olr"}])
    return observing, held_out(load_model("mini"), world.reference, world, 2, (6, 24))


def score(given, method, seed=1, **setting):
    table = score_single_analyses(method, *given, Setting(name="s", **setting), seed)
    return table.set_index(["field", "channel", "score"])["value"].sort_index()


def test_points_of_each_channel_are_observed_by_themselves_with_the_stated_noise(given):
    method = Draws()
    scores = score(given, method, density=0.1, noise=0.2)
    _, values, errors = method.seen[0]
    seen = errors[0, :69] > 0
    assert seen.mean() == pytest.approx(0.1, abs=0.01)
    assert (seen[0] & seen[1]).mean() == pytest.approx(0.01, abs=0.006)  # independent of one another
    std = given[0].world.statistics.std[:, None, None]
    np.testing.assert_allclose(errors[0, :69][seen], np.broadcast_to(0.2 * std, seen.shape)[seen], rtol=1e-6)
    truth = given[0].world.reference.array(given[1].times[0])
    noise = ((values[0, :69] - truth) / std)[seen & ~np.isin(np.arange(69), GROUPS["q"])[:, None, None]]
    assert noise.std() == pytest.approx(0.2, rel=0.03)
    assert (errors[0, 69:] > 0).any(axis=(1, 2)).all()  # precipitation and OLR beside them
    for channel in HEADLINE:
        assert scores["background", channel, "mse"].mean() > 0


def test_what_is_taken_as_it_is_scores_by_its_noise(given):
    everything = score(given, Draws(), density=1.0, noise=0.3)
    assert everything["analysis", OVERALL, "mse"].mean() == pytest.approx(0.09, rel=0.05)
    assert everything["analysis", OVERALL, "mae"].mean() == pytest.approx(0.3 * np.sqrt(2 / np.pi), rel=0.05)
    assert everything["analysis", OVERALL, "spread_mse"].mean() == pytest.approx(0.0225, rel=1e-3)


def test_the_truth_has_the_spectrum_of_the_truth(given):
    scores = score(given, Draws(), density=1.0, noise=1e-4)
    for name in ("specdiv", "zonal_divergence"):
        divergence = scores.xs((OVERALL, name), level=("channel", "score"))
        assert 0 <= divergence["analysis"].mean() < 0.1 * divergence["background"].mean()


def test_every_method_is_given_the_same(given):
    one, other = Draws(), Draws()
    score(given, one)
    score(given, other)
    for first, second in zip(one.seen, other.seen, strict=True):
        for a, b in zip(first, second, strict=True):
            np.testing.assert_array_equal(a, b)
    another = Draws()
    score(given, another, seed=2)
    assert not np.array_equal(one.seen[0][1], another.seen[0][1])


def test_denied_types_stay_out(given):
    whole, method = Draws(), Draws()
    score(given, whole)
    score(given, method, deny=("olr",))
    errors = method.seen[0][2]
    assert (errors[0, 69] > 0).any()
    assert not (errors[0, 70] > 0).any()
    np.testing.assert_array_equal(errors[0, :70], whole.seen[0][2][0, :70])  # and nothing else changes


def test_stated_errors_may_be_wrong(given):
    right, wrong = Draws(), Draws()
    score(given, right)
    score(given, wrong, assumed=2.0)
    np.testing.assert_array_equal(right.seen[0][1], wrong.seen[0][1])
    np.testing.assert_allclose(2 * right.seen[0][2], wrong.seen[0][2], rtol=1e-6)


def test_columns_hold_all_channels_and_swaths_what_a_sounder_sees(given):
    method = Draws()
    score(given, method, pattern="columns")
    seen = method.seen[0][2][0, :69] > 0
    np.testing.assert_array_equal(seen.all(axis=0), seen.any(axis=0))
    swaths = Draws()
    score(given, swaths, pattern="swaths", density=0.1)
    seen = swaths.seen[0][2][0, :69] > 0
    assert not seen[GROUPS["z"]].any()
    assert not seen[GROUPS["u"]].any()
    strip = seen[GROUPS["t"]][0]
    assert strip.any(axis=1).all()  # from pole to pole
    weights = given[0].world.grid.weights
    assert 0.1 <= (strip * weights).mean() < 0.3
