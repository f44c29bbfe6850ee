"""Decoded METARs: a table of bulletins, and MADIS's fields."""

import csv
import re

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from dacycle.obs_ingest.sources.base import build_source
from dacycle.obs_ingest.sources.text.metar import Metar
from dacycle.obs_ingest.table import ObservationError, check_table
from dacycle.obs_ingest.window import Window

BULLETINS, BULLETIN_TIME = "obs/metar_global_2020100106.csv", "2020-10-01T06"
MADIS = "obs/wbx_metar_12stations_202001.parquet"


def read(path, time, **options):
    return Metar(path, **options).read(Window(np.datetime64(time)))


@pytest.fixture(scope="module")
def bulletins(shared):
    return read(shared / BULLETINS, BULLETIN_TIME)


@pytest.fixture(scope="module")
def month(shared):
    """MADIS's January of 2020, window by window: one table, and the inventories."""
    source = Metar(shared / MADIS)
    windows = np.arange(np.datetime64("2020-01-01T00"), np.datetime64("2020-02-01T06"), np.timedelta64(6, "h"))
    tables, inventories = zip(*(source.read(Window(time)) for time in windows), strict=True)
    return pd.concat(tables), inventories


def by_report(table, variable):
    rows = table[table["variable"] == variable]
    return rows.set_index(["station", "time"])["value"].sort_index()


def test_bulletins_against_the_csv_module(shared, bulletins):
    table, inventory = bulletins
    check_table(table, "metar")
    assert inventory.found == inventory.decoded == 1081
    with (shared / BULLETINS).open(newline="") as file:
        rows = list(csv.DictReader(file))
    expected = {name: {} for name in ("t2m", "td2m", "u10", "v10")}
    for row in rows:
        key = (row["ICAO"], pd.Timestamp(row["DateString"].replace("_", "")))
        for name, column in (("t2m", "Temp"), ("td2m", "Dewp")):
            if row[column].strip():
                expected[name][key] = float(row[column]) + 273.15
        if row["Wspd"] and (row["Wdir"] != "0" or row["Wspd"] == "0"):
            angle, speed = np.deg2rad(float(row["Wdir"])), float(row["Wspd"]) * 0.514444
            expected["u10"][key], expected["v10"][key] = -speed * np.sin(angle), -speed * np.cos(angle)
    for name, values in expected.items():
        ours = by_report(table, name)
        assert len(ours) == len(values) > 1000
        assert [ours[key] for key in values] == pytest.approx(list(values.values()), abs=1e-3)


def test_a_bulletin_in_full(bulletins):
    # PAMD 010551Z AUTO 12023G29KT 5SM BR SCT021 BKN028 OVC035 12/11 A2974 RMK AO2 ... P0000 60001 ...: 0.01 inches
    pamd = bulletins[0]
    pamd = pamd[(pamd["station"] == "PAMD") & (pamd["time"] == pd.Timestamp("2020-10-01T05:51"))].set_index("variable")
    speed = 23 * 1852 / 3600
    assert pamd.loc["u10", "value"] == pytest.approx(-speed * np.sin(np.deg2rad(120)), abs=1e-4)
    assert pamd.loc["v10", "value"] == pytest.approx(-speed * np.cos(np.deg2rad(120)), abs=1e-4)
    assert pamd.loc["tp", ["value", "period"]].tolist() == pytest.approx([0.254, 6])


def test_a_wind_of_variable_direction_is_not_taken_for_north(shared, bulletins):
    with (shared / BULLETINS).open(newline="") as file:
        moving = [row for row in csv.DictReader(file) if row["Wdir"] == "0" and row["Wspd"] not in ("", "0")]
    variable = [row for row in moving if " VRB" in row["Raw"]]
    assert len(variable) == 40
    winds = by_report(bulletins[0], "u10")
    assert not any((row["ICAO"], pd.Timestamp(row["DateString"].replace("_", ""))) in winds.index for row in moving)
    assert bulletins[1].skipped == {"wind without a direction": 80}


def test_traces_are_zero(shared, bulletins):
    amounts = by_report(bulletins[0], "tp")
    assert len(amounts) == 30
    with (shared / BULLETINS).open(newline="") as file:
        for row in csv.DictReader(file):
            group = re.search(r" 6(\d{4})\b", row["Raw"].partition("RMK")[2])
            if group and row["Pcp6h"]:
                key = (row["ICAO"], pd.Timestamp(row["DateString"].replace("_", "")))
                assert amounts[key] == pytest.approx(int(group[1]) * 0.254, abs=1e-3)


def test_the_altimeter_setting_is_no_pressure(bulletins, month):
    assert not {"msl", "ps"} & set(bulletins[0]["variable"])
    assert "ps" not in set(month[0]["variable"])


