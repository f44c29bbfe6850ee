"""NOAA's Integrated Surface Database, in both layouts."""

import csv
import gzip
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dacycle.obs_ingest.sources.base import build_source
from dacycle.obs_ingest.sources.text.isd import Isd
from dacycle.obs_ingest.table import ObservationError, check_table
from dacycle.obs_ingest.window import Window

NORWAY, AFGHANISTAN = "obs/isd_014160-99999-2016.gz", "obs/isd_global_hourly_00702699999.csv"
NOON = "2024-01-02T12"
CELL = {"WND": "270,1,N,0051,1", "TMP": "+0125,1", "DEW": "-0031,1", "SLP": "10132,1", "MA1": "10150,1,10021,1"}


def read(path, time=NOON, **options):
    return Isd(path, **options).read(Window(np.datetime64(time)))


def values(table):
    """Value by variable, of a table with one report."""
    assert table["variable"].is_unique
    return dict(zip(table["variable"].astype(str), table["value"], strict=True))


def write_csv(path, *reports):
    """Global-Hourly CSV of one report each; what is not given is `CELL`, and no precipitation."""
    place = {"LATITUDE": "59.1", "LONGITUDE": "10.2", "ELEVATION": "20.0", "REPORT_TYPE": "FM-12"}
    rows = [{"STATION": "01416099999", "DATE": f"{NOON}:00:00", **place, **CELL, **report} for report in reports]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)
    return path


def native(cells, additional=""):
    """Return a native record of noon with the given CSV cells."""
    wind, temperature, dewpoint, pressure = (cells[name].replace(",", "") for name in ("WND", "TMP", "DEW", "SLP"))
    sky = "99999999N9999999N9"[:17]
    fixed = f"014160999992024010212004+59100+010200FM-12+002099999V020{wind}{sky}{temperature}{dewpoint}{pressure}"
    variable = f"ADDMA1{cells['MA1'].replace(',', '')}{additional}REMSYN004AAXX="
    return f"{len(variable):04d}{fixed}{variable}\n"


def test_a_native_year_file(shared):
    table, inventory = read(shared / NORWAY, "2016-01-01T00")
    check_table(table, "norway")
    assert inventory.found == inventory.decoded == 4  # at 00, 01, 02 and 03 UTC
    midnight = table[table["time"] == pd.Timestamp("2016-01-01T00:00")].set_index("variable")
    # the record says +00731 and +00291, AA106000091, and no wind and no pressure
    assert sorted(midnight.index) == ["t2m", "td2m", "tp"]
    assert midnight.loc["t2m", "value"] == pytest.approx(280.45)
    assert midnight.loc["td2m", "value"] == pytest.approx(276.05)
    assert midnight.loc["tp", ["value", "period"]].tolist() == [0.0, 6.0]
    assert midnight.loc["t2m", ["latitude", "longitude", "elevation"]].tolist() == pytest.approx([58.95, 5.733, 72])
    assert midnight.loc["t2m", "station"] == "01416099999"


def test_six_hour_amounts_agree_with_the_synops_own_text(shared):
    path = shared / NORWAY
    reports = Isd(path).parse(path).reports
    decoded = dict(zip(reports["time"].tolist(), reports["tp"].tolist(), strict=True))
    compared = []
    for line in gzip.decompress(path.read_bytes()).decode("latin-1").splitlines():
        # Group 6RRRt of section 1, t = 1 for six hours; RRR from 990 on are tenths of a millimetre.
        group = re.search(r" 6(\d{3})1[ =]", line.partition("REM")[2].partition(" 333")[0])
        if group:
            amount = int(group[1])
            time = pd.to_datetime(line[15:27], format="%Y%m%d%H%M").to_pydatetime()
            compared.append((decoded[time], amount if amount < 990 else (amount - 990) / 10))
    ours, text = np.array(compared).T
    assert len(ours) > 300
    assert (text > 0).sum() > 100
    assert ours == pytest.approx(text, abs=1e-5)


