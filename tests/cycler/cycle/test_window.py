"""Cycles of 4D-Var: what a window begins with, what it is compared with, and what is refused."""

from itertools import pairwise

import numpy as np
import pytest
from typer.testing import CliRunner

from dacycle.assimilators.variational.four_dimensional import FourDVar
from dacycle.assimilators.variational.three_dimensional import ThreeDVarWithPast
from dacycle.cycler.archive.branches import Archive, open_experiment
from dacycle.cycler.cli import app
from dacycle.cycler.cycle.inputs import load_inputs
from dacycle.cycler.cycle.replay import run_due_cycles
from dacycle.cycler.experiment import STEP, ExperimentError
from dacycle.forecast_adapter.channels import index
from dacycle.forecast_adapter.models.gradient import gradient_path, load_gradient
from dacycle.forecast_adapter.models.model import OnnxForecastModel, load_model
from dacycle.forecast_adapter.worlds.world import load_world
from tests.cycler import replays
from tests.learned import make_operator
from tests.worlds import GRID, make_model

pytest.importorskip("torch", reason="the gradient of the double is made here")

with_past = ThreeDVarWithPast.with_past


@pytest.fixture(scope="module")
def content(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("experiment")
    changes = replays.with_window(folder, load_world(str(world.folder)), world.model)
    return replays.content(world.folder, world.model, folder, **changes)


@pytest.fixture(scope="module")
def pasts(content, tmp_path_factory):
    """Return the archive of a finished run of four cycles, and the past and observations of each."""
    folder, seen = tmp_path_factory.mktemp("run") / "archive", []

    def watched(method, past, values, errors):
        seen.append((past, values[0], errors[0]))
        return correct(method, past, values, errors)

    correct = FourDVar.correct
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FourDVar, "correct", watched)
        run_due_cycles(replays.experiment(content), Archive(folder, create=True))
    return open_experiment(folder, "demo"), seen


def test_a_window_begins_12_hours_before_and_in_the_first_cycle_6(pasts):
    branch, seen = pasts
    assert [len(past.observations) for past, _, _ in seen] == [0, 1, 1, 1]
    for time, (past, _, _) in zip(branch.times[2:], seen, strict=True):
        start = time - (len(past.observations) + 1) * STEP
        np.testing.assert_array_equal(past.newer, branch.frame(start))
        np.testing.assert_array_equal(past.older, branch.frame(start - STEP))


def test_the_earlier_observations_are_those_that_the_cycle_before_assimilated(pasts):
    _, seen = pasts
    for (_, values, errors), (past, _, _) in pairwise(seen):
        np.testing.assert_allclose(past.observations[0][0], values, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(past.observations[0][1], errors, rtol=1e-5)


def test_the_earlier_backgrounds_are_those_that_were_committed(pasts):
    branch, seen = pasts
    for time, (past, _, _) in zip(branch.times[3:], seen[1:], strict=True):
        (background,) = past.backgrounds
        np.testing.assert_array_equal(background, branch.state("background", time - STEP).values)


def test_the_analysis_is_nearer_to_the_truth(pasts, world):
    branch, reference = pasts[0], load_world(str(world.folder)).reference
    assert {record.status for record in branch.records} == {"cold_start", "ok"}
    time = branch.times[-1]
    k, truth = index("t2m"), reference.array(np.datetime64(time, "h"))
    before, after = (
        np.square(branch.state(group, time).values[k] - truth[k]).mean() for group in ("background", "analysis")
    )
    assert after < before


def test_the_command_makes_the_gradient_that_a_window_takes(tmp_path):
    path = make_model(tmp_path / "double.onnx")
    result = CliRunner().invoke(app, ["gradient", str(path)])
    assert result.exit_code == 0, result.output
    gradient, x = load_gradient(load_model(path)), np.ones((69, *GRID.shape), np.float32)
    change = gradient.tangent(x, x, 0 * x, x)
    back = gradient.adjoint(x, x, change)[1]
    assert np.vdot(change, change) == pytest.approx(np.vdot(back, x), rel=1e-4)


def test_3dvar_with_a_learned_operator_of_olr_draws_to_it_from_the_frame_before(content, tmp_path):
    operator = make_operator(tmp_path / "double.onnx")
    result = CliRunner().invoke(app, ["gradient", str(operator)])
    assert result.exit_code == 0, result.output
    asked = replays.experiment(
        content
        | {
            "assimilator": "3dvar",
            "operator": str(operator),
            "observations": [*content["observations"], {"source": "olr", "cutoff": "none"}],
            "variational": {"covariance": content["variational"]["covariance"], "olr": "learned", "olr_inflation": 1},
        }
    )
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ThreeDVarWithPast, "with_past", lambda method, past: seen.append(past) or with_past(method, past))
        run_due_cycles(asked, Archive(tmp_path / "archive", create=True), limit=1)
    branch = open_experiment(tmp_path / "archive", "demo")
    assert branch.records[-1].status == "ok"
    (past,) = seen
    np.testing.assert_array_equal(past.newer, branch.frame(branch.times[1]))
    rows = branch.departures().query("variable == 'olr' and use == 'assimilated'")
    assert len(rows) > 100
    assert rows["o_a"].std() < 0.9 * rows["o_b"].std()


def test_a_model_without_a_gradient_is_refused(content, world, monkeypatch):
    monkeypatch.setattr("dacycle.forecast_adapter.models.gradient.gradient_path", lambda model: model / "nowhere")
    with pytest.raises(ExperimentError, match=r"has no gradient at .*`dacycle gradient .*` makes it"):
        load_inputs(replays.experiment(content))


def test_the_gradient_of_another_model_is_refused(content, world, monkeypatch):
    assert gradient_path(world.model).is_file()
    loaded = OnnxForecastModel.__init__

    def changed(model, *arguments):
        loaded(model, *arguments)
        model.digest = "0" * 64

    monkeypatch.setattr(OnnxForecastModel, "__init__", changed)
    with pytest.raises(ExperimentError, match="it is the gradient of another file"):
        load_inputs(replays.experiment(content))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"assimilator": "oi"}, "variational goes with 3dvar and 4dvar, not with oi"),
        ({"assimilation_grid": "11.25deg"}, "4dvar controls states on the model's grid"),
        ({"variational": {"inflation": 0}}, "variational.inflation"),
        ({"variational": {"window": "24h"}}, "variational.window"),
        ({"variational": {"inflaton": 1}}, "did you mean inflation"),
        (
            {"assimilator": "3dvar", "variational": {"olr": "learned"}, "assimilation_grid": "11.25deg"},
            "the learned operator of OLR is on the model's grid",
        ),
    ],
)
def test_settings_are_refused_by_name(content, changes, message):
    with pytest.raises(ExperimentError, match=message):
        replays.experiment(content | changes)


def test_experiments_name_their_cost_function_even_by_default(content):
    plain = {key: value for key, value in content.items() if key != "variational"}
    assert replays.experiment(plain).as_dict()["variational"]["window"] == "6h"
    assert "variational" not in replays.experiment(plain | {"assimilator": "oi"}).as_dict()
