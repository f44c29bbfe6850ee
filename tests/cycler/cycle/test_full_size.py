"""A cycle at FengWu's full size, 721 x 1440, with the double in its place: `pytest -m large`."""

import numpy as np
import pytest

from dacycle.cycler.archive.branches import Archive
from dacycle.cycler.cycle.replay import run_due_cycles
from dacycle.cycler.experiment import STEP
from dacycle.cycler.timing.measure import peak_memory
from dacycle.forecast_adapter.grid import get_grid
from dacycle.forecast_adapter.models.double import add_double
from dacycle.forecast_adapter.models.half import artificial_state
from dacycle.forecast_adapter.state import make_state, to_dataset
from dacycle.forecast_adapter.states.dataset_writer import write_netcdf
from dacycle.forecast_adapter.statistics import Statistics
from tests.cycler import replays
from tests.worlds import profile, surface_fields, write_constants

pytestmark = pytest.mark.large
GRID = get_grid("0.25deg")
MOST = 8e9


@pytest.fixture
def quarter_degree(tmp_path, monkeypatch):
    """Make a world whose weather stands still, with the two frames before a cycle and its own time."""
    monkeypatch.setenv("DACYCLE_HOME", str(tmp_path / "home"))
    folder = tmp_path / "quarter"
    (folder / "reference").mkdir(parents=True)
    write_constants(folder, "quarter", GRID, np.zeros(GRID.shape), np.ones(GRID.shape, np.float32))
    truth = artificial_state(GRID, Statistics(*profile(), "quarter", "made up"))
    surface = surface_fields(truth, np.zeros_like(truth), np.zeros(GRID.shape))
    times = (np.datetime64(replays.START, "h") + STEP * step for step in (-2, -1, 0))
    states = (to_dataset(make_state(truth, GRID, time)).assign(surface) for time in times)
    write_netcdf(folder / "reference/2024-01-03.nc", states, {})
    return folder


def test_a_cycle_by_increments_at_full_size_takes_less_than_8_gb(quarter_degree, tmp_path):
    add_double("0.25deg", "quarter")
    changes = {
        "grid": "0.25deg",
        "assimilation_grid": "1.5deg",
        "end": f"{replays.START:%Y-%m-%dT%H}",
        "cold_start": {"state": str(quarter_degree / "reference/2024-01-03.nc")},
    }
    experiment = replays.experiment(replays.content(quarter_degree, "double-0.25deg", tmp_path, **changes))
    archive = Archive(tmp_path / "archive", create=True)
    peak = peak_memory(lambda: run_due_cycles(experiment, archive, limit=1))
    branch = archive.branch("demo")
    (record,) = branch.records[-1:]
    assert record.status == "ok"
    if peak is None:
        pytest.skip("this system does not tell how much memory a process takes")
    assert peak < MOST
