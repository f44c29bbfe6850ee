"""GHCNh. No genuine file is at hand: the tests write files in the layouts that its documentation describes."""

import numpy as np
import pandas as pd
import pytest

from dacycle.obs_ingest.sources.base import build_source
from dacycle.obs_ingest.sources.text.ghcnh import Ghcnh
from dacycle.obs_ingest.table import ObservationError, check_table
from dacycle.obs_ingest.window import Window

NOON = "2024-01-02T12"
ELEMENTS = {
    "temperature": 12.5,
    "dew_point_temperature": -3.1,
    "station_level_pressure": 1002.1,
    "sea_level_pressure": 1013.2,
    "wind_direction": 270,
    "wind_speed": 5.1,
    "precipitation": 9.9,
    "precipitation_6_hour": 3.4,
    "altimeter": 1015.0,
}
CODES = {"Measurement_Code": None, "Quality_Code": "1", "Report_Type": "FM12", "Source_Code": "343"}
VALUES = {"t2m": 285.65, "td2m": 270.05, "msl": 101320, "ps": 100210, "u10": 5.1, "v10": 0, "tp": 3.4}


def report(minute=0, **changes):
    """Return a report of the later layout (by year); `changes` replace elements or their codes."""
    row = {
        "STATION": "NOM00001416",
        "Station_name": "SOLA",
        "DATE": f"{NOON}:{minute:02}:00",
        "LATITUDE": 58.88,
        "LONGITUDE": 5.64,
        "ELEVATION": 7.0,
    }
    for name, value in ELEMENTS.items():
        row[name] = value
        row |= {f"{name}_{code}": text for code, text in CODES.items()}
        row[f"{name}_Source_Station_ID"] = "014160-99999"
    return row | changes


def earlier(row):
    """Return the same in the layout of the period of record."""
    clock = pd.Timestamp(row["DATE"])
    first = {
        "Station_ID": row["STATION"],
        "Station_name": row["Station_name"],
        "Year": clock.year,
        "Month": clock.month,
        "Day": clock.day,
        "Hour": clock.hour,
        "Minute": clock.minute,
        "Latitude": row["LATITUDE"],
        "Longitude": row["LONGITUDE"],
        "Elevation": row["ELEVATION"],
    }
    return first | {
        name: value for name, value in row.items() if name.lower() not in {*map(str.lower, first), "station", "date"}
    }


def write(path, *rows):
    frame = pd.DataFrame(list(rows))
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, sep="|", index=False)
    return path


def read(path, time=NOON, **options):
    return Ghcnh(path, **options).read(Window(np.datetime64(time)))


def values(table):
    """Value by variable, of a table with one report."""
    assert table["variable"].is_unique
    return dict(zip(table["variable"].astype(str), table["value"], strict=True))


@pytest.mark.parametrize("kind", ["psv", "parquet"])
@pytest.mark.parametrize("layout", [dict, earlier])
def test_both_layouts_in_both_kinds(tmp_path, kind, layout):
    path = write(tmp_path / f"GHCNh_NOM00001416_2024.{kind}", layout(report(50)))
    table, inventory = read(path)
    check_table(table, "ghcnh")
    assert values(table) == pytest.approx(VALUES, abs=1e-4)
    assert set(table["time"]) == {pd.Timestamp("2024-01-02T12:50")}
    assert set(table["station"]) == {"NOM00001416"}
    assert table.loc[0, ["latitude", "longitude", "elevation"]].tolist() == pytest.approx([58.88, 5.64, 7])
    assert (inventory.found, inventory.decoded, inventory.missing, inventory.skipped) == (1, 1, 0, {})


@pytest.mark.parametrize("kind", ["psv", "parquet"])
@pytest.mark.parametrize(
    ("quality", "source", "used"),
    [
        *((code, "343", True) for code in ("0", "1", "4", "5", "9", None, "1-Passed all", "9-Missing")),
        *((code, "343", False) for code in ("2", "3", "6", "7", "L", "o", "C", "2-Suspect")),
        ("4", "223", True),
        ("5", "223", False),
        ("5", "348-Something", False),
    ],
)
def test_quality_codes_mean_what_their_source_means(tmp_path, kind, quality, source, used):
    codes = {"temperature_Quality_Code": quality, "temperature_Source_Code": source}
    table, inventory = read(write(tmp_path / f"a.{kind}", report(**codes)))
    assert ("t2m" in values(table)) == used
    assert inventory.skipped == ({} if used else {"value rejected by its provider": 1})


def test_codes_that_parquet_stores_as_numbers(tmp_path):
    codes = {"temperature_Quality_Code": 1.0, "sea_level_pressure_Quality_Code": 2, "temperature_Source_Code": 343}
    table, inventory = read(write(tmp_path / "a.parquet", report(**codes)))
    assert set(VALUES) - set(values(table)) == {"msl"}
    assert inventory.skipped == {"value rejected by its provider": 1}


