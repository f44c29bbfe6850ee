"""Ensembles of a method's analyses: perturbed observations, and members of a linear method against its covariances."""

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from dacycle.assimilators.base import Analysis, Assimilator, AssimilatorError, Past
from dacycle.assimilators.ensemble.perturbed import EnsembleOfAnalyses, load, perturbed_observations
from dacycle.assimilators.ensemble.settings import EnsembleSettings
from dacycle.forecast_adapter.channels import NAMES, index
from dacycle.forecast_adapter.grid import Grid
from dacycle.forecast_adapter.worlds.world import load_world
from tests.assimilators.cases import SMALL, Case, make_error


@dataclass
class Linear:
    """A method that moves each observed value by a share of its departure; its analysis of chain `broken` is NaN."""

    share: float = 0.4
    broken: int | None = None
    grid: Grid = SMALL
    name: str = "linear"
    world: str = "synthetic"
    digest: str = "1"
    planes: tuple[str, ...] = ()
    calls: int = 0

    def analyse(self, background: NDArray, values: NDArray, errors: NDArray) -> Analysis:
        state = background + np.where(errors > 0, self.share * (values - background), 0).astype(np.float32)
        self.calls += 1
        return Analysis(state * np.nan if self.calls - 1 == self.broken else state)


def make(members: int, **method: object) -> EnsembleOfAnalyses:
    error = make_error(SMALL, members=max(40, members))
    return EnsembleOfAnalyses(Linear(**method), error, EnsembleSettings(members=members, additive=0.1))


def test_a_method_with_a_window_is_refused() -> None:
    @dataclass
    class Windowed(Linear):
        steps: int = 1

        def with_past(self, past: Past) -> Assimilator:
            return self

    with pytest.raises(AssimilatorError, match="linear needs the cycles before"):
        load(Windowed(), load_world("demonstration"), EnsembleSettings())


def perturbations(members: int, seed: int = 4) -> NDArray:
    drawn = np.random.default_rng(seed).normal(0, 2, (members, len(NAMES), *SMALL.shape))
    return (drawn - drawn.mean(axis=0)).astype(np.float32)


def test_perturbed_observations_have_the_value_as_mean_and_the_error_as_spread() -> None:
    generator = np.random.default_rng(0)
    errors = np.where(generator.random((3, 40, 50)) < 0.5, generator.uniform(0.1, 3, (3, 40, 50)), 0)
    values = np.where(errors > 0, generator.normal(20, 5, errors.shape), np.nan).astype(np.float32)
    found = perturbed_observations(values, errors, 20, np.zeros(3, bool), np.random.default_rng(5))
    seen = errors > 0
    np.testing.assert_allclose(found[:, seen].mean(axis=0), values[seen], rtol=1e-6)
    assert np.isnan(found[:, ~seen]).all(), "nothing is made up where nothing was observed"
    normalised = (found[:, seen].astype(float) - values[seen]) / errors[seen]
    assert normalised.var(axis=0, ddof=1).mean() == pytest.approx(20 / 19, rel=0.05)
    assert np.corrcoef(normalised[0], normalised[1])[0, 1] == pytest.approx(-1 / 19, abs=0.05)
    again = perturbed_observations(values, errors, 20, np.zeros(3, bool), np.random.default_rng(5))
    np.testing.assert_array_equal(found, again)


def test_what_cannot_be_below_zero_stays_so_with_its_mean() -> None:
    values = np.array([[[0.0, 0.5, 100.0, -0.1]]], np.float32)
    errors = np.ones_like(values)
    found = perturbed_observations(values, errors, 30, np.array([True]), np.random.default_rng(0))
    np.testing.assert_allclose(found.mean(axis=0), values, rtol=1e-5)
    assert (found[..., :3] >= -1e-6).all()
    assert np.ptp(found[:, 0, 0, 0]) == 0
    assert 0 < found[:, 0, 0, 1].std() < 0.5
    assert found[:, 0, 0, 2].std() == pytest.approx(1, rel=0.3)
    assert np.ptp(found[:, 0, 0, 3]) == 0


def test_members_of_a_linear_method_have_the_covariance_of_its_error() -> None:
    """With a gain K the error of an analysis has the variance (1-K)^2 P + K^2 R where a channel is observed alone."""
    case, X = Case(SMALL).observe_many(400, np.full(len(NAMES), 5.0)), perturbations(4000)
    found = make(4000).with_members(X, np.random.default_rng(1)).analyse(case.background, case.values, case.errors)
    np.testing.assert_array_equal(found.state, Linear().analyse(case.background, case.values, case.errors).state)
    seen = case.errors > 0
    free = np.array(["q" not in name for name in NAMES])[:, None, None] & seen[0]
    variance = found.members[0].astype(np.float64).var(axis=0, ddof=1)
    np.testing.assert_allclose(variance[free].mean(), 0.6**2 * 4 + 0.4**2 * 25, rtol=0.02)
    unseen = ~seen[0] & np.array(["q" not in name for name in NAMES])[:, None, None]
    np.testing.assert_allclose(found.members[0][:, unseen], X[:, unseen], atol=1e-3)
    np.testing.assert_allclose(found.members[0].mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(found.spread[0][free], np.sqrt(variance[free]), rtol=1e-5)


def test_a_member_whose_analysis_is_not_finite_keeps_its_background_and_is_named() -> None:
    case, X = Case(SMALL).observe_many(400, np.full(len(NAMES), 5.0)), perturbations(10)
    method = make(10, broken=3)  # the first call is of the chain itself
    found = method.with_members(X, np.random.default_rng(1)).analyse(case.background, case.values, case.errors)
    assert np.isfinite(found.state).all()
    assert np.isfinite(found.members).all()
    assert "analysis of member 3 is not finite" in found.doubts[0]
    cell = np.flatnonzero(case.errors[0, index("z500")].ravel() == 0)[0]
    moved = (found.members[0] - X)[:, index("z500")].reshape(10, -1)[:, cell]
    np.testing.assert_allclose(moved, 0, atol=1e-3)


def test_the_digest_is_that_of_method_and_static_ensemble() -> None:
    assert make(10).digest != make(10, digest="other").digest
