"""PrepBUFR made here as NCEPLIBS-bufr writes it: no genuine file was at hand, but NCEP's own table of it was."""

import numpy as np
import pandas as pd
import pytest

from dacycle.forecast_adapter.physics import dewpoint
from dacycle.obs_ingest.errors.model import standard_error
from dacycle.obs_ingest.sources.base import build_source, error_kind
from dacycle.obs_ingest.sources.bufr.prepbufr import KINDS, Prepbufr
from dacycle.obs_ingest.table import ObservationError, check_table
from dacycle.obs_ingest.window import Window
from tests.obs_ingest.sources.bufr.prepbufr_encoder import data, dictionary, message, parse

NOON = "2024-01-02T12"
SHORT = """
| MNEMONIC | NUMBER | DESCRIPTION |
| ADPUPA   | A48102 | UPPER-AIR   |
| AIRCFT   | A48104 | AIRCRAFT    |
| SATWND   | A48105 | WINDS       |
| ADPSFC   | A48109 | SURFACE     |
| SFCSHP   | A48110 | SHIPS       |
| HEADR    | 348001 | HEADER      |
| PRSLEVEL | 348002 | LEVEL       |
| PMSL_SEQ | 348003 | PRESSURE    |
| RRT_INFO | 348156 | RAIN        |
| P___INFO | 348141 | PRESSURE    |
| Q___INFO | 348142 | HUMIDITY    |
| T___INFO | 348143 | TEMPERATURE |
| Z___INFO | 348144 | HEIGHT      |
| W___INFO | 348145 | WIND        |
| DRFTINFO | 348155 | DRIFT       |
| P__EVENT | 348171 | PRESSURE    |
| Q__EVENT | 348172 | HUMIDITY    |
| T__EVENT | 348173 | TEMPERATURE |
| Z__EVENT | 348174 | HEIGHT      |
| W__EVENT | 348175 | WIND        |
| SID | 001194 | |
| XOB | 006240 | |
| YOB | 005002 | |
| DHR | 004215 | |
| ELV | 010199 | |
| TYP | 055007 | |
| CAT | 008193 | |
| POB | 007245 | |
| PQM | 007246 | |
| PPC | 007247 | |
| QOB | 013245 | |
| QQM | 013246 | |
| TOB | 012245 | |
| TQM | 012246 | |
| TPC | 012247 | |
| ZOB | 010007 | |
| ZQM | 010246 | |
| UOB | 011003 | |
| VOB | 011004 | |
| WQM | 011240 | |
| HRDR | 004250 | |
| XDR | 006241 | |
| YDR | 005241 | |
| PMO | 010243 | |
| PMQ | 010244 | |
| REQV | 013014 | |
| MNEMONIC | SEQUENCE |
| ADPUPA   | HEADR  {PRSLEVEL}  <RRT_INFO> |
| AIRCFT   | HEADR  {PRSLEVEL} |
| SATWND   | HEADR  PRSLEVEL |
| ADPSFC   | HEADR  PRSLEVEL  <PMSL_SEQ> |
| SFCSHP   | HEADR  PRSLEVEL  <PMSL_SEQ> |
| HEADR    | SID  XOB  YOB  DHR  ELV  TYP |
| PRSLEVEL | CAT  <P___INFO>  <Q___INFO>  <T___INFO>  <Z___INFO>  <W___INFO> |
| PRSLEVEL | <RRT_INFO>  <DRFTINFO> |
| PMSL_SEQ | PMO  PMQ |
| RRT_INFO | 202130  201134  REQV  201000  202000  PPC |
| P___INFO | [P__EVENT] |
| Q___INFO | [Q__EVENT] |
| T___INFO | [T__EVENT] |
| Z___INFO | [Z__EVENT] |
| W___INFO | [W__EVENT] |
| DRFTINFO | XDR  YDR  HRDR |
| P__EVENT | POB  PQM  PPC |
| Q__EVENT | QOB  QQM |
| T__EVENT | TOB  TQM  TPC |
| Z__EVENT | ZOB  ZQM |
| W__EVENT | UOB  VOB  WQM |
| MNEMONIC | SCAL | REFERENCE | BIT | UNITS |
| SID  | 0 | 0 | 64 | CCITT IA5 |
| XOB  | 2 | -18000 | 16 | DEG E |
| YOB  | 2 | -9000 | 15 | DEG N |
| DHR  | 5 | -2400000 | 23 | HOURS |
| ELV  | 0 | -1000 | 17 | METER |
| TYP  | 0 | 0 | 10 | CODE TABLE |
| CAT  | 0 | 0 | 6 | CODE TABLE |
| POB  | 1 | 0 | 14 | MB |
| PQM  | 0 | 0 | 5 | CODE TABLE |
| PPC  | 0 | 0 | 5 | CODE TABLE |
| QOB  | 0 | 0 | 16 | MG/KG |
| QQM  | 0 | 0 | 5 | CODE TABLE |
| TOB  | 1 | -2732 | 14 | DEG C |
| TQM  | 0 | 0 | 5 | CODE TABLE |
| TPC  | 0 | 0 | 5 | CODE TABLE |
| ZOB  | 0 | -1000 | 17 | METER |
| ZQM  | 0 | 0 | 5 | CODE TABLE |
| UOB  | 1 | -4096 | 13 | M/S |
| VOB  | 1 | -4096 | 13 | M/S |
| WQM  | 0 | 0 | 5 | CODE TABLE |
| HRDR | 5 | -2400000 | 23 | HOURS |
| XDR  | 2 | -18000 | 16 | DEG E |
| YDR  | 2 | -9000 | 15 | DEG N |
| PMO  | 1 | 0 | 14 | MB |
| PMQ  | 0 | 0 | 5 | CODE TABLE |
| REQV | 4 | 0 | 12 | KG |
"""


