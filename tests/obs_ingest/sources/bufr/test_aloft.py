"""Aircraft reports and motion vectors in BUFR: genuine files read a second time, and messages made here."""

import eccodes
import numpy as np
import pandas as pd
import pytest

from dacycle.forecast_adapter.channels import NAMES, index
from dacycle.forecast_adapter.grid import get_grid
from dacycle.forecast_adapter.physics import humidity_from_dewpoint, standard_pressure
from dacycle.obs_ingest.errors.model import standard_error
from dacycle.obs_ingest.operators.columns import equivalents
from dacycle.obs_ingest.sources.base import build_source
from dacycle.obs_ingest.sources.bufr.aircraft import AircraftBufr
from dacycle.obs_ingest.sources.bufr.motion_vectors import MotionVectorsBufr
from dacycle.obs_ingest.superobs import grid_observations
from dacycle.obs_ingest.table import ObservationError, check_table
from dacycle.obs_ingest.window import Window
from tests.obs_ingest.helpers import checked

GRID = get_grid("5.625deg")
NOON = "2024-01-02T12"
FOLDER = "cases/observing"


def read(path, kind=AircraftBufr, time=NOON, **options):
    table, inventory = kind(path, **options).read(Window(np.datetime64(time)))
    check_table(table, "aloft")
    return table, inventory


def messages(path):
    """Yield the unpacked messages of a file."""
    with path.open("rb") as file:
        while (handle := eccodes.codes_bufr_new_from_file(file)) is not None:
            eccodes.codes_set(handle, "unpack", 1)
            yield handle
            eccodes.codes_release(handle)


def column(handle, key):
    n = eccodes.codes_get(handle, "numberOfSubsets")
    return np.broadcast_to(eccodes.codes_get_array(handle, key).astype(float), n)


def encode(template, category, subsets=1, compressed=False, **values):
    """Return a message at 11:58 on 2 January 2024; a list has a value for each subset."""
    handle = eccodes.codes_bufr_new_from_samples("BUFR4")
    header = {"masterTablesVersionNumber": 35, "dataCategory": category, "numberOfSubsets": subsets}
    header |= {"compressedData": int(compressed), "typicalYear": 2024, "typicalMonth": 1, "typicalDay": 2}
    header |= {"typicalHour": 12, "typicalMinute": 0}
    for key, value in header.items():
        eccodes.codes_set(handle, key, value)
    many = 1 if compressed else subsets
    for key, count in (("Short", 7), ("", 7)):
        eccodes.codes_set_array(handle, f"input{key}DelayedDescriptorReplicationFactor", [0] * count * many)
    eccodes.codes_set(handle, "unexpandedDescriptors", template)
    place = {"year": 2024, "month": 1, "day": 2, "hour": 11, "minute": 58, "latitude": 50.0, "longitude": 8.0}
    for key, value in (place | values).items():
        if compressed and isinstance(value, list):
            eccodes.codes_set_array(handle, f"#1#{key}", value)
            continue
        every = value if isinstance(value, list) else [value] * many
        for rank, each in enumerate(every, 1):
            name = key if key.startswith("#") else f"#{rank}#{key}"
            if each is None:
                eccodes.codes_set_missing(handle, name)
            else:
                eccodes.codes_set(handle, name, each)
    eccodes.codes_set(handle, "pack", 1)
    message = eccodes.codes_get_message(handle)
    eccodes.codes_release(handle)
    return message


AIRCRAFT = {
    "aircraftFlightNumber": "LH400", "height": 10360, "windDirection": 270, "windSpeed": 30.0, "airTemperature": 220.0,
    "phaseOfAircraftFlight": 3,
}  # fmt: skip
VECTOR = {
    "pressure": 30000,
    "windDirection": 270,
    "windSpeed": 20.0,
    "satelliteIdentifier": 57,
    "#1#percentConfidence": 90,
}


# Aircraft.


@pytest.mark.parametrize(
    ("file", "time", "reports"),
    [
        ("airc_142", "2012-10-31T00", 1),
        ("amda_144", "2012-10-31T00", 3),
        ("b004_145", "2012-10-31T00", 65),
        ("aircraft_small", "2009-01-23T12", 10),
        ("aircraft_mrar_compressed", "2021-09-09T15", 186),
    ],
)
def test_genuine_aircraft_against_an_independent_reading(full_samples, file, time, reports):
    path = full_samples / FOLDER / f"{file}.bufr"
    table, inventory = read(path, time=time)
    assert (inventory.found, inventory.decoded, inventory.skipped) == (reports, reports, {})
    expected = {"t": [], "u": [], "v": [], "pressure": []}
    for handle in messages(path):
        angle, speed = np.deg2rad(column(handle, "windDirection")), column(handle, "windSpeed")
        expected["t"] += column(handle, "airTemperature").tolist()
        expected["u"] += (-speed * np.sin(angle)).tolist()
        expected["v"] += (-speed * np.cos(angle)).tolist()
        level = "pressure" if eccodes.codes_is_defined(handle, "pressure") else "flightLevel"
        level = level if eccodes.codes_is_defined(handle, level) else "height"
        values = column(handle, level)
        expected["pressure"] += (values if level == "pressure" else standard_pressure(values)).tolist()
    for name in ("t", "u", "v"):
        rows = table[table["variable"] == name]
        assert rows["value"].to_numpy() == pytest.approx(expected[name], abs=1e-9)
        assert rows["pressure"].to_numpy() == pytest.approx(expected["pressure"])


