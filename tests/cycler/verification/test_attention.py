"""What needs attention: the schedule, the newest cycle, sources against their own past."""

from dataclasses import replace

import pandas as pd
import pytest

from dacycle.cycler.verification.attention import conditions, schedule
from dacycle.forecast_adapter.channels import NAMES
from tests.cycler.histories import DAYS, fits, record, source
from tests.cycler.runs import experiment


@pytest.fixture
def past():
    return [record(day) for day in range(DAYS)]


@pytest.fixture
def asked(tiny):
    return experiment(tiny)


def found(asked, records, table=None, lasting=()):
    table = fits(records) if table is None else table
    return {c.key: c for c in conditions(asked, records, table, records[-1].time, lasting)}


def test_a_replay_is_complete_at_its_end_and_says_what_is_left_before(asked):
    assert schedule(asked, asked.end, asked.end).short == "complete"
    early = schedule(asked, asked.end - pd.Timedelta("12h"), asked.end)
    assert (early.level, early.short) == ("warn", "2 cycles left")
    assert "dacycle hindcast" in early.text


def test_a_live_run_is_held_against_the_clock(tiny):
    live = experiment(tiny, observations=[{"source": "stations", "cutoff": "3h"}]).model_copy(update={"end": None})
    last = pd.Timestamp("2024-03-01T00")
    waiting = schedule(live, last, pd.Timestamp("2024-03-01T08:00"))
    assert (waiting.level, waiting.short) == ("good", "up to date")
    assert "20240301T06, is due in 60 min" in waiting.text or "due in 1 h" in waiting.text
    assert schedule(live, last, pd.Timestamp("2024-03-01T09:10")).level == "good", "it may be at work"
    behind = schedule(live, last, pd.Timestamp("2024-03-01T16:00"))
    assert (behind.level, behind.short) == ("bad", "2 cycles behind"), "06 and 12 UTC, whose cutoffs are 09 and 15 UTC"
    newest = [replace(record(0), time=last)]
    late = conditions(live, newest, fits(newest), pd.Timestamp("2024-03-01T16:00"))
    assert [(c.key, c.severity) for c in late] == [("cycle late", "critical")]


def test_a_run_like_its_past_is_well(asked, past):
    assert found(asked, past) == {}


@pytest.mark.parametrize("last", [{}, {"sondes": source(decoded=0)}])
def test_a_silent_source_is_critical_until_it_reports(asked, past, last):
    records = [*past, record(DAYS, sources=last)]
    condition = found(asked, records, fits(past))["source sondes silent"]
    assert condition.severity == "critical"
    assert "100 reports are usual" in condition.text
    empty = {"sondes": source(decoded=0, late=0)}
    later = [*records, *(record(DAYS, hour, sources=empty) for hour in (6, 12))]
    assert "source sondes silent" in found(asked, later, fits(past)), "at 06 and 12 UTC it never reports"
    again = [*later, record(DAYS + 1)]
    assert "source sondes silent" not in found(asked, again)


def test_silence_at_an_hour_at_which_a_source_never_reports_is_as_usual(asked, past):
    empty = {"sondes": source(decoded=0, late=0)}
    records = sorted([*past, *(record(day, 6, sources=empty) for day in range(DAYS))], key=lambda r: r.time)
    assert records[-1].time.hour == 6
    assert found(asked, records, fits(past)) == {}


@pytest.mark.parametrize(
    ("last", "said"),
    [
        ({"sondes": source(decoded=30)}, "reports: 30; 100 is usual at this hour"),
        ({"sondes": source(late=60)}, "late: 60.0 %; 2.0 % is usual at this hour"),
        ({"sondes": replace(source(), latency=100.0)}, "latency: 100 min; 40 min is usual at this hour"),
    ],
)
def test_a_source_that_brings_other_than_usual_is_named(asked, past, last, said):
    records = [*past, record(DAYS, sources=last)]
    condition = found(asked, records)["source sondes unusual"]
    assert condition.severity == "warning"
    assert said in condition.text


@pytest.mark.parametrize(
    ("last", "said"),
    [
        ({"ratio": 2.5}, "t root mean square O-B: 2.50 stated errors; 1.10 stated errors is usual"),
        ({"mean": 0.8}, "t mean O-B: +0.80 stated errors; +0.00 stated errors is usual"),
    ],
)
def test_departures_unlike_the_past_are_named(asked, past, last, said):
    records = [*past, record(DAYS)]
    table = pd.concat([fits(past), fits(records[-1:], **last)])
    assert said in found(asked, records, table)["source sondes unusual"].text


def test_many_rejected_values_are_named(asked, past):
    records = [*past, record(DAYS)]
    table = pd.concat([fits(records), fits(records[-1:], count=40, use="rejected", reason="background_check")])
    assert "t rejected: 28.6 %; 0.0 % is usual" in found(asked, records, table)["source sondes unusual"].text


def test_what_lasts_ends_at_a_lower_limit_than_that_at_which_it_begins(asked, past):
    records = [*past, record(DAYS)]
    for ratio in (1.2, 1.3, 1.4, 1.5):
        table = pd.concat([fits(past), fits(records[-1:], ratio=ratio)])
        begins, lasts = (bool(found(asked, records, table, keys)) for keys in ((), ("source sondes unusual",)))
        assert lasts or not begins
        if lasts and not begins:
            return
    pytest.fail("no ratio lies between the two limits")


def test_fallbacks_in_a_row_and_unreadable_files(asked, past):
    bad = [record(DAYS, 6 * i, "fallback", reason="increment of t850") for i in range(2)]
    broken = replace(bad[-1], sources={"sondes": source(problems=["temp.bufr: cut short", "b"])})
    both = found(asked, [*past, bad[0], broken], fits(past))
    assert "(2 cycles in a row): increment of t850" in both["fallback"].text
    assert "temp.bufr: cut short, and 1 more" in both["source sondes unreadable"].text
    assert [c.severity for c in both.values()] == sorted(c.severity for c in both.values())


def test_a_changed_increment_is_named(asked, past):
    sized = [replace(r, increment_rms={"z500": 100.0}) for r in past]
    last = replace(record(DAYS), increment_rms={"z500": 300.0})
    condition = found(asked, [*sized, last])["increments unusual"]
    assert "z500 changed by 300" in condition.text


def test_a_run_without_cycles_is_well(asked):
    assert conditions(asked, [], fits([]), asked.start) == []


def test_members_that_spread_less_than_before_are_told_and_a_source_that_changed_is_told_alone(asked):
    spread = dict.fromkeys(NAMES, 2.0)
    past = [replace(record(day), background_spread=spread) for day in range(DAYS)]

    def table(records, mean_square):
        return fits(records).assign(
            layer="700-300 hPa", o_b_squared=100 * mean_square, o_b_in_errors_squared=100 * mean_square
        )

    assert found(asked, past, table(past, 5.0)) == {}
    narrow = [*past[:-1], replace(past[-1], background_spread=dict.fromkeys(NAMES, 0.3))]
    told = found(asked, narrow, table(narrow, 5.0))
    assert list(told) == ["spread unusual"]
    assert (
        "t 700-300 hPa RMS O-B over what spread and stated error explain: 2.14; 1.00 is usual"
        in told["spread unusual"].text
    )
    worse = pd.concat([table(past[:-1], 5.0), table(past[-1:], 20.0)])
    assert list(found(asked, past, worse)) == ["source sondes unusual"]
