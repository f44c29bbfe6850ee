"""The use of observations, summed cycle by cycle: sites, departures, inventories."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from dacycle.cycler.archive.branches import ArchiveError
from dacycle.cycler.report import observations
from dacycle.cycler.verification.cycles import verify
from dacycle.cycler.verification.usage import BINS, departure_counts, site_outcomes, usage
from dacycle.obs_ingest.table import add_departures, check_table
from tests.cycler.runs import START, make_run


@pytest.fixture
def branch(tmp_path, tiny):
    return make_run(tmp_path / "archive", tiny, cycles=5)


def table(rows):
    """Departures of (site, variable, use, reason, o_b in errors) at one time."""
    frame = pd.DataFrame(rows, columns=["site", "variable", "use", "reason", "o_b"])
    rest = {"time": START, "period": 0.0, "received": START, "station": frame["site"], "latitude": 10.0}
    rest |= {"longitude": 20.0, "elevation": 0.0, "pressure": np.nan, "error": 2.0, "source": "stations"}
    checked = check_table(frame.drop(columns="o_b").assign(value=280.0, **rest), "made for a test")
    background = 280.0 - 2.0 * frame["o_b"].to_numpy()
    return add_departures(checked, background, background)


def test_a_site_has_one_outcome_a_cycle():
    found = site_outcomes(
        table(
            [
                ("used", "t2m", "withheld", "withheld_site", 0.0),
                ("used", "t2m", "assimilated", "", 0.0),
                ("used", "t2m", "rejected", "duplicate", 0.0),
                ("used", "t2m", "rejected", "duplicate", 0.0),
                ("held", "t2m", "withheld", "withheld_site", 0.0),
                ("held", "t2m", "rejected", "background_check", 9.0),
                ("bad", "t2m", "rejected", "background_check", 9.0),
                ("bad", "t2m", "rejected", "duplicate", 0.0),
                ("bad", "t2m", "rejected", "duplicate", 0.0),
                ("bad", "t2m", "rejected", "duplicate", 0.0),
                ("bad", "t2m", "rejected", "duplicate", 0.0),
                ("bad", "u10", "assimilated", "", 0.0),
                ("late", "u10", "late", "after_cutoff", 0.0),
                ("late", "v10", "late", "after_cutoff", 0.0),
                ("late", "v10", "rejected", "unit", 0.0),
            ]
        )
    ).set_index(["kind", "site"])["outcome"]
    assert found.to_dict() == {
        ("2-m temperature", "used"): "assimilated",
        ("2-m temperature", "held"): "withheld_site",
        ("2-m temperature", "bad"): "background_check",
        ("10-m wind", "bad"): "assimilated",
        ("10-m wind", "late"): "after_cutoff",
    }


def test_histograms_count_assimilated_values_in_errors_and_the_outermost_bins_hold_the_rest():
    rows = [("a", "msl", "assimilated", "", x) for x in (-20.0, -4.9, 0.0, 0.2, 20.0, np.nan)]
    found = departure_counts(table([*rows, ("a", "msl", "withheld", "withheld_site", 0.1)]))
    counts = found[found["of"] == "o_b"].set_index("bin")["count"].to_dict()
    middle = int(np.searchsorted(BINS, 0.0))
    assert counts == {0: 2, middle: 2, len(BINS) - 2: 1}


def test_sums_over_a_run_agree_with_its_departures(branch, tiny):
    found, departures = usage(branch), branch.departures()
    used = departures[departures["use"] == "assimilated"]
    compared = used[np.isfinite(used["o_b"]) & np.isfinite(used["o_a"])]
    assert found.departures["count"].sum() == 2 * len(compared)
    reporting = departures.assign(kind=departures["variable"].astype(str).replace({"t": "aloft"}))
    assert found.sites["cycles"].sum() == len(reporting.groupby(["cycle", "source", "kind", "site"], observed=True))
    reasons, rows = observations.reason_rows(verify(branch, tiny).fits)
    assert reasons == ["background_check", "withheld_site"]
    for row in rows:
        own = departures[departures["variable"] == row["variable"]]
        assert row["values"] == len(own)
        assert row["assimilated"] == (own["use"] == "assimilated").sum()
        assert row["reasons"] == [(own["reason"] == reason).sum() for reason in reasons]


def test_new_cycles_are_added_and_cycles_run_anew_are_not_counted_twice(branch, tiny, tmp_path):
    first = usage(branch)
    make_run(branch.archive.folder, tiny, cycles=7)
    longer = usage(branch)
    fresh = usage(make_run(tmp_path / "fresh", tiny, cycles=7))
    pd.testing.assert_frame_equal(longer.sites, fresh.sites)
    pd.testing.assert_frame_equal(longer.departures, fresh.departures)
    branch.archive.rewind("run", START)
    make_run(branch.archive.folder, tiny, cycles=5, seed=1)
    again = usage(branch)
    assert again.sites["cycles"].sum() == first.sites["cycles"].sum()
    assert not again.departures.equals(first.departures)


def test_a_damaged_departure_table_is_named(branch):
    path = sorted((branch.folder / "departures").iterdir())[2]
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ArchiveError, match=path.name):
        usage(branch)


def test_maps_show_a_site_by_why_it_was_often_not_used():
    def rows(site, **outcomes):
        place = {"source": "s", "kind": "OLR", "site": site, "station": site, "latitude": 1.0, "longitude": 2.0}
        return [place | {"outcome": outcome, "cycles": cycles} for outcome, cycles in outcomes.items()]

    sites = pd.DataFrame(
        [
            *rows("steady", assimilated=95, after_cutoff=5),
            *rows("poor", assimilated=70, after_cutoff=10, background_check=20),
            *rows("high", station_height=100),
            *rows("held", withheld_site=99, gross_limits=1),
        ]
    )
    shown = observations.sites_by_outcome(sites).set_index("site")
    assert shown["outcome"].to_dict() == {
        "steady": "assimilated",
        "poor": "background_check",
        "high": "station_height",
        "held": "withheld_site",
    }
    assert shown["unused"].round(2).to_dict() == {"steady": 0.05, "poor": 0.3, "high": 1.0, "held": 0.01}
    assert shown["cycles"].eq(100).all()
    suspects, more = observations.suspect_rows(shown.reset_index())
    assert [row["station"] for row in suspects] == ["poor"], "a height is no fault of the station's"
    assert more == 0


def test_inventories_are_summed_and_problems_named_once(branch):
    records = [record for record in branch.records if record.status != "cold_start"]
    sondes = next(row for row in observations.inventory_rows(records) if row["source"] == "sondes")
    assert (sondes["found"], sondes["decoded"], sondes["missing"], sondes["late"]) == (210, 200, 10, 5)
    assert sondes["latency"] == 50
    assert sondes["skipped"] == {"not readable": 1}
    problems, more = observations.problem_rows(records)
    assert problems == [
        {"source": "sondes", "problem": "temp.bufr, message 3: <truncated>", "first": "20240102T12", "cycles": 1}
    ]
    damaged = {r.id: replace(r.sources["sondes"], problems=[f"{r.id} {i}" for i in range(9)]) for r in records}
    many = [replace(record, sources={"sondes": damaged[record.id]}) for record in records]
    shown, more = observations.problem_rows(many)
    assert len(shown) + more == 45
