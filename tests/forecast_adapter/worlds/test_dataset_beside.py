"""Datasets whose extra fields come from a second product, with its periods, signs and units."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_allclose
from typer.testing import CliRunner

from dacycle.cycler.cli.files.dataset import app
from dacycle.forecast_adapter.grid import get_grid
from dacycle.forecast_adapter.state import make_state, to_dataset
from dacycle.forecast_adapter.worlds.dataset import build_dataset
from dacycle.forecast_adapter.worlds.manifest import DatasetError
from dacycle.forecast_adapter.worlds.reference import Reference
from tests.forecast_adapter.worlds.test_dataset import FINE, FIRST, fine_state

GRID = get_grid("5.625deg")
TIMES = FIRST + 6 * np.arange(2)
HOURS = FIRST + np.arange(-5, 7)


@pytest.fixture
def store(tmp_path: Path) -> str:
    """Write a store as WeatherBench2's: OLR as a mean flux over an hour, and a dewpoint without any value."""
    states = [to_dataset(make_state(fine_state(time), FINE, time)) for time in TIMES]
    dataset = xr.concat(states, "time", data_vars="minimal")
    dims, shape = ("time", "latitude", "longitude"), (len(TIMES), *FINE.shape)
    dataset["2m_dewpoint_temperature"] = (dims, np.full(shape, np.nan, np.float32), {"units": "K"})
    dataset.to_zarr(tmp_path / "wb2.zarr", zarr_format=2, consolidated=True)
    return str(tmp_path / "wb2.zarr")


def flux(store: str) -> None:
    with xr.open_zarr(store) as opened:
        dataset = opened.load()
    dims = ("time", "latitude", "longitude")
    values = np.full((len(TIMES), *FINE.shape), -240, np.float32)
    dataset["mean_top_net_long_wave_radiation_flux"] = (dims, values, {"units": "W m**-2"})
    dataset.to_zarr(store, mode="w", zarr_format=2, consolidated=True)


def accumulated(path: Path, hours: np.ndarray = HOURS, unit: str = "J m**-2") -> str:
    """Write hourly sums as the Climate Data Store does: radiation downward positive, precipitation in metres."""
    dims = ("valid_time", "latitude", "longitude")
    field = np.ones((len(hours), *FINE.shape), np.float32)
    growing = np.arange(len(hours), dtype=np.float32)[:, None, None] * field
    xr.Dataset(
        {
            "ttr": (dims, -3600 * (200 + growing), {"units": unit}),
            "tp": (dims, 1e-3 * field, {"units": "m"}),
            "d2m": (dims, 280 * field, {"units": "K"}),
        },
        {"valid_time": hours, "latitude": FINE.latitude, "longitude": FINE.longitude},
    ).to_netcdf(path)
    return str(path)


def test_hourly_sums_of_a_second_product_become_six_hours(store: str, tmp_path: Path) -> None:
    second = accumulated(tmp_path / "single.nc")
    build_dataset(store, tmp_path / "out", GRID, TIMES, beside=[second])
    surface = Reference(tmp_path / "out").surface(TIMES[1])
    assert set(surface) == {"tp6h", "olr", "td2m"}
    assert_allclose(surface["tp6h"], 6.0, rtol=1e-5)
    assert_allclose(surface["olr"], 200 + np.arange(6, 12).mean(), rtol=1e-5)
    assert_allclose(surface["td2m"], 280, rtol=1e-5)
    with pytest.raises(DatasetError, match=r"holds states of .*wb2.zarr beside .*single.nc"):
        build_dataset(store, tmp_path / "out", GRID, TIMES)


@pytest.mark.parametrize("step", [3, 6])
def test_sums_over_another_period_are_refused(store: str, tmp_path: Path, step: int) -> None:
    second = accumulated(tmp_path / "single.nc", FIRST + step * np.arange(-2, 3))
    with xr.open_dataset(second) as opened:
        sums = opened.load()
    sums.drop_vars("d2m").to_netcdf(tmp_path / "sums.nc")
    with pytest.raises(DatasetError, match=f"its times are {step} h apart; precipitation and radiation are summed"):
        build_dataset(store, tmp_path / "out", GRID, TIMES, beside=[str(tmp_path / "sums.nc")])
    assert not (tmp_path / "out").exists()


def test_another_unit_is_refused(store: str, tmp_path: Path) -> None:
    second = accumulated(tmp_path / "single.nc", unit="W m**-2")
    with pytest.raises(ValueError, match=r"ttr is in 'W m\*\*-2'; convert it to 'J m\*\*-2' first"):
        build_dataset(store, tmp_path / "out", GRID, TIMES, beside=[second])


def test_the_mean_flux_of_an_hour_is_olr_and_says_so(store: str, tmp_path: Path) -> None:
    flux(store)
    manifest = build_dataset(store, tmp_path / "out", GRID, TIMES)
    assert_allclose(Reference(tmp_path / "out").surface(TIMES[1], ["olr"])["olr"], 240)
    assert "outgoing_longwave_radiation is a mean over the 1 h before each time, in place of 6 h" in manifest.notes
    with xr.open_dataset(next((tmp_path / "out").rglob("2024-*.nc"))) as file:
        assert file["outgoing_longwave_radiation"].attrs["period"] == "1 h"


def test_what_a_product_lacks_is_a_sentence_at_the_end(store: str, tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, [store, str(tmp_path / "out"), "--workers", "1"], catch_exceptions=False)
    said = " ".join(shown.stdout.split())
    assert "without values: total_precipitation_6hr, outgoing_longwave_radiation, 2m_dewpoint_temperature" in said
    assert "--beside PLACE" in said