def test_spot_values_of_an_aircraft(full_samples):
    table, _ = read(full_samples / FOLDER / "airc_142.bufr", time="2012-10-31T00")
    assert set(table["station"]) == {"UPS238"}
    assert set(table["time"]) == {pd.Timestamp("2012-10-31T00:13")}
    assert table["pressure"].iloc[0] == pytest.approx(25000, abs=50)  # FL340
    assert table["elevation"].isna().all()
    row = table[table["variable"] == "u"].iloc[0]
    assert row["value"] == pytest.approx(-36 * np.sin(np.deg2rad(340)))
    assert row["error"] == pytest.approx(standard_error("u", row["value"], row["pressure"], "aircraft"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"height": None}, "report without a height"),
        ({"height": 100000}, "report from an impossible height"),
        ({"phaseOfAircraftFlight": 2}, "report of an aircraft in a turn or in unsteady flight"),
    ],
)
def test_reports_that_cannot_be_used_are_counted(tmp_path, change, reason):
    (tmp_path / "a.bufr").write_bytes(encode(311001, 4, **AIRCRAFT) + encode(311001, 4, **AIRCRAFT | change))
    _, inventory = read(tmp_path)
    assert (inventory.found, inventory.decoded, inventory.skipped) == (2, 1, {reason: 1})
    assert inventory.values == {"u": 1, "v": 1, "t": 1}


def test_a_wind_without_a_direction(tmp_path):
    (tmp_path / "a.bufr").write_bytes(encode(311001, 4, **AIRCRAFT | {"windDirection": 0}))
    _, inventory = read(tmp_path)
    assert inventory.skipped == {"wind without a direction": 2}
    assert inventory.values == {"t": 1}


@pytest.mark.parametrize("compressed", [False, True])
def test_several_aircraft_in_one_message(tmp_path, compressed):
    """Two reports of an aircraft in one minute are two reports, not versions of one."""
    values = AIRCRAFT | {"height": [10000, 10300, 9000], "airTemperature": [220.0, 221.0, 222.0]}
    (tmp_path / "a.bufr").write_bytes(encode(311001, 4, 3, compressed, **values))
    table, inventory = read(tmp_path)
    assert (inventory.found, inventory.decoded) == (3, 3)
    assert table.loc[table["variable"] == "t", "value"].tolist() == [220, 221, 222]


def test_humidity_of_aircraft(tmp_path):
    values = {"windDirection": 270, "windSpeed": 30.0, "airTemperature": 270.0, "minute": 58, "second": 30}
    low, high = values | {"flightLevel": 4000}, values | {"flightLevel": 12500}
    ratio = [encode(311010, 4, **level, mixingRatio=0.002) for level in (low, high)]
    relative = encode(311010, 4, **low | {"latitude": 51.0}, relativeHumidity=60)
    (tmp_path / "a.bufr").write_bytes(b"".join([*ratio, relative]))
    table, _ = read(tmp_path)
    q = table[table["variable"] == "q"].set_index("latitude")["value"]
    assert len(q) == 2  # none above 200 hPa
    assert q[50.0] == pytest.approx(0.002 / 1.002)
    assert q[51.0] == pytest.approx(0.6 * humidity_from_dewpoint(270.0, standard_pressure(4000)), rel=0.01)


def test_standard_pressure():
    assert standard_pressure([0, 11000, 20000]) == pytest.approx([101325, 22632, 5475], rel=1e-3)
    assert standard_pressure(100000) < 1
    assert np.isnan(standard_pressure(np.nan))


# Motion vectors.


