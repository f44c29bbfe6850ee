"""Datasets: states of a product on another grid, in files with a manifest, also after failures and interruptions."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_allclose, assert_array_equal

from dacycle.common.pieces import in_processes
from dacycle.forecast_adapter.channels import NAMES, index
from dacycle.forecast_adapter.grid import Grid, conservative_average, get_grid
from dacycle.forecast_adapter.models.fengwu import ERA5, published_statistics
from dacycle.forecast_adapter.state import make_state, to_dataset
from dacycle.forecast_adapter.statistics import Statistics
from dacycle.forecast_adapter.worlds import dataset as making
from dacycle.forecast_adapter.worlds.dataset import build_dataset
from dacycle.forecast_adapter.worlds.manifest import DatasetError, Manifest, verify_dataset
from dacycle.forecast_adapter.worlds.reference import Reference
from dacycle.forecast_adapter.worlds.world import WorldError, build_world, load_world
from tests.conftest import TinyWorld
from tests.forecast_adapter.made import START, chunks, made_state, write_grib
from tests.worlds import profile

FIRST = np.datetime64("2024-01-30T00", "h")
TIMES = FIRST + 6 * np.arange(12)  # two days of January and one of February
FINE = Grid("4.5deg", 90 - 4.5 * np.arange(41), 4.5 * np.arange(80))
GRID = get_grid("5.625deg")


def fine_state(time: np.datetime64) -> np.ndarray:
    """Return plausible fields (69, 41, 80) that differ between places and times."""
    mean, std = profile()
    lat, lon = np.deg2rad(FINE.latitude)[:, None], np.deg2rad(FINE.longitude)[None, :]
    phase = float((time - FIRST) / np.timedelta64(1, "h"))
    waves = [
        np.cos(lat) * np.cos((1 + k % 5) * lon + phase / 20 + k) + 0.5 * np.sin(3 * lat) for k in range(len(NAMES))
    ]
    return (mean[:, None, None] + std[:, None, None] * np.stack(waves)).astype(np.float32)


def in_the_wild(times: np.ndarray) -> xr.Dataset:
    """Return states as in WeatherBench2's coarse stores: longitude first, latitude ascending, with static fields."""
    states = [to_dataset(make_state(fine_state(time), FINE, time)) for time in times]
    dataset = xr.concat(states, "time", data_vars="minimal")
    surface = ("time", "latitude", "longitude")
    wet = np.stack([np.full(FINE.shape, 1e-3 * (1 + i), np.float32) for i in range(len(times))])
    dataset["total_precipitation_6hr"] = (surface, wet, {"units": "m"})
    dataset["surface_pressure"] = (surface, np.full_like(wet, 98000), {"units": "Pa"})
    height = 9.8 * 500 * (1 + np.cos(np.deg2rad(FINE.latitude)))[:, None] * np.ones(FINE.shape[1])
    dataset["geopotential_at_surface"] = (surface[1:], height.astype(np.float32), {"units": "m2 s-2"})
    dataset["land_sea_mask"] = (surface[1:], (np.ones(FINE.shape) * (FINE.longitude < 90)).astype(np.float32))
    return dataset.sortby("latitude").transpose("time", "level", "longitude", "latitude")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write a published store: Zarr, two times a chunk."""
    path = tmp_path_factory.mktemp("wild") / "era5.zarr"
    dataset = in_the_wild(TIMES)
    dataset.to_zarr(path, zarr_format=2, consolidated=True, encoding=chunks(dataset, time=2))
    return str(path)


@pytest.fixture(scope="module")
def made(store: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a whole dataset, which tests only read."""
    folder = tmp_path_factory.mktemp("made") / "era5"
    build_dataset(store, folder, GRID, TIMES)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.nc"))}


