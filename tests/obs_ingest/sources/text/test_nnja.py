"""NNJA-AI in Parquet, made here as its documents describe it: no genuine file was at hand.

The values of the first three stations are rows that the archive's own notebook prints.
"""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dacycle.forecast_adapter.physics import humidity_from_dewpoint
from dacycle.obs_ingest.sources.base import build_source
from dacycle.obs_ingest.sources.text.nnja import Nnja, NnjaSondes
from dacycle.obs_ingest.table import ObservationError, check_table
from dacycle.obs_ingest.window import Window

MIDNIGHT = "2021-01-01T00"
FILL = 1e11
PRINTED = {
    "LAT": [45.42, 8.08, 47.17], "LON": [12.38, -80.95, 20.23], "SELV": [6.0, 88.0, 85.0],
    "RPID": ["16101", "78795", "12860"], "WNDSQ1.WDIR": [350.0, 0.0, 260.0], "WNDSQ1.WSPD": [1.0, 0.0, 3.0],
    "TMPSQ1.TMDB": [278.25, 301.15, 276.75], "PCPSQ1.TP06": [0.0, 0.0, 6.0],
}  # fmt: skip


def surface(path, columns=PRINTED, **more):
    n = len(columns["LAT"])
    stamp = pd.to_datetime(["2021-01-01"] * n, utc=True)
    frame = pd.DataFrame({"OBS_TIMESTAMP": stamp, **columns, **more, "OBS_DATE": ["2021-01-01"] * n})
    frame.to_parquet(path)
    return path


def level(pressure, t=FILL, td=FILL, direction=FILL, speed=FILL, mark=2.0):
    return {
        "PRLC": float(pressure),
        "UATMP": {"QMAT": mark, "TMDB": float(t), "QMDD": FILL, "TMDP": float(td)},
        "UAWND": {"QMWN": FILL, "WDIR": float(direction), "WSPD": float(speed)},
    }


LEVELS = [
    level(99500, 288.15, 283.15, 200, 4), level(92500, 284.15, 278.15, 210, 8), level(85000, 279.15, 271.15, 220, 10),
    level(70000, 269.15, 257.15, 240, 15), level(50000, 253.15, 233.15, 270, 22), level(FILL, direction=280, speed=30),
]  # fmt: skip


def sondes(path, *soundings, heights=None, **more):
    n = len(soundings)
    heights = {85000: 1460, 70000: 3018, 50000: 5592} if heights is None else heights
    columns = {
        "OBS_TIMESTAMP": pd.to_datetime(["2020-12-31T23:30"] * n, utc=True), "LAT": [48.23] * n,
        "LON": [16.35] * n, "SELV": [150.0] * n, "RPID": [f"{11035 + i}" for i in range(n)],
        **{f"GP10_PRLC{p}": [z * 9.80665] * n for p, z in heights.items()}, **more,
    }  # fmt: skip
    table = pa.table({**columns, "UARLV": pa.array(list(soundings))})
    pq.write_table(table, path)
    return path


def read(source, path, at=MIDNIGHT):
    table, inventory = source(path).read(Window(np.datetime64(at)))
    check_table(table, "nnja")
    return table, inventory


def test_the_printed_rows(tmp_path):
    table, inventory = read(Nnja, surface(tmp_path / "a.parquet"))
    assert (inventory.found, inventory.decoded) == (3, 3)
    assert inventory.values == {"t2m": 3, "u10": 3, "v10": 3, "tp": 3}
    venice = table[table["station"] == "16101"].set_index("variable")
    assert set(venice["elevation"]) == {6}
    assert venice.loc["t2m", "value"] == pytest.approx(278.25)
    assert venice.loc["v10", "value"] == pytest.approx(-np.cos(np.deg2rad(350)))
    panama = table[table["station"] == "78795"].set_index("variable")
    assert panama.loc["u10", "value"] == 0  # a calm
    assert table.loc[(table["station"] == "12860") & (table["variable"] == "tp"), "value"].item() == 6


def test_other_names_before_the_mnemonics(tmp_path):
    renamed = {name.replace("TMPSQ1", "TEMHUMDA").replace("WNDSQ1", "BSYWND1"): v for name, v in PRINTED.items()}
    more = {"PRESDATA.PMSL": [101300.0] * 3, "PRESDATA.PRES": [101200.0, FILL, 100300.0], "TEMHUMDA.TMDP": [275.0] * 3}
    _, inventory = read(Nnja, surface(tmp_path / "a.parquet", renamed, **more))
    assert inventory.values == {"t2m": 3, "td2m": 3, "msl": 3, "ps": 2, "u10": 3, "v10": 3, "tp": 3}