@pytest.fixture(scope="module", params=["short", "genuine"])
def table(request):
    """Return a table of mnemonics: a short one, and the one that NCEP's own files hold."""
    if request.param == "short":
        return parse(SHORT)
    folder = request.getfixturevalue("full_samples")
    return parse((folder / "network/prepbufr/prepbufr.table").read_text())


def header(kind, station="72520", **more):
    return {"SID": station, "XOB": 279.78, "YOB": 40.53, "DHR": -0.5, "ELV": 360, "TYP": kind} | more


def level(category, p, *, t=None, q=None, z=None, wind=None, marks=2, drift=None, **stacks):
    """Return a level; each value is a stack of one event unless one is given."""
    found = {"CAT": category, "P___INFO": {"P__EVENT": [{"POB": p, "PQM": marks}]}}
    for name, value, event in (
        ("T", t, {"TOB": t, "TQM": 2, "TPC": 1}),
        ("Q", q, {"QOB": q, "QQM": 2}),
        ("Z", z, {"ZOB": z, "ZQM": 2}),
        ("W", wind, {"UOB": wind[0], "VOB": wind[1], "WQM": 2} if wind else {}),
    ):
        if name in stacks or value is not None:
            found[f"{name}___INFO"] = {f"{name}__EVENT": stacks.get(name, [event])}
    if drift:
        found["DRFTINFO"] = dict(zip(("XDR", "YDR", "HRDR"), drift, strict=True))
    return found


def write(folder, table, *messages, name="gdas.t12z.prepbufr.nr"):
    path = folder / name
    path.write_bytes(dictionary(table) + b"".join(messages))
    return path


def read(path, reports, time=NOON, **options):
    found, inventory = Prepbufr(path, reports, **options).read(Window(np.datetime64(time)))
    check_table(found, "prepbufr")
    return found, inventory


def values(found):
    return found.set_index(["variable", "pressure"])["value"]


SONDE = header(120) | {
    "PRSLEVEL": [
        level(0, 970.0, t=10.0, q=5000, z=360),
        level(1, 850.0, t=5.5, q=4000, z=1460, drift=(279.9, 40.6, -0.4)),
        level(2, 780.0, t=1.0),
        level(1, 500.0, t=-20.0, z=5590, drift=(280.5, 41.2, 0.25)),
    ]
}
WINDS = header(220) | {"PRSLEVEL": [level(1, 850.0, wind=(3.0, -4.5), drift=(279.9, 40.6, -0.4))]}


def test_a_sounding_and_its_drift(tmp_path, table):
    found, inventory = read(write(tmp_path, table, data(table, "ADPUPA", [SONDE, WINDS])), "sondes")
    assert inventory.values == {"z": 2, "q": 1, "u": 1, "v": 1, "t": 2}
    one = values(found)
    assert one["t", 85000] == pytest.approx(278.65)
    assert one["q", 85000] == pytest.approx(0.004)
    assert one["z", 50000] == pytest.approx(5590 * 9.80665)
    assert (one["u", 85000], one["v", 85000]) == (3.0, -4.5)
    high = found[found["pressure"] == 50000].iloc[0]
    assert (high["latitude"], high["longitude"]) == (pytest.approx(41.2), pytest.approx(280.5))
    assert high["time"] == pd.Timestamp("2024-01-02T12:15")
    assert set(found["station"]) == {"72520"}
    assert set(found["elevation"]) == {360}
    assert high["error"] == pytest.approx(standard_error("t", 0, 50000)) or high["variable"] == "z"


