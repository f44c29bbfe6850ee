"""A training begins with the weights of a trained assimilator's file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dacycle.assimilators.base import Assimilator, load_assimilator  # noqa: E402
from dacycle.assimilators.exceptions import RecipeError  # noqa: E402
from dacycle.assimilators.networks.blocks.base import Constants  # noqa: E402
from dacycle.assimilators.networks.weights import begin_with_file, stored_tensors  # noqa: E402
from dacycle.assimilators.trained.network import TrainedAssimilator  # noqa: E402
from dacycle.assimilators.training.assimilation import TorchAssimilator  # noqa: E402
from dacycle.assimilators.training.assimilator_run import build_network  # noqa: E402
from dacycle.assimilators.training.recipe import AssimilatorRecipe, load_recipe  # noqa: E402
from dacycle.forecast_adapter.worlds.world import World, load_world  # noqa: E402

RECIPES = Path("deploy/recipes")


@pytest.fixture(scope="module")
def demonstration() -> World:
    return load_world("demonstration")


def network_of(recipe: AssimilatorRecipe, method: Assimilator, world: World) -> Any:
    """Return a network with fresh weights and the constants of a method's file."""
    assert isinstance(method, TrainedAssimilator)
    stored = stored_tensors(method.path)
    names = ("mean", "std", "error", "plane_mean", "plane_std")
    season = np.concatenate([stored["slice_1"], stored["select"][:, None]], 1)
    flat = {name: stored[name].reshape(-1) for name in names}
    constants = Constants(**flat, static=stored["static"], season=season, bias=stored["bias"])
    return build_network(recipe, world.grid, constants).eval()


@pytest.mark.parametrize("name", ["adas", "fnp", "convcnp"])
def test_a_network_with_the_weights_of_a_packaged_file_gives_its_analyses(name: str, demonstration: World) -> None:
    method = load_assimilator(name, demonstration)
    recipe = load_recipe(RECIPES / f"{name}-cpu.yaml")
    assert isinstance(recipe, AssimilatorRecipe)
    network = network_of(recipe, method, demonstration)
    begin_with_file(network, method)
    times = demonstration.reference.times
    background, truth = (demonstration.reference.array(times[k])[None] for k in (0, 4))
    generator = np.random.default_rng(1)
    seen = generator.random(truth.shape) < 0.05
    std = demonstration.statistics.std[:, None, None]
    values, errors = np.where(seen, truth, 0), np.where(seen, 0.1 * std, 0)
    planes = np.zeros((1, 3, *truth.shape[2:]))
    fields = [np.concatenate([part, planes], 1).astype(np.float32) for part in (values, errors)]
    expected = method.analyse(background, *fields).state
    found = TorchAssimilator(network, demonstration.grid, demonstration.name).analyse(background, *fields).state
    assert np.abs((expected - background) / std).max() > 0.5
    assert np.abs((found - expected) / std).max() < 1e-4


@pytest.mark.parametrize(
    ("recipe", "changes", "weights", "message"),
    [
        ("adas", {"width": 32}, "adas", r"holds 'set_conv|holds 'embed"),
        ("adas", {}, "fnp", "it is another network, or iterative"),
        ("adas", {}, "diffusion", "it is another network, or iterative"),
        ("adas", {}, "oi", "oi is no trained assimilator"),
    ],
)
def test_weights_of_something_else_are_refused(
    recipe: str, changes: dict[str, Any], weights: str, message: str, demonstration: World
) -> None:
    adas = load_assimilator("adas", demonstration)
    settings = load_recipe(RECIPES / f"{recipe}-cpu.yaml")
    assert isinstance(settings, AssimilatorRecipe)
    network = network_of(settings.model_copy(update={"network": changes}), adas, demonstration)
    before = [weights.clone() for weights in network.parameters()]
    with pytest.raises(RecipeError, match=message):
        begin_with_file(network, load_assimilator(weights, demonstration))
    assert all(torch.equal(*pair) for pair in zip(before, network.parameters(), strict=True))
