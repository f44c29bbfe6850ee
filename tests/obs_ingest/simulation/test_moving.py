"""Simulated ships, buoys, aircraft and motion vectors: their places, numbers and errors, and their way through BUFR."""

import numpy as np
import pandas as pd
import pytest

from dacycle.forecast_adapter.channels import nearest_level
from dacycle.forecast_adapter.grid import cells, great_circle_km
from dacycle.forecast_adapter.physics import standard_altitude, standard_pressure
from dacycle.forecast_adapter.worlds.world import load_world
from dacycle.obs_ingest.errors.model import errors_of
from dacycle.obs_ingest.operators.columns import equivalents
from dacycle.obs_ingest.simulation.files import simulate
from dacycle.obs_ingest.sources.base import build_source
from dacycle.obs_ingest.station_network.inland import is_inland, is_land
from dacycle.obs_ingest.table import VARIABLES, ObservationError, check_table
from dacycle.obs_ingest.window import Window

NOON = np.datetime64("2024-01-08T12", "h")
FILES = {"marine": "marine_bufr", "aircraft": "aircraft_bufr", "motion_vectors": "amv_bufr"}


@pytest.fixture(scope="module")
def world():
    return load_world("demonstration")


def drawn(world, kind, time=NOON, **options):
    table, _ = build_source({"source": kind, "gross_rate": 0.0, **options}, world, 1).read(Window(time))
    return table.assign(**{name: table[name].astype(str) for name in ("station", "site", "variable")})


def errors(world, table, time=NOON):
    """Return the actual errors (n,) over the stated ones."""
    table = table.assign(variable=pd.Categorical(table["variable"], VARIABLES))
    truth = equivalents(table, world.reference.array(time), world.grid, world.orography)
    return (table["value"].to_numpy() - truth) / table["error"].to_numpy()


@pytest.fixture(scope="module")
def tables(world):
    return {kind: drawn(world, kind) for kind in FILES}


def places(table):
    return table.drop_duplicates(["station", "site"])


def test_ships_and_buoys_are_at_sea_in_all_oceans(tables):
    at = places(tables["marine"])
    latitude, longitude = at["latitude"].to_numpy(), at["longitude"].to_numpy()
    assert not is_land(latitude, longitude).any()
    buoy = at["station"].str.fullmatch(r"\d{7}").to_numpy()
    assert 500 < (~buoy).sum() < 750
    assert 600 < buoy.sum() < 950
    for south, north, west, east in ((20, 60, -70, -10), (-60, -10, -40, 10), (10, 55, 140, 230), (-60, -20, 160, 280)):
        inside = (south < latitude) & (latitude < north) & ((longitude - west) % 360 < east - west)
        assert inside.sum() > 25
    north = latitude[~buoy] > 0
    assert north.mean() > 0.6  # where the trade is


def test_ships_measure_what_their_instruments_do(tables):
    ships = tables["marine"][tables["marine"]["station"].str.startswith("SHIP")]
    share = ships.groupby("variable").size() / ships["station"].nunique()
    assert share["td2m"] == pytest.approx(0.6, abs=0.06)
    assert share[["t2m", "u10", "v10"]].to_numpy() == pytest.approx(0.9, abs=0.05)
    both = ships.pivot(index="station", columns="variable", values="value")
    assert (both["td2m"] <= both["t2m"]).sum() > 300
    assert not (both["td2m"] > both["t2m"]).any()
    assert (both["td2m"] == both["t2m"]).mean() < 0.2


def test_drifting_buoys_measure_pressure_only(tables):
    table = tables["marine"]
    of_drifters = table[table["station"].str.startswith("52")]
    assert set(of_drifters["variable"]) == {"msl"}
    moored = table[table["station"].str.startswith("51")]
    assert {"t2m", "msl", "u10", "v10"} <= set(moored["variable"])
    assert abs(moored["latitude"]).max() <= 20


def test_ships_sail_and_buoys_float(world):
    before, after = (places(drawn(world, "marine", time)).set_index("station") for time in (NOON, NOON + 6))
    both = before.join(after.add_suffix("_later"), how="inner")
    names = ("latitude", "longitude", "latitude_later", "longitude_later")
    moved = great_circle_km(*(both[name].to_numpy() for name in names))
    ship, moored = both.index.str.startswith("SHIP"), both.index.str.startswith("51")
    assert 60 < np.median(moved[ship]) < 240
    assert moved[ship].max() < 300
    assert moved[moored].max() == 0
    assert 0 < np.median(moved[~ship & ~moored]) < 12
    assert np.percentile(moved[~ship & ~moored], 95) < 30


