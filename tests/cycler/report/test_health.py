"""The first screen: schedule, sources against their own past, what needs attention, stations with a large O-B."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from dacycle.cycler.archive.record import CycleRecord, SourceRecord
from dacycle.cycler.report import health, observations
from dacycle.cycler.verification.cycles import fit_table
from dacycle.obs_ingest.table import add_departures, check_table
from tests.cycler.runs import START, experiment

DAYS = 12


def source(name="sondes", decoded=100, late=2, problems=()):
    return SourceRecord(name, decoded + 5, decoded, 5, late, 40.0, {}, {}, [], list(problems))


def record(day, hour=0, status="ok", sources=None, reason=""):
    time = START + pd.Timedelta(days=day, hours=hour)
    return CycleRecord(time, status, {}, reason=reason, sources={"sondes": source()} if sources is None else sources)


def fits(records, count=100, ratio=1.1):
    rows = [
        {"time": r.time, "source": "sondes", "variable": "t", "layer": "surface", "use": "assimilated", "reason": "",
         "count": count, "compared": count, "o_b_in_errors_squared": count * ratio**2,
         "o_a_in_errors_squared": count * 1.0}
        for r in records
    ]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture
def past():
    return [record(day) for day in range(DAYS)]


def test_a_replay_is_complete_at_its_end_and_says_what_is_left_before(tiny):
    asked = experiment(tiny)
    assert health.schedule(asked, asked.end, asked.end).short == "complete"
    early = health.schedule(asked, asked.end - pd.Timedelta("12h"), asked.end)
    assert (early.level, early.short) == ("warn", "2 cycles left")
    assert "dacycle hindcast" in early.text


def test_a_live_run_is_held_against_the_clock(tiny):
    live = experiment(tiny, observations=[{"source": "stations", "cutoff": "3h"}]).model_copy(update={"end": None})
    last = pd.Timestamp("2024-03-01T00")
    waiting = health.schedule(live, last, pd.Timestamp("2024-03-01T08:00"))
    assert (waiting.level, waiting.short) == ("good", "up to date")
    assert "20240301T06, is due in 60 min" in waiting.text or "due in 1 h" in waiting.text
    assert health.schedule(live, last, pd.Timestamp("2024-03-01T09:10")).level == "good", "it may be at work"
    behind = health.schedule(live, last, pd.Timestamp("2024-03-01T16:00"))
    assert (behind.level, behind.short) == ("bad", "2 cycles behind"), "06 and 12 UTC, whose cutoffs are 09 and 15 UTC"


def test_a_source_like_its_past_has_no_remark(past):
    row = health.source_rows(past, fits(past))[0]
    assert row["findings"] == []
    assert (row["usual_decoded"], row["usual_assimilated"]) == (100, 100)
    assert row["o_b"] == pytest.approx(1.1)
    assert health.attention(past, health.Schedule("good", "complete", ""), [row]) == []


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        ({}, "silent"),
        ({"sondes": source(decoded=0)}, "silent"),
        ({"sondes": source(decoded=30)}, "few reports"),
        ({"sondes": source(late=60)}, "late"),
    ],
)
def test_a_source_that_fails_is_named(past, last, expected):
    records = [*past, record(DAYS, sources=last)]
    row = health.source_rows(records, fits(past))[0]
    assert expected in row["findings"]
    found = health.attention(records, health.Schedule("good", "complete", ""), [row])
    assert "sondes" in found[0].text


def test_silence_at_an_hour_at_which_a_source_never_reports_is_as_usual(past):
    empty = {"sondes": source(decoded=0, late=0)}
    records = sorted([*past, *(record(day, 6, sources=empty) for day in range(DAYS))], key=lambda r: r.time)
    assert records[-1].time.hour == 6
    assert health.source_rows(records, fits(past))[0]["findings"] == []


def test_departures_above_all_earlier_ones_are_high(past):
    records = [*past, record(DAYS)]
    table = pd.concat([fits(past), fits(records[-1:], ratio=1.5)])
    row = health.source_rows(records, table)[0]
    assert row["findings"] == ["O-B high"]
    assert row["highest_o_b"] == pytest.approx(1.1)


def test_fallbacks_in_a_row_and_unreadable_files_need_attention(past):
    bad = [record(DAYS, 6 * i, "fallback", reason="increment of t850") for i in range(2)]
    broken = replace(bad[-1], sources={"sondes": source(problems=["temp.bufr: cut short", "b"])})
    found = health.attention([*past, bad[0], broken], health.Schedule("bad", "", "is behind"), [])
    texts = " | ".join(finding.text for finding in found)
    assert "(2 cycles in a row): increment of t850" in texts
    assert "temp.bufr: cut short, and 1 more" in texts
    assert "is behind" in texts
    assert [f.level for f in found] == sorted(f.level for f in found)


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
