"""Simulated observations, written as BUFR and read back by the sources of real BUFR."""

import subprocess

import numpy as np
import pandas as pd
import pytest

from dacycle.forecast_adapter.worlds.world import load_world
from dacycle.obs_ingest.quality.control import withhold
from dacycle.obs_ingest.simulation.bufr_encoder import encode_synops, encode_temps
from dacycle.obs_ingest.simulation.bufr_message import BULLETIN
from dacycle.obs_ingest.sources.base import build_source
from dacycle.obs_ingest.sources.bufr import decoder
from dacycle.obs_ingest.table import ObservationError, check_table
from dacycle.obs_ingest.window import Window
from tests.obs_ingest.helpers import TIME, observations

WINDOW = Window(np.datetime64("2024-01-08T12"), pd.Timedelta("3h"))
KEY = ["site", "variable", "pressure"]


@pytest.fixture(scope="module")
def demonstration():
    return load_world("demonstration")


def drawn(world, kind, **options):
    return build_source({"source": kind, **options}, world, 1).read(WINDOW)


def read(path, kind, world=None, window=WINDOW, **options):
    return build_source({"source": kind, "path": str(path), "name": path.stem, **options}, world, 1).read(window)


@pytest.fixture(scope="module")
def stations(demonstration, tmp_path_factory):
    path = tmp_path_factory.mktemp("synop") / "stations.bufr"
    table, inventory = drawn(demonstration, "stations")
    path.write_bytes(encode_synops(table))
    return path, table, inventory


@pytest.fixture(scope="module")
def sondes(demonstration, tmp_path_factory):
    """Without gross errors, which the checks of soundings are there to find."""
    path = tmp_path_factory.mktemp("temp") / "sondes.bufr"
    table, inventory = drawn(demonstration, "sondes", gross_rate=0.0)
    path.write_bytes(encode_temps(table))
    return path, table, inventory


def joined(table, again):
    """Return the rows of both tables side by side; each is once in the other."""
    both = [t.assign(**{name: t[name].astype(str) for name in ("site", "variable", "station")}) for t in (table, again)]
    return both[0].merge(both[1], on=KEY, how="outer", suffixes=("", "_again"), validate="1:1", indicator=True)


def largest(rows, column="value"):
    """Return the largest difference by variable."""
    return abs(rows[column] - rows[f"{column}_again"]).groupby(rows["variable"]).max()


def test_stations_come_back_to_the_resolution_of_synops(stations):
    path, table, inventory = stations
    again, found = read(path, "synop_bufr")
    check_table(again, "again")
    rows = joined(table, again)
    assert set(rows["_merge"]) == {"both"}
    assert found.values == inventory.values
    assert found.skipped == {}
    difference = largest(rows)
    assert difference["t2m"] < 0.00501
    assert difference["td2m"] < 0.00501
    assert difference["msl"] < 5.01
    assert difference["tp"] < 0.0501
    speed = np.hypot(*(table.loc[table["variable"] == name, "value"].to_numpy() for name in ("u10", "v10"))).max()
    assert difference[["u10", "v10"]].max() < 0.051 + speed * np.deg2rad(0.5)
    assert (rows["latitude"] == rows["latitude_again"]).all()
    assert (rows["longitude"] == rows["longitude_again"]).all()
    assert (rows["elevation"] == rows["elevation_again"]).all()
    assert set(again.loc[again["variable"] == "tp", "period"]) == {6.0}
    usual = rows[rows["variable"] != "tp"]  # whose error grows with the value, be it a gross error
    assert usual["error_again"].to_numpy() == pytest.approx(usual["error"].to_numpy())
    rounding = (rows["value"] - rows["value_again"]) / rows["error"]
    assert np.sqrt((rounding**2).groupby(rows["variable"]).mean()).max() < 0.05


def test_reports_arrive_in_bulletins_and_the_same_ones_are_late(stations):
    path, table, inventory = stations
    again, found = read(path, "synop_bufr")
    rows = joined(table, again)
    wait = (rows["received_again"] - rows["received"]).to_numpy()
    assert (wait >= np.timedelta64(0)).all()
    assert (wait < BULLETIN).all()
    assert found.late == inventory.late > 0
    late = [WINDOW.late(rows[name].to_numpy()) for name in ("received", "received_again")]
    assert (late[0] == late[1]).all()


