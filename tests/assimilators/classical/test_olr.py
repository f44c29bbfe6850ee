"""The operator of outgoing long-wave radiation, fitted to states whose radiation is a known function."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray

from dacycle.assimilators.classical.olr import fit_olr
from dacycle.forecast_adapter.channels import GROUPS, NAMES, index
from dacycle.forecast_adapter.grid import get_grid
from dacycle.forecast_adapter.state import make_state, to_dataset
from dacycle.forecast_adapter.worlds.reference import Reference, write_times
from tests.worlds import profile

GRID = get_grid("5.625deg")
NOISE = 5.0  # W m-2


def states(count: int, seed: int = 0) -> NDArray[np.float32]:
    """Return (count, 69, H, W): columns that vary by their channels' standard deviations, with q well above 0."""
    mean, std = profile()
    field = mean[:, None, None] + std[:, None, None] * np.random.default_rng(seed).normal(size=(count, 69, *GRID.shape))
    field[:, GROUPS["q"]] = mean[GROUPS["q"], None, None] * np.random.default_rng(seed).uniform(
        0.5, 1.5, (count, 13, *GRID.shape)
    )
    return field.astype(np.float32)


def radiation(fields: NDArray) -> NDArray:
    """Return W m-2, which increase with temperature at 500 hPa and decrease with humidity at 300 hPa."""
    t, q = fields[..., index("t500"), :, :], fields[..., index("q300"), :, :]
    return 240 + 2.0 * (t - 255) - 20 * (q / profile()[0][index("q300")] - 1)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    folder = tmp_path_factory.mktemp("olr")
    times = np.datetime64("2003-01-01T00", "h") + 6 * np.arange(20)
    fields = states(len(times))
    noise = np.random.default_rng(9).normal(0, NOISE, (len(times), *GRID.shape))
    dataset = xr.concat([to_dataset(make_state(f, GRID, t)) for f, t in zip(fields, times, strict=True)], "time")
    layout = ("time", "latitude", "longitude")
    dataset["outgoing_longwave_radiation"] = (layout, (radiation(fields) + noise).astype(np.float32))
    write_times(dataset, folder / "2003-01.nc")
    return Reference(Path(folder))


def test_finds_what_radiation_depends_on_and_how_well(reference: Reference) -> None:
    members = np.random.default_rng(2).normal(size=(6, len(NAMES), 1, 1)) * profile()[1][:, None, None]
    members = np.broadcast_to(members, (6, len(NAMES), *GRID.shape)).astype(np.float32)
    fitted = np.stack([reference.array(time) for time in reference.times])
    olr = np.stack([reference.surface(time)["olr"].values for time in reference.times])
    samples = fit_olr(fitted, olr, GRID.weights, members)
    assert samples.operator.error == pytest.approx(NOISE, rel=0.05)
    new = states(3, seed=5)
    difference = samples.operator(new) - radiation(new)
    assert np.sqrt(np.square(difference).mean()) < 0.5
    expected = 2.0 * members[:, index("t500")]
    expected = expected - 20 * members[:, index("q300")] / profile()[0][index("q300")]
    left = samples.members - (expected - expected.mean(axis=0))
    assert np.sqrt(np.square(left).mean()) < 0.1 * expected.std()
