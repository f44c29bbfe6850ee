"""Optimal interpolation against independent solutions of the same equations, and its invariants."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dacycle.assimilators import AssimilatorError, load_assimilator
from dacycle.assimilators.classical.background_error import BackgroundError, Tuning
from dacycle.assimilators.classical.localisation import gaspari_cohn
from dacycle.assimilators.classical.oi import OptimalInterpolation
from dacycle.assimilators.classical.olr import OlrOperator, OlrSamples
from dacycle.forecast_adapter.channels import GROUPS, LEVELS, NAMES, index
from dacycle.forecast_adapter.grid import Grid, great_circle_km
from tests.assimilators.cases import GRID, SMALL, Case, make_error


@pytest.fixture(scope="module")
def oi() -> OptimalInterpolation:
    return OptimalInterpolation(make_error(distance_km=2500.0))


def kalman(error: BackgroundError, case: Case, inflation: float = 1.0) -> NDArray:
    """Return the increment of the full matrices: K = B H^T (H B H^T + R)^-1 with B = X X^T / (N - 1)."""
    X = inflation * error.members.reshape(len(error.members), -1).astype(np.float64).T
    B = X @ X.T / (X.shape[1] - 1)
    seen = np.flatnonzero(case.errors.ravel())
    R = np.diag(case.errors.ravel()[seen].astype(np.float64) ** 2)
    departures = (case.values.astype(np.float64) - case.background).ravel()[seen]
    gain = B[:, seen] @ np.linalg.inv(B[np.ix_(seen, seen)] + R)
    return (gain @ departures).reshape(case.values.shape[1:])


@pytest.mark.parametrize("inflation", [1.0, 0.6])
def test_equals_the_dense_kalman_solution_without_localisation(inflation: float) -> None:
    error = make_error(SMALL, members=30)
    oi = OptimalInterpolation(error, Tuning(inflation, np.inf))
    case = Case(SMALL).observe_many(250, 0.7 * error.std)
    expected = kalman(error, case, inflation)
    scale = error.std[:, None, None]
    np.testing.assert_allclose(case.increment(oi) / scale, expected / scale, atol=2e-4)


def test_shifted_members_give_the_mean_of_the_three_covariances() -> None:
    error = make_error(SMALL, members=30)
    oi = OptimalInterpolation(error, Tuning(0.6, np.inf, shift=45.0))
    case = Case(SMALL).observe_many(250, 0.7 * error.std)
    members = np.concatenate([np.roll(error.members, cells, axis=-1) for cells in (-1, 0, 1)])
    wide = replace(error, members=members * np.float32(np.sqrt((len(members) - 1) / (3 * (len(error.members) - 1)))))
    expected = kalman(wide, case, 0.6)
    scale = error.std[:, None, None]
    np.testing.assert_allclose(case.increment(oi) / scale, expected / scale, atol=2e-4)


def test_weights_of_blocks_are_interpolated() -> None:
    """They vary smoothly: an analysis hardly differs from that with weights in every cell."""
    error = make_error(distance_km=3000.0)
    case = Case(GRID).observe_many(3000, 0.7 * error.std)
    every, block = (case.increment(OptimalInterpolation(error, Tuning(1.0, 3000.0, block=n))) for n in (1, 2))
    difference = np.square((block - every) / error.std[:, None, None]).mean()
    assert 0 < difference < 0.02 * np.square(every / error.std[:, None, None]).mean()


def test_beyond_reach_blocks_return_the_background_bit_for_bit() -> None:
    oi = OptimalInterpolation(make_error(), Tuning(1.0, 1500.0, block=2))
    case = Case(GRID).observe("z500", 16, 0, 100.0, 10.0)
    analysis = oi.analyse(case.background, case.values, case.errors)
    assert analysis.state[0, :, :8].tobytes() == case.background[0, :, :8].tobytes()
    assert analysis.state[0, :, 16, 24:40].tobytes() == case.background[0, :, 16, 24:40].tobytes()
    assert 0 < analysis.diagnostics["cells_in_reach"][0] < 200


@pytest.mark.parametrize("wrong", [{"shift": -1.0}, {"block": 0}, {"shift": 180.0}])
def test_settings_that_have_no_meaning_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(AssimilatorError, match="shift is 0 or more degrees"):
        Tuning(**wrong)


def test_one_observation_gives_the_scalar_answer(oi: OptimalInterpolation) -> None:
    row, column, channel = 9, 20, index("t850")
    error = make_error()
    variance = error.members[:, channel, row, column].var(ddof=1)
    observation_error = 1.3
    case = Case(GRID).observe("t850", row, column, departure=2.0, error=observation_error)
    expected = 2.0 * variance / (variance + observation_error**2)
    assert case.increment(oi)[channel, row, column] == pytest.approx(expected, rel=1e-3)


def test_nothing_observed_returns_the_background_bit_for_bit(oi: OptimalInterpolation) -> None:
    case = Case(GRID)
    analysis = oi.analyse(case.background, case.values, case.errors)
    assert analysis.state.tobytes() == case.background.tobytes()
    assert analysis.diagnostics["cells_in_reach"] == [0]


# In the middle of the grid, at the date line and Greenwich, and beside both poles.
@pytest.mark.parametrize(("row", "column"), [(10, 30), (12, 0), (20, 63), (0, 5), (31, 40)])
def test_beyond_the_distance_the_increment_is_exactly_zero(oi: OptimalInterpolation, row: int, column: int) -> None:
    case = Case(GRID).observe("z500", row, column, departure=500.0, error=100.0)
    increment = case.increment(oi)
    latitude, longitude = np.meshgrid(GRID.latitude, GRID.longitude, indexing="ij")
    distance = great_circle_km(latitude, longitude, GRID.latitude[row], GRID.longitude[column])
    far = distance >= 2500
    assert np.all(increment[:, far] == 0)
    z = np.abs(increment[index("z500")])
    assert distance.flat[z.argmax()] < 1000
    # Reaches across the date line, and over the pole, as far as anywhere else.
    assert np.all(np.abs(increment[:, distance < 1500]).sum(axis=0) > 0)


def test_a_positive_height_departure_makes_an_anticyclone(oi: OptimalInterpolation) -> None:
    for row, north in ((7, True), (24, False)):
        increment = Case(GRID).observe("z500", row, 20, departure=500.0, error=50.0).increment(oi)
        u, v = increment[index("u500")], increment[index("v500")]
        sign = 1 if north else -1
        assert sign * u[row - 2, 20] > 0, "westerly on the poleward side of a northern high"
        assert sign * u[row + 2, 20] < 0
        assert sign * v[row, 22] < 0, "northerly on the eastern side of a northern high"
        assert sign * v[row, 18] > 0


@settings(max_examples=15)
@given(
    departure=st.floats(-3, 3).filter(lambda x: abs(x) > 0.1),
    row=st.integers(0, 31),
    column=st.integers(0, 63),
    channel=st.sampled_from(["t2m", "q700", "v200", "msl"]),
)
def test_a_perfect_observation_is_fitted_and_a_worthless_one_ignored(
    oi: OptimalInterpolation, departure: float, row: int, column: int, channel: str
) -> None:
    where = (index(channel), row, column)
    std = float(make_error().members[(slice(None), *where)].std(ddof=1))
    size = departure * std
    perfect = Case(GRID).observe(channel, row, column, size, error=1e-3 * std).increment(oi)
    assert perfect[where] == pytest.approx(size, rel=1e-3, abs=1e-4)
    worthless = Case(GRID).observe(channel, row, column, size, error=1e4 * std).increment(oi)
    assert np.abs(worthless / oi.background_error_std[:, None, None]).max() < 1e-5


def test_what_stands_in_unobserved_places_changes_nothing(oi: OptimalInterpolation) -> None:
    case = Case(GRID).observe_many(500, oi.background_error_std)
    clean = case.increment(oi)
    empty = case.errors == 0
    for rubbish in (np.nan, np.inf, 1e30, -999.0):
        case.values[empty] = rubbish
        np.testing.assert_array_equal(case.increment(oi), clean)


def test_same_input_same_bits_alone_or_among_other_chains(oi: OptimalInterpolation) -> None:
    one, other = (Case(GRID).observe_many(800, oi.background_error_std, seed) for seed in (1, 2))
    alone = oi.analyse(one.background, one.values, one.errors).state
    together = oi.analyse(
        *(np.concatenate([getattr(other, f), getattr(one, f)]) for f in ("background", "values", "errors"))
    )
    assert together.state[1].tobytes() == alone[0].tobytes()
    assert oi.analyse(one.background.copy(), one.values.copy(), one.errors.copy()).state.tobytes() == alone.tobytes()


def test_recovers_a_truth_drawn_from_the_same_errors() -> None:
    error = make_error(members=80)
    truth_error, members = error.members[0], error.members[1:]
    oi = OptimalInterpolation(BackgroundError.from_samples(members, GRID, "synthetic"))
    case = Case(GRID)
    generator = np.random.default_rng(4)
    sites = generator.random(GRID.shape) < 0.3
    noise = generator.standard_normal((len(NAMES), *GRID.shape)) * 0.3 * error.std[:, None, None]
    case.values[0] = np.where(sites, case.background[0] + truth_error + noise, 0)
    case.errors[0] = np.where(sites, 0.3 * error.std[:, None, None], 0)
    analysis = oi.analyse(case.background, case.values, case.errors)
    left = analysis.state[0] - case.background[0] - truth_error
    rms = [np.sqrt((field**2 * GRID.weights).mean(axis=(1, 2))) / error.std for field in (left, truth_error)]
    assert np.all(rms[0] < 0.5 * rms[1])


def test_further_planes_are_counted_but_not_used(oi: OptimalInterpolation) -> None:
    case = Case(GRID).observe("t850", 9, 20, 1.0, error=1.0)
    further = np.zeros((1, 3, *GRID.shape), np.float32)
    further[0, 1, 4, 4] = 5.0
    analysis = oi.analyse(
        case.background, np.concatenate([case.values, further], 1), np.concatenate([case.errors, further], 1)
    )
    assert oi.planes == ()
    assert analysis.diagnostics["observations"] == [1]
    assert analysis.diagnostics["unused_observations"] == [1]
    np.testing.assert_array_equal(analysis.state[0] - case.background[0], case.increment(oi))


def with_olr(error: BackgroundError) -> BackgroundError:
    """Add an operator of OLR to an ensemble: 3 W m-2 for each K at 500 hPa, with an error of 2 W m-2."""
    weights = np.zeros(43)
    weights[LEVELS.index(500)] = 3.0
    olr = OlrSamples(OlrOperator(weights, -500.0, 2.0), 3 * error.members[:, index("t500")])
    return replace(error, olr=olr)


def test_olr_is_used_through_its_operator_with_the_operators_error() -> None:
    """OLR of error 4 W m-2, with the operator's error sqrt(20), is equivalent to T of error sqrt(20) / 3."""
    error = make_error(distance_km=2500.0)
    direct = Case(GRID).observe("t500", 9, 20, departure=2.0, error=np.sqrt(20) / 3)
    case = Case(GRID)
    olr = np.zeros((2, 1, 1, *GRID.shape), np.float32)
    olr[:, 0, 0, 9, 20] = 3 * (case.background[0, index("t500"), 9, 20] + 2) - 500, 4.0
    oi = OptimalInterpolation(with_olr(error))
    assert oi.planes == ("olr",)
    values, errors = (np.concatenate(pair, axis=1) for pair in zip((case.values, case.errors), olr, strict=True))
    analysis = oi.analyse(case.background, values, errors)
    assert analysis.diagnostics["observations"] == [1]
    expected = direct.increment(OptimalInterpolation(error))
    scale = error.std[:, None, None]
    np.testing.assert_allclose((analysis.state - case.background)[0] / scale, expected / scale, atol=2e-3)


