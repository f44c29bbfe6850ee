"""Experiments whose reference or start is a product: ERA5 in Zarr, a folder of analyses in GRIB; and what it holds."""

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from typer.testing import CliRunner

from dacycle.common.configuration import parse_value, write_yaml
from dacycle.common.errors import DacycleError
from dacycle.cycler.archive.branches import Archive
from dacycle.cycler.cli import app
from dacycle.cycler.cycle.inputs import load_inputs
from dacycle.cycler.cycle.replay import run_due_cycles
from dacycle.cycler.experiment import ExperimentError, load_experiment
from dacycle.cycler.operations.service import Service
from dacycle.forecast_adapter.channels import NAMES
from dacycle.forecast_adapter.grid import get_grid
from dacycle.forecast_adapter.states.products import open_states
from dacycle.forecast_adapter.worlds.reference import ProductReference
from tests.conftest import TinyWorld
from tests.cycler import replays, tiny
from tests.forecast_adapter.made import START, made_state, write_grib

pytestmark = pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")


def world_elsewhere(world: TinyWorld, folder: Path, place: str) -> Path:
    """Return the tiny world with its reference at another place."""
    folder.mkdir()
    for part in ("statistics.nc", "climatology.nc", "static.nc"):
        shutil.copy(world.folder / part, folder / part)
    described = parse_value((world.folder / "world.yaml").read_text(), "a file of the test", DacycleError)
    (folder / "world.yaml").write_text(write_yaml(described | {"states": place}))
    return folder