def test_the_same_sites_are_withheld(stations):
    path, table, _ = stations
    again, _ = read(path, "synop_bufr")
    held = [set(t.loc[withhold(t), "site"].astype(str)) for t in (table, again)]
    assert held[0] == held[1] != set()


def test_stations_keep_their_names(stations):
    path, table, _ = stations
    again, _ = read(path, "synop_bufr")
    names = joined(table, again)[["station", "station_again"]].drop_duplicates()
    number = names["station"].str.fullmatch(r"\d{5}")
    assert number.any()
    assert (names["station_again"] == names["station"].where(number, "0-0-0-" + names["station"])).all()


def test_an_independent_reader_finds_the_same_in_the_synops(stations):
    pdbufr = pytest.importorskip("pdbufr")
    path, table, _ = stations
    frame = pdbufr.read_bufr(
        str(path), columns=("latitude", "longitude", "airTemperature", "pressureReducedToMeanSeaLevel", "windDirection")
    )
    frame = frame.round({"latitude": 5, "longitude": 5})
    assert len(frame) == table["station"].nunique()
    assert frame["windDirection"].between(1, 360).mean() > 0.99  # the others are calm
    for variable, column, resolution in (
        ("t2m", "airTemperature", 0.01),
        ("msl", "pressureReducedToMeanSeaLevel", 10),
    ):
        mine = table[table["variable"] == variable].set_index(["latitude", "longitude"])["value"]
        theirs = frame.dropna(subset=column).set_index(["latitude", "longitude"])[column]
        assert len(mine) == len(theirs)
        assert abs(mine - theirs.loc[mine.index]).max() <= 0.51 * resolution


def test_soundings_come_back_on_their_levels(demonstration, sondes):
    path, table, inventory = sondes
    again, found = read(path, "temp_bufr", demonstration, tolerance=3)
    check_table(again, "again")
    rows = joined(table, again)
    lost = rows["_merge"] == "left_only"
    assert "right_only" not in set(rows["_merge"])
    assert lost.sum() <= 10  # of 18000, whose errors happen to be extreme
    assert lost.sum() <= sum(found.skipped.values()) * 3
    rows = rows[~lost]
    assert set(again["pressure"]) == set(table["pressure"])
    assert again["elevation"].isna().all()
    difference = largest(rows)
    assert difference["z"] < 0.501 * 9.80665
    assert difference["t"] < 0.00501
    speed = np.hypot(*(table.loc[table["variable"] == name, "value"].to_numpy() for name in ("u", "v"))).max()
    assert difference[["u", "v"]].max() < 0.051 + speed * np.deg2rad(0.5)
    assert (rows["received"] == rows["received_again"]).all()
    assert found.late == inventory.late > 0
    assert rows["error_again"].to_numpy() == pytest.approx(
        rows["error"].to_numpy()
    )  # of q by the season, not the value
    assert largest(rows, "latitude").max() == largest(rows, "longitude").max() == 0


def test_humidity_survives_as_a_dewpoint_however_cold_or_dry(demonstration, sondes):
    path, table, _ = sondes
    again, _ = read(path, "temp_bufr", demonstration, tolerance=3)
    rows = joined(table, again)
    rows = rows[(rows["variable"] == "q") & (rows["_merge"] == "both")]
    assert (rows["value"] == 0).any()  # as cold air often is in a draw
    assert rows["value_again"].to_numpy() == pytest.approx(rows["value"].to_numpy(), rel=2e-3, abs=1e-11)
    assert (abs(rows["value_again"] - rows["value"]) < 0.02 * rows["error"]).all()


def test_the_checks_of_sensors_reject_little_of_what_representativeness_puts_into_a_draw(demonstration, sondes):
    """The demonstration needs `tolerance`, because genuine soundings have no errors of temperature level by level.

    They would reject a tenth if the errors of heights differed from level to level too.
    """
    path, table, _ = sondes
    again, found = read(path, "temp_bufr", demonstration)
    assert found.skipped["level out of hydrostatic balance"] > 100
    assert 0 < len(table) - len(again) < 0.05 * len(table)
    with pytest.raises(ObservationError, match="tolerance is 0, not above 0"):
        read(path, "temp_bufr", demonstration, tolerance=0)