@pytest.mark.parametrize(
    ("file", "time", "found"),
    [
        ("emsg_87", "2012-10-31T12", 984),
        ("goes_87", "2012-10-31T00", 280),
        ("amv2_87", "2012-11-02T00", 915),
        ("avhm_87", "2012-11-02T00", 586),
        ("euwv_87", "2012-10-31T00", 452),
    ],
)
def test_genuine_motion_vectors_against_an_independent_reading(full_samples, file, time, found):
    path = full_samples / FOLDER / f"{file}.bufr"
    table, inventory = read(path, MotionVectorsBufr, time)
    rows = []
    for handle in messages(path):
        names = (
            "latitude",
            "pressure",
            "windDirection",
            "windSpeed",
            "satelliteDerivedWindComputationMethod",
        )
        values = [column(handle, f"#1#{name}") for name in names]
        rows.append(np.stack([*values, column(handle, "#1#windSpeed->percentConfidence")], axis=1))
    latitude, pressure, direction, speed, method, confidence = np.concatenate(rows).T
    assert inventory.found == len(latitude) == found
    clear = method == 5
    low = ~clear & ~((confidence >= 80) & (confidence <= 100))
    assert inventory.skipped.get("motion vector of clear sky", 0) == clear.sum()
    assert inventory.skipped.get("report of low quality", 0) == low.sum()
    good = ~clear & ~low
    assert inventory.decoded == good.sum() == inventory.values["u"]
    u = table[table["variable"] == "u"]
    assert u["value"].to_numpy() == pytest.approx((-speed * np.sin(np.deg2rad(direction)))[good], abs=1e-9)
    assert u["pressure"].to_numpy() == pytest.approx(pressure[good])
    assert u["latitude"].to_numpy() == pytest.approx(latitude[good])
    assert (u["station"].astype(str) == u["site"].astype(str)).all()  # they are no stations


def test_spot_values_of_a_motion_vector(full_samples):
    table, _ = read(full_samples / FOLDER / "emsg_87.bufr", MotionVectorsBufr, "2012-10-31T12")
    row = table.iloc[0]
    assert (row["latitude"], row["longitude"], row["pressure"]) == (25.7205, -19.41167, 48340)
    assert row["value"] == pytest.approx(-24 * np.sin(np.deg2rad(238)))
    assert row["error"] == pytest.approx(standard_error("u", row["value"], 48340, "motion vectors"))


def test_the_current_template(tmp_path):
    low = VECTOR | {"#1#percentConfidence": 50, "latitude": 51.0}
    blind = VECTOR | {"pressure": None, "latitude": 52.0}
    second = {key: value for key, value in VECTOR.items() if key != "#1#percentConfidence"} | {"latitude": 53.0}
    second |= {"#2#percentConfidence": 85}
    (tmp_path / "a.bufr").write_bytes(b"".join(encode(310077, 5, **each) for each in (VECTOR, low, blind, second)))
    table, inventory = read(tmp_path, MotionVectorsBufr)
    assert inventory.skipped == {"report of low quality": 1, "report without a height": 1}
    assert table.loc[table["variable"] == "u", "value"].tolist() == pytest.approx([20, 20])
    assert read(tmp_path, MotionVectorsBufr, quality=40)[1].decoded == 3
    with pytest.raises(ObservationError, match="quality is 200"):
        MotionVectorsBufr(tmp_path, quality=200)


def test_other_messages_are_counted(full_samples):
    """Radiances of satellites and SYNOPs."""
    for file, time in (("goga_89", "2012-10-31T00"), ("bssh_170", "2012-10-31T00")):
        for kind in (AircraftBufr, MotionVectorsBufr):
            table, inventory = read(full_samples / FOLDER / f"{file}.bufr", kind, time)
            assert table.empty
            assert inventory.decoded == 0


def test_quality_control_and_superobs_take_values_between_the_levels(tmp_path):
    """H interpolates in ln p; a superob takes the departure on the nearest level."""
    good = AIRCRAFT | {"height": 9000, "airTemperature": 229.0}
    gross = AIRCRAFT | {"height": 9000, "airTemperature": 260.0, "latitude": 20.0}
    (tmp_path / "a.bufr").write_bytes(encode(311001, 4, **good) + encode(311001, 4, **gross))
    table, _ = read(tmp_path)
    table = table[table["variable"] == "t"]
    state = np.zeros((len(NAMES), *GRID.shape))
    state[index("t300")], state[index("t400")] = 228.0, 241.0
    modelled = equivalents(table, state, GRID, np.zeros(GRID.shape))
    share = np.log(table["pressure"].to_numpy() / 30000) / np.log(4 / 3)
    assert modelled == pytest.approx(228.0 + 13.0 * share)
    window = Window(np.datetime64(NOON))
    done = checked(table, window, modelled, np.ones(len(NAMES)), GRID, np.zeros(GRID.shape), share=0.0)
    assert done["reason"].tolist() == ["", "background_check"]
    gridded = grid_observations(done, modelled, state, GRID)
    assert np.count_nonzero(gridded.errors) == 1
    assert gridded.errors[index("t300")].max() > 0


def test_named_in_an_experiment(tmp_path):
    (tmp_path / "a.bufr").write_bytes(encode(311001, 4, **AIRCRAFT) + encode(310077, 5, **VECTOR))
    for kind, values in (("aircraft_bufr", {"u", "v", "t"}), ("amv_bufr", {"u", "v"})):
        source = build_source({"source": kind, "path": str(tmp_path)}, None, 0)
        table, _ = source.read(Window(np.datetime64(NOON)))
        assert set(table["variable"]) == values
