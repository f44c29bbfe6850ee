"""The tiny world of `tests/worlds.py`, opened."""

import pytest

from dacycle.forecast_adapter.worlds.world import World, load_world
from tests.conftest import TinyWorld


@pytest.fixture(scope="session")
def tiny(world: TinyWorld) -> World:
    """Seven days from 2024-01-01T00 on the 5.625-degree grid."""
    return load_world(world.folder)