def test_madis_against_pandas(shared, month):
    table, inventories = month
    frame = pd.read_parquet(shared / MADIS)
    assert sum(inventory.found for inventory in inventories) == len(frame)
    frame["time"] = frame["timeObs"].astype("datetime64[s]")
    frame = frame.rename(columns={"stationName": "station"}).set_index(["station", "time"]).sort_index()
    for name, column, scale in (
        ("t2m", "temperature", 1),
        ("td2m", "dewpoint", 1),
        ("msl", "seaLevelPress", 1),
        ("tp", "precip6Hour", 1000),
    ):
        good = frame.loc[frame[column].notna() & ~frame[f"{column}DD"].isin(["X", "Q", "B"]), column] * scale
        ours = by_report(table, name)
        assert list(ours.index) == list(good.index)
        assert ours.to_numpy() == pytest.approx(good.to_numpy(), rel=1e-6)
    assert (by_report(table, "tp") > 0).any()
    bad = frame["windDirDD"].isin(["X", "Q", "B"]) | frame["windSpeedDD"].isin(["X", "Q", "B"])
    calm = frame["windSpeed"] == 0
    winds = frame[~bad & frame["windSpeed"].notna() & (calm | frame["windDir"].between(1, 360))]
    u = -winds["windSpeed"] * np.sin(np.deg2rad(winds["windDir"].fillna(0)))
    assert by_report(table, "u10").to_numpy() == pytest.approx(u.to_numpy(), abs=1e-4)


def test_flagged_values_are_counted(shared, month):
    frame = pd.read_parquet(shared / MADIS)
    single = sum((frame[f"{name}DD"] == "Q").sum() for name in ("temperature", "dewpoint", "seaLevelPress"))
    winds = ((frame["windDirDD"] == "Q") | (frame["windSpeedDD"] == "Q")).sum()
    counted = sum(inventory.skipped.get("value rejected by its provider", 0) for inventory in month[1])
    assert counted == single + 2 * winds > 700


def test_receipt_times_are_madis_own(shared, month):
    frame = pd.read_parquet(shared / MADIS)
    table = month[0]
    waits = (table["received"] - table["time"]).dt.total_seconds() / 60
    assert waits.min() == 1
    assert waits.max() == (frame["timeReceived"] - frame["timeObs"]).max().total_seconds() / 60 == 101
    assert table["latitude"].round(2).equals(table["latitude"])  # 44.88, not single precision's 44.880001


@pytest.mark.parametrize("kind", ["int64", "float64"])
def test_times_of_madis_may_be_seconds_since_1970(shared, tmp_path, kind):
    frame = pd.read_parquet(shared / MADIS)
    for name in ("timeObs", "timeReceived"):
        frame[name] = ((frame[name] - pd.Timestamp(0)) // pd.Timedelta(seconds=1)).astype(kind)
    frame.to_parquet(tmp_path / "seconds.parquet")
    seconds, _ = read(tmp_path / "seconds.parquet", "2020-01-10T12")
    stamps, _ = read(shared / MADIS, "2020-01-10T12")
    assert len(stamps) > 100
    pd.testing.assert_frame_equal(seconds, stamps)


def test_a_flag_decides_whether_a_value_is_used(shared, tmp_path):
    frame = pq.read_table(shared / MADIS).slice(0, 9).to_pandas()
    frame["temperatureDD"] = list("ZCSVGXQBI")
    frame["timeObs"] = pd.Timestamp("2020-01-01")
    frame["stationName"] = [f"S{i}" for i in range(9)]
    frame.to_parquet(tmp_path / "a.parquet")
    table, _ = read(tmp_path, "2020-01-01T00")
    assert set(table.loc[table["variable"] == "t2m", "station"]) == {"S0", "S1", "S2", "S3", "S4"}


def test_damaged_rows_are_counted(shared, tmp_path):
    lines = (shared / BULLETINS).read_text().splitlines()[:40]
    lines[3] = lines[3][:30]
    lines[5] = lines[5].replace("1601530260", "yesterday")
    lines[7] = lines[7].replace(" 13.0", "warm!", 1)
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n" + lines[1][:-20])
    _, inventory = read(tmp_path, BULLETIN_TIME)
    assert inventory.found == 40
    assert inventory.decoded == 37
    assert inventory.skipped.items() >= {"damaged": 2, "no time": 1, "value that cannot be read": 1}.items()
    assert len(inventory.problems) == 2
    assert all(str(tmp_path / "a.csv") in problem for problem in inventory.problems)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"<html>Too many requests</html>\n", "no column unix_time"),
        ("a.csv", b"Unix_time,ICAO,Latitude,Longitude,Elev,Temp\n", "no column dewp, wdir"),
        ("a.parquet", b"PAR1", "cannot be read"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ObservationError, match=f"{re.escape(name)}: {message}"):
        read(tmp_path, BULLETIN_TIME)


def test_degrees_celsius_in_madis_fields_are_refused(shared, tmp_path):
    frame = pd.read_parquet(shared / MADIS).head(100)
    frame["temperature"] -= 273.15
    frame.to_parquet(tmp_path / "celsius.parquet")
    with pytest.raises(ObservationError, match=r"celsius\.parquet: t2m .* degrees Celsius; add 273\.15"):
        read(tmp_path, "2020-01-01T00")


def test_an_experiment_names_it(shared):
    source = build_source({"source": "metar", "path": str(shared / BULLETINS), "latency": "20min"}, None, 0)
    table, inventory = source.read(Window(np.datetime64(BULLETIN_TIME)))
    assert set(table["source"]) == {"metar"}
    assert inventory.latency == 20
