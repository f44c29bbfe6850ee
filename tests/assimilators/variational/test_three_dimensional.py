"""`3dvar` against explicit matrices, its adjoints, Taylor tests, and its refusals."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray

from dacycle.assimilators import AssimilatorError
from dacycle.assimilators.classical.oi import load as load_oi
from dacycle.assimilators.classical.olr import OlrOperator
from dacycle.assimilators.variational.covariance import Covariance
from dacycle.assimilators.variational.departures import Departures
from dacycle.assimilators.variational.estimation import estimate_covariance
from dacycle.assimilators.variational.harmonics import Harmonics
from dacycle.assimilators.variational.minimisation import conjugate_gradients
from dacycle.assimilators.variational.olr import OfColumns
from dacycle.assimilators.variational.settings import VariationalSettings
from dacycle.assimilators.variational.three_dimensional import ThreeDVar
from dacycle.forecast_adapter.channels import GROUPS, LEVELS, NAMES, index
from dacycle.forecast_adapter.grid import get_grid
from tests.assimilators.cases import GRID, Case, make_error
from tests.worlds import profile

COARSE, TINY = get_grid("8x16"), get_grid("4x8")
EXACT = VariationalSettings(iterations=300, tolerance=1e-5, inflation=1.0, olr_inflation=1.0)


@cache
def covariance(grid: str = "8x16", truncation: int = 6) -> Covariance:
    """Return the covariance of made-up errors, geostrophic in u500 and v500."""
    error = make_error(get_grid(grid), members=80)
    return estimate_covariance(error.members, error.grid, error.world, truncation)


def noise(shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_synthesis_and_winds_have_exact_adjoints_and_are_undone_by_their_analyses() -> None:
    harmonics = Harmonics(GRID, 20, np.float64)
    generator = np.random.default_rng(0)
    psi, chi = (generator.standard_normal((21, 21, 2, 3)) * harmonics.exists for _ in range(2))
    for waves in (psi, chi):
        waves[0, :, 1] = waves[0, 0] = 0  # no such phase; a mean gives no wind
    x, y = generator.standard_normal((2, 3, *GRID.shape))
    assert np.vdot(harmonics.synthesis(psi), x) == pytest.approx(np.vdot(psi, harmonics.synthesis_adjoint(x)))
    u, v = harmonics.winds(psi, chi)
    back = harmonics.winds_adjoint(x, y)
    assert np.vdot(u, x) + np.vdot(v, y) == pytest.approx(np.vdot(psi, back[0]) + np.vdot(chi, back[1]))
    b = harmonics.balanced_mass(psi)
    assert np.vdot(b, chi) == pytest.approx(np.vdot(psi, harmonics.balanced_mass_adjoint(chi)))
    np.testing.assert_allclose(harmonics.analysis(harmonics.synthesis(psi)), psi, atol=1e-10)
    for found, waves in zip(harmonics.analysis_of_winds(u, v), (psi, chi), strict=True):
        np.testing.assert_allclose(found, waves, atol=1e-10)


def test_winds_and_balance_are_those_of_finite_differences() -> None:
    fine = get_grid("180x360")
    harmonics = Harmonics(fine, 12, np.float64)
    generator = np.random.default_rng(1)
    psi, chi = (generator.standard_normal((13, 13, 2, 1)) * harmonics.exists for _ in range(2))
    psi[:, 11:] = 0  # balance reaches one wavenumber further
    latitude = np.deg2rad(fine.latitude)
    cosine, sine = np.cos(latitude)[:, None], np.sin(latitude)[:, None]

    def north(x: NDArray) -> NDArray:
        return np.gradient(x, latitude, axis=0)

    def east(x: NDArray) -> NDArray:
        return (np.roll(x, -1, 1) - np.roll(x, 1, 1)) / (2 * np.deg2rad(1)) / cosine

    p, c = harmonics.synthesis(psi)[0], harmonics.synthesis(chi)[0]
    u, v = (wind[0] for wind in harmonics.winds(psi, chi))
    wavenumber = np.arange(13)[None, :, None, None]
    laplacian = harmonics.synthesis(-wavenumber * (wavenumber + 1) * harmonics.balanced_mass(psi))[0]
    divergence = east(sine * east(p)) + north(sine * north(p) * cosine) / cosine
    inner = slice(10, -10)
    for found, expected in ((u, east(c) - north(p)), (v, east(p) + north(c)), (laplacian, divergence)):
        np.testing.assert_allclose(found[inner], expected[inner], atol=0.02 * np.abs(found).max())


def test_the_transform_has_an_exact_adjoint() -> None:
    B = covariance()
    v, x = noise(B.shape, 2), noise(B.scale.shape, 3) / B.scale
    one, other = (np.vdot(a.astype(np.float64), b) for a, b in ((B.apply(v), x), (v, B.adjoint(x))))
    assert one == pytest.approx(other, rel=1e-4)


def dense(B: Covariance) -> NDArray[np.float64]:
    """Return the matrix of the covariance."""
    rows = []
    for place in range(B.scale.size):
        point = np.zeros(B.scale.size, np.float32)
        point[place] = 1
        rows.append(B.adjoint(point.reshape(B.scale.shape)).ravel())
    root = np.array(rows, np.float64)
    return root @ root.T


def test_the_estimate_from_samples_of_a_covariance_is_that_covariance() -> None:
    """With a mass that is balanced with the wind of its level, and larger errors in one hemisphere."""
    n = np.arange(7)
    roots = np.eye(69, dtype=np.float32) * np.exp(-0.1 * n * n)[:, None, None].astype(np.float32)
    balance = np.zeros((7, 28, 14), np.float32)
    balance[:, 2 + np.arange(13), 1 + np.arange(13)] = 4.0  # z on u
    scale = np.broadcast_to(np.where(COARSE.latitude > 0, 1.0, 1.5)[:, None], (69, *COARSE.shape)).astype(np.float32)
    true = Covariance(roots, balance, scale, COARSE, "synthetic")
    samples = np.stack([true.apply(noise(true.shape, 100 + k)) for k in range(600)])
    found = estimate_covariance(samples, COARSE, "synthetic", 6)
    z, u = index("z500"), index("u500")
    for k in (z, u, index("q700")):
        ratio = [np.sqrt(found.variance(k, row) / true.variance(k, row)) for row in range(8)]
        np.testing.assert_allclose(ratio, 1, atol=0.15)
    point = np.zeros_like(scale)
    point[z, 1, 4] = 1
    column, expected = (B.apply(B.adjoint(point)) for B in (found, true))
    for k in (z, u, index("v500")):
        np.testing.assert_allclose(column[k], expected[k], atol=0.15 * np.abs(expected[k]).max())
    assert expected[u, 0, 4] > 0 > expected[u, 2, 4], "the wind goes around a high"


def test_a_single_observation_gives_a_column_of_the_covariance() -> None:
    B = covariance()
    k, row, column = index("t500"), 2, 5
    point = np.zeros_like(B.scale)
    point[k, row, column] = 1
    of_point = B.apply(B.adjoint(point))
    for inflation in (1.0, 1.7):
        case = Case(COARSE).observe("t500", row, column, departure=2.0, error=1.5)
        method = ThreeDVar(B, EXACT.model_copy(update={"inflation": inflation}))
        departure = case.values[0, k, row, column] - case.background[0, k, row, column]
        expected = inflation**2 * of_point * departure / (inflation**2 * of_point[k, row, column] + 1.5**2)
        np.testing.assert_allclose(case.increment(method), expected, atol=2e-4 * np.abs(expected).max())


def test_the_analysis_is_that_of_optimal_interpolation_with_full_matrices() -> None:
    B = covariance("4x8", 3)
    std = np.sqrt(np.square(B.scale).mean(axis=(1, 2)))
    case = Case(TINY).observe_many(400, std)
    matrix, seen = dense(B), np.flatnonzero(case.errors.ravel())
    R = np.diag(case.errors.ravel()[seen].astype(np.float64) ** 2)
    departures = (case.values.astype(np.float64) - case.background).ravel()[seen]
    expected = matrix[:, seen] @ np.linalg.solve(matrix[np.ix_(seen, seen)] + R, departures)
    found = case.increment(ThreeDVar(B, EXACT)) / std[:, None, None]
    np.testing.assert_allclose(found, expected.reshape(found.shape) / std[:, None, None], atol=1e-3)


def columns(seed: int) -> NDArray[np.float32]:
    """Return a state (69, 8, 16) with humidity well above 0 and below saturation."""
    mean, std = profile()
    state = mean[:, None, None] + 0.3 * std[:, None, None] * noise((69, *COARSE.shape), seed)
    state[GROUPS["q"]] = np.abs(state[GROUPS["q"]]) * 0.5 + 1e-6
    return state.astype(np.float32)


def olr_operator() -> OlrOperator:
    weights = np.random.default_rng(4).normal(size=43)
    weights[len(LEVELS) : len(LEVELS) + 10] *= 1e3
    return OlrOperator(weights, 200.0, 8.0)


def test_the_operator_of_olr_passes_the_taylor_test() -> None:
    operator, state = olr_operator(), columns(5).astype(np.float64)
    change = np.zeros_like(state)
    change[GROUPS["t"]] = noise((13, *COARSE.shape), 6)
    change[GROUPS["q"]] = 0.05 * state[GROUPS["q"]] * noise((13, *COARSE.shape), 7)
    linear = np.einsum("chw,chw->hw", operator.slopes(state), change)
    left = []
    for size in (1.0, 0.1):
        difference = operator(state + size * change).astype(np.float64) - operator(state)
        left.append(np.abs(difference - size * linear).mean())
    assert left[1] < 0.02 * left[0], "what is left is of second order"


def with_olr() -> Covariance:
    """Return a covariance of errors that are a tenth as large as the channels' variability, with OLR."""
    B = covariance()
    size = np.sqrt(np.square(B.scale).mean(axis=(1, 2)) * [np.square(B.apply(noise(B.shape, 20)) / B.scale).mean()])
    return replace(B, olr=olr_operator(), scale=(0.1 * profile()[1] / size)[:, None, None].astype(np.float32) * B.scale)