def test_olr_is_inflated_as_the_humidity_that_it_follows() -> None:
    """The increment of a single OLR observation depends on the spread of OLR, which has the inflation of q."""

    def increment(tuning: Tuning) -> float:
        error = with_olr(make_error(distance_km=2500.0))
        case = Case(GRID)
        olr = np.zeros((2, 1, 1, *GRID.shape), np.float32)
        olr[:, 0, 0, 9, 20] = 3 * (case.background[0, index("t500"), 9, 20] + 2) - 500, 4.0
        values, errors = (np.concatenate(pair, axis=1) for pair in zip((case.values, case.errors), olr, strict=True))
        analysis = OptimalInterpolation(error, tuning).analyse(case.background, values, errors)
        return float((analysis.state - case.background)[0, index("t500"), 9, 20])

    variance = float((3 * make_error().members[:, index("t500"), 9, 20]).var(ddof=1))

    def expected(of_olr: float, of_temperature: float) -> float:
        """Return the scalar increment of T: 3 T has the variance of OLR without inflation, and the departure is 6."""
        return of_temperature * of_olr * variance / 3 * 6 / (of_olr**2 * variance + 20)

    groups = dict.fromkeys(GROUPS, 1.0)
    for q, t in ((0.5, 1.0), (1.0, 0.5)):
        tuning = Tuning({**groups, "q": q, "t": t}, 2500.0)
        assert increment(tuning) == pytest.approx(expected(q, t), rel=5e-3)
    assert increment(Tuning({**groups, "surface": 0.5}, 2500.0)) == pytest.approx(expected(1.0, 1.0), rel=5e-3)


