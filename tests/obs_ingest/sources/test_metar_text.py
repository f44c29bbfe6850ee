"""The text of METARs, against the columns that another decoder made of the same text."""

import csv

import numpy as np
import pandas as pd
import pytest

from dacycle.obs_ingest.sources.text.metar import Metar
from dacycle.obs_ingest.table import ObservationError, check_table
from dacycle.obs_ingest.window import Window

BULLETINS, BULLETIN_TIME = "obs/metar_global_2020100106.csv", "2020-10-01T06"
NAME = "metar_20201001.txt"


@pytest.fixture
def network(tmp_path):
    path = tmp_path / "network.csv"
    path.write_text("station,latitude,longitude,elevation\nEGLL,51.48,-0.45,25\nKJFK,40.64,-73.76,4\n")
    return str(path)


def read(path, network, time=BULLETIN_TIME, **options):
    return Metar(path, network=network, **options).read(Window(np.datetime64(time)))


def values(text, folder, network, time=BULLETIN_TIME):
    """Values by variable of one report."""
    path = folder / NAME
    path.write_text(text)
    table, inventory = read(path, network, time)
    return dict(zip(table["variable"].astype(str), table["value"], strict=True)), inventory


def test_the_text_of_a_global_hour_against_the_decoded_columns(shared, tmp_path):
    with (shared / BULLETINS).open(newline="") as file:
        rows = list(csv.DictReader(file))
    (tmp_path / NAME).write_text("\n".join(row["Raw"] for row in rows))
    places = {row["ICAO"]: [row["ICAO"], float(row["Latitude"]), float(row["Longitude"]), row["Elev"]] for row in rows}
    columns = ["station", "latitude", "longitude", "elevation"]
    pd.DataFrame(places.values(), columns=columns).to_csv(tmp_path / "network.csv", index=False)
    table, inventory = read(tmp_path / NAME, str(tmp_path / "network.csv"))
    check_table(table, "text")
    assert inventory.found == inventory.decoded == len(rows) == 1081
    decoded, _ = Metar(shared / BULLETINS).read(Window(np.datetime64(BULLETIN_TIME)))
    both = table.merge(decoded, on=["station", "time", "variable"], suffixes=("", "_columns"))
    differ = abs(both["value"] - both["value_columns"])
    # The columns have whole knots also of winds reported in m/s, and one of them another temperature.
    for variable, counted, tolerance in (
        ("t2m", 1073, 0.51), ("td2m", 1066, 0.01), ("u10", 1031, 0.26), ("v10", 1031, 0.26), ("tp", 30, 1e-6),
    ):  # fmt: skip
        mine = both["variable"] == variable
        assert mine.sum() == counted
        assert differ[mine].max() < tolerance
        assert (differ[mine] < 0.01).mean() > 0.97
        assert (table["variable"] == variable).sum() <= counted + 8
    unread = inventory.skipped["value that cannot be read"]
    assert 0 < unread < 100
    assert len(table) + inventory.missing + sum(inventory.skipped.values()) == 7 * 1081


def test_pressure_at_sea_level_comes_from_the_remark(shared, tmp_path, network):
    report = "KJFK 010551Z 12010KT 10SM CLR 22/18 {} RMK AO2 SLP{} T02170183 60012"
    got, _ = values(report.format("A2974", "071"), tmp_path, network)
    assert got["msl"] == pytest.approx(100710)
    assert got["t2m"] == pytest.approx(294.85, abs=1e-4)
    assert got["td2m"] == pytest.approx(291.45, abs=1e-4)
    assert got["tp"] == pytest.approx(0.12 * 25.4, abs=1e-4)
    # SLP560 is 956 or 1056 hPa; beside an altimeter setting of 1056 hPa it is not 956.
    got, inventory = values(report.format("A3118", "560"), tmp_path, network)
    assert "msl" not in got
    assert inventory.skipped == {"value that cannot be read": 1}
    assert "msl" not in values("KJFK 010551Z 12010KT 10SM CLR 22/18 A2974", tmp_path, network)[0]


def test_units_and_directions_of_wind(tmp_path, network):
    for group, speed in (
        ("27010KT", 10 * 1852 / 3600),
        ("27010MPS", 10),
        ("27036KMH", 10),
        ("27010G25KT", 10 * 0.514444),
    ):
        got, _ = values(f"EGLL 010550Z {group} 9999 12/08 Q1012", tmp_path, network)
        assert got["u10"] == pytest.approx(speed, rel=1e-5)
    assert values("EGLL 010550Z 00000KT 9999 12/08 Q1012", tmp_path, network)[0]["u10"] == 0
    for group, reason in (
        ("27010", "value that cannot be read"),  # the library would suppose m/s
        ("270P99KT", "value that cannot be read"),
        ("VRB03KT", "wind without a direction"),
    ):
        got, inventory = values(f"EGLL 010550Z {group} 9999 12/08 Q1012", tmp_path, network)
        assert "u10" not in got
        assert inventory.skipped == {reason: 2}