def test_what_a_product_in_grib_lacks_is_said(tmp_path: Path) -> None:
    write_grib(tmp_path / "00.grib2", made_state())
    manifest = build_dataset(str(tmp_path / "00.grib2"), tmp_path / "made", GRID, np.array([START]))
    (note,) = [note for note in manifest.notes if "cannot be drawn" in note]
    for name in ("total_precipitation_6hr", "outgoing_longwave_radiation", "2m_dewpoint_temperature"):
        assert name in note


class TestDataset:
    def test_states_are_the_conservative_averages(self, made: Path) -> None:
        reference = Reference(made)
        assert reference.grid.matches(GRID)
        assert_array_equal(reference.times, TIMES)
        for time in TIMES[::5]:
            assert_array_equal(reference.array(time), conservative_average(fine_state(time), FINE, GRID))

    def test_files_are_of_a_month_with_a_time_a_chunk(self, made: Path) -> None:
        assert list(contents(made)) == ["2024/2024-01-30T00.nc", "2024/2024-02-01T00.nc", "static.nc"]
        with xr.open_dataset(made / "2024/2024-01-30T00.nc", engine="h5netcdf") as file:
            assert file["geopotential"].encoding["chunksizes"] == (1, 13, 32, 64)
            assert file["time"].encoding["units"] == "hours since 1970-01-01"

    def test_surface_fields_that_the_product_has(self, made: Path) -> None:
        reference = Reference(made / "2024")
        assert reference.surface_names(TIMES[1]) == ("tp6h", "ps")
        surface = reference.surface(TIMES[1], ("tp6h", "ps"))
        assert_allclose(surface["tp6h"], 2.0, rtol=1e-6)  # kg m-2
        assert_allclose(surface["ps"], 98000, rtol=1e-6)

    def test_static_fields(self, made: Path) -> None:
        with xr.open_dataset(made / "static.nc", engine="h5netcdf") as file:
            land, ground = file["land_sea_mask"].values, file["geopotential_at_surface"].values
        assert_allclose((land * GRID.weights).mean(), 0.25, atol=1e-6)
        assert land[0, 5] == 1
        assert land[0, 40] == 0
        assert ground[16].mean() > ground[0].mean()

    def test_the_manifest_has_every_file_and_finds_a_flipped_byte(self, made: Path, tmp_path: Path) -> None:
        assert verify_dataset(made) == []
        shutil.copytree(made, tmp_path / "copy")
        path = tmp_path / "copy/2024/2024-02-01T00.nc"
        content = bytearray(path.read_bytes())
        content[-100] ^= 1
        path.write_bytes(bytes(content))
        (complaint,) = verify_dataset(tmp_path / "copy")
        assert "2024-02-01T00.nc" in complaint
        assert "SHA-256" in complaint
        manifest = Manifest.read(made)
        assert manifest is not None
        assert manifest.files["2024/2024-01-30T00.nc"].times == ["2024-01-30T00", "2024-01-31T18", 8]

    def test_side_by_side_gives_the_same_bytes(self, store: str, made: Path, tmp_path: Path) -> None:
        with in_processes(2) as each:
            build_dataset(store, tmp_path / "other", GRID, TIMES[6:], each=each)
        same = "2024/2024-02-01T00.nc"
        assert contents(tmp_path / "other")[same] == contents(made)[same]


