"""The command that estimates a covariance: from a recipe to an analysis."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from dacycle.assimilators.base import load_assimilator
from dacycle.assimilators.variational.settings import VariationalSettings
from dacycle.common.configuration import write_yaml
from dacycle.cycler.cli import app
from dacycle.forecast_adapter.channels import index
from dacycle.forecast_adapter.worlds.world import World, load_world
from tests.worlds import make_model, make_world, register_doubles


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a world of 24 days, its model, and these days as the data of a year."""
    register_doubles()
    folder = tmp_path_factory.mktemp("recipe")
    make_world(folder / "tiny", days=24)
    make_model(folder / "double.onnx")
    shutil.copytree(folder / "tiny/reference", folder / "data/2024")
    return folder


def train(place: Path, **changes: object) -> Result:
    content = {
        "kind": "3dvar", "world": str(place / "tiny"), "model": str(place / "double.onnx"), "data": str(place / "data"),
        "years": [2024], "cycling": "nudge", "observations": [{"source": "mask", "fraction": 0.2, "error": 0.05}],
        "chains": 6, "days": 5, "leads": [24, 48], "forecasts": 64, "forecast_size": 0.5, "seed": 1, "truncation": 8,
        "olr": False,
    }  # fmt: skip
    (place / "b.yaml").write_text(write_yaml(content | changes))
    return CliRunner().invoke(app, ["train", str(place / "b.yaml"), "--out", str(place / "run")])


def test_3dvar_takes_the_covariance_that_the_command_estimates(place: Path) -> None:
    result = train(place)
    assert result.exit_code == 0, result.output
    assert "variational: {covariance: FILE}" in result.output
    world: World = load_world(place / "tiny")
    settings = VariationalSettings(covariance=str(place / "run/b.nc"))
    method = load_assimilator("3dvar", world, variational=settings)
    background = world.reference.array(world.reference.times[30])[None]
    values, errors = background.copy(), np.zeros_like(background)
    values[0, index("t2m"), 10, 20] += 2
    errors[0, index("t2m"), 10, 20] = 1
    increment = (method.analyse(background, values, errors).state - background)[0, index("t2m")]
    assert 0 < increment[10, 20] < 2
    assert increment[10, 20] == pytest.approx(increment.max(), rel=0.2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"truncation": 40}, "truncation: 40 is finer than the grid"),
        ({"days": 40}, "too few for a chain of 40 days"),
        ({"leads": [7]}, "leads are multiples of 6 h"),
        ({"chain": 3}, "did you mean chains"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(place: Path, changes: dict[str, object], message: str) -> None:
    result = train(place, **changes)
    assert result.exit_code != 0
    assert message in f"{result.output} {result.exception}"
