"""Radiosondes in IGRA's text: genuine files read independently, and soundings written here."""

import gzip
import zipfile
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from dacycle.forecast_adapter.physics import humidity_from_dewpoint
from dacycle.obs_ingest.errors.model import standard_error
from dacycle.obs_ingest.sources.base import build_source
from dacycle.obs_ingest.sources.sounding import STANDARD
from dacycle.obs_ingest.sources.text.igra import Igra
from dacycle.obs_ingest.table import ObservationError, check_table
from dacycle.obs_ingest.window import Window

VIENNA = "AUM00011035"
LEVEL = "{:2d} {:5d} {:6d}{:1s}{:5d}{:1s}{:5d}{:1s}{:5d} {:5d} {:5d} {:5d} \n"
NOTHING = -9999
PLACE = (" 482333", "  163500")


def level(pressure, height=NOTHING, t=NOTHING, rh=NOTHING, dpd=NOTHING, direction=NOTHING, speed=NOTHING, kind=20):
    return LEVEL.format(kind, NOTHING, pressure, "B", height, "B", t, "B", rh, dpd, direction, speed)


GROUND = level(99500, 150, 150, dpd=50, direction=200, speed=40, kind=21)
LEVELS = [
    GROUND,
    level(92500, 763, 110, dpd=60, direction=210, speed=80, kind=10),
    level(85000, 1460, 60, dpd=80, direction=220, speed=100, kind=10),
    level(70000, 3018, -40, dpd=120, direction=240, speed=150, kind=10),
    level(50000, 5592, -200, dpd=200, direction=270, speed=220, kind=10),
]


def sounding(
    levels=LEVELS, date="2024 01 02 12", release="1131", place=(" 482333", "  163500"), count=None, name=VIENNA
):
    number = len(levels) if count is None else count
    return f"#{name} {date} {release} {number:4d} ncdc-gts          {place[0]} {place[1]}\n" + "".join(levels)


def write(folder, *soundings, name=f"{VIENNA}-data.txt"):
    path = folder / name
    path.write_text("".join(soundings))
    return path


def read(path, time="2024-01-02T12", **options):
    table, inventory = Igra(path, **options).read(Window(np.datetime64(time)))
    check_table(table, "igra")
    return table, inventory


def values(table, variable):
    rows = table[table["variable"] == variable]
    return pd.Series(rows["value"].to_numpy(), (rows["pressure"] / 100).astype(int))


# The genuine file, read a second time by slicing its columns in a loop.


def independent(path):
    """Yield header and levels of each sounding, numbers as the text has them."""
    columns = {"p": (9, 15), "z": (16, 21), "t": (22, 27), "dpd": (34, 39), "dir": (40, 45), "speed": (46, 51)}
    header, levels = None, []
    for line in gzip.decompress(path.read_bytes()).decode().splitlines():
        if line.startswith("#"):
            if header:
                yield header, levels
            header, levels = line, []
        else:
            levels.append({name: int(line[a:b]) for name, (a, b) in columns.items()})
    yield header, levels


def released(header):
    """Return the time of release: nights before midnight belong to the day before the nominal one."""
    nominal = pd.Timestamp(header[13:23].replace(" ", "-")) + pd.Timedelta(hours=int(header[24:26]))
    if header[27:31] == "9999":
        return nominal
    time = nominal.normalize() + pd.Timedelta(hours=int(header[27:29]), minutes=int(header[29:31]))
    return time - pd.Timedelta(days=1) if time - nominal > pd.Timedelta(hours=12) else time