def test_each_report_of_a_month_comes_in_one_window(shared):
    source = Isd(shared / NORWAY)
    windows = np.arange(np.datetime64("2016-02-01T00"), np.datetime64("2016-03-01T00"), np.timedelta64(6, "h"))
    found = sum(source.read(Window(time))[1].found for time in windows)
    with gzip.open(shared / NORWAY, "rt", encoding="latin-1") as file:
        times = [line[15:27] for line in file]
    assert found == sum("201601312100" < time <= "201602292100" for time in times) > 400


def test_reports_with_a_bogus_position_are_counted_not_used(shared):
    table, inventory = read(shared / AFGHANISTAN, "2017-02-10T18")
    assert table.empty
    assert inventory.found == inventory.skipped["no position"] == 72
    assert inventory.decoded == 0


def test_a_global_hourly_file_against_the_csv_module(shared, tmp_path):
    text = (shared / AFGHANISTAN).read_text().replace('"0.0","0.0","7026.0"', '"34.5","69.2","1500.0"')
    (tmp_path / "moved.csv").write_text(text)
    source = Isd(tmp_path / "moved.csv")
    rows = list(csv.DictReader(text.splitlines()))
    expected, undirected, flagged = {}, 0, 0
    for row in rows:
        for name, column in (("t2m", "TMP"), ("td2m", "DEW")):
            value, quality = row[column].split(",")
            flagged += quality == "2"
            if quality != "2" and value != "+9999":
                expected[row["DATE"], name] = int(value) / 10 + 273.15
        direction, _, kind, speed, _ = row["WND"].split(",")
        if direction != "999" or kind == "C":
            expected[row["DATE"], "u10"] = -int(speed) / 10 * np.sin(np.deg2rad(int(direction)))
            expected[row["DATE"], "v10"] = -int(speed) / 10 * np.cos(np.deg2rad(int(direction)))
        else:
            undirected += 2
    got, skipped = {}, {}
    days = np.arange(np.datetime64("2017-02-10T00"), np.datetime64("2017-08-23T00"), np.timedelta64(6, "h"))
    for time in days:
        table, inventory = source.read(Window(time))
        keys = zip(table["time"].dt.strftime("%Y-%m-%dT%H:%M:%S"), table["variable"].astype(str), strict=True)
        got.update(zip(keys, table["value"], strict=True))
        for reason, count in inventory.skipped.items():
            skipped[reason] = skipped.get(reason, 0) + count
    assert got.keys() == expected.keys()
    assert [got[key] for key in expected] == pytest.approx(list(expected.values()), abs=1e-4)
    assert flagged > 0
    assert skipped == {"wind without a direction": undirected, "value rejected by its provider": flagged}


def test_scales_and_missing_codes(tmp_path):
    table, _ = read(write_csv(tmp_path / "a.csv", {"AA1": "06,0034,9,1"}))
    expected = {"t2m": 285.65, "td2m": 270.05, "msl": 101320, "ps": 100210, "u10": 5.1, "v10": 0, "tp": 3.4}
    assert values(table) == pytest.approx(expected, abs=1e-4)
    absent = {"WND": "999,9,9,9999,9", "TMP": "+9999,9", "DEW": "+9999,9", "SLP": "99999,9", "MA1": "10150,1,99999,9"}
    table, inventory = read(write_csv(tmp_path / "b.csv", absent))
    assert table.empty
    assert (inventory.decoded, inventory.missing, inventory.skipped) == (1, 7, {})


def test_the_altimeter_setting_is_no_pressure(tmp_path):
    table, _ = read(write_csv(tmp_path / "a.csv", {"SLP": "99999,9", "MA1": "10150,1,99999,9"}))
    assert not {"msl", "ps"} & set(table["variable"])


