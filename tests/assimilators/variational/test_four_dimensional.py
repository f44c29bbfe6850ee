"""`4dvar` against explicit matrices with a linear model, the gradient of `mini`, and its refusals."""

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from dacycle.assimilators import AssimilatorError
from dacycle.assimilators.base import Past, WindowAssimilator, load_assimilator
from dacycle.assimilators.variational.four_dimensional import FourDVar
from dacycle.assimilators.variational.settings import VariationalSettings
from dacycle.assimilators.variational.three_dimensional import ThreeDVar, ThreeDVarWithPast
from dacycle.forecast_adapter.channels import GROUPS
from dacycle.forecast_adapter.models.gradient import gradient_path, load_gradient
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.models.onnxfile import ModelFileError
from dacycle.forecast_adapter.worlds.world import load_world
from dacycle.obs_ingest.operators.learned import LEARNED, load_operator
from dacycle.obs_ingest.table import PLANE_VARIABLES
from tests.assimilators.cases import Case
from tests.assimilators.variational.test_three_dimensional import EXACT, TINY, covariance, dense, noise


class Shifting:
    """A linear model that is its own tangent linear: it turns the newer frame by a column and adds a tendency."""

    name, grid, world, digest = "shifting", TINY, "synthetic", ""

    def step(self, older: NDArray, newer: NDArray) -> NDArray:
        return np.roll(newer, 1, axis=-1) + np.float32(0.3) * (newer - older)

    def forecast(self, previous: NDArray, current: NDArray, steps: int) -> Iterator[NDArray]:
        for _ in range(steps):
            previous, current = current, self.step(previous, current)
            yield current

    def tangent(self, older: NDArray, newer: NDArray, older_change: NDArray, newer_change: NDArray) -> NDArray:
        return self.step(older_change, newer_change)

    def adjoint(self, older: NDArray, newer: NDArray, cotangent: NDArray) -> tuple[NDArray, NDArray]:
        return np.float32(-0.3) * cotangent, np.roll(cotangent, -1, axis=-1) + np.float32(0.3) * cotangent


def observations(background: NDArray, seed: int) -> tuple[NDArray, NDArray]:
    errors = np.where(noise((69, *TINY.shape), seed) > 2, 1.5, 0).astype(np.float32)
    return np.where(errors > 0, background + noise(errors.shape, seed + 1), 0).astype(np.float32), errors


class TwoFrames:
    """A linear operator of OLR, its own linearisation: of a column's temperatures and those beside it 6 h before."""

    weights = noise((69, 1, 1), 30) * np.isin(np.arange(69), GROUPS["t"])[:, None, None]

    def __call__(self, older: NDArray, newer: NDArray) -> NDArray:
        return (self.weights * (newer + 0.5 * np.roll(older, 1, axis=-1))).sum(axis=0)

    def error(self, older: NDArray, newer: NDArray) -> NDArray:
        return np.asarray(0.8)

    def linearised(self, older: NDArray, newer: NDArray) -> "TwoFrames":
        return self

    def apply(self, older: NDArray, newer: NDArray) -> NDArray:
        return self(older, newer)

    def adjoint(self, y: NDArray) -> tuple[NDArray, NDArray]:
        return 0.5 * np.roll(self.weights * y, -1, axis=-1), self.weights * y


def with_olr(seen: tuple[NDArray, NDArray], older: NDArray, newer: NDArray, seed: int) -> tuple[NDArray, NDArray]:
    """Return observations with a plane of OLR everywhere, whose error with the operator's is 1."""
    olr = TwoFrames()(older, newer) + noise(TINY.shape, seed)
    fields = np.concatenate([seen[0], olr[None]]), np.concatenate([seen[1], np.full((1, *TINY.shape), 0.6)])
    return fields[0].astype(np.float32), fields[1].astype(np.float32)


def test_with_an_operator_of_two_frames_the_analysis_is_that_of_full_matrices() -> None:
    """3D-Var of the newer frame, and 4D-Var over two steps, whose frames all change."""
    model, B, H, share = Shifting(), covariance("4x8", 3), TwoFrames(), 0.7
    older, newer = 300 + noise((2, 69, *TINY.shape), 1)
    matrix, units = dense(B), np.eye(newer.size, dtype=np.float32).reshape(-1, *newer.shape)

    three = ThreeDVarWithPast(B, EXACT, olr=H)
    values, errors = with_olr(observations(newer, 2), older, newer, 8)
    found = three.with_past(Past(newer, older, share=share)).analyse(newer[None], values[None], errors[None]).state[0]
    rows = [(newer, older, units, share * units, values, errors)]
    expected = newer.ravel() + analysed(matrix, rows)
    np.testing.assert_allclose(found.ravel(), expected, atol=1e-3 * np.abs(expected - newer.ravel()).max())

    four = FourDVar(B, EXACT.model_copy(update={"window": "12h"}), model, model, olr=H)
    first = model.step(older, newer)
    second = model.step(newer, first)
    seen = [with_olr(observations(first, 2), newer, first, 9), with_olr(observations(second, 4), first, second, 10)]
    past = Past(older, newer, seen[:1], share)
    found = four.with_past(past).analyse(None, *(some[None] for some in seen[1])).state[0]
    of_first, of_second = model.forecast(share * units, units, 2)
    rows = [(first, newer, of_first, units, *seen[0]), (second, first, of_second, of_first, *seen[1])]
    expected = second.ravel() + analysed(matrix, rows) @ of_second.reshape(newer.size, -1)
    np.testing.assert_allclose(found.ravel(), expected, atol=1e-3 * np.abs(expected - second.ravel()).max())