@pytest.mark.parametrize(
    ("code", "amount"),
    [(None, 3.4), ("3", 3.4), ("T", 0), ("2-Trace", 0), ("4", None), ("E", None), ("06-hr-accum", None)],
)
def test_precipitation_is_the_six_hour_amount(tmp_path, code, amount):
    path = write(tmp_path / "a.psv", report(precipitation_6_hour_Measurement_Code=code))
    table, inventory = read(path)
    assert values(table).get("tp") == (None if amount is None else pytest.approx(amount))
    assert inventory.skipped == ({} if amount is not None else {"value rejected by its provider": 1})


def test_a_direction_of_999_is_none(tmp_path):
    calm = {"wind_direction": 999, "wind_direction_Measurement_Code": "C-Calm", "wind_speed": 0}
    variable = {"wind_direction": 999, "wind_direction_Measurement_Code": "V-Variable", "wind_speed": 2.1}
    table, inventory = read(write(tmp_path / "a.psv", report(0, **calm), report(30, **variable)))
    wind = table[table["variable"].isin(["u10", "v10"])]
    assert wind["value"].tolist() == [0, 0]
    assert set(wind["time"]) == {pd.Timestamp(NOON)}
    assert inventory.skipped == {"wind without a direction": 2}


def test_what_is_absent_is_missing(tmp_path):
    path = write(tmp_path / "a.psv", report(**dict.fromkeys(ELEMENTS)), report(30))
    table, inventory = read(path)
    assert (len(table), inventory.missing, inventory.decoded) == (7, 7, 2)
    without = {name: value for name, value in report().items() if not name.startswith("precipitation")}
    table, inventory = read(write(tmp_path / "b.parquet", without))
    assert set(VALUES) - set(values(table)) == {"tp"}
    assert inventory.missing == 1


def test_damaged_rows_are_counted(tmp_path):
    path = write(tmp_path / "a.psv", report(0, temperature="warm"), report(10), report(20, DATE="soon"))
    text = path.read_text()
    path.write_text(text + text.splitlines()[-1][:200])
    table, inventory = read(path)
    assert (inventory.found, inventory.decoded) == (4, 2)
    assert inventory.skipped == {"damaged": 1, "no time": 1, "value that cannot be read": 1}
    assert inventory.problems[0].startswith(f"{path}, row 5: ")
    assert len(table) == 13


def test_a_year_of_hourly_reports_enters_window_by_window(tmp_path):
    rows = pd.DataFrame([report()] * 48)
    rows["DATE"] = pd.date_range("2024-01-02T00", periods=48, freq="h").strftime("%Y-%m-%dT%H:%M:%S")
    rows.to_csv(tmp_path / "a.psv", sep="|", index=False)
    source = Ghcnh(tmp_path)
    windows = np.arange(np.datetime64("2024-01-01T18"), np.datetime64("2024-01-05T00"), np.timedelta64(6, "h"))
    assert [source.read(Window(time))[1].decoded for time in windows] == [0, 4, 6, 6, 6, 6, 6, 6, 6, 2, 0, 0, 0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>404</html>", "no column station, latitude"),
        (b"PAR1 but no more", "cannot be read"),
        (b"STATION|DATE|LATITUDE|LONGITUDE|ELEVATION|temperature\n", "no column dew_point_temperature"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path, content, message):
    (tmp_path / "page.psv").write_bytes(content)
    with pytest.raises(ObservationError, match=rf"page\.psv: {message}"):
        read(tmp_path)


def test_a_truncated_parquet_file_is_refused_by_name(tmp_path):
    path = write(tmp_path / "cut.parquet", report())
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(ObservationError, match=r"cut\.parquet: cannot be read"):
        read(path)


def test_codes_and_times_are_needed(tmp_path):
    whole = report()
    del whole["DATE"]
    with pytest.raises(ObservationError, match=r"a\.psv: neither a column date nor year, month"):
        read(write(tmp_path / "a.psv", whole))
    whole = report()
    del whole["precipitation_6_hour_Measurement_Code"]
    with pytest.raises(ObservationError, match=r"precipitation_6_hour without .*measurement_code"):
        read(write(tmp_path / "a.psv", whole))


def test_temperatures_that_are_kelvin_less_273_twice_are_refused(tmp_path):
    with pytest.raises(ObservationError, match=r"a\.psv: t2m has a median of 0"):
        read(write(tmp_path / "a.psv", report(temperature=-273.0)))


def test_an_experiment_names_it(tmp_path):
    write(tmp_path / "a.psv", report())
    source = build_source({"source": "ghcnh", "path": str(tmp_path), "latency": "48h", "cutoff": "none"}, None, 0)
    table, inventory = source.read(Window(np.datetime64(NOON)))
    assert set(table["source"]) == {"ghcnh"}
    assert inventory.latency == 2880
