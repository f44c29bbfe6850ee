"""The model's mean error: where it comes from, that a cycle takes it off, and what is refused."""

import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from dacycle.assimilators.base import register, removes_model_bias
from dacycle.assimilators.exceptions import RecipeError
from dacycle.assimilators.incremental import Incremental
from dacycle.assimilators.sampling.backgrounds import Backgrounds, write_backgrounds, year_times
from dacycle.assimilators.sampling.model_bias import estimate_bias
from dacycle.cycler.archive.branches import Archive, open_experiment
from dacycle.cycler.cli import app
from dacycle.cycler.cycle.inputs import load_inputs
from dacycle.cycler.cycle.replay import run_due_cycles
from dacycle.cycler.experiment import STEP, ExperimentError
from dacycle.forecast_adapter.channels import GROUPS, NAMES, index
from dacycle.forecast_adapter.grid import get_grid
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.worlds.model_bias import ModelBias, ModelBiasError, bias_file
from dacycle.forecast_adapter.worlds.world import load_world
from tests.cycler import replays
from tests.worlds import GRID


def bias_of(model, world, size=0.1):
    """Return a mean error of `size` standard deviations, a tenth of it over the year."""
    season = np.array([1, 0.1, 0, 0, 0])[:, None, None, None]
    shape = np.cos(np.linspace(0, 6, GRID.shape[1])) * np.ones(GRID.shape)
    std = world.statistics.std[:, None, None]
    return ModelBias((size * season * shape * std).astype(np.float32), GRID, model.digest, (2020,))


@pytest.fixture
def model(world, tmp_path):
    """Return the path of a copy of the model, with its mean error beside it."""
    path = tmp_path / "double.onnx"
    shutil.copy(world.model, path)
    bias_of(load_model(path), load_world(world.folder)).save(bias_file(path))
    return path


@pytest.fixture
def content(world, model, tmp_path):
    return replays.content(world.folder, model, tmp_path, model_bias="removed")


def test_the_background_is_the_forecast_without_the_mean_error_of_its_time(content, model, tmp_path):
    run_due_cycles(replays.experiment(content), Archive(tmp_path / "archive", create=True))
    branch, forecaster, bias = open_experiment(tmp_path / "archive", "demo"), load_model(model), bias_file(model)
    stored = ModelBias.load(bias)
    for time in branch.times[2:]:
        frames = [branch.state("analysis", time - lag).values[None] for lag in (2 * STEP, STEP)]
        expected = next(iter(forecaster.forecast(*frames, 1)))[0] - stored.at(np.datetime64(time, "h"))
        expected[GROUPS["q"]] = np.maximum(expected[GROUPS["q"]], 0)
        np.testing.assert_array_equal(branch.state("background", time), expected)
    assert branch.records[-1].digests["model_bias"] == stored.digest


def test_members_have_the_mean_error_removed_as_well(content, world, tmp_path):
    members = replays.with_members(tmp_path, load_world(world.folder), additive=0.0)
    states = {}
    for name, removal in (("with", "none"), ("without", "removed")):
        changed = content | members | {"model_bias": removal}
        archive = Archive(tmp_path / name, create=True)
        run_due_cycles(replays.experiment(changed), archive, limit=1)
        branch = archive.branch("demo")
        states[name] = branch.state("background", branch.times[-1]).values
    difference = (states["with"] - states["without"])[index("z500")]
    expected = bias_of(load_model(content["model"]), load_world(world.folder)).coefficients[0, index("z500")]
    np.testing.assert_allclose(difference, np.broadcast_to(1.1 * expected, difference.shape), rtol=0.05, atol=0.05)


def test_without_the_key_an_experiment_and_its_digest_are_as_before(content):
    without = replays.experiment({key: value for key, value in content.items() if key != "model_bias"})
    none = replays.experiment(content | {"model_bias": "none"})
    assert "model_bias" not in without.as_dict()
    assert none.digest == without.digest != replays.experiment(content).digest
    assert "model_bias" not in load_inputs(without).digests