def analysed(B: NDArray, rows: list[tuple[NDArray, ...]]) -> NDArray:
    """Return the correction of the controlled state by the Kalman gain with full matrices.

    Args:
        B: covariance of its errors.
        rows: for each time the state, the frame before, what a unit of each controlled value changes in both, values
            and errors.
    """
    G, d, variance = [], [], []
    for newer, older, of_newer, of_older, values, errors in rows:
        seen = np.flatnonzero(errors.ravel())
        changes = [np.concatenate([x, TwoFrames()(w, x)[None]]) for w, x in zip(of_older, of_newer, strict=True)]
        G.append(np.stack([change.ravel()[seen] for change in changes], axis=1).astype(float))
        d.append((values - np.concatenate([newer, TwoFrames()(older, newer)[None]])).ravel()[seen])
        variance.append(np.square(np.where(seen >= newer.size, 1.0, errors.ravel()[seen])))
    G, d = np.concatenate(G), np.concatenate(d)
    gain = B @ G.T @ np.linalg.inv(G @ B @ G.T + np.diag(np.concatenate(variance)))
    return gain @ d


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.7])
@pytest.mark.parametrize("window", ["6h", "12h"])
def test_the_analysis_is_that_of_full_matrices(window: str, share: float, biased: bool) -> None:
    model, B = Shifting(), covariance("4x8", 3)
    method = FourDVar(B, EXACT.model_copy(update={"window": window}), model, model)
    assert isinstance(method, WindowAssimilator)
    older, newer = 300 + noise((2, 69, *TINY.shape), 1)
    bias = np.array([3.0, -2.0])[:, None, None, None] * noise((2, 69, *TINY.shape), 6) if biased else np.zeros(2)
    first = model.step(older, newer) - np.float32(bias[0])
    second = model.step(newer, first) - np.float32(bias[1])
    seen = [observations(first, 2), observations(second, 4)][: method.steps]
    past = Past(older, newer, seen[:-1], share, list(bias.astype(np.float32)) if biased else ())
    found = method.with_past(past).analyse(None, *(some[None] for some in seen[-1])).state[0]

    states = [first, second][: method.steps]
    units = np.eye(newer.size, dtype=np.float32).reshape(-1, *newer.shape)
    steps = [x.reshape(newer.size, -1).T.astype(float) for x in model.forecast(share * units, units, method.steps)]
    places = [np.flatnonzero(errors.ravel()) for _, errors in seen]
    G = np.concatenate([step[of] for step, of in zip(steps, places, strict=True)])
    d = np.concatenate([(v - x).ravel()[of] for (v, _), x, of in zip(seen, states, places, strict=True)])
    matrix = dense(B)
    gain = matrix @ G.T @ np.linalg.inv(G @ matrix @ G.T + 1.5**2 * np.eye(len(d)))
    expected = states[-1].ravel() + steps[-1] @ gain @ d
    np.testing.assert_allclose(found.ravel(), expected, atol=1e-3 * np.abs(expected - states[-1].ravel()).max())


def test_with_a_model_that_does_nothing_it_is_3dvar() -> None:
    class Standing(Shifting):
        def step(self, older: NDArray, newer: NDArray) -> NDArray:
            return newer

        def adjoint(self, older: NDArray, newer: NDArray, cotangent: NDArray) -> tuple[NDArray, NDArray]:
            return 0 * cotangent, cotangent

    case = Case(TINY).observe_many(200, np.full(69, 20.0))
    model, B = Standing(), covariance("4x8", 3)
    past = Past(case.background[0], np.maximum(case.background[0], 0))
    four = FourDVar(B, EXACT, model, model).with_past(past)
    np.testing.assert_allclose(case.increment(four), case.increment(ThreeDVar(B, EXACT)), atol=1e-3)


