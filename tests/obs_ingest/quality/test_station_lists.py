"""Station lists: what a line names, and how a bad list is refused."""

import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dacycle.forecast_adapter.channels import NAMES
from dacycle.forecast_adapter.grid import get_grid
from dacycle.obs_ingest.quality.control import Checks
from dacycle.obs_ingest.quality.station_lists import read_station_list
from dacycle.obs_ingest.sources.bufr.synop import SynopBufr
from dacycle.obs_ingest.table import ObservationError, concatenate, site_names
from dacycle.obs_ingest.window import Window
from tests.obs_ingest.helpers import TIME, checked, observations

GRID = get_grid("5.625deg")


@pytest.fixture
def written(tmp_path):
    def write(text):
        (tmp_path / "list.csv").write_text(text)
        return read_station_list(tmp_path / "list.csv")

    return write


def stations():
    """Six values: s0 to s3 at four places, two variables at the last."""
    names = ["t2m", "t2m", "t2m", "t2m", "u10"]
    table = observations(names, 280.0, latitude=[48.0, 49.0, 50.0, 51.0, 51.0], longitude=[8.0, -9.0, 10.0, 11.0, 11.0])
    table["value"] = table["value"].where(table["variable"] == "t2m", 5.0)
    table["station"] = table["station"].where(table["station"] != "s4", "s3")
    return table


def judged(table, **checks):
    h = table["value"].to_numpy()
    ground, spread = np.zeros(GRID.shape), np.ones(len(NAMES))
    return checked(table, Window(TIME), h, spread, GRID, ground, share=0, checks=Checks(**checks))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("station\ns1\ns3\n", [1, 3, 4]),
        ("station,variable\ns3,u10\n", [4]),
        ("site,note\n+49.00-009.00,\"thermometer in the sun, since May\"\n", [1]),
        ("latitude,longitude\n49,351\n50.001,9.999\n", [1, 2]),
        ("station,site\ns1,+48.00+008.00\n,+48.00+008.00\n", [0]),
        ("note, station ,variable\n,s0,\n\n,s9,\n", [0]),
        ("station,from,to\ns0,2024-01-02T12,\ns1,,2024-01-02T12:00Z\ns2,2024-01-01,2024-01-03\n", [0, 2]),
        ("station\n", []),
    ],
)  # fmt: skip
def test_all_that_a_line_says_must_be_so(written, text, named):
    found = written(text)
    assert np.nonzero(found.names(stations()))[0].tolist() == named
    reasons = judged(stations(), blacklist=found)["reason"]
    assert reasons.tolist() == ["blacklisted" if i in named else "" for i in range(5)]
    reasons = judged(stations(), whitelist=found)["reason"]
    assert reasons.tolist() == ["" if i in named else "not_listed" for i in range(5)]


def test_a_blacklisted_report_does_not_displace_another_from_its_place(written):
    table = observations("t2m", [280.0, 281.0], minutes=[0, 30])
    assert judged(table)["reason"].tolist() == ["", "duplicate"]
    assert judged(table, blacklist=written("station\ns0\n"))["reason"].tolist() == ["blacklisted", ""]


def test_a_whitelist_of_stations_leaves_rasters_alone(written):
    raster = observations("olr", [230.0, 231.0], latitude=[0.0, 2.5], longitude=0.0, period=6.0)
    raster["station"] = raster["site"]
    table = concatenate([stations(), raster])
    reasons = judged(table, whitelist=written("station\ns1\n"), blacklist=written("site\n+02.50+000.00\n"))["reason"]
    assert reasons.tolist() == ["not_listed", "", *["not_listed"] * 3, "", "blacklisted"]


@settings(max_examples=30)
@given(st.lists(st.tuples(st.floats(-90, 90), st.floats(-180, 360)), min_size=1, max_size=20))
def test_a_position_in_a_list_names_its_site(tmp_path_factory, places):
    latitude, longitude = np.array(places).T
    path = tmp_path_factory.mktemp("list") / "list.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("latitude", "longitude"), *places])
    table = observations("t2m", 280.0, latitude=latitude, longitude=longitude)
    assert read_station_list(path).names(table).all()
    far = table.assign(site=site_names(latitude * 0.5 + 0.3, longitude))
    listed = set(map(str, table["site"]))
    assert read_station_list(path).names(far).tolist() == [str(site) in listed for site in far["site"]]


def test_a_real_network_and_its_blacklist(shared, written):
    path = shared / "obs/synop_europe_2018112012.bufr"
    table, _ = SynopBufr(path).read(Window(np.datetime64("2018-11-20T12")))
    amman = written("station,variable,note\n40270,t2m,\n40270,msl,\n").names(table)
    assert table[amman][["station", "variable"]].astype(str).values.tolist() == [["40270", "t2m"], ["40270", "msl"]]
    german = sorted({str(name) for name in table["station"] if str(name).startswith("10")})
    listed = written("station\n" + "\n".join(german) + "\n").names(table)
    assert (listed == table["station"].astype(str).str.startswith("10").to_numpy()).all()
    assert 40 < len(german) < 100


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("<!DOCTYPE html>\n<html><body>404</body></html>\n", "line 1: unknown column '<!DOCTYPE html>'; the columns"),
        ("", "line 1: no column names stations"),
        ("variable,note\nt2m,\n", "line 1: no column names stations; give station, site, or latitude and longitude"),
        ("station,varaible\ns1,t2m\n", "line 1: unknown column 'varaible'"),
        ("station,station\ns1,s1\n", "line 1: a column is there twice"),
        ("station,variable\ns1,t2m\ns2,temp\n", "line 3: unknown variable 'temp'; known are t2m, td2m"),
        ("station,note\ns1,in the sun, since May\n", "line 2: not as many fields as the header has"),
        ("station,note\ns1\n", "line 2: not as many fields"),
        ("station,variable\n,t2m\n", "line 2: names no station"),
        ("latitude,longitude\n49,\n", "line 2: latitude '49' and longitude '' are no position"),
        ("latitude,longitude\n91,8\n", "line 2: latitude '91' and longitude '8' are no position"),
        ("latitude,longitude\nN49,8\n", "line 2: latitude 'N49'"),
        ("latitude\n49\n", "line 2: latitude '49' and longitude ''"),
        ("site\n48.1N11.5E\n", r"line 2: '48.1N11.5E' is no site; it is written as \+48.12\+011.55"),
        ("site,latitude,longitude\n+48.00+011.00,49,11\n", r"line 2: site \+48.00\+011.00 is not at 49, 11"),
        ("station,from\ns1,last May\n", "line 2: 'last May' is no time; write it as 2024-01-31"),
        ("station,from,to\ns1,2024-02-01,2024-02-01\n", "line 2: from 2024-02-01T00:00:00 is not before"),
    ],
)
def test_a_bad_list_is_refused_with_line_and_remedy(written, text, complaint):
    with pytest.raises(ObservationError, match=rf"list\.csv, {complaint}"):
        written(text)


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ObservationError, match=r"no\.csv: cannot be read"):
        read_station_list(tmp_path / "no.csv")
    (tmp_path / "list.csv").write_bytes(b"station\n\xff\xfe\x00\n")
    with pytest.raises(ObservationError, match=r"list\.csv:2: is not in UTF-8; save the file as UTF-8"):
        read_station_list(tmp_path / "list.csv")
