"""The methods `letkf` and `hybrid` against the equations with full matrices, and their invariances and refusals."""

from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from dacycle.assimilators import AssimilatorError
from dacycle.assimilators.base import EnsembleAssimilator, Past, WindowAssimilator, load_assimilator
from dacycle.assimilators.classical.background_error import BackgroundError
from dacycle.assimilators.classical.oi import OptimalInterpolation
from dacycle.assimilators.ensemble import algebra, filters
from dacycle.assimilators.ensemble.filters import BLOCK, EnsembleFilter
from dacycle.assimilators.ensemble.olr import LearnedOlr
from dacycle.assimilators.ensemble.settings import EnsembleSettings
from dacycle.forecast_adapter.channels import GROUPS, LEVELS, NAMES, index
from dacycle.forecast_adapter.grid import great_circle_km
from dacycle.forecast_adapter.models.gradient import load_gradient
from dacycle.forecast_adapter.worlds.world import load_world
from dacycle.obs_ingest.operators.learned import LEARNED, load_operator
from tests.assimilators.cases import GRID, SMALL, Case, make_error, smooth_noise

PLAIN = {"members": 20, "rtps": 0.0, "additive": 0.0, "inflation": "none", "vertical_lnp": "none"}
NONE = np.random.default_rng(0)
"""The generator of what a filter draws in its update: nothing."""


def make(name: str, error: BackgroundError, reach_km: float = np.inf, **changes: object) -> EnsembleFilter:
    """Return a filter; an infinite reach, which an experiment cannot set, is for comparisons with full matrices."""
    given = {key: value for key, value in changes.items() if value is not None}
    settings = EnsembleSettings(**{**PLAIN, **given}).model_copy(update={"localisation_km": reach_km})
    return EnsembleFilter(name, error, settings)


@cache
def members(seed: int = 5, count: int = 20) -> NDArray:
    """Return perturbations on the small grid, unrelated to the static ensemble."""
    generator = np.random.default_rng(seed)
    drawn = 30 * smooth_noise(SMALL, count * len(NAMES), generator).reshape(count, len(NAMES), *SMALL.shape)
    return (drawn - drawn.mean(axis=0)).astype(np.float32)


def dense(B: NDArray, case: Case) -> tuple[NDArray, NDArray]:
    """Return increment and analysis error covariance of the Kalman filter with the full matrix B."""
    seen = np.flatnonzero(case.errors.ravel())
    R = np.diag(case.errors.ravel()[seen].astype(np.float64) ** 2)
    gain = B[:, seen] @ np.linalg.inv(B[np.ix_(seen, seen)] + R)
    departures = (case.values.astype(np.float64) - case.background).ravel()[seen]
    return gain @ departures, B - gain @ B[seen]


def covariance(perturbations: NDArray) -> NDArray:
    X = perturbations.reshape(len(perturbations), -1).astype(np.float64).T
    return X @ X.T / (X.shape[1] - 1)


