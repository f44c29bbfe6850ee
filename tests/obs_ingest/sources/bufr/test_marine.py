"""Ships and buoys in BUFR: genuine bulletins read a second time by pdbufr, and messages made here."""

import eccodes
import numpy as np
import pandas as pd
import pytest

from dacycle.obs_ingest.errors.model import standard_error
from dacycle.obs_ingest.sources.base import build_source
from dacycle.obs_ingest.sources.bufr.marine import MarineBufr
from dacycle.obs_ingest.sources.bufr.synop import SynopBufr
from dacycle.obs_ingest.station_network.inland import is_inland
from dacycle.obs_ingest.table import check_table
from dacycle.obs_ingest.window import Window

SHIPS = "cases/bufr/A_ISSA05LFPW111700RRA_C_EDZW_20240211170705_50982396.bin"
NOON = "2024-01-02T12"


def read(path, time=NOON, kind=MarineBufr):
    table, inventory = kind(path).read(Window(np.datetime64(time)))
    check_table(table, "marine")
    return table, inventory


def encode(template=308009, category=1, international=0, **values):
    """Return a message of one report at 12 UTC on 2 January 2024."""
    handle = eccodes.codes_bufr_new_from_samples("BUFR4")
    header = {"masterTablesVersionNumber": 35, "dataCategory": category, "internationalDataSubCategory": international}
    header |= {"typicalYear": 2024, "typicalMonth": 1, "typicalDay": 2, "typicalHour": 12, "typicalMinute": 0}
    for key, value in header.items():
        eccodes.codes_set(handle, key, value)
    if template == 315008:
        eccodes.codes_set_array(handle, "inputShortDelayedDescriptorReplicationFactor", [0] * 7)
    else:
        eccodes.codes_set_array(handle, "inputDelayedDescriptorReplicationFactor", [0, 0])
    eccodes.codes_set(handle, "unexpandedDescriptors", template)
    time = {"year": 2024, "month": 1, "day": 2, "hour": 12, "minute": 0, "latitude": 50.0, "longitude": -30.0}
    for key, value in (time | values).items():
        eccodes.codes_set(handle, f"#1#{key}", value)
    eccodes.codes_set(handle, "pack", 1)
    message = eccodes.codes_get_message(handle)
    eccodes.codes_release(handle)
    return message


SHIP = {
    "shipOrMobileLandStationIdentifier": "DBLK", "pressureReducedToMeanSeaLevel": 101300, "airTemperature": 285.0,
    "dewpointTemperature": 281.0, "heightOfBarometerAboveMeanSeaLevel": 20, "nonCoordinatePressure": 101050,
    "windDirection": 270, "windSpeed": 8,
}  # fmt: skip


def test_a_genuine_bulletin_of_ships(full_samples):
    table, inventory = read(full_samples / SHIPS, "2024-02-11T18")
    assert (inventory.found, inventory.decoded) == (40, 40)
    assert inventory.values == {"t2m": 40, "td2m": 38, "msl": 40, "u10": 24, "v10": 24}
    assert inventory.skipped == {"pressure at the height of a ship's barometer": 40}
    assert set(table["elevation"]) == {0}
    row = table[(table["station"] == "CMXXXKP") & (table["variable"] == "t2m")].iloc[0]
    assert (row["latitude"], row["longitude"], row["time"]) == (34.57, -6.89, pd.Timestamp("2024-02-11T17:00"))
    assert row["error"] == pytest.approx(standard_error("t2m", 0, kind="marine"))
    assert row["error"] > standard_error("t2m", 0)


def test_every_value_of_an_independent_reader(full_samples):
    pdbufr = pytest.importorskip("pdbufr")
    table, _ = read(full_samples / SHIPS, "2024-02-11T18")
    names = {"t2m": "airTemperature", "td2m": "dewpointTemperature", "msl": "pressureReducedToMeanSeaLevel"}
    columns = ("shipOrMobileLandStationIdentifier", *names.values(), "windDirection", "windSpeed")
    frame = pdbufr.read_bufr(str(full_samples / SHIPS), columns=columns, required_columns=columns[:1])
    ship = frame[columns[0]].str.strip()
    assert sorted(ship) == sorted(table.loc[table["variable"] == "t2m", "station"])
    expected = {name: frame[key] for name, key in names.items()}
    angle = np.deg2rad(frame["windDirection"].astype(float))
    expected |= {"u10": -frame["windSpeed"] * np.sin(angle), "v10": -frame["windSpeed"] * np.cos(angle)}
    for name, values in expected.items():
        values = values.set_axis(ship).astype(float).dropna().sort_index()
        found = table[table["variable"] == name].set_index("station")["value"].sort_index()
        assert list(found.index) == list(values.index)
        assert found.to_numpy() == pytest.approx(values.to_numpy(), rel=1e-6, abs=1e-6)