def test_buoys_are_replaced_where_they_end(world):
    count = [len(places(drawn(world, "marine", NOON + 24 * day, missing_rate=0.0))) for day in (0, 9)]
    assert abs(count[1] - count[0]) < 60


def test_aircraft_cruise_where_they_do_and_climb_from_airports(tables):
    table = tables["aircraft"]
    reports = table.groupby("station").agg(n=("pressure", "nunique"), top=("pressure", "min"), low=("pressure", "max"))
    cruising = reports[reports["n"] == 1]
    assert 0.6 < len(cruising) / len(reports) < 0.95
    assert cruising["top"].between(17000, 41000).mean() > 0.98
    climbing = reports[reports["n"] > 6]
    assert (climbing["low"] > 70000).mean() > 0.9
    assert table["pressure"].min() > 15000
    altitude = standard_altitude(table["pressure"].to_numpy())
    assert abs(altitude - np.rint(altitude)).max() < 0.1  # as flight levels are reported
    flight = table[table["station"] == climbing.index[0]].drop_duplicates("pressure").sort_values("pressure")
    way = great_circle_km(
        *(flight[name].to_numpy()[a:b] for a, b in ((0, -1), (1, None)) for name in ("latitude", "longitude"))
    )
    first, last = flight.iloc[0], flight.iloc[-1]
    straight = great_circle_km(first["latitude"], first["longitude"], last["latitude"], last["longitude"])
    assert way.sum() == pytest.approx(straight, abs=5)
    assert straight < 210


def test_aircraft_fly_where_the_traffic_is(tables):
    at = places(tables["aircraft"])
    latitude, longitude = at["latitude"], at["longitude"]
    assert ((latitude.between(25, 50)) & longitude.between(-125, -65)).mean() > 0.15
    assert ((latitude.between(36, 60)) & longitude.between(-10, 30)).mean() > 0.15
    over_ocean = latitude.between(40, 65) & longitude.between(-50, -15)
    assert 0.01 < over_ocean.mean() < 0.1
    assert (latitude < -45).mean() < 0.01


def test_motion_vectors_are_where_satellites_see_clouds(world, tables):
    table = tables["motion_vectors"].drop_duplicates("site")
    latitude, longitude = table["latitude"].to_numpy(), table["longitude"].to_numpy()
    from_below = [great_circle_km(latitude, longitude, 0.0, east) for east in (-137.2, -75.2, 0.0, 45.5, 140.7)]
    geostationary = np.min(from_below, axis=0) < 6371 * np.deg2rad(60) + 1
    assert (geostationary | (abs(latitude) > 60)).all()
    assert 0.02 < (~geostationary).mean() < 0.25
    assert 7000 < len(table) < 14000
    pressure = table["pressure"].to_numpy()
    assert pressure.min() > 18000
    assert pressure.max() < 101000
    assert 0.3 < (pressure < 45000).mean() < 0.8
    assert not is_land(latitude[pressure > 65000], longitude[pressure > 65000]).any()
    apart = places(table).sort_values(["latitude", "longitude"])
    assert apart["site"].is_unique


def test_stated_errors_are_the_actual_ones(world, tables):
    for kind, table in tables.items():
        check_table(build_source({"source": kind}, world, 1).read(Window(NOON))[0], kind)
        actual = errors(world, table)
        for name in set(table["variable"]) - {"td2m"}:
            of_name = actual[(table["variable"] == name).to_numpy()]
            of_name = of_name[np.isfinite(of_name)]
            assert abs(of_name.mean()) < 0.2, (kind, name)
            assert of_name.std() == pytest.approx(1, abs=0.1), (kind, name)