def test_a_file_that_is_missing_damaged_or_of_another_model_is_refused(content, model, world):
    experiment, path = replays.experiment(content), bias_file(model)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ExperimentError, match=r"double\.bias\.nc"):
        load_inputs(experiment)
    ModelBias(np.zeros((5, 69, *GRID.shape), np.float32), GRID, "another").save(path)
    with pytest.raises(ExperimentError, match="mean error of another model than"):
        load_inputs(experiment)
    path.unlink()
    with pytest.raises(ExperimentError, match="no such file; `dacycle train` makes it"):
        load_inputs(experiment)
    shutil.copy(world.folder / "statistics.nc", path)
    with pytest.raises(ModelBiasError, match="not the mean error"):
        ModelBias.load(path)


def test_a_run_does_not_go_on_with_another_mean_error(content, model, world, tmp_path):
    experiment, archive = replays.experiment(content), Archive(tmp_path / "archive", create=True)
    run_due_cycles(experiment, archive, limit=1)
    bias_of(load_model(model), load_world(world.folder), size=0.2).save(bias_file(model))
    with pytest.raises(ExperimentError, match=r"model_bias double\.bias\.nc is another file than at cycle"):
        run_due_cycles(experiment, archive, limit=1)


def test_it_is_not_removed_twice(content, world, tmp_path):
    class Trained:
        name, removes_model_bias, world, planes, digest = "trained", True, "tiny", (), ""

        def __init__(self, grid=GRID):
            self.grid = grid

        def analyse(self, background, values, errors):
            raise NotImplementedError

    register("trained-double", lambda world, threads: Trained())
    experiment = replays.experiment(content | {"assimilator": "trained-double"})
    with pytest.raises(ExperimentError, match="removes the model's mean error itself"):
        load_inputs(experiment)
    load_inputs(experiment.model_copy(update={"model_bias": None}))
    of_members = replays.with_members(tmp_path, load_world(world.folder), "trained-double")
    with pytest.raises(ExperimentError, match="removes the model's mean error itself"):
        load_inputs(replays.experiment(content | of_members))
    assert removes_model_bias(Incremental(Trained(get_grid("16x32")), GRID))


def test_the_recipe_estimates_it_from_the_errors_of_forecasts(world, model, tmp_path):
    tiny, forecaster = load_world(world.folder), load_model(model)
    times = year_times(2020)
    errors = np.zeros((len(times), 69, *GRID.shape), np.float16)
    errors[:, index("t2m"), 3, 5] = 0.4  # in 24 h: 0.1 in a step
    store = Backgrounds(times, np.full(len(times), 24), errors, forecaster.digest)
    folder = tmp_path / "backgrounds"
    folder.mkdir()
    write_backgrounds(store, folder / "2020-01.nc", tiny)
    recipe = tmp_path / "bias.yaml"
    recipe.write_text(
        f"{{kind: bias, world: {world.folder}, model: {model}, backgrounds: {folder}, years: [2020]}}", encoding="utf-8"
    )
    CliRunner().invoke(app, ["train", str(recipe), "--out", str(tmp_path)], catch_exceptions=False)
    found = ModelBias.load(tmp_path / "bias.nc").at(np.datetime64("2024-07-01T00", "h"))
    std = tiny.statistics.std[index("t2m")]
    assert found[index("t2m"), 3, 5] == pytest.approx(0.1 * std, rel=0.15)
    assert np.count_nonzero(found) == 1
    recipe.write_text(recipe.read_text().replace(str(model), "mini"))
    with pytest.raises(RecipeError, match="errors of another model than mini"):
        estimate_bias(recipe, tmp_path / "other.nc")


def test_its_file_keeps_eleven_bits_of_each_channel(tmp_path):
    coefficients = np.random.default_rng(0).standard_normal((14, 69, *GRID.shape)).astype(np.float32)
    coefficients *= np.logspace(-8, 5, 69, dtype=np.float32)[:, None, None]
    bias = ModelBias(coefficients, GRID, "model", (2020, 2021))
    bias.save(tmp_path / "bias.nc")
    read = ModelBias.load(tmp_path / "bias.nc")
    largest = np.abs(coefficients).max(axis=(0, 2, 3), keepdims=True)
    assert (np.abs(read.coefficients - coefficients) / largest).max() < 2**-11
    assert (read.model, read.years, len(NAMES)) == ("model", (2020, 2021), 69)
