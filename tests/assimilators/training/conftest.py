"""A small assimilator's training, for the modules of this folder; PyTorch is needed for `run` alone."""

from pathlib import Path
from typing import Any

import pytest

from dacycle.assimilators.sampling.backgrounds import Backgrounds, held_out
from dacycle.assimilators.sampling.observing import Observing, observing_of
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.worlds.world import World
from tests.assimilators.training.runs import SOURCES
from tests.conftest import TinyWorld


@pytest.fixture(scope="module")
def data(world: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of years that holds the tiny world's reference as 2024."""
    folder = tmp_path_factory.mktemp("nature")
    (folder / "2024").mkdir()
    for file in (world.folder / "reference").glob("*.nc"):
        (folder / "2024" / file.name).symlink_to(file)
    return folder


@pytest.fixture(scope="module")
def entries(world: TinyWorld, data: Path) -> dict[str, Any]:
    return {
        "kind": "assimilator", "method": "fnp", "name": "small", "version": "1", "world": str(world.folder),
        "model": str(world.model), "data": str(data), "backgrounds": "nowhere", "training_years": [2023],
        "validation_years": [2024], "observations": SOURCES, "epochs": 2, "epoch_samples": 8, "rounds": 1,
        "round_epochs": 1, "validation_days": 4, "batch": 4, "warm_up": 2, "average": 0.5, "threads": 1, "seed": 3,
        "network": {"joint": 16, "group": 8, "fine": 8, "layers": 1, "merged": 1, "modes": 4, "block": 8},
    }  # fmt: skip


@pytest.fixture(scope="module")
def backgrounds(world: TinyWorld, tiny: World) -> Backgrounds:
    return held_out(load_model(world.model), tiny.reference, tiny, 6, leads=(6, 24))


@pytest.fixture(scope="module")
def observing(tiny: World) -> Observing:
    return observing_of(tiny, tiny.reference, SOURCES)


@pytest.fixture(scope="module")
def run(
    entries: dict[str, Any], backgrounds: Backgrounds, observing: Observing, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return a finished run of two epochs and one closed-loop round."""
    from dacycle.assimilators.training.assimilator_run import fit_assimilator
    from tests.assimilators.training.small import FEW, held, recipe_of

    folder = tmp_path_factory.mktemp("run")
    recipe = recipe_of(entries)
    fit_assimilator(recipe, folder, observing, backgrounds, held(backgrounds, observing), FEW)
    return folder