def check_against(path):
    """Compare every reported value on a standard level with the source's; return the numbers of both."""
    source, soundings, expected, counts = Igra(path), 0, {}, Counter()
    for header, levels in independent(path):
        soundings += 1
        for row in levels:
            if row["p"] not in STANDARD:
                continue
            key = (released(header), row["p"])
            if row["z"] > -8000:
                expected[(*key, "z")] = row["z"] * 9.80665
            if row["t"] > -8000:
                expected[(*key, "t")] = row["t"] / 10 + 273.15
            if row["dpd"] > -8000 and row["t"] > -8000 and row["p"] >= 20000:
                expected[(*key, "q")] = humidity_from_dewpoint((row["t"] - row["dpd"]) / 10 + 273.15, row["p"])
            if row["speed"] > -8000 and row["dir"] > -8000:
                angle = np.deg2rad(row["dir"])
                expected[(*key, "u")] = -row["speed"] / 10 * np.sin(angle)
                expected[(*key, "v")] = -row["speed"] / 10 * np.cos(angle)
    times = sorted({time for time, *_ in expected})
    windows = pd.date_range(times[0].floor("6h") - pd.Timedelta("6h"), times[-1] + pd.Timedelta("6h"), freq="6h")
    found = {}
    for time in windows:
        table, inventory = source.read(Window(time.to_datetime64()))
        counts.update(inventory.skipped)
        counts["decoded"] += inventory.decoded
        keys = zip(table["time"], table["pressure"], table["variable"], strict=True)
        found.update(zip(keys, table["value"], strict=True))
    assert counts["decoded"] == soundings
    both = expected.keys() & found.keys()
    assert np.array([found[key] for key in both]) == pytest.approx(np.array([expected[key] for key in both]), abs=1e-6)
    return soundings, len(expected), len(expected.keys() - found.keys()), counts


def test_every_value_of_an_independent_reader(shared):
    soundings, reported, absent, _ = check_against(shared / f"obs/{VIENNA}-data.txt.gz")
    assert soundings == 24
    assert absent <= 0.01 * reported


@pytest.mark.slow
def test_the_whole_genuine_file(full_samples):
    soundings, reported, absent, counts = check_against(full_samples / f"network/igra/{VIENNA}-data.txt.gz")
    assert (soundings, reported) == (321, 16970)
    assert counts["value rejected by its provider"] == 3
    assert absent <= 0.01 * reported


def test_spot_values_of_the_genuine_file(shared):
    table, inventory = read(shared / f"obs/{VIENNA}-data.txt.gz", "2015-06-30T12")
    assert (inventory.found, inventory.decoded, inventory.missing, inventory.skipped) == (1, 1, 0, {})
    assert set(table["station"]) == {VIENNA}
    assert set(table["time"]) == {pd.Timestamp("2015-06-30T11:37")}
    assert (set(table["latitude"]), set(table["longitude"])) == ({48.2333}, {16.35})
    assert table["elevation"].isna().all()  # this sounding's surface level has no height
    assert values(table, "z")[[850, 500, 100]].tolist() == pytest.approx(
        [1570 * 9.80665, 5800 * 9.80665, 16590 * 9.80665]
    )
    assert values(table, "t")[[850, 500, 100]].tolist() == pytest.approx([285.15, 261.85, 218.45])
    assert values(table, "q")[850] == pytest.approx(humidity_from_dewpoint(276.15, 85000))
    assert np.hypot(values(table, "u"), values(table, "v"))[[850, 500, 100]].tolist() == pytest.approx([5, 18, 8])
    row = table[(table["variable"] == "t") & (table["pressure"] == 50000)].iloc[0]
    assert row["error"] == pytest.approx(standard_error("t", row["value"], 50000))


def test_a_list_of_stations_gives_the_elevation(shared, full_samples, tmp_path):
    file = shared / f"obs/{VIENNA}-data.txt.gz"
    table, _ = read(file, "2015-06-30T12", network=str(full_samples / "network/igra/igra2-station-list.txt"))
    assert set(table["elevation"]) == {200}
    (tmp_path / "list.csv").write_text(f"station,latitude,longitude,elevation\n{VIENNA},48.2,16.4,198\n")
    table, _ = read(file, "2015-06-30T12", network=str(tmp_path / "list.csv"))
    assert set(table["elevation"]) == {198}
    line = f"{VIENNA}  48.2486   16.3564  {{:>5}}    WIEN                           1945 2024  50000\n"
    (tmp_path / "list.txt").write_text(line.format("198.0"))
    assert set(read(file, "2015-06-30T12", network=str(tmp_path / "list.txt"))[0]["elevation"]) == {198}
    (tmp_path / "unknown.txt").write_text(line.format("-99.9").replace(" -99.9", "-999.9"))
    assert set(read(file, "2015-06-30T12", network=str(tmp_path / "unknown.txt"))[0]["elevation"].dropna()) == set()
    with pytest.raises(ObservationError, match=r"none\.txt"):
        read(file, "2015-06-30T12", network=str(tmp_path / "none.txt"))


