"""`dacycle forecast` and `dacycle ingest`: from files to files, and one clear line where that cannot be."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import xarray as xr
from click.testing import Result
from numpy.testing import assert_allclose, assert_array_equal
from typer.testing import CliRunner

from dacycle.cycler.cli import app
from dacycle.cycler.cli.files.forecast import read_frames
from dacycle.forecast_adapter.channels import WB2_NAMES
from dacycle.forecast_adapter.grid import get_grid
from dacycle.forecast_adapter.states.files import read_state, write_states
from dacycle.forecast_adapter.states.netcdf_zarr import from_dataset
from dacycle.forecast_adapter.states.products import open_states
from dacycle.forecast_adapter.worlds.reference import Reference
from dacycle.obs_ingest.sources.base import build_source
from dacycle.obs_ingest.table import from_arrow
from dacycle.obs_ingest.window import Window
from tests.archives.content import IGRA, ISD, SONDES, make
from tests.archives.server import Archives, serving
from tests.conftest import TinyWorld
from tests.worlds import forecast_by_hand, make_model

GRID = get_grid("5.625deg")
START = np.datetime64("2024-01-03T00", "h")
HOUR = np.timedelta64(1, "h")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def failed(result: Result, *words: str) -> None:
    """Exit status 2 and one line of error that holds all `words`."""
    assert result.exit_code == 2, result.output
    text = " ".join(re.sub(r"[│╭╰╮╯─]", " ", result.output).split())
    assert "Traceback" not in text
    for word in words:
        assert word in text


@pytest.fixture(scope="module")
def states(world: TinyWorld) -> xr.Dataset:
    """Return a week of states in the WeatherBench2 schema."""
    whole = xr.load_dataset(world.folder / "reference/2024-01-01.nc", engine="h5netcdf")
    return whole[list(WB2_NAMES.values())]


@pytest.fixture(scope="module")
def one(states: xr.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One state in a netCDF file."""
    path = tmp_path_factory.mktemp("states") / "one.nc"
    states.sel(time=[START]).to_netcdf(path, engine="h5netcdf")
    return path


