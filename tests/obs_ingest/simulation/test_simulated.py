"""Simulated networks: honest errors, reproducible draws, and what goes wrong in practice."""

import numpy as np
import pandas as pd
import pytest

from dacycle.forecast_adapter.channels import NAMES
from dacycle.forecast_adapter.grid import great_circle_km
from dacycle.forecast_adapter.worlds.reference import ReferenceDataError
from dacycle.obs_ingest.operators.columns import equivalents
from dacycle.obs_ingest.simulation.fields import Mask, Olr
from dacycle.obs_ingest.simulation.stations import Sondes, Stations
from dacycle.obs_ingest.sources.base import build_source
from dacycle.obs_ingest.station_network.stations import load_stations
from dacycle.obs_ingest.table import ObservationError, check_table
from dacycle.obs_ingest.window import Window

NOON = Window(np.datetime64("2024-01-02T12"), pd.Timedelta("3h"))
MORNING = Window(np.datetime64("2024-01-02T06"), pd.Timedelta("3h"))
KINDS = ("stations", "sondes", "olr", "mask", "marine", "aircraft", "motion_vectors")


def read(tiny, kind, window=NOON, seed=1, **options):
    return build_source({"source": kind, **options}, tiny, seed).read(window)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_draw_depends_on_seed_name_and_time_alone(tiny, kind):
    first = read(tiny, kind)
    source = build_source({"source": kind}, tiny, 1)
    for window in (MORNING, Window(np.datetime64("2024-01-03T00")), NOON):
        again, _ = source.read(window)
    pd.testing.assert_frame_equal(first, again)
    for other in (read(tiny, kind, seed=2), read(tiny, kind, name="another")):
        assert len(other) != len(first) or not np.array_equal(other["value"], first["value"])


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_drawn_is_a_valid_table_of_the_window(tiny, kind):
    table, inventory = build_source({"source": kind}, tiny, 1).read(NOON)
    check_table(table, kind)
    assert NOON.holds(table["time"].to_numpy()).all()
    assert set(table["source"]) == {kind}
    assert sum(inventory.values.values()) == len(table) > 0
    assert inventory.found == inventory.decoded + inventory.missing


@pytest.mark.parametrize("kind", ["stations", "sondes", "mask"])
def test_the_stated_errors_are_the_real_ones(tiny, kind):
    options = {} if kind == "mask" else {"gross_rate": 0.0}
    table = read(tiny, kind, **options)
    state = tiny.reference.array(np.datetime64("2024-01-02T12", "h"))
    truth = equivalents(table, state, tiny.grid, tiny.orography)
    normalised = ((table["value"] - truth) / table["error"]).dropna()
    for name, values in normalised.groupby(table["variable"]):
        assert abs(values.mean()) < 5 / np.sqrt(len(values)) + 0.05, name
        assert values.std() == pytest.approx(1, abs=0.25), name


def test_olr_averages_the_reference_over_its_period(tiny):
    time = np.datetime64("2024-01-03T00", "h")
    fields = [tiny.reference.surface(time - 6 * k)["olr"].values for k in range(4)]
    for period, expected in (("6h", fields[0]), ("24h", np.mean(fields, axis=0))):
        table = read(tiny, "olr", Window(time), period=period, missing_rate=0.0)
        assert set(table["period"]) == {float(period[:-1])}
        weight = np.cos(np.deg2rad(table["latitude"]))
        mean = (table["value"] * weight).sum() / weight.sum()
        assert mean == pytest.approx((expected * tiny.grid.weights).mean(), abs=0.8)
    assert read(tiny, "olr", NOON, period="24h").empty


def test_sondes_fly_twice_a_day_and_report_above_ground_only(tiny):
    assert read(tiny, "sondes", MORNING).empty
    table = read(tiny, "sondes")
    assert len(table) > 10000
    pressure = tiny.reference.surface(NOON.time)["ps"].values
    assert table["pressure"].max() <= pressure.max()
    humidity = table[table["variable"] == "q"]
    assert (humidity["pressure"] >= 20000).all()
    assert (humidity["value"] >= 0).mean() > 0.99


def test_high_stations_report_no_sea_level_pressure(tiny):
    table = read(tiny, "stations")
    high = table[table["elevation"] > 750]
    assert "msl" not in set(high["variable"])
    assert {"t2m", "td2m", "u10", "v10", "tp"} == set(high["variable"])


def test_dropping_a_variable_changes_no_other(tiny):
    everything = read(tiny, "stations")
    some = read(tiny, "stations", variables=["t2m", "msl"])
    kept = everything[everything["variable"].isin(["t2m", "msl"])]
    assert kept["value"].tolist() == some["value"].tolist()


def test_missing_late_and_gross_rates_are_what_was_asked_for(tiny):
    table, inventory = Stations(tiny, 1, missing_rate=0.4, latency="2h", latency_spread=0.5, gross_rate=0.2).read(NOON)
    assert inventory.missing / inventory.found == pytest.approx(0.4, abs=0.05)
    assert inventory.latency == pytest.approx(120, rel=0.1)
    assert inventory.late / len(table) == pytest.approx(0.21, abs=0.05)  # ln(3 h / 2 h) / 0.5 = 0.81 deviations
    state = tiny.reference.array(NOON.time)
    truth = equivalents(table, state, tiny.grid, tiny.orography)
    wrong = (abs(table["value"] - truth) > 6 * table["error"]) & np.isfinite(truth)
    assert wrong.sum() / np.isfinite(truth).sum() == pytest.approx(0.2, abs=0.03)


