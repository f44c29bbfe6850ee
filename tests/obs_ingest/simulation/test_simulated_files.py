"""Folders of simulated observations."""

import json
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest

from dacycle.forecast_adapter.worlds.reference import ReferenceDataError
from dacycle.obs_ingest.simulation.files import NOTE, simulate
from dacycle.obs_ingest.sources.base import build_source
from dacycle.obs_ingest.table import ObservationError
from dacycle.obs_ingest.window import Window

TIMES = np.arange("2024-01-02T00", "2024-01-02T13", 6, "datetime64[h]")


def spec(folder, kind="olr_netcdf", name="olr"):
    return {"source": kind, "name": name, "path": str(folder)}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("kind", "name", "files"),
    [
        ("synop_bufr", "stations", ["20240102T00.bufr", "20240102T06.bufr", "20240102T12.bufr"]),
        ("temp_bufr", "sondes", ["20240102T00.bufr", "20240102T12.bufr"]),
        ("olr_netcdf", "olr", ["20240102T00.nc", "20240102T06.nc", "20240102T12.nc"]),
    ],
)
def test_a_folder_is_made_once_and_always_the_same(tiny, tmp_path, kind, name, files):
    for folder in ("a", "b/c"):
        assert simulate(spec(tmp_path / folder, kind, name), tiny, 1, TIMES) == len(files)
    made = contents(tmp_path / "a")
    assert sorted(made) == [*files, NOTE]
    assert made == contents(tmp_path / "b/c")
    assert simulate(spec(tmp_path / "a", kind, name), tiny, 1, TIMES) == 0
    assert made == contents(tmp_path / "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_olr_comes_back_from_its_field(tiny, tmp_path):
    simulate(spec(tmp_path / "olr"), tiny, 1, TIMES)
    drawn, before = build_source({"source": "olr"}, tiny, 1).read(Window(TIMES[1]))
    read, after = build_source({**spec(tmp_path / "olr"), "cutoff": "none"}, tiny, 1).read(Window(TIMES[1]))
    assert after.values == before.values
    assert after.missing == before.missing > 0
    rows = drawn.assign(site=drawn["site"].astype(str)).merge(
        read.assign(site=read["site"].astype(str)), on=["site", "time", "period"], validate="1:1"
    )
    assert len(rows) == len(drawn) == len(read)
    assert rows["value_y"].to_numpy() == pytest.approx(rows["value_x"].to_numpy(), rel=1e-6)
    assert rows["error_y"].to_numpy() == pytest.approx(rows["error_x"].to_numpy())
    with h5py.File(tmp_path / "olr/20240102T06.nc") as file:
        hours = np.datetime64("2024-01-02T00") - np.datetime64("1970-01-01T00")
        assert file["time_bounds"][0].tolist() == [hours.astype(int), hours.astype(int) + 6]
        assert file["time"].attrs["bounds"] == b"time_bounds" or file["time"].attrs["bounds"] == "time_bounds"
        value = file["olr"][0, list(file["latitude"][:]).index(2.5), list(file["longitude"][:]).index(7.5)]
    here = drawn[(drawn["latitude"] == 2.5) & (drawn["longitude"] == 7.5)]["value"]
    assert len(here) == 0 if np.isnan(value) else here.item() == pytest.approx(value)


def test_the_name_of_a_source_decides_its_draw(tiny, tmp_path):
    for name in ("olr", "other"):
        simulate(spec(tmp_path / name, name=name), tiny, 1, TIMES)
    assert contents(tmp_path / "olr")["20240102T00.nc"] != contents(tmp_path / "other")["20240102T00.nc"]


@pytest.mark.parametrize(
    ("seed", "times", "message"),
    [(2, TIMES, r"seed 1, not 2"), (1, TIMES[:2], r"last 2024-01-02T12, not 2024-01-02T06")],
)
def test_a_folder_of_another_draw_is_refused(tiny, tmp_path, seed, times, message):
    simulate(spec(tmp_path / "olr"), tiny, 1, TIMES)
    made = contents(tmp_path / "olr")
    with pytest.raises(ObservationError, match=rf"olr: holds other simulated observations .*{message}.*remove it"):
        simulate(spec(tmp_path / "olr"), tiny, seed, times)
    assert made == contents(tmp_path / "olr")


def test_nothing_is_added_to_files_that_are_real(tiny, tmp_path):
    folder = tmp_path / "feed"
    folder.mkdir()
    (folder / "20240102.nc").write_bytes(b"a genuine file")
    with pytest.raises(ObservationError, match=r"feed: holds files that were not simulated"):
        simulate(spec(folder), tiny, 1, TIMES)
    assert list(contents(folder)) == ["20240102.nc"]
    for path in (folder / "20240102.nc", folder / "*.nc"):
        with pytest.raises(ObservationError, match="simulated into a folder"):
            simulate(spec(path), tiny, 1, TIMES)
    with pytest.raises(ObservationError, match="source olr: path is None, not a folder"):
        simulate({"source": "olr_netcdf", "name": "olr"}, tiny, 1, TIMES)


def test_an_unreadable_note_is_named(tiny, tmp_path):
    (tmp_path / "olr").mkdir()
    (tmp_path / "olr" / NOTE).write_text("{")
    with pytest.raises(ObservationError, match=rf"olr/{NOTE}: cannot be read"):
        simulate(spec(tmp_path / "olr"), tiny, 1, TIMES)


def test_an_empty_folder_is_filled(tiny, tmp_path):
    (tmp_path / "olr").mkdir()
    assert simulate(spec(tmp_path / "olr"), tiny, 1, TIMES) == 3


def test_what_cannot_be_drawn_to_the_end_leaves_nothing_behind(tiny, tmp_path):
    beyond = np.arange("2024-01-07T00", "2024-01-09T00", 6, "datetime64[h]")
    with pytest.raises(ReferenceDataError, match="2024-01-08"):
        simulate(spec(tmp_path / "olr"), tiny, 1, beyond)
    assert list(tmp_path.iterdir()) == []


def test_two_at_once_make_one_whole_folder(tiny, tmp_path):
    folder = tmp_path / "olr"
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: simulate(spec(folder), tiny, 1, TIMES), range(4)))
    assert sorted(made) == [0, 0, 0, 3]
    assert len(contents(folder)) == 4
    assert json.loads((folder / NOTE).read_text())["seed"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["olr"]