@pytest.fixture(scope="module")
def two(states: xr.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the same state and the one 6 h before."""
    path = tmp_path_factory.mktemp("states") / "two.nc"
    states.sel(time=[START - 6 * HOUR, START]).to_netcdf(path, engine="h5netcdf")
    return path


class TestForecast:
    def test_states_are_the_models(self, world: TinyWorld, one: Path, states: xr.Dataset, tmp_path: Path) -> None:
        out = tmp_path / "folder/forecast.nc"
        result = run("forecast", one, "--model", world.model, "--lead", "48h", "--out", out)
        assert result.exit_code == 0, result.output
        made = xr.load_dataset(out, engine="h5netcdf")
        assert_array_equal(made.time.values, START + 6 * HOUR * np.arange(9))
        frame = from_dataset(states, START).values
        for step in (0, 1, 8):
            found = from_dataset(made, START + step * 6 * HOUR).values
            assert_allclose(found, forecast_by_hand(frame, frame, step), rtol=1e-4, atol=1e-4)

    def test_the_file_is_weatherbench2_with_one_time_a_chunk(self, world: TinyWorld, one: Path, tmp_path: Path) -> None:
        out = tmp_path / "1.nc"
        assert run("forecast", one, "--model", world.model, "--lead", "1d", "--out", out).exit_code == 0
        with xr.open_dataset(out, engine="h5netcdf") as made:
            assert set(made.data_vars) == set(WB2_NAMES.values())
            assert made["geopotential"].dims == ("time", "level", "latitude", "longitude")
            assert made["geopotential"].encoding["chunksizes"][0] == 1
            assert made["time"].encoding["units"] == "hours since 1970-01-01"
            assert made["geopotential"].attrs["units"] == "m2 s-2"
            assert made.attrs["model_world"] == "tiny"
            assert made.attrs["forecast_start"] == "2024-01-03T00"
            assert len(made.attrs["model_digest"]) == 64
        assert len(Reference(tmp_path).times) == 5  # what reads a reference, strict about layouts, reads it too

    def test_one_frame_is_repeated_and_that_is_said(self, world: TinyWorld, one: Path, tmp_path: Path) -> None:
        result = run("forecast", one, "--model", world.model, "--lead", "6h", "--out", tmp_path / "f.nc")
        assert "one frame only" in result.output
        assert "one frame only" in xr.load_dataset(tmp_path / "f.nc", engine="h5netcdf").attrs["notes"]

    def test_two_frames_are_both_used(self, world: TinyWorld, two: Path, tmp_path: Path) -> None:
        command = ["forecast", two, "--model", world.model, "--lead", "6h", "--out", tmp_path / "f.nc"]
        result = run(*command, "--time", "2024-01-03T00")
        assert result.exit_code == 0, result.output
        assert "one frame only" not in result.output
        assert "one frame" not in xr.load_dataset(tmp_path / "f.nc", engine="h5netcdf").attrs["notes"]

    def test_half_of_the_earlier_frame_counts_as_none(self, states: xr.Dataset, tmp_path: Path) -> None:
        states.sel(time=[START]).to_netcdf(tmp_path / "at.nc", engine="h5netcdf")
        half = states[["2m_temperature", "geopotential"]].sel(time=[START - 6 * HOUR])
        half.to_netcdf(tmp_path / "half.nc", engine="h5netcdf")
        earlier, current, notes = read_frames(tmp_path, None, START, GRID)
        assert any("one frame only" in note for note in notes)
        assert_array_equal(earlier.values, current.values)

    def test_frames(self, one: Path, two: Path, states: xr.Dataset, tmp_path: Path) -> None:
        """The earlier frame is the earlier state wherever it is given, and never a later or a distant one."""
        before, at = from_dataset(states, START - 6 * HOUR).values, from_dataset(states, START).values
        other = tmp_path / "before.nc"
        states.sel(time=[START - 6 * HOUR]).to_netcdf(other, engine="h5netcdf")
        for earlier, current, notes in (
            read_frames(two, None, START, GRID),
            read_frames(one, other, None, GRID),
        ):
            assert_array_equal(earlier.values, before)
            assert_array_equal(current.values, at)
            assert notes == []
        earlier, current, notes = read_frames(one, None, None, GRID)
        assert_array_equal(earlier.values, at)
        assert_array_equal(current.values, at)
        assert len(notes) == 1
        distant = tmp_path / "distant.nc"
        states.sel(time=[START - 12 * HOUR, START]).to_netcdf(distant, engine="h5netcdf")
        earlier, _, notes = read_frames(distant, None, START, GRID)
        assert_array_equal(earlier.values, at)
        assert len(notes) == 1

    def test_a_wrong_earlier_file_is_refused(self, world: TinyWorld, one: Path, tmp_path: Path) -> None:
        out = tmp_path / "f.nc"
        result = run("forecast", one, "--previous", one, "--model", world.model, "--out", out)
        failed(result, one.name, "2024-01-02T18")
        assert not out.exists()

    def test_it_goes_on_from_its_own_output(self, world: TinyWorld, one: Path, tmp_path: Path) -> None:
        """24 h and then 24 h more are 48 h at once."""
        first, second, whole = tmp_path / "a.nc", tmp_path / "b.nc", tmp_path / "c.nc"
        model = ["--model", world.model]
        assert run("forecast", one, *model, "--lead", "24h", "--out", first).exit_code == 0
        late = START + 24 * HOUR
        assert run("forecast", first, *model, "--time", late, "--lead", "24h", "--out", second).exit_code == 0
        assert run("forecast", one, *model, "--lead", "48h", "--out", whole).exit_code == 0
        last = START + 48 * HOUR
        assert_array_equal(read_state(second, GRID, last).values, read_state(whole, GRID, last).values)

    def test_zarr(self, world: TinyWorld, states: xr.Dataset, tmp_path: Path) -> None:
        chosen = states.sel(time=[START]).drop_encoding()
        chosen.transpose("time", "level", "longitude", "latitude").sortby("latitude").to_zarr(tmp_path / "s.zarr")
        result = run(
            "forecast", tmp_path / "s.zarr", "--model", world.model, "--lead", "6h", "--out", tmp_path / "f.nc"
        )
        assert result.exit_code == 0, result.output
        assert_array_equal(read_state(tmp_path / "f.nc", GRID, START).values, from_dataset(states, START).values)

    def test_a_finer_grid_is_averaged_down(self, states: xr.Dataset, tmp_path: Path) -> None:
        fine = get_grid("1.5deg")
        dense = states.sel(time=[START]).interp(latitude=fine.latitude, longitude=fine.longitude, method="nearest",
                                               kwargs={"fill_value": "extrapolate"})  # fmt: skip
        dense.astype(np.float32).to_netcdf(tmp_path / "fine.nc", engine="h5netcdf")
        given, used = read_state(tmp_path / "fine.nc", fine), read_state(tmp_path / "fine.nc", GRID)
        assert given.attrs["notes"] == ""
        assert "121 x 240" in used.attrs["notes"]
        means = [(s.values.astype(float) * g.weights).mean((1, 2)) for s, g in ((given, fine), (used, GRID))]
        assert_allclose(means[1], means[0], rtol=1e-5, atol=1e-4)

    def test_real_gfs_file(self, world: TinyWorld, shared: Path, tmp_path: Path) -> None:
        out = tmp_path / "f.nc"
        file = shared / "grid/gfs_2p5_2011011012_f120.grib2"
        result = run("forecast", file, "--model", world.model, "--lead", "12h", "--out", out)
        assert result.exit_code == 0, result.output
        made = xr.load_dataset(out, engine="h5netcdf")
        assert_array_equal(made.time.values, np.datetime64("2011-01-15T12") + 6 * HOUR * np.arange(3))
        for words in ("doubtful", "one frame only", "9.80665"):
            assert words in made.attrs["notes"]
            assert words in " ".join(result.output.split())
        assert made.attrs["source"] == file.name
        warmth = made["2m_temperature"].isel(time=0).weighted(np.cos(np.deg2rad(made.latitude))).mean()
        assert 284 < warmth < 288  # January's global mean

    def test_several_times_need_a_choice(self, world: TinyWorld, two: Path, tmp_path: Path) -> None:
        command = ["forecast", two, "--model", world.model, "--out", tmp_path / "f.nc"]
        failed(run(*command), two.name, "2 times", "2024-01-03T00")
        failed(run(*command, "--time", "2025-01-01T00"), two.name, "2025-01-01T00")
        failed(run(*command, "--time", "yesterday"), "--time", "yesterday")
        failed(run(*command, "--time", "2024-01-03T00:30"), "not on the hour")

    @pytest.mark.parametrize("lead", ["100h", "0h", "-6h", "soon", "7"])
    def test_leads_that_are_none(self, world: TinyWorld, one: Path, tmp_path: Path, lead: str) -> None:
        result = run("forecast", one, "--model", world.model, f"--lead={lead}", "--out", tmp_path / "f.nc")
        failed(result, "--lead", lead, "multiple of 6 h")

    def test_files_that_are_no_states(self, world: TinyWorld, one: Path, states: xr.Dataset, tmp_path: Path) -> None:
        out = tmp_path / "f.nc"
        text, cut, empty = tmp_path / "text.grib2", tmp_path / "cut.nc", tmp_path / "folder"
        text.write_text("not a state\n")
        cut.write_bytes(one.read_bytes()[:5000])
        empty.mkdir()
        partial = tmp_path / "partial.nc"
        states.sel(time=[START]).drop_vars("specific_humidity").to_netcdf(partial, engine="h5netcdf")
        cases = {
            text: "GRIB",
            cut: "cannot be read",
            empty: "holds no GRIB or netCDF file",
            tmp_path / "nowhere.nc": "no such file",
            partial: "specific_humidity",
        }
        for path, words in cases.items():
            failed(run("forecast", path, "--model", world.model, "--out", out), path.name, words)
            assert not out.exists()

    def test_unknown_model(self, one: Path, tmp_path: Path) -> None:
        failed(run("forecast", one, "--model", "oracle", "--out", tmp_path / "f.nc"), "oracle")

    def test_a_forecast_that_fails_leaves_the_old_file(self, one: Path, tmp_path: Path) -> None:
        """A model that blows up: one line says where, and what was there stays."""
        broken = make_model(tmp_path / "broken.onnx", scale=float("nan"))
        out = tmp_path / "f.nc"
        out.write_text("an older file")
        failed(run("forecast", one, "--model", broken, "--lead", "24h", "--out", out), "not finite", one.name)
        assert out.read_text() == "an older file"
        assert sorted(p.name for p in tmp_path.iterdir()) == ["broken.onnx", "f.nc"]


def test_times_in_a_file(two: Path, shared: Path) -> None:
    assert_array_equal(open_states(two).times, [START - 6 * HOUR, START])
    members = shared / "grid/era5_eda10_zt_500_850_3deg_20170101-02_12h.grib"
    assert_array_equal(open_states(members).times, np.datetime64("2017-01-01T00", "h") + 12 * HOUR * np.arange(4))


def test_an_interrupted_write_leaves_nothing(states: xr.Dataset, tmp_path: Path) -> None:
    def cut_off():
        yield from_dataset(states, START)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_states(tmp_path / "f.nc", cut_off(), {})
    assert list(tmp_path.iterdir()) == []


class TestIngest:
    def test_real_synops(self, shared: Path, tmp_path: Path) -> None:
        out = tmp_path / "folder/synop.parquet"
        result = run(
            "ingest", "synop_bufr", shared / "obs/synop_europe_2018112012.bufr", "--time", "2018-11-20T12", "--out", out
        )
        assert result.exit_code == 0, result.output
        table = from_arrow(pq.read_table(out), str(out))
        counts = table["variable"].value_counts()
        assert counts["t2m"] == 1471
        assert 250 < table.loc[table["variable"] == "t2m", "value"].median() < 290
        assert (table["error"] > 0).all()
        assert table["time"].between("2018-11-20T09:00:01", "2018-11-20T15:00").all()
        text = " ".join(result.output.split())
        for words in ("1507", "1471", "values of t2m", "synop_europe_2018112012.bufr", f"{len(table)} values"):
            assert words in text

    def test_as_json(self, shared: Path, tmp_path: Path) -> None:
        out = tmp_path / "synop.parquet"
        file = shared / "obs/synop_europe_2018112012.bufr"
        result = run("ingest", "synop_bufr", file, "--time", "2018-11-20T12", "--out", out, "--json")
        assert result.exit_code == 0, result.output
        content = json.loads(result.stdout)
        assert (content["source"], content["time"], content["out"]) == ("synop_bufr", "2018-11-20T12:00:00Z", str(out))
        assert content["values"] == pq.read_metadata(out).num_rows
        assert content["inventory"]["values"]["t2m"] == 1471
        assert "latency_minutes" in content["inventory"]

    def test_several_files_are_one_table(self, shared: Path, tmp_path: Path) -> None:
        files = [shared / "obs" / name for name in ("synop_europe_2018112012.bufr", "synop_dwd_20210516T1150.bufr")]
        command = ["ingest", "synop_bufr", *files, "--time", "2021-05-16T12", "--out", tmp_path / "t.parquet"]
        result = run(*command)
        assert result.exit_code == 0, result.output
        table = from_arrow(pq.read_table(tmp_path / "t.parquet"), "t")
        assert set(table["time"].dt.year) == {2021}  # the other file's are in another window
        assert "2 files" in result.output

    def test_a_source_that_needs_options(self, shared: Path, tmp_path: Path) -> None:
        """The file says neither which hours its day covers, nor its units."""
        out = tmp_path / "olr.parquet"
        command = ["ingest", "olr_netcdf", shared / "olr/noaa_olr_2p5deg_20080125_with_uvh.nc", "--out", out]
        command += ["--time", "2008-01-26T00", "--option", "variable=o", "--option", "units=W m-2"]
        failed(run(*command), "stamp", "period")
        result = run(*command, "--option", "stamp=start", "--option", "period=24h")
        assert result.exit_code == 0, result.output
        table = from_arrow(pq.read_table(out), str(out))
        assert set(table["period"]) == {24.0}
        assert 101 < table["value"].min() < table["value"].max() < 329
        failed(run(*command, "--option", "stamp"), "stamp", "KEY=VALUE")

    def test_refusals(self, shared: Path, tmp_path: Path) -> None:
        bufr, out = shared / "obs/synop_europe_2018112012.bufr", tmp_path / "t.parquet"
        when = ["--time", "2018-11-20T12", "--out", out]
        grib = shared / "grid/gfs_2p5_3lev_2008021312_f000.grib2"
        failed(run("ingest", "radar", bufr, *when), "radar", "synop_bufr")
        failed(run("ingest", "stations", bufr, *when), "stations", "path")
        failed(run("ingest", "synop_bufr", tmp_path / "nowhere.bufr", *when), "nowhere.bufr", "no such file")
        failed(run("ingest", "synop_bufr", grib, *when), grib.name, "no BUFR message")
        failed(run("ingest", "synop_bufr", bufr, "--time", "1999-01-01T00", "--out", out), bufr.name, "1999-01-01")
        failed(run("ingest", "synop_bufr", bufr, "--time", "noon", "--out", out), "--time", "noon")
        assert not out.exists()


class TestPeriod:
    def test_a_period_becomes_a_folder_and_is_kept(self, shared: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        command = ["ingest", "isd", shared / "obs/isd_014160-99999-2016.gz", "--out", out]
        command += ["--since", "2016-02-01T00", "--until", "2016-02-02T18"]
        result = run(*command)
        assert result.exit_code == 0, result.output
        assert "8 windows made, 0 kept" in " ".join(result.output.split())
        inventory = json.loads((out / "inventory.json").read_text())
        tables = sorted(path.stem for path in out.glob("*.parquet"))
        assert (
            tables == sorted(inventory["windows"]) == [f"201602{d:02}T{h:02}" for d in (1, 2) for h in (0, 6, 12, 18)]
        )
        rows = sum(pq.read_metadata(out / f"{name}.parquet").num_rows for name in tables)
        total = inventory["total"]
        assert total["found"] == total["decoded"] == sum(each["found"] for each in inventory["windows"].values())
        assert rows == sum(total["values"].values())
        assert f"{total['values']['t2m']}" in result.output
        assert len(total["files"]) == 1
        again = run(*command)
        assert "0 windows made, 8 kept" in " ".join(again.output.split())
        assert json.loads((out / "inventory.json").read_text()) == inventory
        content = json.loads(run(*command, "--json").stdout)
        assert (content["windows"], content["made"], content["values"]) == (8, 0, rows)

    def test_refusals(self, shared: Path, tmp_path: Path) -> None:
        command = ["ingest", "isd", shared / "obs/isd_014160-99999-2016.gz", "--out", tmp_path / "out"]
        failed(run(*command), "--time", "--since")
        failed(run(*command, "--since", "2016-02-01T00"), "--until")
        failed(run(*command, "--since", "2016-02-02T00", "--until", "2016-02-01T00"), "after")
        (tmp_path / "out").write_text("a file")
        failed(run(*command, "--since", "2016-02-01T00", "--until", "2016-02-01T00"), "is a file", "folder")


class TestFetch:
    @pytest.fixture
    def archives(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Archives]:
        make(tmp_path / "archives")
        with serving(tmp_path / "archives") as archives:
            monkeypatch.setenv("DACYCLE_MIRROR", archives.url)
            yield archives

    def test_what_is_fetched_is_ingested_and_read(self, archives: Archives, tmp_path: Path) -> None:
        """From nothing to the table of a window, without an address or a station that is typed."""
        for source, how, pattern in (
            ("isd", ["--nearest-to", "5.625deg"], "*/*.csv"),
            ("ghcnh", ["--station", "ASM00094767"], "*/*.psv"),
            ("igra", ["--all"], "*-data*.zip"),
            ("olr_netcdf", [], "*/*.nc"),
        ):
            out, tables = tmp_path / source, tmp_path / f"{source}-tables"
            result = run("fetch", source, "--years", "2022", *how, "--out", out, "--rate", 1000)
            assert result.exit_code == 0, result.output
            assert f"`path` is {out}/{pattern}" in result.output
            files, period = f"{out}/{pattern}", ["--since", "2022-01-03T00", "--until", "2022-01-03T06"]
            result = run("ingest", source, files, *period, "--out", tables)
            assert result.exit_code == 0, result.output
            window = Window(np.datetime64("2022-01-03T00"))
            ingested, read = (
                build_source({"name": source, "cutoff": "none", **spec}, None, 0).read(window)[0]
                for spec in ({"source": "table", "path": str(tables)}, {"source": source, "path": files})
            )
            assert len(ingested) == len(read) > 0
            assert_allclose(ingested["value"], read["value"], rtol=1e-6)

    def test_a_plan_fetches_nothing(self, archives: Archives, tmp_path: Path) -> None:
        command = ["fetch", "isd", "--years", "2022-2023", "--all", "--out", tmp_path / "isd", "--rate", 100, "--plan"]
        result = run(*command)
        assert result.exit_code == 0, result.output
        words = " ".join(result.output.split())
        for expected in ("files 4", "of them here 0", "time at 5 MB/s and 100 requests/s 1 min", "about 0.2 MB"):
            assert expected in words
        assert "not in the archive: 2023: the archive has no folder of this year" in words
        assert not list((tmp_path / "isd").rglob("*99999.csv"))
        content = json.loads(run(*command, "--json").stdout)
        assert (content["files"], content["due"], len(content["lacking"])) == (4, 4, 2)

    def test_failures_end_with_status_2_and_the_rest_is_there(self, archives: Archives, tmp_path: Path) -> None:
        archives.faults.codes[f"/{ISD}/2022/01001099999.csv"] = [403]
        command = ["fetch", "isd", "--years", "2022,2022", "--all", "--out", tmp_path / "isd", "--rate", 1000]
        result = run(*command)
        failed(result, "01001099999.csv: cannot be fetched: 403 Forbidden", "the same command tries them again")
        assert len(list((tmp_path / "isd/2022").glob("*.csv"))) == 3
        content = json.loads(run(*command, "--json").stdout)
        assert (content["fetched"], content["unchanged"], content["failures"]) == (1, 3, [])

    def test_files_that_are_damaged_in_the_archive_are_named_and_left_out(
        self, archives: Archives, tmp_path: Path
    ) -> None:
        archives.faults.short = {f"/{ISD}/2022/01001099999.csv": 9}
        result = run("fetch", "isd", "--years", "2022", "--all", "--out", tmp_path / "isd", "--rate", 1000)
        assert result.exit_code == 0
        said = " ".join(result.stdout.split())
        assert "damaged in the archive, left out: http" in said
        assert "01001099999.csv: ends in the middle of a line: it is cut off" in said
        assert "3 files fetched" in said
        assert "0 unchanged, 1 damaged" in said
        archives.faults.short = {f"/{IGRA}/access/data-por/{name}-data.txt.zip": 9 for name in SONDES["station"]}
        result = run("fetch", "igra", "--years", "2022", "--all", "--out", tmp_path / "igra", "--rate", 1000)
        failed(result, "the archive has none of these files; 2 are damaged there")

    def test_refusals(self, archives: Archives, tmp_path: Path) -> None:
        failed(run("fetch", "isd", "--years", "2016", "--out", tmp_path), "name stations", "--nearest-to")
        failed(run("fetch", "isd", "--years", "2016", "--all", "--station", "a", "--out", tmp_path), "name stations")
        failed(run("fetch", "isd", "--years", "2031", "--all", "--out", tmp_path), "has none of these files")
        failed(run("fetch", "isd", "--years", "2022-2020", "--all", "--out", tmp_path), "list of years")
        failed(run("fetch", "isd", "--years", "2022", "--nearest-to", "5deg", "--out", tmp_path), "5deg", "5.625deg")
        failed(run("fetch", "olr_netcdf", "--years", "2022", "--all", "--out", tmp_path), "no stations to choose")
        failed(run("fetch", "radar", "--years", "2016", "--out", tmp_path), "no archive", "isd")


@pytest.mark.parametrize("command", ["forecast", "ingest", "fetch"])
def test_help_has_an_example(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"Example: dacycle {command}" in " ".join(result.output.split())