def test_planes_that_are_needed_and_not_given_are_missed() -> None:
    case = Case(GRID)
    with pytest.raises(AssimilatorError, match=r"70 \+ M"):
        OptimalInterpolation(with_olr(make_error())).analyse(case.background, case.values, case.errors)


def test_inflation_by_group_scales_its_channels_only() -> None:
    error = make_error()
    groups = {**dict.fromkeys(GROUPS, 1.0), "q": 0.5}
    oi = OptimalInterpolation(error, Tuning(groups))
    ratio = oi.background_error_std / error.std
    assert np.all(ratio[GROUPS["q"]] == 0.5)
    assert np.all(np.delete(ratio, GROUPS["q"]) == 1.0)
    with pytest.raises(AssimilatorError, match="surface, z, q, u, v, t"):
        Tuning({"humidity": 1.0})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: c.values.__setitem__((0, 2, 3, 3), np.nan) or c.errors.__setitem__((0, 2, 3, 3), 1.0), "t2m"),
        (lambda c: c.errors.__setitem__((0, 3, 3, 3), -1.0), "msl"),
        (lambda c: c.errors.__setitem__((0, 0, 3, 3), np.nan), "u10"),
    ],
)
def test_malformed_observations_are_refused_by_channel(oi: OptimalInterpolation, spoil, message: str) -> None:
    case = Case(GRID)
    spoil(case)
    with pytest.raises(AssimilatorError, match=message):
        case.increment(oi)