@pytest.mark.parametrize(("code", "used"), [*((c, True) for c in "01459ACMPRU"), *((c, False) for c in "2367X")])
def test_quality_codes(tmp_path, code, used):
    table, inventory = read(write_csv(tmp_path / "a.csv", {"TMP": f"+0125,{code}", "WND": f"270,1,N,0051,{code}"}))
    assert ("t2m" in values(table)) == ("u10" in values(table)) == used
    assert inventory.skipped == ({} if used else {"value rejected by its provider": 3})


@pytest.mark.parametrize(
    ("groups", "amount"),
    [
        (["01,0010,9,1", "06,0034,9,1"], 3.4),
        (["12,0034,9,1", "03,0010,9,1", "24,0100,9,1", "06,0007,3,1"], 0.7),
        (["06,0000,2,1"], 0.0),
        (["12,0034,9,1"], None),
        (["06,9999,9,9"], None),
        (["06,0034,4,1"], None),
        (["06,0034,I,1"], None),
        (["06,0034,9,3"], None),
    ],
)
def test_the_precipitation_of_six_hours(tmp_path, groups, amount):
    cells = {f"AA{i + 1}": group for i, group in enumerate(groups)}
    table, _ = read(write_csv(tmp_path / "a.csv", cells))
    assert values(table).get("tp") == (None if amount is None else pytest.approx(amount))
    additional = "".join(name + group.replace(",", "") for name, group in cells.items())
    (tmp_path / "native").write_text(native(CELL, additional))
    assert values(read(tmp_path / "native")[0]) == values(table)


@given(
    temperature=st.integers(-932, 618),
    pressure=st.integers(8600, 10900),
    direction=st.integers(1, 360),
    speed=st.integers(0, 900),
    qualities=st.lists(st.sampled_from("0123456789ACIMPRU"), min_size=4, max_size=4),
)
def test_both_layouts_say_the_same(tmp_path_factory, temperature, pressure, direction, speed, qualities):
    folder = tmp_path_factory.mktemp("isd")
    first, second, third, fourth = qualities
    cells = CELL | {
        "TMP": f"{temperature:+05d},{first}",
        "SLP": f"{pressure:05d},{second}",
        "WND": f"{direction:03d},{third},N,{speed:04d},{fourth}",
    }
    (folder / "native").write_text(native(cells))
    ours, theirs = read(write_csv(folder / "a.csv", cells)), read(folder / "native")
    assert values(ours[0]) == values(theirs[0])
    assert ours[1].skipped == theirs[1].skipped
    if first not in "23678":
        assert values(ours[0])["t2m"] == pytest.approx(temperature / 10 + 273.15, abs=1e-4)


def test_several_reports_of_an_hour_stay_and_repeats_are_counted(tmp_path):
    routine, special = {"REPORT_TYPE": "FM-15"}, {"REPORT_TYPE": "FM-16", "DATE": "2024-01-02T12:20:00"}
    table, inventory = read(write_csv(tmp_path / "a.csv", {"SLP": "99999,9"}, routine, special, special))
    assert (inventory.found, inventory.decoded) == (4, 3)
    assert inventory.skipped == {"repeated report": 1}
    assert (table["variable"] == "t2m").sum() == 3


def test_an_unknown_elevation_stays_unknown(tmp_path):
    table, _ = read(write_csv(tmp_path / "a.csv", {"ELEVATION": "9999.0"}))
    assert len(table) == 6
    assert table["elevation"].isna().all()


def test_values_that_cannot_be_read_are_counted(tmp_path):
    reports = [{"TMP": "12.5"}, {"DATE": "2024-02-30T12:00:00"}, {"LATITUDE": "north"}]
    table, inventory = read(write_csv(tmp_path / "a.csv", *reports))
    assert inventory.skipped == {"no time": 1, "no position": 1, "value that cannot be read": 1}
    assert set(table["variable"]) == {"td2m", "msl", "ps", "u10", "v10"}


