"""The observation table: what is accepted, and what is refused by name."""

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from dacycle.obs_ingest.table import (
    COLUMNS,
    ObservationError,
    add_departures,
    check_table,
    concatenate,
    empty_table,
    from_arrow,
    site_names,
    to_arrow,
)
from tests.obs_ingest.helpers import observations


def mixed() -> pd.DataFrame:
    """Return a table of a surface value and a level value."""
    return observations(["t2m", "z"], [280.0, 55000.0], pressure=50000.0)


def test_a_table_survives_the_disk(tmp_path):
    table = add_departures(mixed(), np.array([281.0, np.nan]), np.array([280.5, np.nan]))
    table = table.assign(height_difference=[120.0, np.nan])
    pq.write_table(to_arrow(table), tmp_path / "table.parquet")
    back = from_arrow(pq.read_table(tmp_path / "table.parquet"), "table.parquet")
    assert list(back) == list(table)
    for name in table:
        if name in ("site", "station", "source", "variable", "use", "reason"):
            assert back[name].astype(str).tolist() == table[name].astype(str).tolist()
        else:
            pd.testing.assert_series_equal(back[name], table[name], check_dtype=False, rtol=1e-6)
    assert back["o_b"].iloc[0] == pytest.approx(-1.0)
    assert np.isnan(back["o_b"].iloc[1])


def test_departures_from_before_heights_were_kept_go_with_later_ones():
    old = add_departures(mixed(), np.array([281.0, np.nan]), np.array([280.5, np.nan]))
    new = old.assign(height_difference=[120.0, np.nan])
    both = concatenate([from_arrow(to_arrow(table), "a cycle") for table in (old, new)])
    np.testing.assert_array_equal(both["height_difference"], [np.nan, np.nan, 120, np.nan])


def test_text_on_disk_is_plain_strings():
    frame = to_arrow(mixed()).to_pandas()
    assert frame["variable"].astype(str).tolist() == ["t2m", "z"]
    assert frame["use"].astype(str).tolist() == ["assimilated", "assimilated"]


def test_a_plain_frame_of_strings_is_accepted():
    frame = mixed()
    for name in ("site", "station", "variable", "source", "use", "reason"):
        frame[name] = frame[name].astype(str).astype(object)
    assert check_table(frame, "frame")["variable"].tolist() == ["t2m", "z"]


@pytest.mark.parametrize("column", COLUMNS)
def test_a_missing_column_is_named(column):
    with pytest.raises(ObservationError, match=rf"feed\.csv.*{column}"):
        check_table(mixed().drop(columns=column), "feed.csv")


@pytest.mark.parametrize("column", ["time", "latitude", "longitude", "period", "error"])
def test_a_missing_number_is_named_with_its_station(column):
    frame = mixed()
    frame.loc[1, column] = None
    with pytest.raises(ObservationError, match=rf"feed: {column}.*s1"):
        check_table(frame, "feed")


def test_a_missing_value_is_left_to_quality_control():
    frame = mixed()
    frame.loc[0, "value"] = np.nan
    assert np.isnan(check_table(frame, "feed")["value"].iloc[0])


@pytest.mark.parametrize(
    ("variable", "values", "hint"),
    [
        ("t2m", [12.0, 15.0, -3.0], "degrees Celsius"),
        ("msl", [1013.0, 1000.0, 998.0], "hPa"),
        ("q", [3.0, 9.0, 12.0], "g/kg"),
    ],
)
def test_other_units_are_refused_with_the_remedy(variable, values, hint):
    with pytest.raises(ObservationError, match=rf"feed: {variable} .*{hint}"):
        check_table(observations(variable, values, pressure=85000.0), "feed")


def test_pressure_in_hpa_is_refused():
    with pytest.raises(ObservationError, match="hPa, multiply by 100"):
        check_table(observations("t", [250.0, 260.0], pressure=[500.0, 700.0]), "feed")


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("latitude", 91.0, "latitude is outside"),
        ("longitude", 361.0, "longitude is outside"),
        ("error", 0.0, "error is not above 0"),
        ("period", -6.0, "period is negative"),
        ("variable", "humidity", "unknown variable 'humidity'"),
        ("use", "ignored", "unknown use 'ignored'"),
    ],
)
def test_impossible_entries_are_refused(column, value, message):
    frame = mixed()
    frame[column] = value
    with pytest.raises(ObservationError, match=message):
        check_table(frame, "feed")


def test_pressure_belongs_to_values_aloft_only():
    frame = mixed()
    with pytest.raises(ObservationError, match="pressure is missing for a value aloft"):
        check_table(frame.assign(pressure=np.nan), "feed")
    with pytest.raises(ObservationError, match="pressure is set for a value at the surface"):
        check_table(frame.assign(pressure=50000.0), "feed")


def test_unknown_columns_and_time_zones_are_refused():
    frame = mixed()
    with pytest.raises(ObservationError, match="unknown columns quality"):
        check_table(frame.assign(quality=1), "feed")
    with pytest.raises(ObservationError, match="time has a time zone"):
        check_table(frame.assign(time=frame["time"].dt.tz_localize("UTC")), "feed")


def test_concatenation_keeps_names_apart():
    both = concatenate([mixed(), empty_table(), observations("msl", 1e5, source="other")])
    assert both["source"].tolist() == ["test", "test", "other"]
    assert both["variable"].tolist() == ["t2m", "z", "msl"]
    assert isinstance(both["site"].dtype, pd.CategoricalDtype)
    assert len(concatenate([])) == 0


def test_concatenating_again_and_again_gives_each_row_its_own_names():
    """The union of names is kept between calls: other rows, and other lists, must not get mixed up with it."""
    generator = np.random.default_rng(0)
    pools = [pd.Categorical(list(names)) for names in ("abcdef", "defgh", "xyz", "abcdef")]
    for _ in range(200):
        chosen = [pools[k] for k in generator.integers(0, len(pools), 2)]
        if generator.random() < 0.3:
            chosen[0] = pd.Categorical(generator.permutation(list("klmnopq")))
        tables = []
        for pool in chosen:
            table = mixed()
            tables.append(table.assign(site=pool[generator.integers(0, len(pool), len(table))]))
        both = concatenate(tables)
        assert both["site"].tolist() == [site for table in tables for site in table["site"]]
        assert both["site"].array.categories.is_unique


def test_a_site_is_the_same_place_in_any_longitude_convention():
    names = site_names(np.array([10.0, 10.0, -0.001, 0.001, 10.0]), np.array([-0.5, 359.5, 180.0, -180.0, 0.5]))
    assert names[0] == names[1] == "+10.00-000.50"
    assert names[2] == names[3]
    assert names[4] == "+10.00+000.50"