def test_arrays_of_another_grid_are_refused(oi: OptimalInterpolation) -> None:
    case = Case(SMALL)
    with pytest.raises(AssimilatorError, match="background"):
        oi.analyse(case.background, case.values, case.errors)


@given(st.floats(1, 1e4), st.floats(0, 2e4))
def test_gaspari_cohn_falls_from_one_to_exactly_zero(reach: float, distance: float) -> None:
    value = gaspari_cohn(np.array([0.0, distance, distance * 1.01, reach, reach + distance]), reach)
    assert value[0] == 1
    assert value[2] <= value[1] + 1e-12
    assert (value[3:] == 0).all()
    if distance < 0.99 * reach:
        assert value[1] > 0
    # The polynomial pieces meet: 5/24 at half the reach.
    assert gaspari_cohn(np.array([reach / 2 - 1e-9, reach / 2 + 1e-9]), reach) == pytest.approx(5 / 24, abs=1e-6)


def test_free_run_ignores_observations() -> None:
    @dataclass
    class SomeWorld:
        name: str = "synthetic"
        grid: Grid = GRID

    free = load_assimilator("none", SomeWorld())
    case = Case(GRID).observe("t850", 9, 20, 1.0, error=1.0)
    assert free.analyse(case.background, case.values, case.errors).state.tobytes() == case.background.tobytes()