@pytest.fixture(scope="module")
def era5(world: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the tiny world's reference as the low-resolution stores of WeatherBench2 have it."""
    store = tmp_path_factory.mktemp("era5") / "6h-64x32.zarr"
    with xr.open_dataset(world.folder / "reference/2024-01-01.nc", engine="h5netcdf") as dataset:
        turned = dataset.load().transpose("time", ..., "longitude", "latitude").sortby("latitude").drop_encoding()
    turned.to_zarr(store)
    return store


def test_a_replay_against_zarr_is_the_replay_against_files(world: TinyWorld, era5: Path, tmp_path: Path) -> None:
    """Observations drawn, cold start, analyses and departures, bit for bit."""
    for name, folder in (("files", world.folder), ("zarr", world_elsewhere(world, tmp_path / "world", str(era5)))):
        content = replays.content(folder, world.model, tmp_path)
        run_due_cycles(replays.experiment(content), Archive(tmp_path / name, create=True), limit=2)
    one, other = (replays.everything(tmp_path / name) for name in ("files", "zarr"))
    assert one.keys() == other.keys()
    for key in one.keys() - {"records"}:  # a record holds the digest of its experiment, which names the world's folder
        assert one[key] == other[key], key


def test_a_run_starts_from_a_store(world: TinyWorld, era5: Path, tmp_path: Path) -> None:
    content = replays.content(world.folder, world.model, tmp_path, cold_start={"state": str(era5)})
    archive = Archive(tmp_path / "archive", create=True)
    run_due_cycles(replays.experiment(content), archive, limit=1)
    first = archive.branch("demo").analysis["geopotential"].isel(time=0).values
    assert np.array_equal(first, open_states(era5).state("2024-01-03T00").values[4:17])


def test_an_incomplete_analysis_is_named(world: TinyWorld, tmp_path: Path) -> None:
    """The two frames before the first cycle from a folder of analyses: one lacks a field, then it comes."""
    folder = tmp_path / "analyses"
    folder.mkdir()
    write_grib(folder / "00.grib2", made_state())
    write_grib(folder / "06.grib2", made_state(6), [name for name in NAMES if name not in ("t2m", "q500")])
    elsewhere = world_elsewhere(world, tmp_path / "world", "../analyses")
    # A lagged start of 12 h needs the analyses 24 and 18 h before the first cycle.
    content = replays.content(elsewhere, world.model, tmp_path, start="2024-03-02T00", end="2024-03-02T00")
    with pytest.raises(ExperimentError) as caught:
        load_inputs(replays.experiment(content))
    for words in ("needs the reference at 2024-03-01T06;", "missing t2m (2m_temperature); q", "on levels 500 hPa"):
        assert words in str(caught.value)
    write_grib(folder / "06.grib2", made_state(6), ["t2m", "q500"])
    assert ProductReference(folder, get_grid("5.625deg")).missing([START, START + 6]) == []


def test_a_damaged_file_of_the_reference_holds_a_live_run_up_until_it_is_mended(
    world: TinyWorld, era5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ProductReference, "AGAIN", 0.0)
    store = tmp_path / "era5.zarr"
    shutil.copytree(era5, store)
    elsewhere = world_elsewhere(world, tmp_path / "world", str(store))
    experiment = load_experiment(tiny.write_experiment(tmp_path, TinyWorld(world.name, elsewhere, world.model)))
    archive = Archive(tmp_path / "archive", create=True)
    service = Service(experiment, archive, forecasts=False, retry=pd.Timedelta(seconds=0.5))
    service.run_due(now=tiny.START + pd.Timedelta("3h"))
    chunks = [path for path in (store / "temperature").rglob("*") if path.is_file() and path.name != "zarr.json"]
    whole = {path: path.read_bytes() for path in chunks}
    for path, content in whole.items():
        path.write_bytes(content[: len(content) // 2])
    with caplog.at_level("INFO"):
        thread = threading.Thread(target=service.serve)
        thread.start()
        while "trying again" not in caplog.text:
            thread.join(0.1)
            assert thread.is_alive(), caplog.text
        assert "temperature" in caplog.text
        assert "era5.zarr" in caplog.text
        for path, content in whole.items():
            path.write_bytes(content)
        thread.join(60)
    assert not thread.is_alive()
    assert len(tiny.records(archive.folder)) == 2 + tiny.CYCLES


class TestStates:
    """`dacycle states`."""

    def run(self, *arguments: object) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["states", *map(str, arguments)], env={"COLUMNS": "200"})
        return result.exit_code, result.output

    def test_newest_whole_state_and_what_others_lack(self, tmp_path: Path) -> None:
        write_grib(tmp_path / "00.grib2", made_state())
        write_grib(tmp_path / "06.grib2", made_state(6), [name for name in NAMES if name not in ("z50", "z100")])
        write_grib(tmp_path / "12.grib2", made_state(12), run=START)
        code, text = self.run(tmp_path, "--analyses")
        assert code == 0
        assert "2 times on a 13 x 24 grid" in text
        assert "newest whole state: 2024-03-01T00" in text
        lines = [line for line in text.splitlines() if line.strip().startswith("2024")]
        assert [line.split()[0] for line in lines] == ["2024-03-01T06", "2024-03-01T00"]
        assert "missing z (geopotential) on levels 50, 100 hPa" in lines[0]
        assert "whole" in lines[1]
        assert "forecast of 12 h from 2024-03-01T00" in self.run(tmp_path)[1]

    def test_as_json(self, tmp_path: Path) -> None:
        write_grib(tmp_path / "00.grib2", made_state())
        write_grib(tmp_path / "06.grib2", made_state(6), [name for name in NAMES if name != "t2m"])
        (tmp_path / "b.grib2").write_bytes((tmp_path / "00.grib2").read_bytes()[:-100])
        code, text = self.run(tmp_path, "--json")
        assert code == 0
        content = json.loads(text)
        assert (content["times"], content["grid"]) == (2, {"rows": 13, "columns": 24})
        assert content["newest_whole"] == "2024-03-01T00:00:00Z"
        assert [(state["time"], state["whole"]) for state in content["states"]] == [
            ("2024-03-01T06:00:00Z", False), ("2024-03-01T00:00:00Z", True)
        ]  # fmt: skip
        assert "t2m" in content["states"][0]["state"]
        assert list(content["left_out"]) == ["b.grib2"]

    def test_none_is_whole(self, tmp_path: Path) -> None:
        write_grib(tmp_path / "a.grib2", made_state(), ["t2m"])
        code, text = self.run(tmp_path)
        assert code == 1
        assert "newest whole state: none" in text

    def test_nothing_there(self, tmp_path: Path) -> None:
        code, text = self.run(tmp_path / "nowhere")
        assert code == 2
        assert "no such file or folder" in text

    def test_files_left_out(self, tmp_path: Path) -> None:
        write_grib(tmp_path / "a.grib2", made_state())
        (tmp_path / "b.grib2").write_bytes((tmp_path / "a.grib2").read_bytes()[:-100])
        assert "left out: b.grib2: truncated or corrupt after 68 fields" in self.run(tmp_path)[1]
