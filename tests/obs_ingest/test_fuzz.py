"""Damaged input never crashes a source and never enters the table: a corpus, and bytes that hypothesis damages.

Whatever stands in a file, reading it is either an ObservationError or a table that passes its own check, with counts.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dacycle
from dacycle.obs_ingest.simulation.bufr_encoder import encode_synops
from dacycle.obs_ingest.sources.base import build_source
from dacycle.obs_ingest.sources.ingesting import ingest
from dacycle.obs_ingest.sources.surface import LOST, VALUES
from dacycle.obs_ingest.table import ObservationError, check_table
from dacycle.obs_ingest.window import Window
from tests.archives.content import ndbc_file, reports
from tests.obs_ingest.helpers import observations
from tests.obs_ingest.sources import test_ghcnh, test_isd
from tests.obs_ingest.sources.text import test_igra

PAGE = b"<!DOCTYPE html><html><body><h1>503 Service Unavailable</h1></body></html>\n"
STATIONS = Path(dacycle.__file__).parent / "obs_ingest/station_network/stations.csv"
PATIENCE = 60  # seconds, much more than any of these takes


def isd_csv(path: Path) -> None:
    test_isd.write_csv(path, {}, {"DATE": f"{test_isd.NOON}:20:00"}, {"TMP": "+9999,9"})


def isd_native(path: Path) -> None:
    path.write_text("".join(test_isd.native(test_isd.CELL, "AA106003491") for _ in range(3)))


def ghcnh(path: Path) -> None:
    test_ghcnh.write(path, *(test_ghcnh.report(minute) for minute in (0, 20, 40)))


def metar_csv(path: Path) -> None:
    header = "Unix_time,ICAO,Latitude,Longitude,Elev,Temp,Dewp,Wdir,Wspd,Pcp6h,Raw"
    row = '{},CYAH,51.48,-0.45,25,12.0,8.0,240,8,0.127,"CYAH 021150Z 24008KT 12/08 Q1012"'
    path.write_text("\n".join([header, *(row.format(1704196200 + 60 * i) for i in range(3)), ""]))


def metar_text(path: Path) -> None:
    bulletin = "SAUK31 EGRR 021150\nMETAR CYAH 021150Z AUTO 24008KT 9999 SCT020\n     12/08 Q1012 NOSIG=\n"
    path.write_text(f"2024/01/02 11:50\n{bulletin}CYBK 021131Z 31012G18KT 5SM 04/03 A2924 RMK SLP903 T00400030=\n")


def madis(path: Path) -> None:
    elements = {"temperature": 285.0, "dewpoint": 280.0, "seaLevelPress": 101300.0, "windDir": 270.0, "windSpeed": 5.0}
    elements["precip6Hour"] = 0.001
    place = {"stationName": "KJFK", "latitude": 40.6, "longitude": -73.8, "elevation": 4.0}
    times = {"timeObs": pd.Timestamp("2024-01-02T11:51"), "timeReceived": pd.Timestamp("2024-01-02T11:55")}
    row = place | times | elements | {f"{name}DD": "V" for name in elements}
    pd.DataFrame([row] * 3).to_parquet(path)


def synop(path: Path) -> None:
    """Write three messages of Offenbach; only those of ECMWF state when they were received."""
    tables = (observations("t2m", [285.0], latitude=latitude) for latitude in (50.0, 51.0, 52.0))
    messages = map(encode_synops, tables)
    path.write_bytes(b"".join(message[:12] + (78).to_bytes(2, "big") + message[14:] for message in messages))


def igra(path: Path) -> None:
    path.write_text(test_igra.sounding() + test_igra.sounding(release="9999", name="AUM00011036"))


def ndbc(path: Path) -> None:
    path.write_text(ndbc_file(reports(3, 2024)))


def olr(path: Path) -> None:
    time = xr.DataArray(pd.to_datetime(["2024-01-01", "2024-01-02"]), dims="time", attrs={"bounds": "time_bnds"})
    time.encoding["units"] = "hours since 2024-01-01"
    bounds = np.stack([time.values, time.values + np.timedelta64(12, "h")], axis=1)
    fields = xr.Dataset(
        {
            "olr": (("time", "lat", "lon"), np.full((2, 3, 4), 240.0), {"units": "W m-2"}),
            "time_bnds": (("time", "nv"), bounds),
        },
        coords={"time": time, "lat": [10.0, 0.0, -10.0], "lon": [10.0, 20.0, 30.0, 40.0]},
    )
    fields.to_netcdf(path, engine="h5netcdf" if path.suffix == ".nc" else "scipy")


def table(path: Path) -> None:
    csv = path.with_suffix(".csv")
    isd_csv(csv)
    list(ingest({"source": "isd", "path": str(csv)}, np.array(["2024-01-02T12"], "M8[h]"), path.parent))


@dataclass(frozen=True)
class Format:
    """A source, the name of a file of its, what makes that file, and the analysis time of its reports."""

    source: str
    file: str
    make: Callable[[Path], None]
    time: str = "2024-01-02T12"
    examples: int = 60
    network: str | None = None


FORMATS = {
    "isd csv": Format("isd", "a.csv", isd_csv),
    "isd native": Format("isd", "014160-99999-2024", isd_native),
    "ghcnh psv": Format("ghcnh", "a.psv", ghcnh),
    "ghcnh parquet": Format("ghcnh", "a.parquet", ghcnh),
    "metar csv": Format("metar", "a.csv", metar_csv),
    "metar text": Format("metar", "a.txt", metar_text),
    "metar parquet": Format("metar", "a.parquet", madis),
    "bufr": Format("synop_bufr", "a.bufr", synop, "2024-01-02T12", 15),
    "igra": Format("igra", "a-data.txt", igra),
    "ndbc": Format("ndbc", "ntaah2024.txt", ndbc, network=str(STATIONS)),
    "netcdf 4": Format("olr_netcdf", "a.nc", olr),
    "netcdf 3": Format("olr_netcdf", "a.nc3", olr),
    "table": Format("table", "20240102T12.parquet", table),
}


@pytest.fixture(scope="module", params=FORMATS)
def sample(request, tmp_path_factory):
    """Return a format, and the content of a small file of it."""
    form = FORMATS[request.param]
    path = tmp_path_factory.mktemp("whole") / form.file
    form.make(path)
    return form, path.read_bytes()


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Fail where it takes longer."""

    def stop(*_):
        pytest.fail(f"not done within {seconds} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def read_or_refuse(form: Format, folder: Path, content: bytes) -> int | None:
    """Return the number of values read, None where the file raised ObservationError; anything else fails."""
    path = folder / form.file
    path.write_bytes(content)
    place = folder if form.source == "table" else path
    options = {} if form.network is None else {"network": form.network}
    source = build_source({"source": form.source, "path": str(place), "cutoff": "none", **options}, None, 0)
    with within(PATIENCE):
        try:
            found, inventory = source.read(Window(np.datetime64(form.time)))
        except ObservationError as error:
            refusal = str(error)
        else:
            refusal = ""
    if refusal:
        assert str(folder) in refusal, "the message names the file"
        return None
    check_table(found, form.source)
    assert len(found) == sum(inventory.values.values())
    assert min([inventory.missing, inventory.decoded, *inventory.skipped.values()]) >= 0
    if form.source in ("isd", "ghcnh", "metar", "ndbc"):
        lost = {reason: inventory.skipped.get(reason, 0) for reason in LOST.values()}
        assert inventory.found == inventory.decoded + sum(inventory.skipped.values()) - sum(lost.values())
        assert inventory.decoded * len(VALUES) == len(found) + inventory.missing + sum(lost.values())
    return len(found)


def corpus(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Damaged versions of a file, by what is wrong with them."""
    yield "empty", b""
    yield "a page", PAGE
    yield "a page after the beginning", content[:40] + PAGE
    for share in (0.02, 0.3, 0.5, 0.9, 0.99):
        yield f"cut off at {share:.0%}", content[: int(len(content) * share)]
    yield "cut off by a byte", content[:-1]
    yield "the end alone", content[len(content) // 2 :]
    yield "zeros in the middle", content[: len(content) // 3] + bytes(200) + content[len(content) // 3 + 200 :]
    yield "twice", content + content
    yield "random", np.random.default_rng(0).bytes(2000)
    yield "carriage returns", content.replace(b"\n", b"\r\n")
    yield "no line ends", content.replace(b"\n", b" ")
    yield "open quotes", content.replace(b'"', b"", 1)
    yield "UTF-16", content.decode("latin-1").encode("utf-16")
    yield "other numbers", content.replace(b"1", b"9")
    yield "no numbers", content.replace(b"2", b"x")


def test_whole_files_are_read(sample, tmp_path):
    form, content = sample
    assert read_or_refuse(form, tmp_path, content) > 0


def test_the_corpus(sample, tmp_path):
    form, content = sample
    for name, damaged in corpus(content):
        got = read_or_refuse(form, tmp_path, damaged)
        assert not (got and name in ("empty", "a page", "random")), name


def test_wrong_lengths_of_bufr_sections(tmp_path):
    form = FORMATS["bufr"]
    synop(tmp_path / form.file)
    content = (tmp_path / form.file).read_bytes()
    whole = read_or_refuse(form, tmp_path, content)
    third = 8 + int.from_bytes(content[8:11], "big")  # there is no section 2
    fourth = third + int.from_bytes(content[third : third + 3], "big")
    for start in (4, 8, third, fourth):
        true = int.from_bytes(content[start : start + 3], "big")
        for length in {0, 1, true - 1, true + 1, 0x7FFF, 0xFFFFFF}:
            damaged = content[:start] + length.to_bytes(3, "big") + content[start + 3 :]
            assert read_or_refuse(form, tmp_path, damaged) == whole - 1, (start, length)


@pytest.mark.parametrize("form", ["isd csv", "ghcnh psv", "metar csv"])
def test_missing_columns_are_named(form, tmp_path):
    form = FORMATS[form]
    form.make(tmp_path / form.file)
    frame = pd.read_csv(tmp_path / form.file, sep="|" if form.file.endswith("psv") else ",", dtype=str)
    for name in frame.columns:
        frame.drop(columns=name).to_csv(
            tmp_path / form.file, sep="|" if form.file.endswith("psv") else ",", index=False
        )
        try:
            read_or_refuse(form, tmp_path, (tmp_path / form.file).read_bytes())
        except AssertionError:
            raise AssertionError(name) from None


def test_netcdf_without_units(tmp_path):
    olr(tmp_path / "whole.nc")
    with xr.open_dataset(tmp_path / "whole.nc", engine="h5netcdf") as whole:
        bare = whole.load()
    del bare["olr"].attrs["units"]
    bare.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    source = build_source({"source": "olr_netcdf", "path": str(tmp_path / "a.nc"), "cutoff": "none"}, None, 0)
    with pytest.raises(ObservationError, match=r"a\.nc: olr has no units"):
        source.read(Window(np.datetime64("2024-01-02T12")))


def mutations(size: int) -> st.SearchStrategy[list[tuple[str, int, bytes]]]:
    """Up to eight changes: what, where, and with what."""
    one = st.tuples(
        st.sampled_from(["put", "insert", "delete", "cut", "repeat"]),
        st.integers(0, size),
        st.binary(min_size=1, max_size=8),
    )
    return st.lists(one, min_size=1, max_size=8)


def mutate(content: bytes, changes: list[tuple[str, int, bytes]]) -> bytes:
    for what, place, new in changes:
        if what == "put":
            content = content[:place] + new + content[place + len(new) :]
        elif what == "insert":
            content = content[:place] + new + content[place:]
        elif what == "delete":
            content = content[:place] + content[place + 16 * len(new) :]
        elif what == "cut":
            content = content[: max(place, len(content) - place)]
        else:
            content = content[:place] + content[max(place - 64, 0) : place] * len(new) + content[place:]
    return content


def test_mutated_bytes(sample, tmp_path_factory):
    form, content = sample
    folder = tmp_path_factory.mktemp("mutated")

    @settings(max_examples=form.examples, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
    @given(mutations(len(content)))
    def check(changes):
        read_or_refuse(form, folder, mutate(content, changes))

    check()


@settings(max_examples=200, derandomize=True)
@given(st.text(st.sampled_from("0123456789/ABCDEGKLMNOPQRSTVWXZ= \n-+"), max_size=200))
def test_no_text_keeps_the_reader_of_metars(tmp_path_factory, text):
    folder = tmp_path_factory.getbasetemp()
    read_or_refuse(
        FORMATS["metar text"], folder, f"2024/01/02 11:50\nCYAH 021150Z {text}\nCYAH 021120Z 24008KT=".encode()
    )
