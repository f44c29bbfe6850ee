"""Files that come late, or cannot be read: what a cycle had stays as it was, and what came after is said."""

import os
import re
import socket
import time

import pandas as pd
import pytest
from typer.testing import CliRunner

from dacycle.cycler.archive.branches import Archive, open_experiment
from dacycle.cycler.cli import app
from dacycle.cycler.cycle.inputs import load_inputs
from dacycle.cycler.cycle.replay import run_due_cycles
from dacycle.cycler.experiment import load_experiment
from dacycle.cycler.operations.arrivals import came_after
from tests.cycler.tiny import write_experiment
from tests.obs_ingest.sources.test_isd import write_csv

NOON, EVENING = pd.Timestamp("2024-01-02T12"), pd.Timestamp("2024-01-02T18")


def reports(folder, name, time, stations, delay="1h"):
    """Write a file of one report of each station, received so long after their time."""
    places = [(f"{number:011d}", str(10 + number / 2), str(20 + number)) for number in stations]
    keys = ("STATION", "LATITUDE", "LONGITUDE")
    rows = [dict(zip(keys, place, strict=True)) | {"DATE": f"{time:%Y-%m-%dT%H:%M:%S}"} for place in places]
    path = write_csv(folder / name, *rows)
    came = (time + pd.Timedelta(delay)).timestamp()
    os.utime(path, (came, came))
    return path


@pytest.fixture
def folder(tmp_path):
    """Make a folder as at the cutoff of noon's cycle: twenty stations, and a page of HTML."""
    (tmp_path / "in").mkdir()
    reports(tmp_path / "in", "noon.csv", NOON, range(1, 21))
    return tmp_path / "in"


@pytest.fixture
def experiment(world, folder, tmp_path):
    source = {"source": "isd", "path": str(folder), "cutoff": "3h", "received": "mtime"}
    return write_experiment(tmp_path, world, observations=[source], guards={"minimum_observations": 10})


def run(experiment, archive, now):
    """Run the cycles that are due at a time of the day, as a live run does."""
    return run_due_cycles(load_experiment(experiment), Archive(archive, create=True), now=pd.Timestamp(now))


def arrivals(archive, time):
    branch = open_experiment(archive, "tiny")
    (record,) = (record for record in branch.records if record.id == f"{time:%Y%m%dT%H}")
    (source,) = load_inputs(branch.experiment).sources
    return came_after(branch, source, record)


def test_a_file_that_comes_after_the_cutoff_is_not_in_the_cycle_and_is_said(experiment, folder, tmp_path):
    archive = tmp_path / "archive"
    (cycle,) = run(experiment, archive, "2024-01-02T15:01")
    assert cycle.record.status == "ok"
    (had,) = cycle.record.sources["isd"].digests
    assert had.endswith("noon.csv")
    before = open_experiment(archive, "tiny").departures([NOON])
    assert arrivals(archive, NOON) is None

    reports(folder, "late.csv", NOON, range(15, 25), delay="9h")  # six of them had come before
    reports(folder, "evening.csv", EVENING, range(1, 21))
    arrival = arrivals(archive, NOON)
    assert (arrival.values, arrival.gone) == (4 * 6, 0)
    assert [os.path.basename(file) for file in arrival.files] == ["late.csv"]

    (cycle,) = run(experiment, archive, "2024-01-02T21:01")
    assert list(cycle.record.sources["isd"].digests) == [str(folder / "evening.csv")]
    after = open_experiment(archive, "tiny").departures([NOON])
    pd.testing.assert_frame_equal(before, after)
    shown = CliRunner().invoke(app, ["log", "tiny", "--archive", str(archive), "--late"])
    assert shown.exit_code == 0, shown.output
    assert "late.csv" in shown.output
    assert "24" in shown.output

    replay = tmp_path / "replay"
    first, *_ = run(experiment, replay, "2024-01-02T21:01")
    assert first.record.uses["late"] == 4 * 6, "a replay finds the file, and that it came after the cutoff"
    assert first.record.uses["assimilated"] == cycle.record.uses["assimilated"]


def test_a_file_that_was_replaced_or_removed_is_said(experiment, folder, tmp_path):
    archive = tmp_path / "archive"
    run(experiment, archive, "2024-01-02T15:01")
    reports(folder, "noon.csv", NOON, range(1, 19))
    arrival = arrivals(archive, NOON)
    assert (arrival.values, arrival.gone) == (0, 2 * 6)
    assert arrival.files == (str(folder / "noon.csv"),)


def test_an_unreadable_file_costs_the_cycle_that_file(experiment, folder, tmp_path):
    (folder / "page.csv").write_text("<html>503</html>")
    (cycle,) = run(experiment, tmp_path / "archive", "2024-01-02T15:01")
    record = cycle.record
    assert record.status == "ok"
    assert record.reason == "source isd: unreadable files: 1"
    assert record.sources["isd"].unreadable == 1
    assert "page.csv: no column station" in record.sources["isd"].problems[0]
    assert record.uses["assimilated"] > 0
    (folder / "page.csv").unlink()
    assert arrivals(tmp_path / "archive", NOON) is None