def test_quality_marks_and_corrections(tmp_path):
    marks = {"TMPSQ1.QMAT": [0.0, 3.0, 13.0], "WNDSQ1.QMWN": [15.0, np.nan, 2.0]}
    table, inventory = read(Nnja, surface(tmp_path / "a.parquet", **marks))
    assert inventory.skipped["value rejected by its provider"] == 3
    assert sorted(table.loc[table["variable"] == "t2m", "station"]) == ["16101", "78795"]
    twice = {name: [*values[:1], *values[:1]] for name, values in PRINTED.items()}
    twice["TMPSQ1.TMDB"] = [278.25, 279.25]
    receipt = {"RCPTIM.RCYR": [2021.0] * 2, "RCPTIM.RCMO": [1.0] * 2, "RCPTIM.RCDY": [1.0] * 2}
    receipt |= {"RCPTIM.RCHR": [0.0, 2.0], "RCPTIM.RCMI": [40.0, 10.0]}
    surface(tmp_path / "a.parquet", twice, CORN=[0.0, 1.0], **receipt)
    table, inventory = read(Nnja, tmp_path)
    assert inventory.skipped == {"superseded by a later version": 1}
    assert table.loc[table["variable"] == "t2m", "value"].tolist() == [279.25]
    assert set(table["received"]) == {pd.Timestamp("2021-01-01T02:10")}


def test_a_sounding(tmp_path):
    table, inventory = read(NnjaSondes, sondes(tmp_path / "a.parquet", LEVELS, LEVELS))
    assert (inventory.found, inventory.decoded) == (2, 2)
    assert inventory.skipped == {"level without pressure": 2}
    assert set(table["station"]) == {"11035", "11036"}
    assert set(table["time"]) == {pd.Timestamp("2020-12-31T23:30")}
    one = table[table["station"] == "11035"].set_index(["variable", "pressure"])["value"]
    assert one["t", 85000] == pytest.approx(279.15)
    assert one["z", 50000] == pytest.approx(5592 * 9.80665)
    assert one["q", 70000] == pytest.approx(humidity_from_dewpoint(257.15, 70000))
    assert one["u", 50000] == pytest.approx(22)
    assert ("t", 60000) not in one.index  # the gap is too wide


def test_marks_and_gaps_of_soundings(tmp_path):
    bad = [*LEVELS[:2], level(85000, 290.0, mark=13.0), *LEVELS[3:5]]
    table, inventory = read(NnjaSondes, sondes(tmp_path / "a.parquet", bad, [], None))
    assert inventory.decoded == 3
    assert inventory.skipped["value rejected by its provider"] == 1
    assert set(table["station"]) == {"11035"}
    table, _ = read(NnjaSondes, sondes(tmp_path / "a.parquet", LEVELS, heights={}))
    assert "z" not in set(table["variable"])


def test_files_of_the_other_kind_and_damaged_ones(tmp_path):
    with pytest.raises(ObservationError, match="soundings; the source nnja_sondes reads them"):
        read(Nnja, sondes(tmp_path / "a.parquet", LEVELS))
    with pytest.raises(ObservationError, match=r"b\.parquet: no column UARLV"):
        read(NnjaSondes, surface(tmp_path / "b.parquet"))
    (tmp_path / "b.parquet").write_bytes((tmp_path / "b.parquet").read_bytes()[:-50])
    for source in (Nnja, NnjaSondes):
        with pytest.raises(ObservationError, match=r"b\.parquet"):
            read(source, tmp_path / "b.parquet")


def test_one_damaged_file_does_not_stop_the_others(tmp_path):
    sondes(tmp_path / "a.parquet", LEVELS)
    (tmp_path / "b.parquet").write_bytes(b"PAR1 damaged PAR1")
    source = build_source({"source": "nnja_sondes", "path": str(tmp_path)}, None, 0)
    _, inventory = source.read(Window(np.datetime64(MIDNIGHT)))
    assert (inventory.decoded, inventory.unreadable) == (1, 1)