def test_a_file_that_was_cut_off_is_read_up_to_there(shared, tmp_path):
    packed = (shared / NORWAY).read_bytes()
    (tmp_path / "cut.gz").write_bytes(packed[: len(packed) // 2])
    parsed = Isd(tmp_path).parse(tmp_path / "cut.gz")
    assert len(parsed.reports) > 3000
    assert parsed.problems[0] == f"{tmp_path / 'cut.gz'}: the compressed file is cut off"
    assert "not of the length it states" in parsed.problems[1]

    text = (shared / AFGHANISTAN).read_text().replace('"0.0","0.0"', '"34.5","69.2"')
    for end in range(len(text) // 2, len(text) // 2 + 400, 23):
        (tmp_path / "cut.csv").write_text(text[:end])
        parsed = Isd(tmp_path).parse(tmp_path / "cut.csv")
        assert len(parsed.reports) + len(parsed.problems) == len(text[:end].splitlines()) - 1
        assert len(parsed.problems) <= 1


def test_damaged_records_never_stop_the_others(tmp_path):
    lines = [native(CELL) for _ in range(3)]
    (tmp_path / "a").write_text(lines[0] + lines[1][:90] + "\n" + lines[2].replace("1200", "1300", 1))
    table, inventory = read(tmp_path / "a")
    assert (inventory.found, inventory.decoded) == (3, 2)
    assert inventory.problems == [f"{tmp_path / 'a'}, record 2: not of the length it states"]
    path = write_csv(tmp_path / "b.csv", {}, {"DATE": "2024-01-02T13:00:00"})
    rows = path.read_text().splitlines()
    path.write_text("\n".join([*rows[:2], '"01416099999","2024-01-02T12:30:00","4"', rows[2], ""]))
    table, inventory = read(path)
    assert (inventory.found, inventory.decoded, len(table)) == (3, 2, 12)
    assert inventory.problems == [f"{path}, row 3: 3 fields instead of 11"]


def test_a_file_with_noise_is_accounted_for(shared, tmp_path):
    text = (shared / AFGHANISTAN).read_bytes()[:60000].replace(b'"0.0","0.0"', b'"34.5","69.2"')
    text = text[: text.rfind(b"\n") + 1]
    rng = np.random.default_rng(0)
    noise = bytearray(text)
    for place in rng.integers(300, len(text), 150):
        if noise[place] != 10:
            noise[place] = rng.choice([0, 34, 44, 200, 255])
    (tmp_path / "noise.csv").write_bytes(noise)
    parsed = Isd(tmp_path).parse(tmp_path / "noise.csv")
    assert len(parsed.reports) + len(parsed.problems) == text.count(b"\n") - 1
    assert len(parsed.reports) > 50
    assert len(parsed.problems) > 20


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<html>\n<body>503 Service Unavailable</body>\n</html>\n", "no column station, date"),
        ("", "no column station"),
        ('"STATION","DATE","LATITUDE","LONGITUDE","ELEVATION","WND","TMP"\n', "no column dew, slp"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path, content, message):
    (tmp_path / "page.csv").write_text(content)
    with pytest.raises(ObservationError, match=rf"page\.csv: {message}"):
        read(tmp_path)


def test_what_is_no_gzip_inside_is_refused_by_name(tmp_path):
    (tmp_path / "a.gz").write_bytes(b"\x1f\x8b\x08" + bytes(range(200)))
    with pytest.raises(ObservationError, match=r"a\.gz: cannot be read"):
        read(tmp_path)


def test_an_experiment_names_it(tmp_path):
    write_csv(tmp_path / "a.csv", {})
    source = build_source({"source": "isd", "path": str(tmp_path), "latency": "45min"}, None, 0)
    table, inventory = source.read(Window(np.datetime64(NOON)))
    assert set(table["source"]) == {"isd"}
    assert inventory.latency == 45