def test_vectors_of_a_cell_share_their_errors_as_superobs_assume(world):
    products, expected = [], []
    for day in range(3):
        time = NOON + 24 * day
        table = drawn(world, "motion_vectors", time)
        table = table[table["variable"] == "u"]
        actual = errors(world, table, time)
        y, x = cells(world.grid, table["latitude"].to_numpy(), table["longitude"].to_numpy())
        level = nearest_level(table["pressure"].to_numpy())
        shared, own = errors_of("motion vectors", "u").parts(np.zeros(len(table)), table["pressure"].to_numpy())
        frame = pd.DataFrame({"key": (level * 32 + y) * 64 + x, "e": actual, "share": shared / (shared + own)}).dropna()
        for _, group in frame.groupby("key"):
            if len(group) > 1:
                products += [group["e"].iloc[0] * group["e"].iloc[1]]
                expected += [np.sqrt(group["share"].iloc[0] * group["share"].iloc[1])]
    assert len(products) > 500
    assert np.mean(products) == pytest.approx(np.mean(expected), abs=3 / np.sqrt(len(products)))
    assert 0.35 < np.mean(expected) < 0.55


@pytest.mark.parametrize("kind", FILES)
def test_they_come_back_from_bufr(world, tmp_path, kind):
    spec = {"source": FILES[kind], "name": kind, "path": str(tmp_path / kind), "cutoff": "3h"}
    window = Window(NOON, pd.Timedelta("3h"))
    assert simulate(spec, world, 1, [NOON]) == 1
    mine, inventory = build_source({"source": kind}, world, 1).read(window)
    again, found = build_source(spec, world, 1).read(window)
    check_table(again, kind)
    assert found.values == inventory.values
    assert found.skipped == {}
    assert found.late == inventory.late > 0
    frames = []
    for table in (mine, again):
        nearly = table["pressure"].fillna(0) / 25
        names = {name: table[name].astype(str) for name in ("station", "site", "variable")}
        frames.append(table.assign(level=nearly.round(), **names))
    both = frames[0].merge(frames[1], on=["station", "site", "variable", "level"], how="outer", indicator=True)
    assert set(both["_merge"]) == {"both"}
    assert len(both) == len(mine)
    assert both["error_y"].to_numpy() == pytest.approx(both["error_x"].to_numpy(), rel=1e-3)
    assert (both["latitude_x"] == both["latitude_y"]).all()
    rounding = abs(both["value_x"] - both["value_y"]) / both["error_x"]
    assert np.sqrt((rounding**2).mean()) < 0.05


def test_an_independent_reader_finds_the_same(world, tmp_path):
    pdbufr = pytest.importorskip("pdbufr")
    temperature = "airTemperature"
    for kind, key, column in (
        ("marine", "t2m", temperature),
        ("aircraft", "t", temperature),
        ("motion_vectors", "u", "u"),
    ):
        spec = {"source": FILES[kind], "name": kind, "path": str(tmp_path / kind)}
        simulate(spec, world, 1, [NOON])
        mine, _ = build_source({"source": kind}, world, 1).read(Window(NOON))
        frame = pdbufr.read_bufr(str(tmp_path / kind / "20240108T12.bufr"), columns=("latitude", "longitude", column))
        values = np.sort(mine.loc[mine["variable"] == key, "value"].to_numpy())
        assert np.sort(frame[column].dropna().to_numpy()) == pytest.approx(values, abs=0.051)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"source": "marine", "buoys": -1}, "source marine: buoys is -1, below 0"),
        ({"source": "aircraft", "flights": -5}, "source aircraft: flights is -5, below 0"),
        ({"source": "motion_vectors", "tracked": 1.5}, "source motion_vectors: tracked is 1.5, not a share"),
    ],
)
def test_wrong_options_are_refused_by_name(world, spec, message):
    with pytest.raises(ObservationError, match=message):
        build_source(spec, world, 1)


def test_land_and_inland():
    latitude = np.array([50.1, 38.0, 51.0, 0.0, 64.5, 20.0])
    longitude = np.array([14.4, -30.0, 6.0, -25.0, -18.5, 78.0])
    assert is_land(latitude, longitude).tolist() == [True, False, True, False, True, True]
    everywhere = np.meshgrid(np.arange(-89.75, 90, 0.5), np.arange(-179.75, 180, 0.5))
    assert not (is_inland(*everywhere) & ~is_land(*everywhere)).any()


def test_altitudes_of_the_standard_atmosphere():
    altitude = np.array([-300.0, 0.0, 1500.0, 10999.0, 11001.0, 13000.0])
    assert standard_altitude(standard_pressure(altitude)) == pytest.approx(altitude, abs=0.5)
