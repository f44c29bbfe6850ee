"""Fixtures for all tests: genuine samples, and a tiny world with its forecast model."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

from dacycle.forecast_adapter.worlds.world import World, load_world
from tests.worlds import make_model, make_world

# pytest-xdist tells its workers of 80 columns, and consoles would keep that width whatever a test asks for.
for name in ("COLUMNS", "LINES"):
    os.environ.pop(name, None)
# What files of observations were decoded to is kept between the tests of a run, not between runs.
_CACHE = tempfile.TemporaryDirectory(prefix="dacycle-tests-")
os.environ["DACYCLE_CACHE"] = _CACHE.name
# No test depends on how busy the machine is.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@dataclass(frozen=True)
class TinyWorld:
    """Paths of the doubles: `folder` of the world `name`, and the forecast `model` file made for it."""

    name: str
    folder: Path
    model: Path


OPTIONAL = {
    "large": "needs 8 GB of memory",
    "trial": "a long trial",
    "rehearsal": "a walk of a quarter of an hour or more",
}
"""Markers of tests that run only where they are asked for, and why."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what would not fit into a small machine or takes long, unless it is asked for."""
    for marker, reason in OPTIONAL.items():
        if marker not in config.option.markexpr:
            for item in items:
                if item.get_closest_marker(marker):
                    item.add_marker(pytest.mark.skip(reason=f"{reason}: -m {marker}"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of genuine samples, cut to a size for the repository; its MANIFEST.md describes them."""
    return Path(__file__).parent / "samples"


@pytest.fixture(scope="session")
def full_samples() -> Path:
    """Return the folder of the whole files that the samples are cut from; a test that needs one skips without them."""
    place = os.environ.get("DACYCLE_SAMPLES")
    folder = Path(place) if place else Path(__file__).resolve().parents[2] / "shared/data"
    if place and not folder.is_dir():
        raise FileNotFoundError(f"DACYCLE_SAMPLES is {place}, which is no folder")
    if not folder.is_dir():
        pytest.skip("needs a whole sample file, too large or not licensed for the repository (DACYCLE_SAMPLES=FOLDER)")
    return folder


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> TinyWorld:
    """Seven days of the tiny world, from 2024-01-01T00, made once for all tests."""
    folder = tmp_path_factory.mktemp("world")
    make_world(folder / "tiny", days=7)
    return TinyWorld("tiny", folder / "tiny", make_model(folder / "double.onnx"))


@pytest.fixture(scope="session")
def tiny(world: TinyWorld) -> World:
    """Return the tiny world, opened: seven days from 2024-01-01T00 on the 5.625-degree grid."""
    return load_world(world.folder)