def test_parameters_derived_from_soundings_are_refused(full_samples, tmp_path):
    with pytest.raises(ObservationError, match=r"drvd.*take the soundings themselves"):
        read(full_samples / "network/igra/USM00070026-drvd.txt.zip", "2014-09-10T00")
    with pytest.raises(ObservationError, match="no soundings of IGRA: it begins with"):
        read(write(tmp_path, "<html>503 Service Unavailable</html>"))


@pytest.mark.parametrize("pack", ["plain", "gzip", "zip"])
def test_plain_and_packed(tmp_path, pack):
    path = write(tmp_path, sounding(), sounding(date="2024 01 03 00", release="2303"))
    if pack == "gzip":
        path = tmp_path / f"{VIENNA}-data.txt.gz"
        path.write_bytes(gzip.compress((tmp_path / f"{VIENNA}-data.txt").read_bytes()))
    elif pack == "zip":
        path = tmp_path / f"{VIENNA}-data-beg2024.txt.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(tmp_path / f"{VIENNA}-data.txt", f"{VIENNA}-data.txt")
    table, _ = read(path)
    assert set(table["time"]) == {pd.Timestamp("2024-01-02T11:31")}
    assert set(table["elevation"]) == {150}  # of the surface level
    table, _ = read(path, "2024-01-03T00")
    assert set(table["time"]) == {pd.Timestamp("2024-01-02T23:03")}  # the evening before the nominal day


def test_a_zip_of_several_files_and_a_damaged_one_are_refused(tmp_path):
    path = tmp_path / f"{VIENNA}-data.txt.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", sounding())
        archive.writestr("b.txt", sounding())
    with pytest.raises(ObservationError, match=r"a zip file of 2 files"):
        read(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ObservationError, match=r"data\.txt\.zip"):
        read(path)


@pytest.mark.parametrize(
    ("date", "release", "time"),
    [
        ("2024 01 02 12", "9999", "2024-01-02T12:00"),
        ("2024 01 02 12", "1199", "2024-01-02T11:00"),  # the minute is unknown
        ("2024 01 02 99", "1131", "2024-01-02T11:31"),
        ("2024 01 01 23", "0010", "2024-01-02T00:10"),
        ("2024 01 02 13", "1131", "2024-01-02T11:31"),
    ],
)
def test_nominal_hour_and_release(tmp_path, date, release, time):
    path = write(tmp_path, sounding(date=date, release=release))
    window = pd.Timestamp(time).round("6h").to_datetime64()
    table, _ = read(path, str(window)[:13])
    assert set(table["time"]) == {pd.Timestamp(time)}


@pytest.mark.parametrize(
    ("date", "release"),
    [("2024 01 02 99", "9999"), ("2024 01 02 12", "0300"), ("2024 01 02 12", "1175"), ("2024 02 30 12", "1131")],
)
def test_a_sounding_without_a_time_is_counted(tmp_path, date, release):
    """Neither hour nor release; release nine hours from the nominal hour; no minute; no day."""
    path = write(tmp_path, sounding(), sounding(date=date, release=release))
    _, inventory = read(path)
    assert inventory.skipped == {"no time": 1}
    assert (inventory.found, inventory.decoded) == (2, 1)


def test_missing_and_removed_values(tmp_path):
    removed = level(85000, 1460, -8888, dpd=-8888, direction=220, speed=100, kind=10)
    table, inventory = read(write(tmp_path, sounding([*LEVELS[:2], removed, *LEVELS[3:]])))
    assert inventory.skipped == {"value rejected by its provider": 2}
    assert 850 in values(table, "u")
    assert 850 in values(table, "z")
    path = write(tmp_path, sounding(place=("-988888", "-9998888")))
    table, inventory = read(path)
    assert table.empty
    assert inventory.skipped == {"no position": 1}