def test_the_gradient_of_the_cost_function_passes_the_taylor_test() -> None:
    """With OLR, whose operator is not linear; the gradient is that of the inner loop at v."""
    B = with_olr()
    state = columns(8)
    values = np.concatenate([state + noise(state.shape, 9), np.full((1, *COARSE.shape), 240, np.float32)])
    errors = np.concatenate([np.where(noise(state.shape, 10) > 1, 1, 0), np.full((1, *COARSE.shape), 20)])
    observed = Departures(values, errors.astype(np.float32), OfColumns(B.olr), (state, state))
    v, direction = 0.05 * noise(B.shape, 11) * B.harmonics.exists, noise(B.shape, 12) * B.harmonics.exists

    def cost(v: NDArray) -> float:
        x = state + B.apply(v).astype(np.float64)
        departures = observed.of(x, x)
        return float(np.square(v, dtype=np.float64).sum() + np.square(departures, dtype=np.float64).sum()) / 2

    x = state + B.apply(v)
    gradient = v - B.adjoint(observed.linearised(x, x).adjoint(observed.of(x, x))[1])
    slope = np.vdot(gradient.astype(np.float64), direction)
    size = 1e-3
    found = (cost(v + size * direction) - cost(v - size * direction)) / (2 * size)
    assert found == pytest.approx(slope, rel=1e-2)