def test_the_last_event_of_a_stack_counts(tmp_path, table):
    """It stands first, as that of a stack does."""
    stack = [{"TOB": 4.0, "TQM": 1, "TPC": 5}, {"TOB": 9.0, "TQM": 2, "TPC": 1}]
    rejected = [{"ZOB": 1460, "ZQM": 13}, {"ZOB": 1400, "ZQM": 2}]
    sonde = header(120) | {"PRSLEVEL": [level(1, 850.0, T=stack, Z=rejected)]}
    found, inventory = read(write(tmp_path, table, data(table, "ADPUPA", [sonde])), "sondes")
    assert values(found)["t", 85000] == pytest.approx(277.15)
    assert "z" not in set(found["variable"])
    assert inventory.skipped == {"value rejected by its provider": 1}


def test_virtual_temperatures(tmp_path, table):
    """The event before is that of the air; without one the humidity tells it."""
    stack = [{"TOB": 6.2, "TQM": 2, "TPC": 8}, {"TOB": 5.5, "TQM": 2, "TPC": 1}]
    both = header(120) | {"PRSLEVEL": [level(1, 850.0, T=stack, q=4000), level(1, 700.0, T=stack[:1], q=4000)]}
    alone = header(120, "10393") | {"PRSLEVEL": [level(1, 850.0, T=stack[:1])]}
    found, _ = read(write(tmp_path, table, data(table, "ADPUPA", [both, alone])), "sondes")
    one = values(found[found["station"] == "72520"])
    assert one["t", 85000] == pytest.approx(278.65)
    assert one["t", 70000] == pytest.approx(279.35 / (1 + 0.608 * 0.004))
    assert "10393" not in set(found["station"])


def test_pob_is_station_pressure_only_of_some_types(tmp_path, table):
    pressure = {"PMSL_SEQ": {"PMO": 1013.2, "PMQ": 2}}
    synop = header(181) | level(0, 968.4, t=3.0, q=3500) | pressure
    wind = header(281) | level(0, 968.4, wind=(2.0, 1.0))
    found, inventory = read(write(tmp_path, table, data(table, "ADPSFC", [synop, wind])), "stations")
    assert inventory.values == {"t2m": 1, "td2m": 1, "msl": 1, "ps": 1, "u10": 1, "v10": 1}
    one = found.set_index("variable")["value"]
    assert one["ps"] == pytest.approx(96840)
    assert one["msl"] == pytest.approx(101320)
    assert one["t2m"] == pytest.approx(276.15)
    assert one["td2m"] == pytest.approx(float(dewpoint(0.0035, 96840)), abs=0.01)
    assert found["time"].iloc[0] == pd.Timestamp("2024-01-02T11:30")
    rejected = header(181) | level(0, 968.4, t=3.0, marks=9) | {"PMSL_SEQ": {"PMO": 1013.2, "PMQ": 15}}
    _, inventory = read(write(tmp_path, table, data(table, "ADPSFC", [rejected])), "stations")
    assert inventory.values == {"t2m": 1}


def test_ships_and_ships_on_land(tmp_path, table):
    sea = header(180, "DBLK", XOB=-30.0, YOB=50.0, ELV=0) | level(0, 1012.0, t=12.0)
    land = header(180, "DBLL", XOB=-105.0, YOB=50.0, ELV=0) | level(0, 1012.0, t=12.0)
    found, inventory = read(write(tmp_path, table, data(table, "SFCSHP", [sea, land])), "marine")
    assert set(found["station"]) == {"DBLK"}
    assert inventory.skipped == {"ship on land": 1}
    row = found[found["variable"] == "t2m"].iloc[0]
    assert row["error"] == pytest.approx(standard_error("t2m", 0, kind="marine"))


