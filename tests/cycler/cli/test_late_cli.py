"""A late chain on the command line: run, shown, audited, forked, rewound, planned and checked."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dacycle.cycler.archive.branches import Archive, open_experiment
from dacycle.cycler.cli import app
from dacycle.cycler.experiment import load_experiment, write_experiment
from dacycle.cycler.verification.drift import read_scores
from tests.cycler import replays
from tests.cycler.commands import dacycle
from tests.cycler.cycle.test_late_files import reports


@pytest.fixture
def place(world, tmp_path, monkeypatch) -> Path:
    """Return a working directory with an experiment of four cycles, each from the late analysis of 12 h before."""
    drift = {"starts": [0], "lead": "12h", "free_run": False}
    content = replays.content(world.folder, world.model, tmp_path, drift=drift, late={"cutoff": "15h"})
    (tmp_path / "demo.yaml").write_text(write_experiment(content))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def test_from_plan_to_rewind(place):
    said = dacycle("plan", "demo.yaml")
    assert "each cycle starts from demo-late of 12 h before, cutoff 15 h, and runs 1 cycles again" in said
    assert "demo-late: 2 ok" in dacycle("hindcast", "demo.yaml", "--limit", "2")
    assert "demo 20240104T00: ok" in (said := dacycle("cycle", "demo.yaml"))
    assert "from demo-late 20240103T12" in said
    said = dacycle("hindcast", "demo.yaml", "--forecasts")
    assert "demo-late: 2 ok" in said
    assert "demo: 1 ok" in said
    demo = open_experiment("archive", "demo")
    assert len(read_scores(demo)["start"].unique()) == 1
    assert "demo-late" not in Archive("archive").forecasts.branches()
    assert "demo 20240104T06 starts from demo-late 20240103T18, 1 cycles run again" in dacycle("status")
    assert "-12h" in dacycle("log", "demo")
    last = json.loads(dacycle("log", "demo", "--last", "1", "--json"))["cycles"][0]
    assert last["start"] == demo.records[-1].start
    said = dacycle("audit", "demo@20240104T06")
    assert "starts from demo-late@20240103T18, due 04 09:00; in the archive it is same" in said
    assert "run again in between: 1, with nothing later than the cutoff" in said
    assert "no alert" in dacycle("alerts")

    said = dacycle("rewind", "demo-late", "20240103T12", "--yes")
    assert "demo: 1 cycles, from 20240104T06 on, started from these" in said
    assert "dacycle rewind demo 20240104T00" in said
    assert "in the archive it is absent" in dacycle("audit", "demo@20240104T06")
    dacycle("hindcast", "demo.yaml")
    assert "in the archive it is same" in dacycle("audit", "demo@20240104T06"), "it was run again, with the same result"
    dacycle("report", "demo")
    dacycle("report", "demo-late")


def test_a_fork_has_a_late_chain_on_the_past_of_the_other(place):
    dacycle("hindcast", "demo.yaml", "--until", "20240104T00")
    Archive("archive").rewind("demo-late", load_experiment("demo.yaml").start)  # as in a live run, where it is behind
    dacycle("fork", "demo@20240104T00", "dry", "--set", "deny=[t2m]")
    forked = load_experiment("dry.yaml")
    assert forked.late is not None
    assert forked.late.from_ == "demo-late@20240103T12"
    assert Archive("archive").branches() == ["demo", "demo-late", "dry", "dry-late"]
    dacycle("hindcast", "dry.yaml")
    late = open_experiment("archive", "dry-late")
    assert [record.experiment for record in late.records[2:]] == ["demo-late", "dry-late", "dry-late", "dry-late"]
    assert open_experiment("archive", "dry").records[-1].start["from"] == "dry-late"

    dacycle("fork", "demo@20240104T00", "early", "--set", "late=null")
    dacycle("hindcast", "early.yaml")
    assert open_experiment("archive", "early").records[-1].start is None
    dacycle("fork", "dry@20240104T00", "further", "--set", "late.cutoff=9h")
    assert load_experiment("further.yaml").late.from_ == "dry-late@20240104T00"


def test_a_hindcast_goes_on_where_the_late_chain_stops_and_ends_with_its_error(place):
    """Every increment is too large, so that both chains keep their backgrounds, and stop."""
    text = (place / "demo.yaml").read_text()
    (place / "demo.yaml").write_text(text.replace("fallbacks_in_a_row: 2", "fallbacks_in_a_row: 1, rms_limit: 1.0e-6"))
    ended = CliRunner().invoke(app, ["hindcast", "demo.yaml"])
    assert ended.exit_code == 1
    assert "experiment demo: 2 cycles in a row fell back" in ended.stderr
    assert {len(open_experiment("archive", name).records) for name in ("demo", "demo-late")} == {4}


def test_doctor_checks_the_late_chain_and_whether_values_say_when_they_were_received(place):
    (place / "feed").mkdir()
    reports(place / "feed", "noon.csv", replays.START, range(1, 4))
    content = load_experiment("demo.yaml").as_dict()
    content["observations"] = [{"source": "isd", "path": "feed", "cutoff": "3h"}]
    (place / "demo.yaml").write_text(write_experiment(content))
    said = dacycle("doctor", "demo.yaml", "--verbose")
    assert "archive, late chain:" in said
    assert "source isd, late chain: its values do not say when they were received" in said
    content["observations"][0]["received"] = "mtime"
    (place / "demo.yaml").write_text(write_experiment(content))
    assert "isd, late chain" not in dacycle("doctor", "demo.yaml", "--verbose")
