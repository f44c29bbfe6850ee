"""Standard meteorological data of NDBC, against a reading of its own, in the forms of all years."""

import gzip

import numpy as np
import pandas as pd
import pytest

from dacycle.obs_ingest.errors.model import standard_error
from dacycle.obs_ingest.sources.base import build_source
from dacycle.obs_ingest.sources.text.ndbc import Ndbc, station_positions
from dacycle.obs_ingest.table import ObservationError, check_table
from dacycle.obs_ingest.window import Window
from tests.archives.content import ndbc_file, ndbc_table, reports

HEAD = (
    "#YY  MM DD hh mm WDIR WSPD GST  WVHT   DPD   APD MWD   PRES  ATMP  WTMP  DEWP  VIS  TIDE\n"
    "#yr  mo dy hr mn degT m/s  m/s     m   sec   sec degT   hPa  degC  degC  degC   mi    ft\n"
)
ROW = "2022 01 02 12 00 270  5.1 99.0 99.00 99.00 99.00 999 1013.2  12.5 999.0  -3.1 99.0 99.00\n"
WINDOW = Window(np.datetime64("2022-01-02T12"))


@pytest.fixture
def network(tmp_path):
    path = tmp_path / "station_table.txt"
    path.write_text(
        ndbc_table({"41002": "31.759 N 74.936 W", "51001": "24.451 S 162.008 E", "45007": "42.674 N 87.026 W"})
    )
    return str(path)


def read(tmp_path, network, text, name="41002h2022.txt"):
    (tmp_path / name).write_text(text)
    return Ndbc(tmp_path / name, network).read(WINDOW)


def values(table):
    return dict(zip(table["variable"].astype(str), table["value"].round(2), strict=True))


def test_the_genuine_excerpt(full_samples, tmp_path, network):
    text = (full_samples / "network/ndbc/stdmet_historical_2020_excerpt.txt").read_text()
    (tmp_path / "41002h2020.txt.gz").write_bytes(gzip.compress(text.encode()))
    source = build_source({"source": "ndbc", "path": str(tmp_path), "network": network, "cutoff": "none"}, None, 0)
    names = ["hour", "direction", "speed", "msl", "t2m", "td2m"]
    own = pd.DataFrame(
        [
            [f"{f[0]}-{f[1]}-{f[2]}T{f[3]}", *(float(f[i]) for i in (5, 6, 12, 13, 15))]
            for f in (line.split() for line in text.splitlines()[2:])
        ],
        columns=names,
    )
    scales = {"t2m": (1, 273.15, 999.0), "td2m": (1, 273.15, 999.0), "msl": (100, 0, 9999.0)}
    found = 0
    for time in np.arange("2020-01-01T00", "2020-01-02T12", 6, dtype="M8[h]"):
        table, _ = source.read(Window(time))
        check_table(table, "ndbc")
        for hour, rows in table.groupby("time"):
            (expected,) = own[pd.to_datetime(own["hour"]) == hour].to_dict("records")
            got = dict(zip(rows["variable"].astype(str), rows["value"], strict=True))
            for name, (scale, offset, missing) in scales.items():
                value = np.nan if expected[name] == missing else scale * expected[name] + offset
                assert got.get(name, np.nan) == pytest.approx(value, nan_ok=True)
            assert np.hypot(got["u10"], got["v10"]) == pytest.approx(expected["speed"], abs=1e-5)
            assert np.rad2deg(np.arctan2(-got["u10"], -got["v10"])) % 360 == pytest.approx(
                expected["direction"], abs=1e-3
            )
            found += 1
    assert found == len(own) == 18


def test_values_position_and_errors(tmp_path, network):
    table, inventory = read(tmp_path, network, HEAD + ROW)
    assert values(table) == {"t2m": 285.65, "td2m": 270.05, "msl": 101320, "u10": 5.1, "v10": 0}
    assert table.loc[0, ["latitude", "longitude", "elevation"]].tolist() == [31.759, -74.936, 0]
    assert set(table["station"]) == {"41002"}
    t2m = table[table["variable"] == "t2m"].iloc[0]
    assert t2m["error"] == pytest.approx(standard_error("t2m", np.array([285.65]), kind="marine")[0])
    assert (inventory.found, inventory.decoded, inventory.skipped) == (1, 1, {})


