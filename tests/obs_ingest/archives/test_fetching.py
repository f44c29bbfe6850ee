"""Whole years of archives, fetched from a server on loopback that lists its folders as NOAA's does."""

import os
import re
import shutil
import time
import zipfile

import pytest

from dacycle.forecast_adapter import remote
from dacycle.obs_ingest.archives import fetching, transfer
from dacycle.obs_ingest.archives.choice import Choice
from dacycle.obs_ingest.archives.transfer import Connection, Stopped
from dacycle.obs_ingest.table import ObservationError
from tests.archives import server as module
from tests.archives.content import GHCNH, IGRA, ISD, NDBC, OLR, make, write
from tests.archives.server import listing, serving

ALL = Choice(everything=True)
FIRST, LONG = f"/{ISD}/2022/01001099999.csv", f"/{ISD}/2022/72530094846.csv"


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """Fill a folder with archives, once."""
    root = tmp_path_factory.mktemp("archives")
    make(root, days=60)
    return root


@pytest.fixture
def server(filled, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(filled, root)
    with serving(root) as archives:
        yield archives


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(transfer, "PAUSE", 0.0)
    monkeypatch.setattr(transfer, "TIMEOUT", 5.0)


def fetch(server, folder, source="isd", years=(2022,), choice=ALL):
    """Fetch, as `dacycle fetch` does; return the plan and the summary."""
    connection = Connection(server.url, rate=1000)
    try:
        plan = fetching.make_plan(source, years, choice, folder, connection)
        return plan, fetching.fetch(plan, connection, 4)
    finally:
        connection.close()


def files(folder):
    """Content of what is there under its own name."""
    return {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")}


def left(folder):
    return [path.name for path in folder.rglob(".*.part*")]


@pytest.mark.parametrize(
    ("source", "choice", "place", "pattern", "number"),
    [
        ("isd", ALL, f"{ISD}/2022", "2022/*.csv", 4),
        ("ghcnh", ALL, f"{GHCNH}/access/by-year/2022/psv", "2022/*.psv", 3),
        ("igra", ALL, f"{IGRA}/access/data-por", "*-data.txt.zip", 2),
        ("ndbc", ALL, NDBC, "2022/*.txt.gz", 1),
        ("olr_netcdf", None, OLR, "2022/*.nc", 1),
    ],
)
def test_files_are_those_of_the_archive(source, choice, place, pattern, number, server, tmp_path):
    plan, summary = fetch(server, tmp_path / "out", source, choice=choice)
    got = sorted((tmp_path / "out").glob(pattern))
    assert len(got) == number == summary.fetched == len(plan.wanted)
    for path in got:
        assert path.read_bytes() == (server.root / place / path.name).read_bytes()
    assert summary.bytes == sum(path.stat().st_size for path in got)
    assert left(tmp_path) == summary.failures == []
    server.forget()
    again = fetch(server, tmp_path / "out", source, choice=choice)[1]
    assert (again.fetched, again.unchanged, server.asked) == (0, number, []), "within a day nothing is asked"


def test_a_plan_asks_for_indexes_only(server, tmp_path):
    connection = Connection(server.url, rate=1000)
    plan = fetching.make_plan("isd", [2022], ALL, tmp_path, connection)
    assert {path for _, path, _, _ in server.asked} == {"/pub/data/noaa/isd-history.csv", f"/{ISD}/2022/"}
    truth = sum(path.stat().st_size for path in (server.root / ISD).rglob("*.csv"))
    assert plan.bytes == pytest.approx(truth, rel=0.05), "listings round"
    assert plan.seconds(2) == max(plan.bytes / fetching.LINE, 4 / 2)
    sized = fetching.make_plan("ghcnh", [2022], ALL, tmp_path / "ghcnh", connection)
    assert sized.bytes == sum(path.stat().st_size for path in (server.root / GHCNH).rglob("*.psv"))
    assert [method for method, path, _, _ in server.asked if path.endswith(".psv")] == ["HEAD"] * 3
    connection.close()


def test_what_the_archive_has_not_is_named(server, tmp_path):
    _, summary = fetch(server, tmp_path / "a", years=(2022, 2031))
    assert summary.lacking == [
        "2022: files of stations that are on the list (1): 94767099999",
        "2031: the archive has no folder of this year",
    ]
    named = Choice(("72530094846", "99999900001", "12345678901", "94767099999"))
    _, summary = fetch(server, tmp_path / "b", choice=named)
    assert summary.fetched == 1
    assert summary.lacking == [
        "2022: 99999900001 has no file; it reported from 19900101 to 20001231",
        "2022: 12345678901 is not on the archive's list of stations",
        "2022: 94767099999 has no file; it reported from 19450101 to 20251231",
    ]
    _, summary = fetch(server, tmp_path / "c", "olr_netcdf", (2022, 2023), None)
    assert summary.lacking == ["2023: the archive has no file of this year"]
    (server.root / f"{IGRA}/access/data-por/USM00072530-data.txt.zip").unlink()
    _, summary = fetch(server, tmp_path / "d", "igra")
    assert summary.lacking == ["2022: files of stations that are on the list (1): USM00072530"]


@pytest.mark.parametrize(("source", "place"), [("olr_netcdf", OLR), ("ndbc", NDBC)])
def test_files_that_come_late_are_found_on_the_same_day(source, place, server, tmp_path):
    (late,) = (server.root / place).iterdir()
    late = late.rename(server.root / late.name)
    write(server.root / place / late.name.replace("2022", "2021"), "of another year\n")
    choice = ALL if source == "ndbc" else None
    _, summary = fetch(server, tmp_path / "out", source, choice=choice)
    assert (summary.fetched, summary.lacking) == (0, ["2022: the archive has no file of this year"])
    late.rename(server.root / place / late.name)
    _, summary = fetch(server, tmp_path / "out", source, choice=choice)
    assert (summary.fetched, summary.lacking) == (1, [])


def test_soundings_of_the_last_years_come_from_the_smaller_files(server, tmp_path):
    plan, _ = fetch(server, tmp_path, "igra", (2025,), Choice(("ASM00094767",)))
    assert [file.name for file in plan.wanted] == ["ASM00094767-data-beg2025.txt.zip"]
    plan, _ = fetch(server, tmp_path, "igra", (2024, 2025), Choice(("ASM00094767",)))
    assert [file.name for file in plan.wanted] == ["ASM00094767-data.txt.zip"]


def test_a_final_year_of_olr_counts_before_a_preliminary_one(server, tmp_path):
    final = server.root / OLR / "olr-daily_v01r02_20220101_20221231.nc"
    for name in ("v01r02-preliminary_20220101_20221231", "v01r02-preliminary_20230101_20230630"):
        shutil.copy(final, final.with_name(f"olr-daily_{name}.nc"))
    plan, _ = fetch(server, tmp_path, "olr_netcdf", (2022, 2023), None)
    assert [file.name for file in plan.wanted] == [
        "2022/olr-daily_v01r02_20220101_20221231.nc",
        "2023/olr-daily_v01r02-preliminary_20230101_20230630.nc",
    ]


@pytest.mark.parametrize("breaks", [[100_000], [100_000, 50_000, 1], [0, 70_000, 70_000, 70_000]])
def test_a_broken_connection_costs_no_byte(breaks, server, tmp_path):
    server.faults.breaks[LONG] = list(breaks)
    _, summary = fetch(server, tmp_path / "out")
    size = (server.root / LONG[1:]).stat().st_size
    assert summary.failures == []
    assert files(tmp_path / "out/2022") == files(server.root / ISD / "2022")
    assert server.sent[LONG] == size, "each byte once"
    starts = [start for _, path, start, _ in server.asked if path == LONG]
    assert starts == [0, *(sum(breaks[: n + 1]) for n in range(len(breaks)))]


def test_a_killed_run_is_continued_at_the_byte(server, tmp_path, monkeypatch):
    """Stand-in for a kill: everything is left as it is at a block (`test_killed` kills processes)."""
    server.faults.breaks[LONG] = [150_000]
    monkeypatch.setattr(Connection, "_pause", lambda *a, **k: (_ for _ in ()).throw(Stopped()))
    fetch(server, tmp_path / "out", choice=Choice(("72530094846",)))
    assert left(tmp_path)
    assert files(tmp_path / "out/2022") == {}, "no file has its name before it is whole"
    monkeypatch.undo()
    _, summary = fetch(server, tmp_path / "out", choice=Choice(("72530094846",)))
    size = (server.root / LONG[1:]).stat().st_size
    assert (summary.fetched, summary.bytes, server.sent[LONG]) == (1, size - 150_000, size)
    assert left(tmp_path) == []


def test_a_file_that_changed_meanwhile_is_no_mixture(server, tmp_path, monkeypatch):
    server.faults.breaks[LONG] = [150_000]
    monkeypatch.setattr(Connection, "_pause", lambda *a, **k: (_ for _ in ()).throw(Stopped()))
    fetch(server, tmp_path / "out", choice=Choice(("72530094846",)))
    monkeypatch.undo()
    path = server.root / LONG[1:]
    path.write_text(path.read_text().replace("SYN", "MET"))
    os.utime(path, (1e9, 1e9))
    fetch(server, tmp_path / "out", choice=Choice(("72530094846",)))
    assert (tmp_path / "out/2022/72530094846.csv").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("fault", ["no_ranges", "no_marks"])
def test_servers_that_cannot_continue_send_the_whole_again(fault, server, tmp_path):
    setattr(server.faults, fault, True)
    server.faults.breaks[LONG] = [100_000]
    _, summary = fetch(server, tmp_path / "out")
    assert summary.failures == []
    assert files(tmp_path / "out/2022") == files(server.root / ISD / "2022")


def test_only_what_changed_is_fetched_again(server, tmp_path, monkeypatch):
    fetch(server, tmp_path / "out")
    monkeypatch.setattr(transfer, "DAY", 0.0)
    server.forget()
    _, summary = fetch(server, tmp_path / "out")
    assert {path for _, path, _, _ in server.asked} == {"/pub/data/noaa/isd-history.csv", f"/{ISD}/2022/"}
    changed = server.root / FIRST[1:]
    changed.write_text(changed.read_text() + changed.read_text().splitlines()[-1] + "\n")
    os.utime(changed, (2e9, 2e9))
    server.forget()
    _, summary = fetch(server, tmp_path / "out")
    assert (summary.fetched, summary.unchanged) == (1, 3)
    assert [path for _, path, _, _ in server.asked if path.endswith("99999.csv")] == [FIRST]
    assert (tmp_path / "out/2022/01001099999.csv").read_bytes() == changed.read_bytes()
    fetch(server, tmp_path / "ghcnh", "ghcnh")
    server.forget()
    fetch(server, tmp_path / "ghcnh", "ghcnh")
    codes = [code for method, path, _, code in server.asked if path.endswith(".psv") and method == "GET"]
    assert codes == [304] * 3, "without a listing the server is asked, and sends nothing"


def test_soundings_of_past_years_are_complete_though_their_files_grow(server, tmp_path):
    path = server.root / f"{IGRA}/access/data-por/USM00072530-data.txt.zip"
    os.utime(path, (1_672_000_000, 1_672_000_000))  # 2022-12-25
    first = fetch(server, tmp_path, "igra")[1]
    for year, fetched in ((1_674_000_000, 1), (1_768_000_000, 0)):  # January 2023, and three years later
        os.utime(path, (year, year))
        shutil.rmtree(tmp_path / ".index")
        assert fetch(server, tmp_path, "igra")[1].fetched == fetched
    assert first.fetched == 2


def test_failures_that_pass_are_tried_again(server, tmp_path):
    server.faults.codes[FIRST] = [503, 429, 500]
    server.faults.late[LONG] = 0.2
    assert fetch(server, tmp_path / "out")[1].failures == []
    server.faults.codes[FIRST] = [503] * 99
    _, summary = fetch(server, tmp_path / "other")
    assert summary.fetched == 3
    (failure,) = summary.failures
    assert failure == f"{server.url}{FIRST}: cannot be fetched: 503 Service Unavailable, {transfer.TRIES} times"
    server.faults.codes[FIRST] = [403]
    assert "403 Forbidden" in fetch(server, tmp_path / "third")[1].failures[0]


def test_a_server_that_is_not_there(tmp_path):
    connection = Connection("http://127.0.0.1:9", rate=1000)
    with pytest.raises(ObservationError, match=r"http://127\.0\.0\.1:9/pub/data/noaa/isd-history\.csv: .* 5 times"):
        fetching.make_plan("isd", [2022], ALL, tmp_path, connection)


@pytest.mark.parametrize(
    ("source", "path", "fault", "message"),
    [
        ("isd", FIRST, "short", "ends in the middle of a line: it is cut off"),
        ("igra", f"/{IGRA}/access/data-por/USM00072530-data.txt.zip", "damaged", "damaged|cannot be read"),
        ("igra", f"/{IGRA}/access/data-por/USM00072530-data.txt.zip", "short", "cannot be read: BadZipFile"),
        ("ndbc", f"/{NDBC}/41002h2022.txt.gz", "damaged", "cannot be read"),
        ("olr_netcdf", f"/{OLR}/olr-daily_v01r02_20220101_20221231.nc", "short", "HDF5|cannot be read"),
    ],
)
def test_damaged_files_are_asked_for_once_more_and_then_named(source, path, fault, message, server, tmp_path):
    choice = None if source == "olr_netcdf" else ALL
    getattr(server.faults, fault)[path] = 1
    plan, summary = fetch(server, tmp_path / "once", source, choice=choice)
    assert summary.damaged == summary.failures == []
    assert summary.fetched == len(plan.wanted)
    getattr(server.faults, fault)[path] = 99
    plan, summary = fetch(server, tmp_path / "always", source, choice=choice)
    assert summary.fetched == len(plan.wanted) - 1
    assert summary.failures == []
    (failure,) = summary.damaged
    assert failure.startswith(server.url + path)
    assert re.search(message, failure), failure
    assert path.rpartition("/")[2] not in files(tmp_path / "always")
    assert left(tmp_path) == []
    getattr(server.faults, fault).clear()
    assert fetch(server, tmp_path / "always", source, choice=choice)[1].fetched == 1


def test_content_of_another_kind_is_refused(server, tmp_path):
    write(server.root / FIRST[1:], "some words\n")
    write(server.root / LONG[1:], "\0" * 3000)
    with zipfile.ZipFile(server.root / f"{IGRA}/access/data-por/USM00072530-data.txt.zip", "w") as archive:
        archive.writestr("USM00072530-data.txt", "some words\n")
    first, second = sorted(fetch(server, tmp_path / "isd")[1].damaged)
    assert "line 1: 'some words" in first
    assert "STATION, DATE" in first
    assert "line 1" in second
    (failure,) = fetch(server, tmp_path / "igra", "igra")[1].damaged
    assert "the header of a sounding (#) was expected" in failure


@pytest.mark.parametrize(
    ("source", "index", "change", "line", "expected"),
    [
        ("isd", "pub/data/noaa/isd-history.csv", ('"USAF"', '"ID"'), 1, "a header with the columns USAF, WBAN"),
        ("isd", "pub/data/noaa/isd-history.csv", ('"19730101"', '"1973-01-01"'), 4, "days in BEGIN and END"),
        ("igra", f"{IGRA}/doc/igra2-station-list.txt", (" 1973 2001", " 1973-2001"), 2, "two years"),
        ("igra", f"{IGRA}/doc/igra2-station-list.txt", ("NOM00001415 ", "NOM00001415,"), 2, "identifier, latitude"),
        ("ghcnh", f"{GHCNH}/doc/ghcnh-inventory.txt", (" 700\nNOM", "\nNOM"), 2, "twelve numbers of reports"),
        ("ndbc", "data/stations/station_table.txt", ("pilm4|N|", "pilm4,N,"), 4, "a location between |"),
        ("ndbc", "data/stations/station_table.txt", ("41002|N|3-meter foam buoy|3D1|A|", "41002|"), 3, "five fields"),
        ("ghcnh", f"{GHCNH}/doc/ghcnh-station-list.txt", ("-33.9500", "33.95 S "), 1, "identifier, latitude"),
    ],
)
def test_a_list_whose_form_has_changed_is_one_error(source, index, change, line, expected, server, tmp_path):
    path = server.root / index
    text = path.read_text()
    assert change[0] in text
    write(path, text.replace(*change, 1))
    with pytest.raises(ObservationError) as error:
        fetch(server, tmp_path, source)
    assert str(error.value).startswith(f"{server.url}/{index}, line {line}: ")
    assert expected in str(error.value)
    assert str(error.value).endswith("the form of this list has changed")
    write(path, text)
    assert fetch(server, tmp_path, source)[1].failures == [], "it is not kept"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Index of", "Files in", "line 1: .*a listing of a folder"),
        ("-", "/", "line 12: .*a name, a date, a time and a size"),
        ('<a href="', '<b id="', "lists no file; the form of this index has changed"),
    ],
)
def test_a_listing_whose_form_has_changed_is_one_error(old, new, message, server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "listing", lambda folder, path: listing(folder, path).replace(old, new))
    with pytest.raises(ObservationError, match=message) as error:
        fetch(server, tmp_path)
    assert str(error.value).startswith(f"{server.url}/{ISD}/2022/")