@pytest.mark.parametrize("shift", [0.0, 45.0])
@pytest.mark.parametrize(("name", "share"), [("letkf", None), ("hybrid", 0.3), ("hybrid", None)])
def test_mean_and_covariance_are_those_of_full_matrices_without_localisation(
    name: str, share: float | None, shift: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filters, "SHIFT", shift)
    error = make_error(SMALL, members=30, inflation=0.6)
    case = Case(SMALL).observe_many(150, np.full(len(NAMES), 20.0))
    X, static = members(), 0.6 * error.members
    s = {"letkf": 0.0, "hybrid": share or 0.9}[name]
    method = make(name, error, static_share=share)
    analysis = method.with_members(X, NONE).analyse(case.background, case.values, case.errors)
    turned = [covariance(np.roll(static, cells, axis=-1)) for cells in ((-1, 0, 1) if shift else (0,))]
    increment, _ = dense((1 - s) * covariance(X) + s * np.mean(turned, axis=0), case)
    np.testing.assert_allclose((analysis.state - case.background).ravel(), increment, atol=0.02)
    _, of_members = dense(covariance(X), case)
    np.testing.assert_allclose(covariance(analysis.members[0]), of_members, atol=0.5)
    np.testing.assert_allclose(analysis.members[0].mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(analysis.spread[0].ravel(), np.sqrt(np.diagonal(of_members)), atol=0.02)


def test_the_older_frame_gets_the_increment_of_its_covariance_with_the_newer() -> None:
    error = make_error(SMALL, members=30)
    case = Case(SMALL).observe_many(150, np.full(len(NAMES), 20.0))
    X, before = members(), members(seed=6)
    analysis = make("letkf", error).with_members(X, NONE, before).analyse(case.background, case.values, case.errors)
    joint = np.concatenate([before.reshape(len(X), -1), X.reshape(len(X), -1)], axis=1)
    size = X[0].size
    seen = size + np.flatnonzero(case.errors.ravel())
    B = covariance(joint)
    gain = B[:, seen] @ np.linalg.inv(B[np.ix_(seen, seen)] + 20.0**2 * np.eye(len(seen)))
    departures = (case.values.astype(np.float64) - case.background).ravel()[seen - size]
    (older,) = analysis.older
    np.testing.assert_allclose(older.increment.ravel(), (gain @ departures)[:size], atol=0.02)
    np.testing.assert_allclose(covariance(older.members), (B - gain @ B[seen])[:size, :size], atol=0.5)


@pytest.mark.parametrize("share", [None, 0.2])
def test_a_static_part_moves_both_frames_alike(share: float | None) -> None:
    error = make_error(SMALL, members=30)
    case, X = Case(SMALL).observe_many(150, np.full(len(NAMES), 20.0)), members()
    method = make("hybrid", error, 4000.0, vertical_lnp=1.0, rtps=0.9, members_share=share)
    alone = method.with_members(X, NONE).analyse(case.background, case.values, case.errors)
    analysis = method.with_members(X, NONE, X).analyse(case.background, case.values, case.errors)
    np.testing.assert_array_equal(analysis.state, alone.state)
    np.testing.assert_array_equal(analysis.members, alone.members)
    np.testing.assert_allclose(analysis.older[0].increment, analysis.state[0] - case.background[0], atol=0.02)
    np.testing.assert_array_equal(analysis.older[0].members, analysis.members[0])
    assert not alone.older


def test_with_the_static_ensemble_as_members_the_mean_is_that_of_optimal_interpolation() -> None:
    """Where the observations are dense, blocks are the only difference; without localisation there is none."""
    error = make_error(SMALL, members=20)
    case = Case(SMALL).observe_many(300, 0.7 * error.std)
    oi = OptimalInterpolation(error, error.tuning.__class__(1.0, np.inf))
    letkf = make("letkf", error).with_members(error.members, NONE)
    scale = error.std[:, None, None]
    np.testing.assert_allclose(case.increment(letkf) / scale, case.increment(oi) / scale, atol=2e-4)


def test_the_shares_of_both_covariances_are_set_one_by_one() -> None:
    error = make_error(SMALL, members=30, inflation=0.6)
    case, X = Case(SMALL).observe_many(150, np.full(len(NAMES), 20.0)), members()
    large = make("hybrid", error, static_share=0.5, members_share=0.125).with_members(2 * X, NONE)
    usual = make("hybrid", error, static_share=0.5).with_members(X, NONE)
    np.testing.assert_allclose(case.increment(large), case.increment(usual), atol=1e-3)
    transform = make("letkf", error).with_members(2 * X, NONE).analyse(case.background, case.values, case.errors)
    found = large.analyse(case.background, case.values, case.errors)
    np.testing.assert_allclose(found.members, transform.members, atol=1e-2)


@pytest.mark.parametrize("share", [None, 0.2])
def test_mixed_gains_are_those_of_full_matrices_without_localisation(
    share: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filters, "SHIFT", 0.0)
    error = make_error(SMALL, members=30, inflation=0.6, distance_km=np.inf)
    case, X = Case(SMALL).observe_many(150, np.full(len(NAMES), 20.0)), members()
    method = make("hybrid", error, static_share=share, mix="gain").with_members(X, NONE)
    found = method.analyse(case.background, case.values, case.errors)
    letkf = make("letkf", error).with_members(X, NONE).analyse(case.background, case.values, case.errors)
    again = Case(SMALL)
    again.background, again.values, again.errors = letkf.state, case.values, case.errors
    further, _ = dense(covariance(0.6 * error.members), again)
    expected = (letkf.state - case.background).ravel() + (share or 0.5) * further
    np.testing.assert_allclose((found.state - case.background).ravel(), expected, atol=0.02)
    np.testing.assert_array_equal(found.members, letkf.members)


@pytest.mark.parametrize("name", ["letkf", "hybrid"])
def test_the_order_of_members_changes_the_order_only(name: str) -> None:
    error, order = make_error(SMALL, members=30), np.random.default_rng(0).permutation(20)
    case, X = Case(SMALL).observe_many(200, np.full(len(NAMES), 20.0)), members()
    method = make(name, error, 4000.0, vertical_lnp=1.0)
    one, other = (
        method.with_members(some, NONE).analyse(case.background, case.values, case.errors) for some in (X, X[order])
    )
    np.testing.assert_allclose(one.state, other.state, atol=2e-3)
    np.testing.assert_allclose(one.members[0][order], other.members[0], atol=2e-2)


@pytest.mark.parametrize("name", ["letkf", "hybrid"])
@pytest.mark.parametrize(("row", "column"), [(10, 30), (20, 63), (0, 5)])
def test_beyond_the_reach_and_a_block_nothing_changes(name: str, row: int, column: int) -> None:
    error = make_error(members=20)
    case = Case(GRID).observe("z500", row, column, departure=500.0, error=100.0)
    method = make(name, error, 2500.0, rtps=0.9)
    analysis = method.with_members(error.members, NONE).analyse(case.background, case.values, case.errors)
    latitude, longitude = np.meshgrid(GRID.latitude, GRID.longitude, indexing="ij")
    distance = great_circle_km(latitude, longitude, GRID.latitude[row], GRID.longitude[column])
    far = distance > 2500 + 2 * BLOCK * np.deg2rad(GRID.spacing) * 6371
    np.testing.assert_array_equal((analysis.state - case.background)[0][:, far], 0)
    np.testing.assert_array_equal(analysis.members[0][..., far], error.members[..., far])
    z = np.abs(analysis.state - case.background)[0, index("z500")]
    assert z[row, column] > 0.5 * z.max() > 0


def test_vertical_localisation_keeps_an_observation_to_its_levels() -> None:
    error = make_error(members=20)
    case = Case(GRID).observe("t850", 10, 30, departure=3.0, error=1.0).observe("msl", 25, 5, 3.0, 1.0)
    increments = [
        case.increment(make("letkf", error, 2500.0, vertical_lnp=reach).with_members(error.members, NONE))
        for reach in (0.5, None, 1e6)
    ]
    near = np.abs(np.log(np.array(LEVELS) / 850)) < 0.5
    column = increments[0][GROUPS["t"], 10, 30]
    assert (column[near] != 0).all()
    assert (column[~near] == 0).all()
    assert (increments[0][GROUPS["surface"], 10, 30] != 0).all(), "the surface is at 1000 hPa"
    assert increments[0][index("z925"), 25, 5] != 0
    assert increments[0][index("z500"), 25, 5] == 0
    np.testing.assert_allclose(increments[1], increments[2], atol=1e-3 * np.abs(increments[1]).max())


@pytest.mark.parametrize("name", ["letkf", "hybrid"])
@pytest.mark.parametrize("rtps", [0.0, 0.9])
@pytest.mark.parametrize("size", [0.5, 1.0, 2.0])
def test_adaptive_inflation_is_the_factor_on_the_members_that_departures_ask_for(
    name: str, rtps: float, size: float
) -> None:
    """Members of the right spread are left alone; of others the analysis is that of members times the factor."""
    error, generator = make_error(SMALL, members=30), np.random.default_rng(3)
    case, X = Case(SMALL), members()
    seen = generator.random(case.errors.shape) < 0.3
    truth = size * np.einsum("n,nchw->chw", generator.standard_normal(len(X)) / np.sqrt(len(X) - 1), X)
    sigma = np.float32(20.0)
    case.errors[...] = np.where(seen, sigma, 0)
    drawn = case.background[0] + truth + sigma * generator.standard_normal(truth.shape)
    case.values[0, : len(NAMES)] = np.where(seen[0, : len(NAMES)], drawn, 0)
    departures = (case.values - case.background)[seen] / sigma
    variance = (X.var(axis=0, ddof=1)[None][seen] / sigma**2).sum()
    factor = algebra.adaptive_inflation((departures**2).sum() - departures.size, variance, np.array(departures.size))
    assert factor == pytest.approx(np.clip(size**2, *algebra.BOUNDS), rel=0.35)
    adaptive = make(name, error, rtps=rtps, inflation="adaptive").with_members(X, NONE)
    plain = make(name, error, rtps=rtps).with_members(np.float32(np.sqrt(factor)) * X, NONE)
    found, expected = (method.analyse(case.background, case.values, case.errors) for method in (adaptive, plain))
    np.testing.assert_allclose(found.state, expected.state, atol=2e-2)
    np.testing.assert_allclose(found.members[0], expected.members[0], atol=2e-2)
    assert found.diagnostics["inflation"] == [pytest.approx(float(factor), rel=1e-4)]


@pytest.mark.parametrize(("changes", "expected"), [({"rtps": 1.0}, 1.0), ({"rtpp": 0.999}, 1.0), ({}, None)])
def test_relaxation_restores_the_spread(changes: dict[str, float], expected: float | None) -> None:
    error = make_error(SMALL, members=30)
    case, X = Case(SMALL).observe_many(300, np.full(len(NAMES), 5.0)), members()
    found = make("letkf", error, **changes).with_members(X, NONE).analyse(case.background, case.values, case.errors)
    ratio = np.sqrt(np.square(found.members).mean() / np.square(X).mean())
    assert ratio == pytest.approx(expected, abs=0.01) if expected else ratio < 0.8


def test_what_is_drawn_comes_from_the_static_ensemble_and_the_generator_alone() -> None:
    error = make_error(members=40, inflation=0.25)
    method = make("letkf", error, members=30, additive=0.1)
    first, again = (method.first_members(np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert first.shape == (30, 69, *GRID.shape)
    np.testing.assert_allclose(first.mean(axis=0), 0, atol=1e-3)
    size = np.sqrt(np.square(first).sum(axis=0).mean(axis=(1, 2)) / 29)
    np.testing.assert_allclose(size / (0.25 * error.std), 1, atol=0.35)
    forecasts = 250 + 0.1 * error.std[:, None, None] * np.random.default_rng(1).standard_normal(first.shape, np.float32)
    mean, perturbations = method.background(forecasts, np.random.default_rng(2))
    np.testing.assert_allclose(mean, forecasts.mean(axis=0), rtol=1e-6)
    added = perturbations - (forecasts - mean)
    np.testing.assert_allclose(
        np.sqrt(np.square(added).sum(axis=0).mean(axis=(1, 2)) / 29) / error.std, 0.1, atol=0.035
    )
    plain, _ = make("letkf", error, members=30).background(forecasts, np.random.default_rng(2))
    np.testing.assert_array_equal(mean, plain)


def test_where_a_model_amplifies_them_members_keep_to_the_spread_of_the_static_ensemble() -> None:
    error = make_error(members=40)
    usual = 0.3 * (error.members[:30] - error.members[:30].mean(axis=0))
    amplified = usual.copy()
    amplified[:, :, 3, 5] *= 1000
    _, perturbations = make("letkf", error, members=30).background(amplified, NONE)
    limit = algebra.spread(error.members)[:, 3, 5]
    np.testing.assert_allclose(algebra.spread(perturbations)[:, 3, 5], limit, rtol=1e-3)
    shrunk = perturbations[:, :, 3, 5] / amplified[:, :, 3, 5]
    np.testing.assert_allclose(shrunk, np.broadcast_to(shrunk[0], shrunk.shape), rtol=1e-3)  # no direction is preferred
    elsewhere = np.ones(GRID.shape, bool)
    elsewhere[3, 5] = False
    change = (perturbations - usual)[..., elsewhere] / error.std[:, None]
    np.testing.assert_allclose(change, 0, atol=1e-4)


def test_a_collapsed_ensemble_is_a_doubt() -> None:
    error = make_error(SMALL, members=30)
    case = Case(SMALL).observe_many(300, error.std)
    method = make("letkf", error)
    healthy, collapsed = (
        method.with_members(f * error.members[:20], NONE).analyse(case.background, case.values, case.errors).doubts[0]
        for f in (1.0, 0.01)
    )
    assert healthy == ""
    assert "the ensemble has collapsed" in collapsed
    assert "larger additive" in collapsed


def test_refusals_say_what_to_do() -> None:
    error = make_error(SMALL, members=30)
    with pytest.raises(AssimilatorError, match=r"31 members, but the static ensemble .* has 30"):
        make("letkf", error, members=31)
    case, method = Case(SMALL), make("letkf", error)
    with pytest.raises(AssimilatorError, match="carries members from cycle to cycle; run it in an experiment"):
        method.analyse(case.background, case.values, case.errors)
    world = load_world("demonstration")
    for name, changes, message in (
        ("letkf", {"mix": "gain"}, r"letkf has no static part: leave out ensemble\.mix"),
        ("hybrid", {"mix": "gain", "members_share": 0.1}, r"ensemble\.members_share goes with a mixed covariance"),
        ("hybrid", {"mix": "gain", "olr": "learned"}, r"ensemble\.olr goes with a mixed covariance"),
    ):
        with pytest.raises(AssimilatorError, match=message):
            load_assimilator(name, world, ensemble=EnsembleSettings(**changes))
    case.observe("t850", 1, 1, np.nan, 1.0)
    with pytest.raises(AssimilatorError, match="letkf: t850 has an observed value or an error that is not finite"):
        method.with_members(members(), NONE).analyse(case.background, case.values, case.errors)


def test_an_update_does_not_depend_on_the_one_before() -> None:
    error = make_error(SMALL, members=30)
    case, method = Case(SMALL).observe_many(200, np.full(len(NAMES), 20.0)), make("hybrid", error)
    analyses = [
        method.with_members(X, NONE).analyse(case.background, case.values, case.errors)
        for X in (members(), 2 * members(6), members())
    ]
    np.testing.assert_array_equal(analyses[0].state, analyses[2].state)
    np.testing.assert_array_equal(analyses[0].members, analyses[2].members)


@pytest.mark.parametrize("name", ["letkf", "hybrid"])
def test_the_learned_operator_of_olr_is_used_with_the_frame_before(name: str) -> None:
    world = load_world("demonstration")
    settings = EnsembleSettings(members=20, olr="learned", inflation="none", vertical_lnp="none")
    operator = load_operator(None, world)
    method = load_assimilator(name, world, ensemble=settings, operator=operator)
    assert isinstance(method, EnsembleAssimilator)
    older, background = (world.reference.array(time) for time in world.reference.times[:2])
    values, errors = (np.zeros((1, 70, *world.grid.shape), np.float32) for _ in range(2))
    place = (0, 69, 16, 20)
    fields = operator(older, background)
    values[place], errors[place] = fields.values["olr"][16, 20] - 30, 4.0
    members = 3 * method.first_members(np.random.default_rng(1))
    update = method.with_members(members, NONE)
    assert isinstance(update, WindowAssimilator)
    analysis = update.with_past(Past(older, older)).analyse(background[None], values, errors).state[0]
    gone = operator(older, analysis).values["olr"][16, 20] - fields.values["olr"][16, 20]
    drawn = [operator(older, background + member).values["olr"][16, 20] for member in members]
    variance, error = np.var(drawn, ddof=1), np.hypot(4.0, fields.errors["olr"][16, 20])
    if name == "hybrid":  # nine tenths of the covariance are that of errors a third as large
        variance *= 0.1 + 0.9 / 9
    assert gone == pytest.approx(-30 * variance / (variance + error**2), rel=0.5)
    with pytest.raises(AssimilatorError, match="olr: learned needs the frame 6 h before"):
        update.analyse(background[None], values, errors)
    with pytest.raises(AssimilatorError, match=r"ensemble\.olr: learned, but there is no learned operator"):
        load_assimilator(name, world, ensemble=settings)


def test_slopes_of_the_learned_operator_are_its_tangent() -> None:
    world = load_world("demonstration")
    operator = load_operator(None, world)
    assert operator is not None
    older, background = (world.reference.array(time) for time in world.reference.times[:2])
    changes = 0.005 * (world.reference.array(world.reference.times[8]) - background)[None]
    slopes = LearnedOlr.about(operator, older, background).slopes(background, changes)
    tangent = load_gradient(operator).tangent(older, background, np.zeros_like(older), changes[0])
    expected = tangent[LEARNED.index("olr")]
    assert np.abs(slopes[0] - expected).max() < 0.05 * np.abs(expected).max()
