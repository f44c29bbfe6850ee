"""Which stations are chosen: a few by hand, and those of the genuine lists."""

import csv
import math
import zipfile

import pandas as pd
import pytest

from dacycle.forecast_adapter.grid import GridError
from dacycle.obs_ingest.archives.choice import Choice, choose
from dacycle.obs_ingest.archives.station_lists import read_ghcnh_stations, read_igra_stations, read_isd_history

NEAREST = Choice(grid="5.625deg")


def stations(**places):
    rows = [(name, latitude, longitude, 0, 9999) for name, (latitude, longitude) in places.items()]
    return pd.DataFrame(rows, columns=["station", "latitude", "longitude", "first", "last"])


def chosen(listed, reports, choice=NEAREST):
    return choose(choice, listed, reports, "2022", 2022, 2022)[0]


def test_the_nearest_to_the_centre_of_each_cell():
    """Cells of 5.625 degrees have centres at 2.8125 N and 0 E, 5.625 E, ..., also across the meridian of 0 degrees."""
    listed = stations(a=(2.8, 0.5), b=(2.8, -0.4), c=(2.8, 5.6), d=(-2.8, 0.0), e=(89.9, 179.9), f=(2.8, 354.4 - 360))
    assert chosen(listed, dict.fromkeys("abcdef", 10)) == ["b", "c", "d", "e", "f"]
    assert chosen(listed, dict.fromkeys("acd", 10)) == ["a", "c", "d"], "only those with reports"


def test_of_those_that_report_much():
    listed = stations(far=(4.0, 2.0), near=(2.8, 0.0), middle=(3.5, 1.0))
    assert chosen(listed, {"far": 100, "near": 49, "middle": 50}) == ["middle"]
    assert chosen(listed, {"far": 100, "near": 50, "middle": 50}) == ["near"]


def test_equal_stations_are_chosen_by_name_whatever_their_order():
    listed = stations(b=(2.8, 1.0), a=(2.8, -1.0))
    assert chosen(listed, {"a": 1, "b": 1}) == chosen(listed[::-1], {"b": 1, "a": 1}) == ["a"]


def test_stations_without_a_position_are_in_no_cell_but_among_all():
    listed = stations(a=(float("nan"), float("nan")), b=(2.8, 1.0))
    assert chosen(listed, {"a": 1, "b": 1, "unlisted": 1}) == ["b"]
    assert chosen(listed, {"a": 1, "b": 1, "unlisted": 1}, Choice(everything=True)) == ["a", "b", "unlisted"]
    assert chosen(listed, {}) == []


def test_an_unknown_grid_is_an_error_at_once():
    with pytest.raises(GridError, match="5deg"):
        Choice(grid="5deg")


def test_the_genuine_history_of_isd(full_samples):
    path = full_samples / "network/stations/isd-history.csv"
    listed = read_isd_history(path)
    cells, rows = set(), 0
    with path.open() as file:
        for row in csv.DictReader(file):
            rows += 1
            if row["LAT"] and row["BEGIN"] <= "20221231" and row["END"] >= "20220101":
                latitude, longitude = float(row["LAT"]), float(row["LON"])
                if (latitude, longitude) != (0, 0) and abs(latitude) <= 90 and abs(longitude) <= 180:
                    cells.add(
                        (math.floor((latitude + 90) / 5.625), math.floor((longitude % 360 + 2.8125) / 5.625) % 64)
                    )
    assert len(listed) == rows == 29648
    due = listed[(listed["first"] <= 20221231) & (listed["last"] >= 20220101)]
    stations, lacking = choose(NEAREST, listed, dict.fromkeys(due["station"], 1), "2022", 20220101, 20221231)
    assert lacking == []
    assert len(stations) == len(set(stations)) == pytest.approx(len(cells), abs=2), "points on edges of cells"
    assert "72530094846" in set(listed["station"]), "Chicago O'Hare"


def test_the_genuine_lists_of_igra_and_ghcnh(full_samples, tmp_path):
    igra = read_igra_stations(full_samples / "network/igra/igra2-station-list.txt").set_index("station")
    assert len(igra) == 2788
    assert igra.loc["USM00072520"].tolist() == [40.5317, -80.2172, 1934, 2018]
    assert igra["latitude"].isna().sum() == 99
    with zipfile.ZipFile(full_samples / "network/stations/ghcnh-station-list.txt.zip") as archive:
        archive.extractall(tmp_path)
    ghcnh = read_ghcnh_stations(tmp_path / "ghcnh-station-list.txt").set_index("station")
    assert len(ghcnh) == 26329
    assert ghcnh.loc["USW00094846", ["latitude", "longitude"]].tolist() == [41.9603, -87.9317]
