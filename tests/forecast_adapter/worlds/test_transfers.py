"""Datasets of remote stores: each chunk is asked for once, also after an interruption, and the plan says how many."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_array_equal
from typer.testing import CliRunner

from dacycle.common.pieces import in_processes
from dacycle.cycler.cli.files.dataset import app
from dacycle.forecast_adapter import remote
from dacycle.forecast_adapter.grid import get_grid
from dacycle.forecast_adapter.worlds import dataset as making
from dacycle.forecast_adapter.worlds.dataset import build_dataset, plan_dataset
from dacycle.forecast_adapter.worlds.reference import Reference
from dacycle.forecast_adapter.worlds.static import write_static
from tests.forecast_adapter.made import chunks
from tests.forecast_adapter.worlds.test_dataset import FINE, FIRST, TIMES, in_the_wild
from tests.rehearsal.archive import serving

GRID = get_grid("5.625deg")
HOURS = FIRST + np.arange(-5, 6 * 12)  # to five hours after the last time


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a store of five times a chunk, whose dewpoint has no value, and one of hourly sums, eight hours a chunk."""
    folder = tmp_path_factory.mktemp("public")
    states = in_the_wild(TIMES)
    dims = ("time", "longitude", "latitude")
    empty = np.full([states.sizes[dim] for dim in dims], np.nan, np.float32)
    states["2m_dewpoint_temperature"] = (dims, empty, {"units": "K"})
    states["mean_top_net_long_wave_radiation_flux"] = (dims, empty * 0 - 240, {"units": "W m**-2"})
    states["mean_top_net_long_wave_radiation_flux"][:] = -240
    states["vertical_velocity"] = states["temperature"] * 0
    states.to_zarr(folder / "era5.zarr", zarr_format=2, consolidated=True, encoding=chunks(states, time=5))
    field = np.ones((len(HOURS), *FINE.shape), np.float32)
    hourly = {
        "top_net_thermal_radiation": (-3600 * 230 * field, "J m**-2"),
        "total_precipitation": (1e-3 * field, "m"),
        "2m_dewpoint_temperature": (280 * field, "K"),
        "surface_pressure": (98000 * field, "Pa"),
    }
    sums = xr.Dataset(
        {name: (("time", "latitude", "longitude"), values, {"units": unit}) for name, (values, unit) in hourly.items()},
        {"time": HOURS.astype("datetime64[ns]"), "latitude": FINE.latitude, "longitude": FINE.longitude},
    )
    sums.to_zarr(folder / "arco.zarr", zarr_format=2, consolidated=True, encoding=chunks(sums, time=8))
    return folder


def chunks_sent(sent: Counter[str]) -> Counter[str]:
    """Return how often each chunk of fields was sent."""
    axes = ("time", "level", "latitude", "longitude")
    return Counter(
        {name: n for name, n in sent.items() if name.split("/")[1] not in axes and name.split("/")[-1][0] != "."}
    )


def test_each_chunk_is_asked_for_once_and_the_plan_counts_them(stores: Path, tmp_path: Path) -> None:
    with serving(stores) as archive:
        place = f"{archive.url}/era5.zarr"
        plan = plan_dataset(place, tmp_path / "era5", GRID, TIMES)
        assert not chunks_sent(archive.sent)
        with in_processes(2) as each:
            build_dataset(place, tmp_path / "era5", GRID, TIMES, each=each, requests=4)
        sent = chunks_sent(archive.sent)
        sent = Counter({name: n for name, n in sent.items() if "geopotential_at" not in name and "mask" not in name})
    assert set(sent.values()) == {1}
    (transfer,) = plan.transfers
    assert transfer.requests == 13 * 3, "nine variables and four extra fields, three chunks each"
    assert len(sent) == 12 * 3, "a chunk without any value is in no store"
    assert transfer.size == pytest.approx(sum((stores / name).stat().st_size for name in sent), rel=0.1)
    written = sum(path.stat().st_size for path in (tmp_path / "era5/2024").iterdir())
    assert 0.3 * plan.size < written < plan.size
    build_dataset(str(stores / "era5.zarr"), tmp_path / "local", GRID, TIMES)
    remote_one, local_one = Reference(tmp_path / "era5"), Reference(tmp_path / "local")
    for time in TIMES:
        assert_array_equal(remote_one.array(time), local_one.array(time))