def test_north_is_360_and_calm_is_0(tmp_path):
    u, v = np.array([0, 0, -3.0, 3.0, 0.03, 0.003]), np.array([-5.0, 5.0, 0, 0, 0.03, -5.0])
    table = observations(["u10"] * 6 + ["v10"] * 6, [*u, *v], latitude=np.tile(np.arange(6.0) + 10, 2))
    table["station"] = pd.Categorical(np.tile([f"s{i}" for i in range(6)], 2))
    path = tmp_path / "wind.bufr"
    path.write_bytes(encode_synops(table))
    pdbufr = pytest.importorskip("pdbufr")
    frame = pdbufr.read_bufr(str(path), columns=("latitude", "windDirection", "windSpeed")).sort_values("latitude")
    assert frame["windDirection"].tolist() == [360, 180, 90, 270, 0, 360]
    assert frame["windSpeed"].tolist() == pytest.approx([5, 5, 3, 3, 0, 5])
    again, found = read(path, "synop_bufr", window=Window(TIME))
    assert found.skipped == {}
    back = again.sort_values(["variable", "latitude"])["value"].to_numpy()
    assert back == pytest.approx(np.concatenate([u, v]), abs=0.051)


def test_any_wind_is_within_half_a_unit_of_direction_and_speed(tmp_path):
    rng = np.random.default_rng(0)
    speed, direction = rng.gamma(1.5, 6, 400), rng.uniform(0, 360, 400)
    u, v = -speed * np.sin(np.deg2rad(direction)), -speed * np.cos(np.deg2rad(direction))
    table = observations(["u10"] * 400 + ["v10"] * 400, [*u, *v], latitude=np.tile(np.linspace(-80, 80, 400), 2))
    table["station"] = pd.Categorical(np.tile([f"s{i}" for i in range(400)], 2))
    path = tmp_path / "wind.bufr"
    path.write_bytes(encode_synops(table))
    again, _ = read(path, "synop_bufr", window=Window(TIME))
    back = [again[again["variable"] == name].sort_values("latitude")["value"].to_numpy() for name in ("u10", "v10")]
    assert (np.hypot(back[0] - u, back[1] - v) <= 0.0501 + speed * np.deg2rad(0.501)).all()


@pytest.mark.parametrize(
    ("variables", "values", "message"),
    [
        (["u10", "v10"], [3.0, np.nan], "station s0: BUFR has no place for one component of a wind"),
        (["t2m", "olr"], [280.0, 240.0], "station s0, .*: olr of 240 does not fit into this BUFR template"),
        (["t2m", "tp"], [280.0, 5000.0], "station s0, 2024-01-02 12:00:00: tp of 5000 does not fit"),
    ],
)
def test_what_bufr_cannot_hold_is_refused(variables, values, message):
    table = observations(variables, values)
    table["station"] = pd.Categorical(["s0", "s0"])
    with pytest.raises(ObservationError, match=message):
        encode_synops(table)


def test_soundings_refuse_values_of_the_surface():
    table = observations(["t", "t2m"], [250.0, 280.0], pressure=50000.0)
    with pytest.raises(ObservationError, match="t2m of 280 does not fit"):
        encode_temps(table)


def test_a_message_is_decoded_once_by_a_process(stations, monkeypatch, tmp_path):
    path, _, _ = stations
    first, _ = read(path, "synop_bufr")

    def refuse(*args, **options):
        raise SystemExit("a process was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    again, found = read(path, "synop_bufr")
    pd.testing.assert_frame_equal(first, again)
    assert found.decoded > 0
    other = tmp_path / "stations.bufr"
    damaged = bytearray(path.read_bytes())
    damaged[200] ^= 0xFF
    other.write_bytes(bytes(damaged))
    decoder.stop()
    with pytest.raises(SystemExit, match="a process was started"):
        read(other, "synop_bufr")