class TestInterruption:
    def test_an_interrupted_dataset_is_refused_and_goes_on(
        self, store: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fetch, asked = making.make_part, []

        def pulled_out(*arguments: object) -> str | None:
            if len(asked) == 10:
                raise KeyboardInterrupt
            asked.append(arguments[2])
            return fetch(*arguments)

        folder = tmp_path / "era5"
        monkeypatch.setattr(making, "make_part", pulled_out)
        with pytest.raises(KeyboardInterrupt):
            build_dataset(store, folder, GRID, TIMES)
        with pytest.raises(DatasetError, match=r"unfinished; run its `dacycle dataset` command again"):
            Reference(folder)
        with pytest.raises(DatasetError, match="unfinished"):
            Reference(folder / "2024")
        assert verify_dataset(folder) == [f"{folder}: unfinished"]
        again: list[object] = []
        monkeypatch.setattr(making, "make_part", lambda *a: again.append(a[2]) or fetch(*a))
        build_dataset(store, folder, GRID, TIMES)
        assert again == list(TIMES[10:]), "what was fetched is not fetched again"
        assert contents(folder) == contents(made)
        assert not (folder / ".parts").exists()

    def test_a_lost_or_cut_file_is_refused_and_made_again(self, store: str, made: Path, tmp_path: Path) -> None:
        folder = tmp_path / "era5"
        shutil.copytree(made, folder)
        path = folder / "2024/2024-01-30T00.nc"
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(DatasetError, match=r"2024-01-30T00\.nc is 1000 bytes long, not \d+; .*`dacycle dataset`"):
            Reference(folder)
        path.unlink()
        with pytest.raises(DatasetError, match=r"2024-01-30T00\.nc is missing"):
            Reference(folder)
        build_dataset(store, folder, GRID, TIMES)
        assert contents(folder) == contents(made)

    def test_a_file_that_no_manifest_names_is_not_read(self, made: Path, tmp_path: Path) -> None:
        """The state between a file's renaming and its entry in the manifest, or after a copy by hand."""
        shutil.copytree(made, tmp_path / "era5")
        shutil.copy(tmp_path / "era5/2024/2024-02-01T00.nc", tmp_path / "era5/2024/2024-03-01T00.nc")
        assert_array_equal(Reference(tmp_path / "era5").times, TIMES)

    def test_times_that_cannot_be_read_are_named_and_the_rest_is_kept(self, tmp_path: Path) -> None:
        dataset = in_the_wild(TIMES)
        dataset["2m_temperature"][9] -= 273.15
        dataset.to_zarr(tmp_path / "bad.zarr", zarr_format=2)
        place, folder = str(tmp_path / "bad.zarr"), tmp_path / "era5"
        with pytest.raises(DatasetError) as caught:
            build_dataset(place, folder, GRID, TIMES)
        message = str(caught.value)
        assert "1 of 12 times could not be read" in message
        assert "--without" in message
        assert "2024-02-01T06" in message
        assert "t2m" in message
        assert "degrees Celsius" in message
        build_dataset(place, folder, GRID, np.delete(TIMES, 9))
        assert_array_equal(Reference(folder).times, np.delete(TIMES, 9))


class TestExtension:
    def test_later_times_are_added_and_an_open_reference_sees_them(
        self, store: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        build_dataset(store, tmp_path / "era5", GRID, TIMES[:6])
        reference, before = Reference(tmp_path / "era5"), contents(tmp_path / "era5")
        late = np.append(TIMES[:9], TIMES[-1] + 6 * np.arange(1, 3))
        build_dataset(store, tmp_path / "era5", GRID, late)
        assert any("2 times are not there (yet)" in text for text in caplog.messages)
        assert len(reference.times) == 6
        reference.refresh()
        assert_array_equal(reference.times, TIMES[:9])
        assert_array_equal(reference.array(TIMES[8]), conservative_average(fine_state(TIMES[8]), FINE, GRID))
        after = contents(tmp_path / "era5")
        assert all(after[name] == content for name, content in before.items()), "files are never written again"

    def test_gaps_of_a_product_are_logged(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        in_the_wild(np.delete(TIMES, [3, 4])).to_zarr(tmp_path / "gap.zarr", zarr_format=2)
        build_dataset(str(tmp_path / "gap.zarr"), tmp_path / "era5", GRID, TIMES)
        assert any("2 times are missing (2024-01-30T18, 2024-01-31T00)" in text for text in caplog.messages)

    def test_another_product_or_grid_is_refused(self, store: str, made: Path, tmp_path: Path) -> None:
        before = contents(made)
        with pytest.raises(DatasetError, match="give another folder"):
            build_dataset(store, made, get_grid("1.5deg"), TIMES)
        (tmp_path / "letters").mkdir()
        (tmp_path / "letters/a.txt").write_text("dear")
        with pytest.raises(DatasetError, match="no manifest"):
            build_dataset(store, tmp_path / "letters", GRID, TIMES)
        with pytest.raises(DatasetError, match="none of the times from 2030"):
            build_dataset(store, tmp_path / "new", GRID, np.array(["2030-01-01T00"], "datetime64[h]"))
        assert contents(made) == before

    def test_a_damaged_manifest_is_named(self, made: Path, tmp_path: Path) -> None:
        shutil.copytree(made, tmp_path / "era5")
        text = (tmp_path / "era5/manifest.json").read_text()
        (tmp_path / "era5/manifest.json").write_text(text[: len(text) // 2])
        with pytest.raises(DatasetError, match=r"manifest\.json is damaged"):
            Reference(tmp_path / "era5")
        assert json.loads(text)["finished"] is True

    def test_a_product_without_static_fields(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        dataset = in_the_wild(TIMES[:2])
        dataset.drop_vars(["land_sea_mask"]).to_zarr(tmp_path / "dry.zarr", zarr_format=2)
        build_dataset(str(tmp_path / "dry.zarr"), tmp_path / "era5", GRID, TIMES[:2])
        assert any("no land_sea_mask" in text and "--static" in text for text in caplog.messages)
        assert len(Reference(tmp_path / "era5").times) == 2
        with pytest.raises(WorldError, match="orography and land_sea_mask"):
            build_world(tmp_path / "era5", tmp_path / "w", "w", [2024], None, "for a test")
        # Added later, from a file.
        dataset[["land_sea_mask", "geopotential_at_surface"]].to_netcdf(tmp_path / "static.nc", engine="h5netcdf")
        place = str(tmp_path / "dry.zarr")
        build_dataset(place, tmp_path / "era5", GRID, TIMES[:2], static=str(tmp_path / "static.nc"))
        assert (tmp_path / "era5/static.nc").is_file()


class TestWorld:
    def test_a_world_whose_reference_is_the_dataset(self, store: str, tmp_path: Path) -> None:
        build_dataset(store, tmp_path / "era5", GRID, TIMES[:8])
        build_world(tmp_path / "era5", tmp_path / "worlds/era5", "era5", [2024], None, "for a test")
        world = load_world(tmp_path / "worlds/era5")
        assert_array_equal(world.reference.times, TIMES[:8])
        assert world.orography.max() == pytest.approx(1000, rel=0.01)
        assert world.statistics.mean[index("msl")] == pytest.approx(101325, rel=0.01)
        build_dataset(store, tmp_path / "era5", GRID, TIMES)
        assert_array_equal(load_world(tmp_path / "worlds/era5").reference.times, TIMES)

    def test_a_climatology_without_hours_is_named(
        self, made: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        build_world(made, tmp_path / "w", "w", [2024], None, "for a test")
        (said,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert f"{made}: the climatology has no hour of the day: 3 days of the training years" in said
        assert "300 are needed" in said

    def test_statistics_may_be_chosen(self, made: Path, world: TinyWorld, tmp_path: Path) -> None:
        for name, given in (("own", Statistics.load(world.folder / "statistics.nc")), ("fw", published_statistics())):
            build_world(made, tmp_path / name, name, [2024], None, "for a test", given, ERA5)
            opened = load_world(tmp_path / name)
            assert_array_equal(opened.statistics.std, given.std)
            assert (opened.statistics.world, opened.statistics.description) == (name, given.description)
            assert opened.reference_kind == ERA5

    def test_training_years_that_are_not_there(self, made: Path, tmp_path: Path) -> None:
        with pytest.raises(WorldError, match=r"training years \[2020\]; it holds 2024-01-30T00"):
            build_world(made, tmp_path / "w", "w", [2020], None, "for a test")