def test_outer_loops_linearise_anew() -> None:
    """With a strongly curved operator one inner loop misses the minimum that several reach."""
    B = with_olr()
    background = columns(8)
    values = np.zeros((1, 70, *COARSE.shape), np.float32)
    errors = np.zeros_like(values)
    values[0, 69], errors[0, 69] = B.olr(background) + 15, 1.0
    states = [
        ThreeDVar(B, EXACT.model_copy(update={"outer_loops": loops})).analyse(background[None], values, errors).state
        for loops in (1, 4, 5)
    ]
    scale = B.scale[None]
    assert np.abs((states[2] - states[1]) / scale).max() < 0.3 * np.abs((states[1] - states[0]) / scale).max()


def test_conjugate_gradients_solve_and_say_how_far_they_came() -> None:
    generator = np.random.default_rng(0)
    A = generator.standard_normal((30, 30))
    A = A @ A.T + np.eye(30)
    b = generator.standard_normal(30)
    v, made, left = conjugate_gradients(lambda x: A @ x, b, 200, 1e-10)
    np.testing.assert_allclose(v, np.linalg.solve(A, b), rtol=1e-6)
    assert made < 200
    assert left < 1e-10
    assert conjugate_gradients(lambda x: A @ x, b, 2, 1e-10)[1] == 2
    assert conjugate_gradients(lambda x: A @ x, 0 * b, 5, 1e-3)[1:] == (0, 0.0)


