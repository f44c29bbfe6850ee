"""Methods that are called otherwise than before: former names are understood everywhere, once with a note."""

import logging
from pathlib import Path

import pytest

from dacycle.assimilators.base import RENAMED, current_name, known_assimilators, load_assimilator, packaged_assimilators
from dacycle.assimilators.judging.origins import ORIGINS, origin_section
from dacycle.assimilators.trained.network import TrainedAssimilator
from dacycle.assimilators.training.recipe import AssimilatorRecipe, load_recipe
from dacycle.forecast_adapter.models.onnxfile import read_metadata
from dacycle.forecast_adapter.worlds.world import load_world

RECIPES = Path(__file__).parents[2] / "deploy/recipes"


@pytest.mark.parametrize(("former", "name"), RENAMED.items())
def test_a_former_name_is_understood(former: str, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    current_name.cache_clear()
    caplog.set_level(logging.INFO, logger="dacycle")
    world = load_world("demonstration")
    methods = [load_assimilator(given, world) for given in (former, former, name)]
    assert {method.name for method in methods} == {name}
    assert len({method.digest for method in methods}) == 1
    assert [r.getMessage() for r in caplog.records if former in r.getMessage().split()] == [
        f"the method {former} is now called {name}; the former name is still understood"
    ]
    assert former not in known_assimilators()

    text = (RECIPES / f"{name}-cpu.yaml").read_text().replace(f"method: {name}", f"method: {former}")
    (tmp_path / "recipe.yaml").write_text(text)
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert isinstance(recipe, AssimilatorRecipe)
    assert recipe.method == name


@pytest.mark.parametrize(("former", "name"), RENAMED.items())
def test_a_file_that_holds_a_former_name_has_the_present_one(former: str, name: str) -> None:
    """The packaged files were written under the former names, and their bytes, thus their digests, stay."""
    path = packaged_assimilators()[name]
    assert read_metadata(path)["name"] == former
    file = TrainedAssimilator(path)
    assert (file.name, file.metadata["name"], file.metadata["method"]) == (name, name, name)


@pytest.mark.parametrize("method", ORIGINS)
def test_the_card_of_a_method_says_what_is_the_papers_and_what_is_ours(method: str) -> None:
    card = packaged_assimilators()[method].with_suffix(".md").read_text()
    assert "\n".join(origin_section(method)) in card
    assert "## The paper's" in card
    assert "## Ours" in card


def test_every_trained_method_has_an_origin() -> None:
    packaged = packaged_assimilators()
    trained = {TrainedAssimilator(path).metadata["method"] for path in packaged.values() if path.suffix == ".onnx"}
    assert trained == set(ORIGINS) <= set(packaged)