def test_a_cycle_waits_for_servers_no_longer_than_its_limit(world, experiment, folder, tmp_path, monkeypatch):
    """A server that never answers has its source's share of the time, half of it; the other source goes on."""
    monkeypatch.setenv("DACYCLE_CACHE", str(tmp_path / "cache"))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/reports.csv"
        sources = [
            {"source": "isd", "name": "slow", "path": url, "cutoff": "3h"},
            {"source": "isd", "path": str(folder), "cutoff": "3h", "received": "mtime"},
        ]
        path = write_experiment(tmp_path, world, "waiting", observations=sources)
        waiting = load_experiment(path).model_copy(update={"fetch_limit": pd.Timedelta("4s")})
        begun = time.monotonic()
        archive = Archive(tmp_path / "archive", create=True)
        (cycle,) = run_due_cycles(waiting, archive, now=pd.Timestamp("2024-01-02T15:01"))
        waited = cycle.seconds["observations"]
    assert 1.5 < waited < 15
    assert time.monotonic() - begun < 60
    assert cycle.record.status == "degraded"
    expected = r"source slow could not be read: .*reports\.csv.*(not whole|timed out)"
    assert re.search(expected, cycle.record.reason)
    assert cycle.record.sources["isd"].found > 0


def test_a_cycle_that_is_left_with_too_little_is_degraded(experiment, folder, tmp_path):
    (folder / "noon.csv").rename(folder / "page.csv")
    (folder / "page.csv").write_text("<html>503</html>")
    reports(folder, "one.csv", NOON, [1])
    (cycle,) = run(experiment, tmp_path / "archive", "2024-01-02T15:01")
    assert cycle.record.status == "degraded"
    assert "fewer than 10" in cycle.record.reason
    assert "unreadable files: 1" in cycle.record.reason


def test_where_nothing_can_be_read_the_cycle_goes_on_and_doctor_and_plan_say_why(experiment, folder, tmp_path):
    (folder / "noon.csv").write_text("<html>503</html>")
    archive = tmp_path / "archive"
    (cycle,) = run(experiment, archive, "2024-01-02T15:01")
    assert cycle.record.status == "degraded"
    assert "noon.csv: no column station" in cycle.record.reason
    for command in ("doctor", "plan"):
        found = CliRunner().invoke(app, [command, str(experiment), "--archive", str(tmp_path / "none")])
        assert found.exit_code != 0
        assert "noon.csv:nocolumnstation" in re.sub(r"[│\s]", "", found.output)


def test_plan_misses_what_a_whole_day_lacks_not_what_a_cycle_does(world, folder, tmp_path):
    """Soundings are made twice a day, and daily means end once: their other windows are empty."""
    source = {"source": "isd", "path": str(folder), "cutoff": "3h"}
    for name, end, status in (("there", "2024-01-02T18", 0), ("gone", "2024-01-04T18", 2)):
        experiment = write_experiment(tmp_path, world, name, observations=[source], start="2024-01-02T06", end=end)
        found = CliRunner().invoke(app, ["plan", str(experiment), "--archive", str(tmp_path / "none")])
        assert found.exit_code == status
        said = re.sub(r"\s+", " ", found.output)
        assert ("source isd has nothing for 20240104T00 to 20240104T18" in said) == (status == 2)


def test_doctor_warns_of_some_unreadable_files(experiment, folder, tmp_path):
    (folder / "page.csv").write_text("<html>503</html>")
    found = CliRunner().invoke(app, ["doctor", str(experiment), "--archive", str(tmp_path / "none")])
    assert "unreadable files: 1" in found.output
    assert "page.csv" in found.output
    planned = CliRunner().invoke(app, ["plan", str(experiment), "--archive", str(tmp_path / "none")])
    assert "unreadable" in planned.output


def test_an_experiment_reads_what_was_ingested(world, experiment, folder, tmp_path):
    """The cycle is the same, its observations read from tables instead of from files."""
    out = tmp_path / "tables"
    command = ["ingest", "isd", str(folder), "--start", "2024-01-02T12", "--end", "2024-01-02T12", "--out", str(out)]
    made = CliRunner().invoke(app, [*command, "--option", "received=mtime"])
    assert made.exit_code == 0, made.output
    source = {"source": "table", "name": "isd", "path": str(out), "cutoff": "3h"}
    tables = write_experiment(tmp_path, world, "tables", observations=[source], guards={"minimum_observations": 10})
    (one,) = run(experiment, tmp_path / "one", "2024-01-02T15:01")
    (two,) = run(tables, tmp_path / "two", "2024-01-02T15:01")
    for key in ("status", "uses", "reasons", "variables", "gridded", "increment_rms"):
        assert getattr(one.record, key) == getattr(two.record, key)