def test_aircraft_and_motion_vectors(tmp_path, table):
    inside = "PRSLEVLA" if "PRSLEVLA" in table.sequences else "PRSLEVEL"
    cruise = level(6, 236.2, t=-55.0, wind=None)
    aircraft = [
        header(133, "UAL1") | {inside: [cruise]},
        header(233, "UAL1") | {inside: [level(6, 236.2, wind=(50.0, 5.0))]},
    ]
    bad = [header(133, "UAL2") | {inside: [level(6, 236.2, t=-55.0, marks=13)]}]
    other = [header(199, "UAL3") | {inside: [cruise]}]
    vector = header(245, "G16") | level(6, 300.0, wind=(20.0, 0.0))
    messages = (data(table, "AIRCFT", aircraft + bad + other), data(table, "SATWND", [vector]))
    path = write(tmp_path, table, *messages)
    found, inventory = read(path, "aircraft")
    assert set(found["pressure"]) == {23620}
    assert inventory.values == {"u": 1, "v": 1, "t": 1}
    assert inventory.skipped == {"report rejected by its provider": 1}
    assert set(found["station"]) == {"UAL1"}
    found, _ = read(path, "motion_vectors")
    assert found["value"].tolist() == [20.0, 0.0]
    assert (found["station"].astype(str) == found["site"].astype(str)).all()
    assert found["error"].iloc[0] == pytest.approx(standard_error("u", 0, 30000, "motion vectors"))


def test_windows_and_receipt(tmp_path, table):
    late = header(181, "10393", DHR=2.5) | level(0, 968.4, t=3.0)
    early = header(181, DHR=-3.5) | level(0, 968.4, t=4.0)
    path = write(tmp_path, table, data(table, "ADPSFC", [late, early]))
    found, _ = read(path, "stations", latency="1h")
    assert set(found["station"]) == {"10393"}
    assert set(found["received"] - found["time"]) == {pd.Timedelta("1h")}
    assert set(read(path, "stations", "2024-01-02T06")[0]["station"]) == {"72520"}
    assert read(path, "stations", "2024-01-03T06")[0].empty


def test_damaged_messages_are_counted_and_the_others_read(tmp_path, table):
    good = data(table, "ADPSFC", [header(181) | level(0, 968.4, t=3.0)])
    bad = bytearray(good)
    bad[-40:-4] = bytes(36)
    cut = good[: len(good) // 2]
    path = write(tmp_path, table, bytes(bad), good, cut)
    found, inventory = read(path, "stations")
    assert set(found["station"]) == {"72520"}
    assert inventory.skipped["damaged"] >= 1
    assert any("truncated or damaged" in problem for problem in inventory.problems)


def test_a_file_without_its_tables_is_refused_by_name(tmp_path, table):
    path = tmp_path / "a.prepbufr"
    path.write_bytes(data(table, "ADPSFC", [header(181) | level(0, 968.4, t=3.0)]))
    with pytest.raises(ObservationError, match=r"a\.prepbufr: no tables of NCEP"):
        read(path, "stations")
    path.write_text("<html>503 Service Unavailable</html>")
    with pytest.raises(ObservationError, match=r"a\.prepbufr: no BUFR message"):
        read(path, "stations")
    path.write_bytes(message(11, 1, (0, 0, 0, 0), bytes(24), bytes([200]) + b"x" * 50, 1))
    with pytest.raises(ObservationError, match=r"a\.prepbufr: no tables of NCEP"):
        read(path, "stations")


@pytest.mark.parametrize(
    ("header_of", "problem"), [("HEADR  SID", "without end"), ('"PRSLEVEL"255  SID', "more than 100000 elements")]
)
def test_tables_that_refer_to_themselves_or_explode_have_an_end(tmp_path, table, header_of, problem):
    nested = SHORT.replace("| PRSLEVEL | CAT", '| PRSLEVEL | "P___INFO"255  CAT').replace("[P__EVENT]", '"P__EVENT"255')
    endless = parse(nested.replace("| HEADR    | SID", f"| HEADR    | {header_of}"))
    path = tmp_path / "a.prepbufr"
    good = data(table, "ADPSFC", [header(181) | level(0, 968.4, t=3.0)])
    path.write_bytes(dictionary(endless) + good)
    found, inventory = read(path, "stations")
    assert found.empty
    assert problem in inventory.problems[0]


def test_named_in_an_experiment(tmp_path, table):
    path = write(tmp_path, table, data(table, "ADPUPA", [SONDE]))
    spec = {"source": "prepbufr", "path": str(path), "reports": "sondes", "name": "raobs"}
    found, _ = build_source(spec, None, 0).read(Window(np.datetime64(NOON)))
    assert set(found["source"]) == {"raobs"}
    with pytest.raises(ObservationError, match="needs the option reports"):
        build_source({"source": "prepbufr", "path": str(path)}, None, 0)
    with pytest.raises(ObservationError, match="reports is 'ships'; it is one of sondes"):
        build_source(spec | {"reports": "ships"}, None, 0)
    for name, kind in KINDS.items():
        assert error_kind(spec | {"reports": name}) == kind.errors
    assert error_kind({"source": "isd"}) == ""
    assert error_kind({"source": "marine_bufr"}) == "marine"