def test_humidity_from_relative_humidity_where_there_is_no_depression(tmp_path):
    moist = level(85000, 1460, 60, rh=946, direction=64, speed=21, kind=10)
    table, _ = read(write(tmp_path, sounding([*LEVELS[:2], moist, *LEVELS[3:]])))
    saturated = humidity_from_dewpoint(273.15 + 6.0, 85000)
    assert values(table, "q")[850] == pytest.approx(0.946 * saturated, rel=1e-3)
    wrong = level(85000, 1460, 60, rh=1200, direction=64, speed=21, kind=10)
    table, inventory = read(write(tmp_path, sounding([*LEVELS[:2], wrong, *LEVELS[3:]])))
    assert inventory.skipped == {"impossible humidity": 1}


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (level(85000, 1490, 70, kind=10), "level that repeats a pressure"),
        (level(88000, t=80), "level out of order"),  # a balloon that sinks, or a wrong pressure
        (level(NOTHING, 1600, direction=220, speed=110, kind=30), "level without pressure"),
        (level(80000, t=30).replace(" 80000", " 8O000"), "level that cannot be read"),
        (level(80000, t=30)[:40] + "\n", "level that cannot be read"),
        (level(80000, direction=400, speed=100), "impossible wind"),
        (level(80000, direction=40, speed=-10), "impossible wind"),
        (level(80000, t=2000), "impossible temperature"),
    ],
)
def test_levels_that_cannot_be_are_counted_and_the_others_stay(tmp_path, extra, reason):
    clean, _ = read(write(tmp_path, sounding()))
    path = write(tmp_path, sounding([*LEVELS[:3], extra, *LEVELS[3:]]))
    table, inventory = read(path)
    assert inventory.skipped == {reason: 1}
    assert inventory.decoded == 1
    assert table["value"].to_numpy() == pytest.approx(clean["value"].to_numpy())


@pytest.mark.parametrize(
    ("damaged", "problem"),
    [
        (sounding(count=6), "line 7: states 6 levels, and 5 lines follow"),
        (sounding().replace("ncdc-gts", "ncdc"), "line 7: no header of a sounding"),
    ],
)
def test_damaged_soundings_are_named_by_their_line(tmp_path, damaged, problem):
    path = write(tmp_path, sounding(), damaged, sounding(name="AUM00011036"))
    _, inventory = read(path)
    assert inventory.problems == [f"{path}, {problem}"]
    assert inventory.skipped == {"damaged": 1}
    assert (inventory.found, inventory.decoded) == (3, 2)


def test_a_file_cut_off_is_read_up_to_the_damage(tmp_path):
    many = gzip.compress("".join(sounding(name=f"AUM{i:08d}") for i in range(2000)).encode())
    path = tmp_path / "all-data.txt.gz"
    path.write_bytes(many[: len(many) // 2])
    _, inventory = read(path)
    assert inventory.decoded > 500
    assert inventory.problems[0] == f"{path}, the compressed file is cut off"
    assert inventory.skipped == {"damaged": 2}  # the file, and its last sounding


def test_two_files_with_the_same_sounding(tmp_path):
    """The period of record and the year to date overlap."""
    write(tmp_path, sounding())
    write(tmp_path, sounding(), sounding(date="2024 01 02 18", release="1731"), name=f"{VIENNA}-data-beg2024.txt")
    _, inventory = read(tmp_path)
    assert (inventory.decoded, inventory.skipped) == (1, {"repeated report": 1})
    _, inventory = read(tmp_path, "2024-01-02T18")
    assert len(inventory.files) == 1


def test_years_and_inputs(tmp_path):
    old = [sounding(date=f"{year} 01 01 00", release="2330") for year in (1950, 2023, 2024)]
    path = write(tmp_path, *old)
    source = Igra(path)
    for year in (1950, 2024, 2023, 2024):
        table, inventory = source.read(Window(np.datetime64(f"{year}-01-01T00")))
        assert set(table["time"]) == {pd.Timestamp(f"{year - 1}-12-31T23:30")}
        assert list(source.inputs(Window(np.datetime64(f"{year}-01-01T00")))) == [str(path)]
    table, inventory = source.read(Window(np.datetime64("2000-01-01T00")))
    assert table.empty
    assert not inventory.files


def test_named_in_an_experiment(tmp_path, tiny):
    write(tmp_path, sounding())
    spec = {"source": "igra", "path": str(tmp_path), "cutoff": "48h", "latency": "47h"}
    source = build_source(spec, tiny, 0)
    table, inventory = source.read(Window(np.datetime64("2024-01-02T12"), source.cutoff))
    assert inventory.late == 0
    assert inventory.latency == 47 * 60
    assert set(table["source"]) == {"igra"}
    with pytest.raises(ObservationError, match="tolerance is 0"):
        build_source(spec | {"tolerance": 0}, tiny, 0)