def test_precipitation_is_never_negative_and_dry_where_it_is_dry(tiny):
    table = read(tiny, "stations", gross_rate=0.1)
    rain = table[table["variable"] == "tp"]
    assert (rain["value"] >= 0).all()
    assert (rain["value"] == 0).any()
    assert set(rain["period"]) == {6.0}


def test_a_mask_observes_its_share_of_the_grid_without_bias_from_height(tiny):
    table = read(tiny, "mask", fraction=0.1)
    assert len(table) / (len(NAMES) * tiny.orography.size) == pytest.approx(0.1, abs=0.005)
    columns = read(tiny, "mask", fraction=0.1, per="column")
    assert set(columns.groupby("site", observed=True).size()) == {len(NAMES)}


def test_a_time_the_reference_does_not_hold_is_named(tiny):
    with pytest.raises(ReferenceDataError, match="2030-01-01T00"):
        read(tiny, "stations", Window(np.datetime64("2030-01-01T00")))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"source": "satellite"}, "unknown observation source 'satellite'.*stations, sondes, olr"),
        ({"source": "stations", "gros_rate": 0.1}, "unknown option 'gros_rate'.*gross_rate"),
        ({"source": "stations", "gross_rate": 1.5}, "gross_rate is 1.5"),
        ({"source": "stations", "latency": "soon"}, "latency is 'soon', not a duration"),
        ({"source": "stations", "cutoff": 3}, "cutoff is 3, not a duration"),
        ({"source": "stations", "variables": ["t2m", "sst"]}, "no variable sst"),
        ({"source": "olr", "spacing": 7.0}, "spacing is 7.0"),
        ({"source": "olr", "period": "12h"}, "period is '12h'"),
        ({"source": "mask", "per": "point"}, "per is 'point'"),
        ({"source": "mask", "error": 0}, "error is 0"),
        ({"source": "synop_bufr"}, "needs the option path"),
    ],
)
def test_wrong_options_are_refused_by_name(tiny, spec, message):
    with pytest.raises(ObservationError, match=message):
        build_source(spec, tiny, 1)


def test_cutoffs_are_explicit(tiny):
    assert build_source({"source": "stations"}, tiny, 1).cutoff == pd.Timedelta("3h")
    assert build_source({"source": "stations", "cutoff": "none"}, tiny, 1).cutoff is None
    assert build_source({"source": "stations", "cutoff": "90min"}, tiny, 1).cutoff == pd.Timedelta("90min")


def test_a_station_list_of_ones_own(tiny, tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("station,latitude,longitude,elevation\nA,50,10,300\nB,-30,150,20\n")
    table = read(tiny, "stations", network=path, missing_rate=0.0)
    assert set(table["station"]) == {"A", "B"}
    path.write_text("station,latitude,longitude\nA,50,10\n")
    with pytest.raises(ObservationError, match=r"mine\.csv.*elevation"):
        read(tiny, "stations", network=path)
    path.write_text("station,latitude,longitude,elevation\nA,50,10,3\nA,51,10,3\n")
    with pytest.raises(ObservationError, match=r"mine\.csv: A is listed twice"):
        read(tiny, "stations", network=path)
    path.write_text("station,latitude,longitude,elevation\n")
    with pytest.raises(ObservationError, match=r"mine\.csv: lists no station"):
        read(tiny, "stations", network=path)


def test_the_packaged_networks_look_like_real_ones():
    stations, sondes = load_stations(None, "stations"), load_stations(None, "sondes")
    assert 1500 <= len(stations) <= 2500
    assert 300 <= len(sondes) <= 400
    for network in (stations, sondes):
        assert network["latitude"].between(-90, 90).all()
        assert network["longitude"].between(-180, 180).all()
        assert network["elevation"].between(-430, 5000).all()
        assert not ((network["latitude"].abs() < 0.01) & (network["longitude"].abs() < 0.01)).any()
    europe = stations["latitude"].between(40, 60) & stations["longitude"].between(-5, 20)
    pacific = stations["latitude"].between(-40, 10) & stations["longitude"].between(-170, -90)
    assert europe.sum() > 5 * pacific.sum() > 0
    assert (sondes["latitude"] < 0).mean() > (stations["latitude"] < 0).mean()
    lat, lon = sondes["latitude"].to_numpy(), sondes["longitude"].to_numpy()
    apart = great_circle_km(lat[:, None], lon[:, None], lat, lon) + 1e6 * np.eye(len(lat))
    assert apart.min() > 300


def test_sources_by_class_and_by_name_are_the_same(tiny):
    for kind, cls in (("stations", Stations), ("sondes", Sondes), ("olr", Olr), ("mask", Mask)):
        pd.testing.assert_frame_equal(cls(tiny, 1).read(NOON)[0], read(tiny, kind))
