"""What lies in folders beside the files, texts in any encoding, and files that cannot be read."""

import codecs
import os

import numpy as np
import pytest
import xarray as xr

from dacycle.obs_ingest.quality.station_lists import read_station_list
from dacycle.obs_ingest.sources.base import build_source
from dacycle.obs_ingest.sources.files import Files
from dacycle.obs_ingest.sources.netcdf_fields import OlrNetcdf
from dacycle.obs_ingest.sources.text.isd import Isd
from dacycle.obs_ingest.sources.text.metar import Metar
from dacycle.obs_ingest.station_network.stations import load_stations
from dacycle.obs_ingest.table import ObservationError
from dacycle.obs_ingest.window import Window
from tests.obs_ingest.test_fuzz import ghcnh, isd_csv, isd_native, metar_csv, metar_text, olr, synop

NOON = Window(np.datetime64("2024-01-02T12"))
MARKS = {
    "UTF-8": lambda text: codecs.BOM_UTF8 + text,
    "UTF-16": lambda text: text.decode().encode("utf-16"),
    "UTF-16 BE": lambda text: codecs.BOM_UTF16_BE + text.decode().encode("utf-16-be"),
}
TEXTS = {
    "isd": ("a.csv", isd_csv), "isd native": ("014160-99999-2024", isd_native), "ghcnh": ("a.psv", ghcnh),
    "metar": ("a.csv", metar_csv), "metar text": ("a.txt", metar_text),
}  # fmt: skip


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize("kind", TEXTS)
def test_byte_order_marks(tmp_path, kind, mark):
    name, make = TEXTS[kind]
    make(tmp_path / name)
    source = build_source({"source": kind.split()[0], "path": str(tmp_path / name), "cutoff": "none"}, None, 0)
    plain, _ = source.read(NOON)
    (tmp_path / name).write_bytes(MARKS[mark]((tmp_path / name).read_bytes()))
    marked, inventory = source.read(NOON)
    assert len(marked) == len(plain)
    assert (marked["value"] == plain["value"]).all()
    assert inventory.problems == []


@pytest.mark.parametrize("mark", [bytes, *MARKS.values()])
def test_identifiers_are_texts(tmp_path, mark):
    rows = (
        b"station,latitude,longitude,elevation,note\n007,51.48,-0.45,25,\n NULL ,40,10,5,\nNA,41,10,5,x\n1e3,42,1,5,\n"
    )
    (tmp_path / "network.csv").write_bytes(mark(rows))
    stations = load_stations(tmp_path / "network.csv", "stations")
    assert stations["station"].tolist() == ["007", "NULL", "NA", "1e3"]
    assert stations["latitude"].tolist() == [51.48, 40, 41, 42]
    (tmp_path / "list.csv").write_bytes(mark(b"station,variable\n007,\nNA,t2m\n"))
    assert read_station_list(tmp_path / "list.csv").lines["station"].tolist() == ["007", "NA"]


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (b"A,,10,5", "an empty field in line 3"),
        (b"A,5O,10,5", "something else than a number .* in line 3"),
        (b"A,510,10,5", "no position in degrees in line 3"),
        (b"B\xe9,51,10,5", "network.csv:3: is not in UTF-8"),
    ],
)
def test_a_bad_line_of_a_network_is_named(tmp_path, row, complaint):
    path = tmp_path / "network.csv"
    path.write_bytes(b"station,latitude,longitude,elevation\nB,51,10,5\n" + row + b"\n")
    with pytest.raises(ObservationError, match=complaint):
        load_stations(path, "stations")


def test_hidden_unfinished_and_endless_files_are_left_alone(tmp_path):
    isd_csv(tmp_path / "a.csv")
    for name in (".b.csv", "._a.csv", ".a.csv.part", "a.csv.part"):
        (tmp_path / name).write_bytes((tmp_path / "a.csv").read_bytes())
    os.mkfifo(tmp_path / "pipe.csv")
    for place in (tmp_path, tmp_path / "*.csv"):
        assert [path.name for path in Files("isd", place, ("*.csv",), lambda *_: True).paths()] == ["a.csv"]
    with pytest.raises(ObservationError, match="no file"):
        Isd(tmp_path / "pipe.csv").read(NOON)


