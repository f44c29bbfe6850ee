"""The first screen: sources beside their own past, what needs attention, stations with a large O-B."""

import numpy as np
import pandas as pd
import pytest

from dacycle.cycler.report import health, observations
from dacycle.cycler.verification.attention import Condition, Schedule
from dacycle.cycler.verification.cycles import fit_table
from dacycle.obs_ingest.table import add_departures, check_table
from tests.cycler.histories import DAYS, fits, record
from tests.cycler.runs import START


@pytest.fixture
def past():
    return [record(day) for day in range(DAYS)]


def test_a_source_stands_beside_what_is_usual(past):
    (row,) = health.source_rows(past, fits(past), [])
    assert row["remarks"] == []
    assert (row["usual_decoded"], row["usual_assimilated"]) == (100, 100)
    assert row["o_b"] == pytest.approx(1.1)
    assert health.attention(past, Schedule("good", "complete", ""), []) == []


def test_a_source_that_needs_attention_has_a_remark(past):
    found = [Condition("source sondes silent", "critical", "source sondes was silent")]
    (row,) = health.source_rows(past, fits(past), found)
    assert row["remarks"] == ["silent"]
    assert [f.level for f in health.attention(past, Schedule("good", "complete", ""), found)] == ["bad"]


def test_too_few_cycles_say_nothing_of_what_is_usual(past):
    (row,) = health.source_rows(past[:4], fits(past[:4]), [])
    assert np.isnan([row["usual_decoded"], row["usual_o_b"], row["usual_assimilated"]]).all()


def test_the_worst_comes_first(past):
    records = [*past, record(DAYS, status="degraded", reason="few"), record(DAYS, 6)]
    found = health.attention(records, Schedule("bad", "", "is behind"), [Condition("x", "warning", "thin")])
    assert found[0].text == "is behind"
    assert f"1 of the {len(records) - 1} cycles before" in found[-1].text


def test_a_station_has_one_row_with_its_worst_value_and_its_plain_name():
    table = pd.DataFrame(
        {
            "time": START, "period": 0.0, "received": START, "site": ["a", "a", "b", "c"],
            "station": ["0-20000-0-10393", "0-20000-0-10393", "KSEA", "HIGH"], "latitude": 1.0, "longitude": 359.0,
            "elevation": np.nan, "pressure": [50000.0, 85000.0, np.nan, np.nan], "variable": ["t", "t", "t2m", "t2m"],
            "value": 280.0, "error": [1.0, 0.5, 1.0, 1.0], "source": ["sondes", "sondes", "stations", "stations"],
            "use": ["assimilated", "rejected", "assimilated", "rejected"],
            "reason": ["", "background_check", "", "station_height"],
        }
    )  # fmt: skip
    checked = check_table(table, "written for a test")
    departures = add_departures(checked, 280.0 - np.array([3.0, -4.0, 1.0, 90.0]), np.full(4, 280.0))
    rows = health.station_rows(departures)
    assert [(row["station"], row["variable"]) for row in rows] == [("10393", "t at 850 hPa"), ("KSEA", "t2m")]
    assert rows[0]["o_b"] == pytest.approx(-4)
    assert rows[0]["ratio"] == pytest.approx(8)
    assert rows[0]["longitude"] == -1
    counts = health.last_counts(record(0), fit_table(START, departures))
    assert (counts["assimilated"], counts["rejected"]) == (2, 2)
    assert counts["o_b"] == pytest.approx(np.sqrt(5))


def test_only_wigos_identifiers_are_shortened():
    names = {"0-20000-0-10393": "10393", "0-0-0-CWDZ": "CWDZ", "KSEA": "KSEA", "70026-x": "70026-x", "": ""}
    assert {name: observations.plain_station(name) for name in names} == names


def test_a_sonde_with_three_kinds_of_refused_values_has_one_row():
    sites = pd.DataFrame(
        {
            "source": "sondes", "kind": ["wind aloft", "humidity aloft"], "site": "x", "station": "0-20000-0-89002",
            "latitude": -70.7, "longitude": -8.2, "outcome": "background_check", "cycles": 20, "unused": [0.4, 0.9],
        }
    )  # fmt: skip
    rows, more = observations.suspect_rows(sites)
    assert more == 0
    assert [(row["station"], row["kind"], row["unused"]) for row in rows] == [
        ("89002", "humidity aloft, wind aloft", 0.9)
    ]
