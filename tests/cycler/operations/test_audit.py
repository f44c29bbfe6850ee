"""`dacycle audit`: what made a cycle, from its record, its departures, and the files that are there now."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from typer.testing import CliRunner

from dacycle.cycler.archive.branches import Archive
from dacycle.cycler.cli import app
from dacycle.cycler.cycle.replay import run_due_cycles
from dacycle.cycler.operations import audit as auditing
from dacycle.cycler.operations.audit import audit
from dacycle.forecast_adapter.channels import index
from dacycle.forecast_adapter.worlds.world import load_world
from tests.cycler import replays
from tests.obs_ingest.sources.bufr.messages import PLACE, STATION, message, synop

CYCLE = pd.Timestamp("2024-01-02T12")


@pytest.fixture
def archive(world, tmp_path: Path) -> Path:
    """Run a cycle with two files of SYNOPs, received 10 minutes after their time, beside drawn soundings."""
    feed = tmp_path / "feed"
    feed.mkdir()
    home = load_world(world.folder)
    truth = home.reference.array(np.datetime64("2024-01-02T12", "h"))[index("t2m")]
    for number, row in ((1, 6), (2, 12)):
        values = {
            **PLACE, "#1#stationNumber": number, "#1#latitude": float(home.grid.latitude[row]), "#1#longitude": 0.0,
            "#1#heightOfStationGroundAboveMeanSeaLevel": float(home.orography[row, 0]),
            "#1#airTemperature": float(truth[row, 0]),
        }  # fmt: skip
        (feed / f"{number}.bufr").write_bytes(message([*STATION, 7030, 12101], values))
    reports = {"source": "synop_bufr", "name": "reports", "path": str(feed), "cutoff": "1h", "latency": "10min"}
    sources = [reports, {"source": "sondes", "cutoff": "none"}]
    content = replays.content(world.folder, world.model, tmp_path, observations=sources, withhold=0)
    content |= {"start": "2024-01-02T12", "end": "2024-01-02T12", "cold_start": {"climatology": True}}
    run_due_cycles(replays.experiment(content), Archive(tmp_path / "archive", create=True))
    return tmp_path / "archive"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["audit", *map(str, arguments)])


def test_files_digests_and_receipts_of_a_cycle(archive: Path) -> None:
    found = audit(Archive(archive), "demo", CYCLE)
    reports, sondes = found.sources
    content = (archive.parent / "feed/1.bufr").read_bytes()
    assert [Path(file.path).name for file in reports.files] == ["1.bufr", "2.bufr"]
    assert reports.files[0].digest == hashlib.sha256(content).hexdigest()[:16]
    assert {file.now for file in reports.files} == {"same"}
    assert reports.assimilated == 2
    assert reports.first == reports.last == CYCLE + pd.Timedelta("10min")
    assert (reports.cutoff, sondes.cutoff) == (pd.Timedelta("1h"), None)
    assert sondes.assimilated > 100
    assert found.too_late == 0
    assert found.digests["experiment"]


def test_files_that_have_changed_since_are_said_to_have(archive: Path) -> None:
    feed = archive.parent / "feed"
    (feed / "1.bufr").write_bytes(synop(temperature=290.0, stationNumber=1))
    (feed / "2.bufr").unlink()
    ended = run("demo@20240102T12", "--archive", archive, "--json")
    assert ended.exit_code == 0
    said = json.loads(ended.stdout)
    assert [file["now"] for file in said["sources"][0]["files"]] == ["changed", "absent"]
    assert said["sources"][0]["cutoff"] == 3600


def test_a_value_that_was_used_too_late_ends_with_status_1(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cycle uses one, so the departures of this one are read with another receipt."""
    read = auditing.Archive.branch

    def tampered(self, name):
        branch = read(self, name)
        between = branch.departures_between
        late = CYCLE + pd.Timedelta("61min")
        branch.departures_between = lambda *times: ((t, table.assign(received=late)) for t, table in between(*times))
        return branch

    monkeypatch.setattr(auditing.Archive, "branch", tampered)
    ended = run("demo@20240102T12", "--archive", archive)
    assert ended.exit_code == 1
    assert audit(Archive(archive), "demo", CYCLE).too_late == 2


def test_what_is_no_cycle_is_refused(archive: Path) -> None:
    ended = run("demo@20240103T12", "--archive", archive)
    assert ended.exit_code == 2
    assert "no cycle 20240103T12" in ended.stderr
    assert run("demo", "--archive", archive).exit_code == 2