def test_what_is_not_observed_changes_nothing_and_the_same_gives_the_same() -> None:
    case = Case(COARSE).observe_many(100, np.full(len(NAMES), 20.0))
    method = ThreeDVar(covariance(), VariationalSettings())
    increment = case.increment(method)
    case.values[case.errors == 0] = np.nan
    np.testing.assert_array_equal(case.increment(method), increment)
    with pytest.raises(AssimilatorError, match="t850 has an observed value or an error that is not finite"):
        case.observe("t850", 1, 1, np.nan, 1.0).increment(method)


def test_a_file_keeps_the_covariance_and_others_are_refused(tmp_path: Path) -> None:
    B = replace(covariance(), olr=olr_operator(), provenance={"model": "mini"})
    path = tmp_path / "B.nc"
    B.save(path)
    read = Covariance.load(path)
    v = noise(B.shape, 13)
    np.testing.assert_array_equal(read.apply(v), B.apply(v))
    assert read.provenance["model"] == "mini"
    np.testing.assert_allclose(read.olr.weights, B.olr.weights)
    assert len(read.digest) == 64
    with pytest.raises(AssimilatorError, match=r"B\.nc: of 3dvar and 4dvar; say `assimilator: 3dvar`"):
        load_oi(path, None)
    with pytest.raises(AssimilatorError, match="there is no such file"):
        Covariance.load(tmp_path / "none.nc")
    make_error(COARSE, members=80).save(tmp_path / "oi.nc")
    with pytest.raises(AssimilatorError, match=r"oi\.nc: not the covariance of a variational method"):
        Covariance.load(tmp_path / "oi.nc")
    with xr.open_dataset(path, engine="h5netcdf") as file:
        broken = file.load()
    broken["scale"][3, 2, 1] = np.nan
    broken.to_netcdf(tmp_path / "broken.nc", engine="h5netcdf")
    with pytest.raises(AssimilatorError, match=r"broken\.nc: it has values that are not finite"):
        Covariance.load(tmp_path / "broken.nc")


def test_too_few_or_broken_samples_are_refused() -> None:
    members = make_error(COARSE, members=80).members
    with pytest.raises(AssimilatorError, match="68 samples of the background's error; at least 69"):
        estimate_covariance(members[:68], COARSE, "synthetic", 6)
    broken = members.copy()
    broken[3, 2, 1, 0] = np.nan
    with pytest.raises(AssimilatorError, match="not finite"):
        estimate_covariance(broken, COARSE, "synthetic", 6)