def test_bulletins_over_several_lines(tmp_path, network):
    (tmp_path / NAME).write_text(
        "ZCZC 123\nSAUK31 EGRR 010550\nMETAR EGLL 010550Z AUTO 24008KT 9999\n     SCT020 12/08\nQ1012=\n"
        "METAR KJFK 010551Z 12010KT\n 10SM CLR 22/18 A2974= SPECI KJFK 010601Z 12012KT 10SM 21/18 A2974=\nNNNN\n"
    )
    table, inventory = read(tmp_path / NAME, network)
    assert (inventory.found, inventory.decoded, inventory.problems) == (3, 3, [])
    warm = table[table["variable"] == "t2m"].set_index(["station", "time"])["value"]
    assert warm["EGLL", pd.Timestamp("2020-10-01T05:50")] == pytest.approx(285.15)
    assert warm["KJFK", pd.Timestamp("2020-10-01T06:01")] == pytest.approx(294.15)


def test_the_date_is_stated_never_guessed(tmp_path, network):
    report = "EGLL 302350Z 24008KT 9999 12/08 Q1012\n"
    (tmp_path / "latest.txt").write_text(report)
    with pytest.raises(ObservationError, match=r"latest\.txt: nothing says the month .* option `date`"):
        read(tmp_path / "latest.txt", network)
    midnight = "2020-10-01T00"
    _, inventory = read(tmp_path / "latest.txt", network, midnight, date="2020-10-01")
    assert inventory.decoded == 1
    (tmp_path / "dated.txt").write_text("2020/09/30 23:50\n" + report)
    assert read(tmp_path / "dated.txt", network, midnight)[1].decoded == 1
    (tmp_path / NAME).write_text(report + "EGLL 152350Z 24008KT 9999 12/08 Q1012\n")
    _, inventory = read(tmp_path / NAME, network, midnight)
    assert (inventory.decoded, inventory.skipped) == (1, {"no time": 1})
    with pytest.raises(ObservationError, match="date is 'yesterday'"):
        Metar(tmp_path, date="yesterday")


def test_an_unknown_station_is_counted_not_placed(tmp_path, network):
    (tmp_path / NAME).write_text("EGLL 010550Z 24008KT 9999 12/08 Q1012\nZZZZ 010550Z 24008KT 9999 12/08 Q1012\n")
    table, inventory = read(tmp_path / NAME, network)
    assert set(table["station"]) == {"EGLL"}
    assert set(table["latitude"]) == {51.48}
    assert (inventory.found, inventory.decoded, inventory.skipped) == (2, 1, {"no position": 1})


def test_positions_from_noaas_station_history(shared, tmp_path):
    (tmp_path / NAME).write_text("ENJA 010550Z 24008KT 9999 02/M01 Q1012\n")
    table, _ = read(tmp_path / NAME, str(shared / "static/isd-history.csv"))
    assert table.loc[0, ["latitude", "longitude", "elevation"]].tolist() == pytest.approx([70.933, -8.667, 9.0])
    assert table.loc[table["variable"] == "td2m", "value"].item() == pytest.approx(272.15)


def test_what_is_no_metar_is_named(tmp_path, network):
    (tmp_path / NAME).write_text("EGLL 010550Z 24008KT 9999 12/08 Q1012\nTAF EGLL 010500Z 0106/0212 24008KT\n\nhello\n")
    _, inventory = read(tmp_path / NAME, network)
    assert (inventory.found, inventory.decoded, inventory.skipped) == (3, 1, {"damaged": 2})
    assert inventory.problems == [f"{tmp_path / NAME}, line {line}: no METAR" for line in (2, 4)]
    for beginning in (b"CDF\x01", b"\x89HDF\r\n\x1a\n"):
        (tmp_path / NAME).write_bytes(beginning + bytes(60))
        with pytest.raises(ObservationError, match=rf"{NAME}: this is netCDF; METARs are read as text, as CSV"):
            read(tmp_path / NAME, network)
    (tmp_path / NAME).write_text("<html>404</html>")
    with pytest.raises(ObservationError, match=rf"{NAME}: no METAR in this file, which begins with '<html>404"):
        read(tmp_path / NAME, network)


