"""Records of surface reports, the table made of them, and sources that read them from files."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dacycle.obs_ingest.sources.base import Inventory
from dacycle.obs_ingest.sources.surface import VALUES, Parsed, ReportFiles, new_reports, put, put_wind, surface_table
from dacycle.obs_ingest.table import ObservationError, check_table
from dacycle.obs_ingest.window import Window

NOON = np.datetime64("2024-01-02T12")


def placed(n: int) -> np.ndarray:
    """Return reports of one station, a minute apart from noon on."""
    reports = new_reports(n)
    reports["time"] = NOON + np.arange(n).astype("m8[m]")
    reports["station"], reports["latitude"], reports["longitude"], reports["elevation"] = "S1", 50.0, 10.0, 100.0
    return reports


class Minutes(ReportFiles):
    """Reads a temperature (K) per line; remembers what it was asked to parse."""

    patterns = ("*.txt",)

    def parse(self, path):
        self.parsed = [*getattr(self, "parsed", []), path.name]
        values = np.array(path.read_text().split(), float)
        reports = placed(len(values))
        put(reports, "t2m", values)
        return Parsed(reports, [])


@given(direction=st.integers(1, 360), speed=st.floats(0.1, 60))
def test_wind_blows_from_its_direction(direction, speed):
    reports = placed(1)
    put_wind(reports, np.array([float(direction)]), np.array([speed]))
    u, v = float(reports["u10"][0]), float(reports["v10"][0])
    assert np.hypot(u, v) == pytest.approx(speed, rel=1e-5)
    origin = np.rad2deg(np.arctan2(-u, -v))
    assert (origin - direction + 180) % 360 == pytest.approx(180, abs=1e-3)


def test_a_wind_is_never_given_a_direction_that_was_not_observed():
    reports = placed(5)
    put_wind(reports, np.array([np.nan, 0.0, 999.0, np.nan, 0.0]), np.array([4.0, 4.0, 4.0, 0.0, 0.0]))
    assert np.isnan(reports["u10"][:3]).all()
    assert reports["u10"][3:].tolist() == reports["v10"][3:].tolist() == [0.0, 0.0]
    inventory = Inventory("test")
    surface_table(reports, "test", inventory)
    assert inventory.skipped == {"wind without a direction": 6}


@given(
    value=arrays(float, 6, elements=st.one_of(st.just(np.nan), st.floats(180, 330))),
    accepted=arrays(bool, 6),
    readable=arrays(bool, 6),
    direction=arrays(float, 6, elements=st.one_of(st.just(np.nan), st.floats(0, 999))),
    speed=arrays(float, 6, elements=st.one_of(st.just(np.nan), st.floats(-1, 50))),
)
def test_every_value_is_a_row_missing_or_left_out_for_a_reason(value, accepted, readable, direction, speed):
    reports = placed(6)
    # What cannot be read has no value.
    put(reports, "t2m", np.where(readable, value, np.nan), accepted, readable)
    put_wind(reports, direction, np.where(readable, speed, np.nan), accepted, readable)
    inventory = Inventory("test")
    table = surface_table(reports, "test", inventory)
    assert len(table) + inventory.missing + sum(inventory.skipped.values()) == 6 * len(VALUES)
    assert inventory.missing >= 0
    check_table(table, "test")


def test_precipitation_has_its_period_and_the_rest_none():
    reports = placed(1)
    put(reports, "tp", np.array([2.5]))
    put(reports, "ps", np.array([98000.0]))
    table = surface_table(reports, "test", Inventory("test")).set_index("variable")
    assert table.loc["tp", ["period", "value"]].tolist() == [6.0, 2.5]
    assert table.loc["ps", ["period", "value"]].tolist() == [0.0, 98000.0]
    assert table.loc["ps", "site"] == "+50.00+010.00"


def test_a_file_is_parsed_once_and_again_when_it_has_changed(tmp_path):
    (tmp_path / "a.txt").write_text("280 281")
    source = Minutes(tmp_path)
    for _ in range(3):
        assert source.read(Window(NOON))[1].decoded == 2
    assert source.parsed == ["a.txt"]
    (tmp_path / "a.txt").write_text("280 281 282")
    (tmp_path / "b.txt").write_text("290")
    table, inventory = source.read(Window(NOON))
    assert sorted(table["value"]) == [280, 281, 282, 290]
    assert len(inventory.files) == 2
    assert source.parsed == ["a.txt", "a.txt", "b.txt"]


def test_a_window_has_its_own_reports_only(tmp_path):
    (tmp_path / "a.txt").write_text(" ".join(["280"] * 200))  # until 15:19, and the window until 15:00
    source = Minutes(tmp_path)
    for hour, count in ((12, 181), (18, 19), (6, 0)):
        window = Window(np.datetime64(f"2024-01-02T{hour:02}"))
        table, inventory = source.read(window)
        assert len(table) == inventory.found == inventory.decoded == count
        assert window.holds(table["time"].to_numpy()).all()
        assert len(inventory.files) == bool(count)


def test_reports_without_time_or_place_are_counted_and_left_out():
    class Odd(Minutes):
        def parse(self, path):
            reports = placed(6)
            put(reports, "t2m", np.full(6, 280.0))
            reports["time"][0] = np.datetime64("NaT")
            reports["latitude"][1] = np.nan
            reports["latitude"][2] = 91.0
            reports["latitude"][3] = reports["longitude"][3] = 0.0
            reports["elevation"][4] = 9999.0
            return Parsed(reports, [f"{path}, record 7: cut off"])

    source = Odd(__file__)
    table, inventory = source.read(Window(NOON))
    assert inventory.found == 7
    assert inventory.decoded == len(table) == 2
    assert inventory.skipped == {"damaged": 1, "no time": 1, "no position": 3}
    assert inventory.problems == [f"{__file__}, record 7: cut off"]
    assert np.isnan(table["elevation"].iloc[0])  # 9999 m stands for unknown
    assert table["elevation"].iloc[1] == 100


def test_of_identical_reports_the_first_received_stays_and_of_others_the_last():
    class Twice(Minutes):
        def parse(self, path):
            reports = np.concatenate([placed(1)] * 3)
            put(reports, "t2m", np.array([280.0, 280.0, 281.0]))
            reports["received"] = NOON + np.array([30, 20, 40], "m8[m]")
            return Parsed(reports, [])

    table, inventory = Twice(__file__).read(Window(NOON))
    assert inventory.skipped == {"repeated report": 1, "superseded by a later version": 1}
    assert table["value"].tolist() == [281]
    # A correction that comes after the cutoff supersedes nothing; the cycle sets it aside as late.
    table, inventory = Twice(__file__).read(Window(NOON, pd.Timedelta("35min")))
    assert (inventory.skipped, inventory.late) == ({"repeated report": 1}, 1)
    assert table["value"].tolist() == [280, 281]
    assert table["received"].min() == pd.Timestamp("2024-01-02T12:20")


def test_a_file_in_other_units_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("7 8 9")
    with pytest.raises(ObservationError, match=r"a\.txt: t2m .* degrees Celsius"):
        Minutes(tmp_path).read(Window(NOON))


def test_a_place_without_files_is_named(tmp_path):
    with pytest.raises(ObservationError, match=r"source minutes: no file \(\*\.txt\) at .*nowhere"):
        Minutes(tmp_path / "nowhere").read(Window(NOON))
