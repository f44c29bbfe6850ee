"""The transform against the Kalman filter written out in full, and on Lorenz's model of 1996."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dacycle.assimilators.classical.localisation import gaspari_cohn
from dacycle.assimilators.ensemble.algebra import (
    mean_weights,
    relax_spread,
    spread,
    square_root,
    vertical_localisation,
)


def centred(generator: np.random.Generator, members: int, size: int) -> NDArray:
    """Return perturbations (size, members) whose mean is 0."""
    X = generator.standard_normal((size, size)) @ generator.standard_normal((size, members))
    return X - X.mean(axis=1, keepdims=True)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), members=st.integers(3, 30), observed=st.integers(1, 15))
def test_mean_and_covariance_are_those_of_the_kalman_filter(seed: int, members: int, observed: int) -> None:
    generator = np.random.default_rng(seed)
    X, H = centred(generator, members, 10), generator.standard_normal((observed, 10))
    R = np.diag(generator.uniform(0.1, 3, observed))
    d = generator.standard_normal(observed)
    B = X @ X.T / (members - 1)
    K = B @ H.T @ np.linalg.inv(H @ B @ H.T + R)
    P = X / np.sqrt(members - 1)
    Y = H @ P
    information, projected = Y.T @ np.linalg.inv(R) @ Y, Y.T @ np.linalg.inv(R) @ d
    np.testing.assert_allclose(P @ mean_weights(information, projected), K @ d, atol=1e-10)
    updated = X @ square_root(information)
    np.testing.assert_allclose(updated @ updated.T / (members - 1), B - K @ H @ B, atol=1e-10)
    np.testing.assert_allclose(updated.mean(axis=1), 0, atol=1e-12)


def test_a_batch_is_its_parts() -> None:
    generator = np.random.default_rng(0)
    Y = generator.standard_normal((3, 4, 6, 5))
    information, projected = Y.swapaxes(-1, -2) @ Y, generator.standard_normal((3, 4, 5))
    weights, roots = mean_weights(information, projected), square_root(information)
    np.testing.assert_array_equal(weights[1, 2], mean_weights(information[1, 2], projected[1, 2]))
    np.testing.assert_allclose(roots[2, 3], square_root(information[2, 3]), atol=1e-13)
    np.testing.assert_allclose(roots, roots.swapaxes(-1, -2), atol=1e-14)


def test_nothing_observed_changes_nothing() -> None:
    np.testing.assert_array_equal(mean_weights(np.zeros((2, 5, 5)), np.zeros((2, 5))), 0)
    np.testing.assert_array_equal(square_root(np.zeros((2, 5, 5))), np.tile(np.eye(5), (2, 1, 1)))


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0, 1.2])
def test_relaxation_moves_the_spread_by_its_share(share: float) -> None:
    generator = np.random.default_rng(1)
    before = generator.standard_normal((20, 3, 4))
    before -= before.mean(axis=0)
    after = 0.4 * before
    np.testing.assert_allclose(spread(before), before.std(axis=0, ddof=1))
    expected = (1 - share) * spread(after) + share * spread(before)
    np.testing.assert_allclose(spread(relax_spread(after, before, share)), expected)


def test_members_without_spread_stay_so() -> None:
    nothing = np.zeros((5, 2))
    np.testing.assert_array_equal(relax_spread(nothing, nothing + np.arange(-2, 3)[:, None], 0.9), nothing)


def test_in_the_vertical_a_column_counts_everywhere_and_a_level_near_itself() -> None:
    correlation = np.array([[1, 0.5, 0], [0.5, 1, 0.2], [0, 0.2, 1]])
    table = vertical_localisation(np.array([0, 2]), np.array([-1, 0, 2]), correlation)
    np.testing.assert_array_equal(table, np.array([[1, 1, 0], [1, 0, 1]], np.float32))


SIZE, FORCING, STEP = 40, 8.0, 0.05


def tendency(x: NDArray) -> NDArray:
    return (np.roll(x, -1, -1) - np.roll(x, 2, -1)) * np.roll(x, 1, -1) - x + FORCING


def step(x: NDArray) -> NDArray:
    """Return states (..., 40) of Lorenz's model of 1996 after 0.05, by Runge and Kutta's fourth-order scheme."""
    k1 = tendency(x)
    k2 = tendency(x + STEP / 2 * k1)
    k3 = tendency(x + STEP / 2 * k2)
    k4 = tendency(x + STEP * k3)
    return x + STEP / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def rmse_of_analyses(
    truths: NDArray, observations: NDArray, members: NDArray, inflation: float, radius: float
) -> float:
    """Return the mean RMSE after the first 400 cycles of a filter that observes everything with an error of 1.

    Args:
        truths, observations: (cycles, 40).
        members: (N, 40) at the first of them less a step.
        inflation: factor on the perturbations after each analysis.
        radius: of the localisation as DAPPER gives it, in points.
    """
    distance = np.abs(np.arange(SIZE)[:, None] - np.arange(SIZE))
    taper = gaspari_cohn(np.minimum(distance, SIZE - distance), 2 * 1.82 * radius)
    errors = []
    for truth, observation in zip(truths, observations, strict=True):
        members = step(members)
        mean = members.mean(axis=0)
        P = (members - mean) / np.sqrt(len(members) - 1)
        information = np.einsum("no,go,mo->gnm", P, taper, P)
        projected = np.einsum("no,go->gn", P, taper * (observation - mean))
        transforms = square_root(information) * np.sqrt(len(members) - 1) * inflation
        mean = mean + np.einsum("ng,gn->g", P, mean_weights(information, projected))
        members = mean + np.einsum("ng,gnm->mg", P, transforms)
        errors.append(np.sqrt(np.square(mean - truth).mean()))
    return float(np.mean(errors[400:]))


# DAPPER's table for the settings of Sakov and Oke 2008: comments in dapper/mods/Lorenz96/sakov2008.py, version 1.7.
@pytest.mark.slow
@pytest.mark.parametrize(("members", "radius", "published"), [(7, 4.0, 0.22), (20, np.inf, 0.20)])
def test_lorenz_96_has_the_published_error(members: int, radius: float, published: float) -> None:
    generator = np.random.default_rng(3)
    x = np.full(SIZE, FORCING) + np.eye(SIZE)[0]
    for _ in range(1000):
        x = step(x)
    start, truths = x + 0.001 * generator.standard_normal((members, SIZE)), []
    for _ in range(2000):
        x = step(x)
        truths.append(x)
    observations = truths + generator.standard_normal((2000, SIZE))
    found = rmse_of_analyses(np.array(truths), observations, start, 1.04, radius)
    assert found == pytest.approx(published, abs=0.02)


@pytest.mark.slow
def test_lorenz_96_has_the_error_that_dapper_has_on_the_same_observations() -> None:
    pytest.importorskip("dapper", reason="needs DAPPER: pip install dapper")
    import dapper.da_methods as methods
    from dapper.mods.Lorenz96.sakov2008 import HMM
    from dapper.tools.seeding import set_seed

    HMM.tseq.T = 50.0
    set_seed(3000)
    truths, observations = HMM.simulate()
    theirs = methods.LETKF(N=7, infl=1.04, loc_rad=4)
    theirs.assimilate(HMM, truths, observations, liveplots=False)
    errors = theirs.stats.err.rms.a[400:].mean()
    start = truths[0] + 0.001 * np.random.default_rng(0).standard_normal((7, SIZE))
    ours = rmse_of_analyses(truths[1:], np.asarray(observations), start, 1.04, 4.0)
    assert ours == pytest.approx(float(errors), rel=0.03)