@pytest.mark.skipif(not gradient_path(load_model("mini").path).is_file(), reason="needs `dacycle gradient mini`")
def test_the_gradient_of_mini_is_that_of_finite_differences_and_its_adjoint_is_exact() -> None:
    model, world = load_model("mini"), load_world("demonstration")
    gradient = load_gradient(model)
    std = world.statistics.std[:, None, None]
    older, newer = (world.reference.array(time) for time in world.reference.times[:2])
    changes = [0.3 * std * noise(older.shape, k) for k in (1, 2)]
    smooth = np.ones(69, bool)
    smooth[GROUPS["q"]] = False  # humidity is kept at or above 0, where it has no slope
    tangent = gradient.tangent(older, newer, *changes)

    def stepped(size: float) -> NDArray:
        moved = [(frame + size * change)[None] for frame, change in zip((older, newer), changes, strict=True)]
        return next(iter(model.forecast(*moved, 1)))[0].astype(np.float64)

    central = (stepped(0.1) - stepped(-0.1)) / 0.2
    left, of_tangent = (np.linalg.norm((x / std)[smooth]) for x in (central - tangent, tangent))
    assert left < 0.03 * of_tangent
    y = (noise(older.shape, 3) / std).astype(np.float32)
    back = gradient.adjoint(older, newer, y)
    one = np.vdot(y.astype(np.float64), tangent)
    other = sum(np.vdot(a.astype(np.float64), b) for a, b in zip(back, changes, strict=True))
    assert one == pytest.approx(other, rel=1e-4)


@pytest.mark.parametrize("plane", LEARNED)
def test_the_gradient_of_the_learned_operator_is_that_of_finite_differences(plane: str) -> None:
    world = load_world("demonstration")
    operator, k = load_operator("olr-tp", world), LEARNED.index(plane)
    gradient, std = load_gradient(operator), world.statistics.std[:, None, None]
    frames = [world.reference.array(time) for time in world.reference.times[:2]]
    changes = [0.3 * std * noise(frames[0].shape, k) for k in (1, 2)]

    def output(size: float) -> NDArray:
        moved = [frame + np.float32(size) * change for frame, change in zip(frames, changes, strict=True)]
        return operator(*moved).values[PLANE_VARIABLES[plane]].astype(np.float64)

    tangent = gradient.tangent(*frames, *changes)
    central = (output(0.05) - output(-0.05)) / 0.1
    assert np.linalg.norm(central - tangent[k]) < 0.02 * np.linalg.norm(tangent[k])
    y = noise(tangent.shape, 3)
    back = gradient.adjoint(*frames, y)
    other = sum(np.vdot(a.astype(np.float64), b) for a, b in zip(back, changes, strict=True))
    assert np.vdot(y.astype(np.float64), tangent) == pytest.approx(other, rel=1e-4)


def test_the_learned_operator_of_olr_is_used_with_the_frame_before_and_needs_a_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world, settings = load_world("demonstration"), VariationalSettings(olr="learned", inflation=1, olr_inflation=1)
    operator = load_operator(None, world)
    method = load_assimilator("3dvar", world, variational=settings, operator=operator)
    assert isinstance(method, WindowAssimilator)
    older, background = (world.reference.array(time) for time in world.reference.times[:2])
    fields = operator(older, background)
    values, errors = (np.zeros((1, 70, *world.grid.shape), np.float32) for _ in range(2))
    values[0, 69, 16, 20], errors[0, 69, 16, 20] = fields.values["olr"][16, 20] - 30, 4.0
    analysis = method.with_past(Past(older, older)).analyse(background[None], values, errors).state[0]
    left = values[0, 69, 16, 20] - operator(older, analysis).values["olr"][16, 20]
    assert -28 < left < 0, "it is drawn towards the observation, and not beyond"
    with pytest.raises(AssimilatorError, match="olr: learned needs the frame 6 h before"):
        method.analyse(background[None], values, errors)
    with pytest.raises(AssimilatorError, match=r"variational\.olr: learned, but there is no learned operator"):
        load_assimilator("3dvar", world, variational=settings)
    monkeypatch.setattr("dacycle.forecast_adapter.models.gradient.gradient_path", lambda network: network / "nowhere")
    with pytest.raises(ModelFileError, match=r"olr-tp has no gradient at .*`dacycle gradient olr-tp` makes it"):
        load_assimilator("3dvar", world, variational=settings, operator=operator)


def test_refusals_say_what_to_do() -> None:
    model, case = Shifting(), Case(TINY)
    with pytest.raises(AssimilatorError, match="run it in an experiment, or use 3dvar"):
        FourDVar(covariance("4x8", 3), VariationalSettings(), model, model).analyse(
            case.background, case.values, case.errors
        )
    with pytest.raises(ModelFileError, match="shifting has no gradient"):
        load_gradient(model)
    with pytest.raises(AssimilatorError, match="4dvar needs the model"):
        load_assimilator("4dvar", load_world("demonstration"))