@pytest.mark.parametrize(("name", "make"), [("isd", isd_csv), ("synop_bufr", synop), ("olr_netcdf", olr)])
def test_a_file_that_cannot_be_read_costs_only_itself(tmp_path, monkeypatch, name, make):
    """A disk that fails while a file is opened, which permissions cannot show to whoever may read everything."""
    suffix = {"isd": "csv", "synop_bufr": "bufr", "olr_netcdf": "nc"}[name]
    make(tmp_path / f"a.{suffix}")
    make(tmp_path / f"b.{suffix}")
    opened = type(tmp_path).open

    def failing(path, *args, **options):
        if path.name.startswith("b."):
            raise OSError(5, "Input/output error")
        return opened(path, *args, **options)

    monkeypatch.setattr(type(tmp_path), "open", failing)
    source = build_source({"source": name, "path": str(tmp_path), "cutoff": "none"}, None, 0)
    table, inventory = source.read(NOON)
    assert len(table)
    assert inventory.unreadable == 1
    assert "Input/output error" in inventory.problems[0]
    assert source.inputs(NOON)[str(tmp_path / f"b.{suffix}")] == "unreadable"


def test_damaged_daily_olr_is_an_error_with_the_files_name(shared, tmp_path):
    content = (shared / "olr/noaa_olr_cdr_daily_2000-2005_5x7pts.nc").read_bytes()
    generator, complaints = np.random.default_rng(0), 0
    for _ in range(40):
        damaged = bytearray(content)
        begin = int(generator.integers(0, len(content) - 3000))
        shuffled = generator.permutation(list(content[begin : begin + 3000])).astype("u1")
        damaged[begin : begin + 3000] = shuffled.tobytes()
        path = tmp_path / "olr.nc"
        path.write_bytes(damaged)
        try:
            OlrNetcdf(path, variable="olr", stamp="start", period="24h").read(Window(np.datetime64("2003-01-02T00")))
        except ObservationError as error:
            complaints += str(error).startswith(str(path))
    assert complaints > 5


def olr_of(times, units, calendar=None):
    attrs = {"units": units} | ({"calendar": calendar} if calendar else {})
    fields = np.full((len(times), 2, 2), 240.0, np.float32)
    return xr.Dataset(
        {"olr": (("time", "lat", "lon"), fields, {"units": "W m-2"})},
        coords={"time": ("time", np.array(times, float), attrs), "lat": [10.0, 0.0], "lon": [10.0, 20.0]},
    )


@pytest.mark.parametrize(
    ("times", "units", "calendar", "complaint"),
    [
        ([1.0], "hours since 1900-01-01", "noleap", r"of the calendar noleap, .* `cdo setcalendar,standard IN OUT`"),
        ([1.0], "hours since 1900-01-01", "360_day", r"of the calendar 360_day, .* `cdo setcalendar"),
        ([17700000.0], "hours since 1-1-1 00:00:0.0", None, r"before the Gregorian calendar, .* `cdo setreftime,1900"),
        ([], "hours since 1900-01-01", None, r"time holds no time; the file is empty, or still being written"),
        ([1.0], "fortnights since 1900-01-01", None, r"units are written as hours since 1900-01-01"),
        ([1e30], "hours since 1900-01-01", None, r"units are written as hours since 1900-01-01"),
    ],
)
def test_times_that_are_no_dates_have_a_remedy(tmp_path, times, units, calendar, complaint):
    olr_of(times, units, calendar).to_netcdf(tmp_path / "f.nc", engine="h5netcdf", unlimited_dims=["time"])
    with pytest.raises(ObservationError, match=rf"f\.nc: .*{complaint}") as refused:
        OlrNetcdf(tmp_path / "f.nc", stamp="start", period="24h").read(NOON)
    assert "decode_times" not in str(refused.value)


def test_old_reference_dates_of_the_gregorian_calendar_are_read(tmp_path):
    for reference, calendar in (("1600-01-01", None), ("0001-01-01", "proleptic_gregorian")):
        days = (np.datetime64("2024-01-01") - np.datetime64(reference)) / np.timedelta64(1, "D")
        olr_of([days], f"days since {reference}", calendar).to_netcdf(tmp_path / "f.nc", engine="h5netcdf")
        source = OlrNetcdf(tmp_path / "f.nc", stamp="start", period="24h")
        table, _ = source.read(Window(np.datetime64("2024-01-02T00")))
        assert table["time"].astype(str).tolist() == ["2024-01-02"] * 4


def test_metars_of_a_station_without_letters_keep_their_zeros(tmp_path):
    (tmp_path / "network.csv").write_text("station,latitude,longitude,elevation\nNULL,51.48,-0.45,25\n")
    (tmp_path / "metar_20240102.txt").write_text("NULL 021150Z 24008KT 9999 12/08 Q1012\n")
    table, _ = Metar(tmp_path / "metar_20240102.txt", network=str(tmp_path / "network.csv")).read(NOON)
    assert set(table["station"]) == {"NULL"}