def test_groups_that_cannot_be_read_are_counted(tmp_path, network):
    got, inventory = values("EGLL 010550Z 24008KT 9999 ?? 12/08 Q1012", tmp_path, network)
    assert got.keys() <= {"t2m", "td2m", "u10", "v10"}
    assert len(got) + sum(inventory.skipped.values()) == 4
    got, inventory = values("EGLL 010550Z NIL=", tmp_path, network)
    assert (got, inventory.missing, inventory.skipped) == ({}, 7, {})


HEATHROW, KENNEDY = "EGLL 010550Z 24008KT 9999 12/08 Q1012", "KJFK 010551Z 12010KT 10SM CLR 22/18 A2974"


@pytest.mark.parametrize(
    ("text", "temperatures", "problems"),
    [
        # Each belongs to its own station, whatever words stand around it and however the report before ends.
        (f"METAR KJFK 010551Z NIL\n{HEATHROW.replace('EGLL', 'EGLL COR')}=\n", {"EGLL": 12}, []),
        (f"SAXX31 KWBC 010600\nMETAR KJFK 010551Z 12010KT\nCOR METAR {HEATHROW}=\n", {"EGLL": 12}, []),
        (f"METAR METAR {HEATHROW}=\nMETAR {KENNEDY}=\n", {"EGLL": 12, "KJFK": 22}, []),
        # What is no report belongs to nobody.
        (f"METAR KJFK 010551Z 12010KT\nTAF EGLL 010500Z 0106/0212 24008KT\n  TX12/0112Z 12/08=\n{HEATHROW}=\n",
         {"EGLL": 12}, ["line 2: no METAR"]),
        (f"FTUK31 EGRR 010500\nKJFK 010500Z 0106/0212 24008KT 9999\n  BECMG 12/08=\n{HEATHROW}=\n",
         {"EGLL": 12}, ["line 2: no METAR"]),
        (f"{HEATHROW}\nSIGMET 2 VALID 010600/011000 KZNY- 22/18=\n", {"EGLL": 12}, ["line 2: no METAR"]),
        # Whether reports end with = is the habit of each bulletin.
        (f"SAUK31 EGRR 010550\nMETAR {HEATHROW}=\nNNNN\nSAUS31 KWBC 010600\n{KENNEDY}\nsome note 11/11\nNNNN\n",
         {"EGLL": 12, "KJFK": 22}, ["line 6: no METAR"]),
        # Cut off in transfer.
        (f"METAR {HEATHROW}=\nMETAR {KENNEDY[:-8]}", {"EGLL": 12}, ["line 2: cut off; the others end with ="]),
        (f"METAR {HEATHROW}=\nMETAR {KENNEDY}\n", {"EGLL": 12}, ["line 2: cut off; the others end with ="]),
        (f"{HEATHROW}\n{KENNEDY}", {"EGLL": 12, "KJFK": 22}, []),
    ],
)  # fmt: skip
def test_every_line_belongs_to_its_own_report_or_to_none(tmp_path, network, text, temperatures, problems):
    (tmp_path / NAME).write_text(text)
    table, inventory = read(tmp_path / NAME, network)
    warm = table[table["variable"] == "t2m"]
    assert {s: v - 273.15 for s, v in zip(warm["station"], warm["value"], strict=True)} == pytest.approx(temperatures)
    assert inventory.problems == [f"{tmp_path / NAME}, {problem}" for problem in problems]
    assert inventory.skipped.get("damaged", 0) == len(problems)


def test_what_the_library_reads_wrong_or_not_at_all_is_counted(tmp_path, network):
    for report, expected, unread in (
        ("EGLL 010550Z 27010 9999 12/08 Q1012 TEMPO 27015KT", {"t2m", "td2m"}, 2),  # the unit is of the trend
        ("EGLL 010550Z 37005KT 9999 12/08 Q1012", {"t2m", "td2m"}, 2),  # its handler of winds fails
        ("EGLL 010550Z 24008KT 9999 12/0 Q1012", {"u10", "v10"}, 2),  # half a group
        ("EGLL 010550Z 24008KT 9999 2/08 Q1012", {"u10", "v10"}, 2),
        ("EGLL 010550Z 24008KT 9999 12/08 Q1012 TEMPO 27015", {"t2m", "td2m", "u10", "v10"}, 0),
    ):
        got, inventory = values(report, tmp_path, network)
        assert set(got) == expected
        assert inventory.skipped == ({"value that cannot be read": unread} if unread else {})