def test_a_resumed_dataset_asks_for_nothing_again(
    stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, folder, count = making.make_part, tmp_path / "era5", 0

    def pulled_out(*arguments: object) -> str | None:
        nonlocal count
        count += 1
        if count in (3, 8, 9):
            raise KeyboardInterrupt
        return make(*arguments)

    monkeypatch.setattr(making, "make_part", pulled_out)
    with serving(stores) as archive:
        place = f"{archive.url}/era5.zarr"
        for _ in range(3):
            with pytest.raises(KeyboardInterrupt):
                build_dataset(place, folder, GRID, TIMES)
            left = plan_dataset(place, folder, GRID, TIMES).transfers[0].requests
            assert left <= 3 + 12, "the dewpoint, which has no chunks, and those of February"
        build_dataset(place, folder, GRID, TIMES)
        assert set(chunks_sent(archive.sent).values()) == {1}
        assert not len(plan_dataset(place, folder, GRID, TIMES).times)
    assert not (folder / ".parts").exists()


def test_a_product_beside_gives_only_what_is_lacking(stores: Path, tmp_path: Path) -> None:
    with serving(stores) as archive:
        beside = f"{archive.url}/arco.zarr"
        with in_processes(2) as each:
            build_dataset(f"{archive.url}/era5.zarr", tmp_path / "era5", GRID, TIMES, each=each, beside=[beside])
        sent = chunks_sent(archive.sent)
    assert set(sent.values()) == {1}
    of_arco = Counter(name.split("/")[1] for name in sent if name.startswith("arco"))
    assert of_arco["top_net_thermal_radiation"] == of_arco["2m_dewpoint_temperature"] == 9, "72 hours"
    surface = Reference(tmp_path / "era5").surface(TIMES[5])
    assert set(surface) == {"tp6h", "olr", "td2m", "ps"}
    assert float(surface["olr"].mean()) == pytest.approx(230), "a mean of six hours goes before one of an hour"
    assert float(surface["tp6h"].mean()) == pytest.approx(6), "precipitation is the first product's own"


def test_broken_connections_are_tried_again(stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PAUSE", 0.01)
    with serving(stores, breaking=5) as archive:
        build_dataset(f"{archive.url}/era5.zarr", tmp_path / "era5", GRID, TIMES[:2])
        assert archive.broken
        assert set(chunks_sent(archive.sent).values()) == {1}
    with serving(stores, breaking=2) as archive:
        write_static(f"{archive.url}/era5.zarr", tmp_path / "static.nc", GRID, TIMES[0])
        assert archive.broken
    assert (tmp_path / "static.nc").exists()
    assert (tmp_path / "era5/static.nc").exists()


def test_what_was_kept_of_a_store_that_changed_is_not_used(
    stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that grows writes its last chunk again."""
    public, folder = tmp_path / "public", tmp_path / "era5"
    whole = in_the_wild(TIMES)
    whole.isel(time=slice(7)).to_zarr(public / "era5.zarr", zarr_format=2, encoding=chunks(whole, time=5))
    make = making.make_part
    monkeypatch.setattr(making, "make_part", lambda *a: "broken off" if a[2] == TIMES[6] else make(*a))
    with serving(public) as archive:
        with pytest.raises(making.DatasetError, match="broken off"):
            build_dataset(f"{archive.url}/era5.zarr", folder, GRID, TIMES)
        whole.to_zarr(public / "era5.zarr", mode="w", zarr_format=2, encoding=chunks(whole, time=5))
        monkeypatch.setattr(making, "make_part", make)
        build_dataset(f"{archive.url}/era5.zarr", folder, GRID, TIMES)
    assert len(Reference(folder).times) == len(TIMES)


def test_the_plan_is_shown(stores: Path, tmp_path: Path) -> None:
    with serving(stores) as archive:
        arguments = [
            f"{archive.url}/era5.zarr",
            str(tmp_path / "era5"),
            "--plan",
            "--beside",
            f"{archive.url}/arco.zarr",
        ]
        shown = CliRunner().invoke(app, arguments, catch_exceptions=False).stdout
    assert "12 times to make, 2024-01-30T00 to 2024-02-01T18" in shown
    assert "era5.zarr: 39 requests, 4" in shown
    assert "arco.zarr: 9 requests" in shown, "OLR of six hours, which the first product has of one"
    assert "h at 5 MB/s or" in shown
    assert "disk: at most" in shown
    assert not (tmp_path / "era5").exists()