def test_a_page_in_place_of_a_file(server, tmp_path):
    server.faults.codes[FIRST] = [200]
    _, summary = fetch(server, tmp_path)
    assert summary.failures == [f"{server.url}{FIRST}: the server answers with a page, not a file"]


def test_a_disk_without_room(server, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(ObservationError, match=r"GB are to be fetched, and 0\.0 GB are free"):
        fetch(server, tmp_path)


def test_what_cannot_be_chosen(server, tmp_path):
    for choice in (None, Choice):
        with pytest.raises(ObservationError, match=r"name stations .*--nearest-to 5\.625deg.* or all"):
            fetch(server, tmp_path, choice=choice and choice())
    with pytest.raises(ObservationError, match="no stations to choose"):
        fetch(server, tmp_path, "olr_netcdf")
    with pytest.raises(ObservationError, match="no archive is known for source radar"):
        fetch(server, tmp_path, "radar")
    with pytest.raises(ObservationError, match=r"the mirror 'example\.org' is no address"):
        Connection("example.org")
    assert server.asked == []


def test_requests_keep_to_the_rate(server, tmp_path):
    connection = Connection(server.url, rate=20)
    began = time.monotonic()
    plan = fetching.make_plan("isd", [2022], ALL, tmp_path, connection)
    fetching.fetch(plan, connection, 4)
    connection.close()
    assert time.monotonic() - began >= 5 / 20, "six requests"


def test_copies_of_an_earlier_version_are_asked_for_changes(server, tmp_path):
    """The notes of `remote.local_copies`, which fetched archives before, are understood."""
    remote.local_copies(f"{server.url}{FIRST}", tmp_path / "2022")
    server.forget()
    fetch(server, tmp_path, choice=Choice(("01001099999",)))
    assert ("GET", FIRST, 0, 304) in server.asked
    assert (tmp_path / "2022/01001099999.csv").read_bytes() == (server.root / FIRST[1:]).read_bytes()