def test_genuine_buoys(full_samples):
    """Their sensors' heights are 0 in the message, and the time of their position is another than the report's."""
    table, inventory = read(full_samples / "cases/observing/buoy_27.bufr", "2012-10-31T00")
    assert (inventory.found, inventory.decoded, inventory.values) == (5, 5, {"t2m": 5, "msl": 4})
    assert set(table["station"]) == {"48508", "48732", "48507", "48731", "48536"}
    assert table.loc[table["station"] == "48508", "value"].tolist() == pytest.approx([250.95, 103220])
    table, inventory = read(full_samples / "cases/observing/bssh_180.bufr", "2012-10-31T00")
    assert set(table["station"]) == {"46070"}
    buoy = "cases/bufr/A_IOBH03LFPW161000_C_EDZW_20240216112202_27622614.bin"
    table, inventory = read(full_samples / buoy, "2024-02-16T12")
    assert (inventory.found, inventory.decoded, inventory.missing) == (2, 2, 14)  # it measures waves only


def test_ships_are_no_stations_on_land_and_the_other_way_round(full_samples):
    _, inventory = read(full_samples / "cases/observing/bssh_180.bufr", "2012-10-31T00", SynopBufr)
    assert inventory.skipped == {"ships and buoys (sub-category 180)": 1}
    _, inventory = read(full_samples / SHIPS, "2024-02-11T18", SynopBufr)
    assert inventory.skipped == {"data category 1, not surface data over land": 1}


@pytest.mark.parametrize(
    ("template", "names", "station"),
    [
        (308009, {}, "DBLK"),
        (308009, {"shipOrMobileLandStationIdentifier": "SHIP"}, "+50.00-30.00"),  # it does not want to be named
        (315008, {"marineObservingPlatformIdentifier": 4402532}, "4402532"),
    ],
)
def test_identifiers(tmp_path, template, names, station):
    values = {
        key: SHIP[key] for key in ("airTemperature", "pressureReducedToMeanSeaLevel", "windDirection", "windSpeed")
    }
    values |= {"shipOrMobileLandStationIdentifier": "DBLK"} if template == 308009 else {}
    (tmp_path / "a.bufr").write_bytes(encode(template, international=25 if template == 315008 else 0, **values | names))
    table, inventory = read(tmp_path)
    assert set(table["station"]) == {station}
    assert inventory.values == {"t2m": 1, "msl": 1, "u10": 1, "v10": 1}


def test_a_ship_on_land_is_counted_and_left_out(tmp_path):
    prairie = {"latitude": 50.0, "longitude": -105.0}
    (tmp_path / "a.bufr").write_bytes(encode(**SHIP | prairie) + encode(**SHIP))
    table, inventory = read(tmp_path)
    assert (inventory.found, inventory.decoded) == (2, 1)
    assert inventory.skipped["ship on land"] == 1
    assert set(table["longitude"]) == {-30.0}


def test_a_buoy_on_a_lake_states_its_height(tmp_path):
    lake = {"latitude": 48.0, "longitude": -88.0, "heightOfStationGroundAboveMeanSeaLevel": 183}
    (tmp_path / "a.bufr").write_bytes(encode(**SHIP | lake))
    table, _ = read(tmp_path)
    assert set(table["elevation"]) == {183}


def test_inland():
    inland = {
        "Regina": (50.4, -104.6),
        "Novosibirsk": (55.0, 82.9),
        "Ouagadougou": (12.4, -1.5),
        "Ulaanbaatar": (47.9, 106.9),
    }
    sea = {"Rotterdam": (51.9, 4.3), "the Caspian Sea": (42.0, 50.5), "Hawaii": (20.0, -156.0),
           "the North Pole": (90.0, 0.0),
           "the Panama Canal": (9.1, -79.8), "the date line": (0.0, 180.0), "360 E": (50.0, 330.0)}  # fmt: skip
    assert is_inland(*np.array(list(inland.values())).T).all()
    assert not is_inland(*np.array(list(sea.values())).T).any()


def test_named_in_an_experiment(tmp_path):
    (tmp_path / "a.bufr").write_bytes(encode(**SHIP))
    source = build_source({"source": "marine_bufr", "path": str(tmp_path), "name": "ships"}, None, 0)
    table, _ = source.read(Window(np.datetime64(NOON)))
    assert set(table["source"]) == {"ships"}
