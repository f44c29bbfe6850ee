"""Recipes of assimilators: what they must say, their defaults, and what is refused before anything is written."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("torch", reason="the extra `train` is not installed: torch is missing")
pytest.importorskip("lightning", reason="the extra `train` is not installed: lightning is missing")

from typer.testing import CliRunner

from dacycle.assimilators.base import AssimilatorError, load_assimilator
from dacycle.assimilators.exceptions import DataError, RecipeError
from dacycle.assimilators.networks import METHODS
from dacycle.assimilators.sampling.backgrounds import (
    Backgrounds,
    months_of,
)
from dacycle.assimilators.sampling.observing import Observing
from dacycle.assimilators.trained.network import TrainedAssimilator
from dacycle.assimilators.training import assimilator_run
from dacycle.assimilators.training.assimilation import cycled_model
from dacycle.assimilators.training.assimilator_run import (
    fit_assimilator,
    train_assimilator,
)
from dacycle.assimilators.training.recipe import AssimilatorRecipe, load_recipe, recipe_kind
from dacycle.cycler.cli.models.training import app
from dacycle.forecast_adapter.worlds.world import load_world
from tests.assimilators.training.runs import SOURCES, write_recipe
from tests.assimilators.training.small import FEW, held, recipe_of

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("years", "mixed"), [(range(2010, 2012), 0.75), (range(2010, 2020), 0.0)])
def test_errors_are_mixed_by_default_where_years_are_few(years: range, mixed: float, tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "deploy/recipes/diffusion-cpu.yaml").read_text()
    path = tmp_path / "r.yaml"
    path.write_text(text.replace("mixed: 0.0\n", ""))
    assert load_recipe(path, changes={"training_years": list(years)}).mixed == mixed
    assert load_recipe(path, changes={"training_years": list(years), "mixed": 0.3}).mixed == 0.3


def test_a_recipe_is_trained_with_other_values_without_a_copy_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(__file__).parents[3] / "deploy/recipes/fnp-cpu.yaml"
    trained: list[tuple[AssimilatorRecipe, Path]] = []
    monkeypatch.setattr(assimilator_run, "train_assimilator", lambda recipe, folder: trained.append((recipe, folder)))
    command = ["train", str(path), "--set", "seed=2", "--set", "network.joint=64"]
    CliRunner().invoke(app, command, catch_exceptions=False)
    (recipe, folder), written = trained[0], load_recipe(path)
    assert folder == Path("runs/fnp-cpu-seed-2-network.joint-64")
    changed = {"seed": 2, "network": {**written.network, "joint": 64}}
    assert recipe == written.model_copy(update=changed)
    with pytest.raises(RecipeError, match=r"fnp-cpu.yaml:\d+: seed: Input should be a valid integer"):
        load_recipe(path, changes={"seed": "two"})
    with pytest.raises(RecipeError, match=r"fnp-cpu.yaml:1: seeds: unknown key; did you mean seed"):
        load_recipe(path, changes={"seeds": 2})
    with pytest.raises(RecipeError, match="an adapter begins with its base; leave out weights"):
        load_recipe(path, changes={"base": "runs/fnp-cpu", "weights": "fnp"})
    with pytest.raises(RecipeError, match=r"seed.first: seed is no mapping, so it has no entry first"):
        load_recipe(path, changes={"seed.first": 2})


def test_weights_that_are_not_there_are_noticed_before_the_data(tmp_path: Path) -> None:
    path = Path(__file__).parents[3] / "deploy/recipes/adas-mini-2-cpu.yaml"
    recipe = load_recipe(path, str(tmp_path / "no-data"), {"weights": "no-such-method"})
    assert isinstance(recipe, AssimilatorRecipe)
    with pytest.raises(AssimilatorError, match="no-such-method"):
        train_assimilator(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_relaxation_of_a_recipe_is_that_of_its_cycles_and_of_its_file() -> None:
    demonstration = load_world("demonstration")
    path = Path(__file__).parents[3] / "deploy/recipes/adas-mini-2-cpu.yaml"
    recipe, without = load_recipe(path), load_recipe(path, changes={"relaxation": None})
    assert isinstance(recipe, AssimilatorRecipe)
    assert isinstance(without, AssimilatorRecipe)
    relaxation = cycled_model(recipe, demonstration).relaxation
    assert relaxation is not None
    equator = np.abs(demonstration.grid.latitude).argmin()
    assert relaxation.rate[[equator, 0], 0] == pytest.approx([1 / 32, 1 / 68])
    assert cycled_model(without, demonstration).relaxation is None
    file = load_assimilator("adas-mini-2", demonstration)
    assert isinstance(file, TrainedAssimilator)
    assert file.metadata["training"]["recipe"] == recipe.digest() != without.digest()
    assert file.metadata["training"]["relaxation"] == {"tropics": "192h", "elsewhere": "408h"}
    assert "with `relaxation: {tropics: 192h, elsewhere: 408h}`" in file.path.with_suffix(".md").read_text()


@pytest.mark.parametrize("folder", ["deploy/recipes", "deploy/recipes/era5"])
def test_the_recipes_in_the_repository_are_sound(folder: str) -> None:
    paths = sorted((Path(__file__).parents[3] / folder).glob("*.yaml"))
    recipes = [load_recipe(path) for path in paths if recipe_kind(path) == "assimilator"]
    assert {recipe.method for recipe in recipes} == set(METHODS)
    for recipe in recipes:
        assert not set(recipe.training_years) & {*recipe.validation_years, 2024}


def test_the_packaged_methods_have_equal_samples_of_the_full_network_and_of_the_stations() -> None:
    folder = Path(__file__).parents[3] / "deploy/recipes"
    recipes = [load_recipe(folder / f"{method}-cpu.yaml") for method in METHODS]
    apart = (
        "name", "version", "method", "base", "network", "learning_rate", "round_learning_rate", "warm_up", "precision",
        "workers",
    )  # fmt: skip
    first, *others = [recipe.model_dump(exclude=set(apart)) for recipe in recipes]
    assert all(other == first for other in others)
    assert first["mixed"] == 0
    sources = yaml.safe_load((folder.parent / "experiments/demo-full.yaml").read_text())["observations"]
    names = [entry["name"] for entry in sources]
    assert [entry["source"] for entry in first["observations"]] == names
    assert set(names) - set(first["optional"]) == {entry["source"] for entry in SOURCES}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"method": "magic"},
            "method: 'magic' is unknown; the methods are adas, adas-adapter, convcnp, fnp, fnp-adapter",
        ),
        (
            {"network": {"joints": 3}},
            r"network\.joints: unknown entry \(did you mean joint\?\); the entries are reach_km",
        ),
        ({"base": "fnp"}, "base: fnp has none"),
        ({"method": "fnp-adapter"}, "base: fnp-adapter needs one"),
    ],
)
def test_an_unknown_method_or_size_is_refused(
    entries: dict[str, Any], backgrounds: Backgrounds, observing: Observing, tmp_path: Path,
    changes: dict[str, Any], message: str,
) -> None:  # fmt: skip
    recipe = recipe_of(entries, **changes)
    with pytest.raises(RecipeError, match=message):
        fit_assimilator(recipe, tmp_path, observing, backgrounds, held(backgrounds, observing), FEW)
    assert not (tmp_path / "run.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, r":\d+: epochs: Input should be greater than 0"),
        ({"epoch_samples": 3}, r":\d+: epoch_samples: must be at least one batch of 4"),
        ({"observations": []}, r":\d+: observations: List should have at least 1 item"),
        ({"optional": ["ships"]}, r":\d+: optional: ships is no source of the observations; they are stations, sondes"),
        ({"observations": [{"name": "stations"}]}, r":\d+: observations: every entry is a mapping with a source"),
        ({"backgrounds": []}, r":\d+: backgrounds: List should have at least 1 item"),
        ({"backgrounds": ["forecasts", 7]}, r":\d+: backgrounds\.1: Input should be a valid string"),
        ({"mothod": "fnp"}, r":\d+: mothod: unknown key; did you mean method\?"),
        ({"network": {"joint": "wide"}}, r":\d+: network\.joint\S*: Input should be a valid integer"),
    ],
)
def test_a_recipe_with_a_mistake_says_which_and_where(
    entries: dict[str, Any], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=rf"small\.yaml{message}"):
        load_recipe(write_recipe(tmp_path / "small.yaml", entries, **changes))


def test_one_store_of_backgrounds_may_be_written_without_a_list(entries: dict[str, Any], tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path / "small.yaml", entries, backgrounds="store"))
    assert isinstance(recipe, AssimilatorRecipe)
    assert recipe.stores == [Path("store")]


@pytest.mark.parametrize("stores", [1, 2])
def test_a_store_that_lacks_months_stops_before_anything_is_written(
    entries: dict[str, Any], tmp_path: Path, stores: int
) -> None:
    whole, lacking = tmp_path / "whole", tmp_path / "lacking"
    for month in months_of([2023]):
        whole.mkdir(exist_ok=True)
        (whole / f"{month}.nc").touch()
    backgrounds = [str(whole), str(lacking)] if stores == 2 else str(lacking)
    with pytest.raises(DataError, match=r"lacking: no backgrounds of 2023-01 \(12 months missing\); see `dacycle back"):
        train_assimilator(recipe_of(entries, backgrounds=backgrounds), tmp_path / "run")
    assert not (tmp_path / "run").exists()
