"""The archives that both rehearsals walk against."""

from collections.abc import Iterator

import pytest

from tests.archives.server import serving as serving_observations
from tests.rehearsal import observations
from tests.rehearsal.archive import Public, serving


@pytest.fixture(scope="session")
def public(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Public]:
    """Fill and serve the archives of observations; every fiftieth answer of the stores breaks."""
    folder = tmp_path_factory.mktemp("public")
    (folder / "stores").mkdir()
    observations.fill(folder / "archives")
    with serving(folder / "stores", breaking=50) as archive, serving_observations(folder / "archives") as others:
        yield Public(archive, folder / "archives", others.url)