@pytest.mark.parametrize(
    ("head", "row"),
    [
        ("YYYY MM DD hh mm WD   WSPD GST  WVHT  DPD   APD  MWD  BAR    ATMP  WTMP  DEWP  VIS  TIDE\n", ROW),
        ("YYYY MM DD hh WD   WSPD GST  WVHT  DPD   APD  MWD  BAR    ATMP  WTMP  DEWP  VIS\n",
         "2022 01 02 12 270 05.1 05.6 00.50 99.00 99.00 999 1013.2  12.5  11.2  -3.1 99.0\n"),
        (HEAD, ROW.replace(" 99.0 99.00 99.00", "   MM    MM    MM").replace("999.0", "   MM")),
    ],
)  # fmt: skip
def test_the_forms_of_other_years(head, row, tmp_path, network):
    table, _ = read(tmp_path, network, head + row)
    assert values(table) == {"t2m": 285.65, "td2m": 270.05, "msl": 101320, "u10": 5.1, "v10": 0}


def test_years_of_two_digits(tmp_path, network):
    head = "YY MM DD hh WD   WSPD GST  WVHT  DPD   APD  MWD  BAR    ATMP  WTMP  DEWP  VIS\n"
    (tmp_path / "41002h1987.txt").write_text(
        head + "87 01 02 12 270 05.1 05.6 00.50 99.00 99.00 999 1013.2 12.5 11.2 -3.1 99.0\n"
    )
    table, _ = Ndbc(tmp_path / "41002h1987.txt", network).read(Window(np.datetime64("1987-01-02T12")))
    assert len(table) == 5


def test_what_is_missing_left_out_or_damaged(tmp_path, network):
    missing = "2022 01 02 12 10 999 99.0 99.0 99.00 99.00 99.00 999 9999.0 999.0 999.0 999.0 99.0 99.00\n"
    north = ROW.replace("12 00 270", "12 20   0")
    text = HEAD + ROW + missing + north + ROW.replace("12 00", "12 30").replace("12.5", "12,5") + "2022 01 02\n"
    table, inventory = read(tmp_path, network, text)
    assert inventory.skipped == {"value that cannot be read": 1, "damaged": 1}
    assert inventory.problems == [f"{tmp_path / '41002h2022.txt'}, line 7: 3 fields, not 18 as in the first line"]
    v10 = table[(table["variable"] == "v10") & (table["time"] == pd.Timestamp("2022-01-02T12:20"))]["value"]
    assert v10.tolist() == pytest.approx([-5.1])


def test_stations_without_a_position_or_on_a_lake(tmp_path, network):
    assert read(tmp_path, network, HEAD + ROW, "pilm4h2022.txt")[1].skipped == {"no position": 1}
    assert read(tmp_path, network, HEAD + ROW, "45007h2022.txt")[1].skipped == {"ship on land": 1}
    csv = tmp_path / "network.csv"
    csv.write_text("station,latitude,longitude,elevation\nPILM4,48.2,-88.4,0\n41002,31.7,-74.9,0\n")
    table, _ = read(tmp_path, str(csv), HEAD + ROW)
    assert table["latitude"].iloc[0] == 31.7


def test_what_is_no_such_file(tmp_path, network):
    with pytest.raises(ObservationError, match="no column YYYY, MM"):
        read(tmp_path, network, "some words\n")
    with pytest.raises(ObservationError, match="empty"):
        read(tmp_path, network, "")
    (tmp_path / "table.txt").write_text("#\n41002|N|||||\n")
    with pytest.raises(ObservationError, match="no station has a location"):
        station_positions(tmp_path / "table.txt")
    with pytest.raises(ObservationError, match="needs the option network"):
        build_source({"source": "ndbc", "path": str(tmp_path)}, None, 0)


def test_a_long_file_is_read_in_pieces(tmp_path, network):
    table = reports(365)
    table, inventory = read(tmp_path, network, ndbc_file(table))
    assert (inventory.found, len(table)) == (6, 30)
