"""Retention: what goes, what stays, and that everything that reads an archive works or says what was removed."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dacycle.cycler.archive.branches import Archive, ArchiveError, open_experiment
from dacycle.cycler.archive.derived import CYCLE_TABLES
from dacycle.cycler.archive.writer import write
from dacycle.cycler.experiment import ExperimentError, cycle_id, parse_experiment, write_experiment
from dacycle.cycler.keeping.tidy import is_due, tidy
from dacycle.cycler.operations.audit import audit
from dacycle.cycler.operations.service import Service
from dacycle.cycler.report.page import write_report
from dacycle.cycler.verification.cycles import verify
from dacycle.cycler.verification.drift import unmade
from dacycle.forecast_adapter.worlds.reference import Reference
from tests.cycler.runs import experiment, make_run
from tests.worlds import make_world

DACYCLE = "from dacycle.cycler.cli import main; main()"
KEEP = {"cycles": "2d"}


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny):
    """Return a run of 16 cycles, 2 to 5 January, that keeps every cycle for two days; not tidied yet."""
    return make_run(tmp_path_factory.mktemp("whole") / "archive", tiny, cycles=16, keep=KEEP, notes={"seconds": {}})


@pytest.fixture
def run(whole, tmp_path, tiny):
    """Return a copy of it, tidied."""
    archive = copy(whole.archive.folder, tmp_path / "archive")
    tidy(archive)
    return archive.branch("run")


def copy(folder: Path, to: Path) -> Archive:
    subprocess.run(["cp", "-a", folder, to], check=True)
    return Archive(to)


def test_older_cycles_keep_the_states_from_which_a_forecast_can_start(whole, run):
    """Days before 3 January are older than two days before the newest cycle, 5 January at 18 UTC."""
    times = whole.times
    old = times < pd.Timestamp("2024-01-03")
    cold_start = times[:2]
    kept = times[~old].union(cold_start).union(pd.DatetimeIndex(["2024-01-02T00", "2024-01-02T18"]))
    assert list(run.kept("analysis")) == list(kept)
    assert list(run.kept("background")) == list(times[~old].insert(0, pd.Timestamp("2024-01-02T00")))
    assert pd.Timestamp("2024-01-03T00") in run.restarts
    starts = list(pd.date_range("2024-01-02", "2024-01-05T12", freq="12h"))
    assert unmade(whole) == starts
    assert unmade(run) == [start for start in starts if start != pd.Timestamp("2024-01-02T12")], "its states are gone"
    assert size(run.archive.folder) < size(whole.archive.folder)


def test_what_is_kept_is_what_was_there(whole, run, tiny):
    for time in run.kept("analysis"):
        np.testing.assert_array_equal(run.frame(time), whole.frame(time))
    assert [r.to_json() for r in run.records] == [r.to_json() for r in whole.records]
    pd.testing.assert_frame_equal(run.departures(), whole.departures())
    for kind in ("analysis", "background"):
        assert run.headline(kind).load().identical(whole.headline(kind).load())
    before, after = verify(whole, tiny), verify(run, tiny)
    pd.testing.assert_frame_equal(after.errors, before.errors)
    pd.testing.assert_frame_equal(after.means, before.means)
    assert run.damaged() == []


def test_a_removed_state_is_refused_with_its_neighbours(run):
    with pytest.raises(ArchiveError, match=r"2024-01-02T12 was removed .*2024-01-02T00 and 2024-01-02T18"):
        run.state("analysis", pd.Timestamp("2024-01-02T12"))
    assert not np.isnan(run.analysis["2m_temperature"].load()).any()


def test_what_retention_removed_stays_out_of_reports_and_audits(run, tiny, tmp_path):
    path = write_report(run, tiny, tmp_path / "report.html")
    assert path.stat().st_size > 100_000
    assert audit(run.archive, "run", pd.Timestamp("2024-01-02T12")).status == "ok"


def test_scores_of_removed_states_outlive_a_kill_between_two_tables(run, tiny, tmp_path):
    """The table that was written before the kill knows a cycle more than the others."""
    folder = run.folder / "verification"
    before = verify(run, tiny)
    shutil.copytree(folder, tmp_path / "older")
    longer = make_run(run.archive.folder, tiny, cycles=17, keep=KEEP)
    verify(longer, tiny)
    for name in ("means", "fits"):
        shutil.copy(tmp_path / f"older/{name}.parquet", folder)
    after = verify(longer, tiny)
    assert len(longer.times) - 2 == after.errors["time"].nunique() == 17
    for name in CYCLE_TABLES:
        pd.testing.assert_frame_equal(getattr(after.within(run.times[:-1]), name), getattr(before, name))


def test_scores_of_removed_states_are_not_made_again_without_them(run, tiny, monkeypatch):
    folder, harmed = run.folder / "verification", run.folder / "verification/means.parquet"
    content = harmed.read_bytes()
    longer = make_run(run.archive.folder, tiny, cycles=17, keep=KEEP)

    def refused() -> None:
        there = {path.name: path.read_bytes() for path in folder.iterdir()}
        with pytest.raises(ArchiveError, match="restore it from a backup"):
            verify(longer, tiny)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == there

    with monkeypatch.context() as patched:
        patched.setattr("dacycle.cycler.archive.derived._KEYS", b"dacycle.cycles.5")
        refused()
    harmed.unlink()
    refused()
    harmed.write_bytes(content[:300] + bytes([content[300] ^ 0x11]) + content[301:])
    refused()
    assert "restore it from a backup" in longer.damaged()[0]
    harmed.write_bytes(content)
    assert verify(longer, tiny).errors["time"].nunique() == 17


def test_states_whose_scores_cannot_be_written_stay(whole, tmp_path):
    archive = copy(whole.archive.folder, tmp_path / "archive")
    shutil.rmtree(archive.folder / "branches/run/verification", ignore_errors=True)
    (archive.folder / "branches/run/verification").write_text("in the way")
    with pytest.raises(ArchiveError, match="the scores of run could not be written"):
        tidy(archive)
    assert len(archive.branch("run").kept("analysis")) == len(whole.times)


def test_states_whose_scores_on_disk_are_outdated_stay(whole, tmp_path, tiny, monkeypatch):
    archive = copy(whole.archive.folder, tmp_path / "archive")
    other = replace(tiny, reference=Reference(make_world(tmp_path / "other", days=5, seed=7) / "reference"))
    verify(archive.branch("run"), other)
    monkeypatch.setattr("dacycle.cycler.verification.cycles.write_tables", lambda *_: None)  # a full disk
    with pytest.raises(ArchiveError, match="the scores of run could not be written"):
        tidy(archive)
    assert len(archive.branch("run").kept("analysis")) == len(whole.times)


def test_a_tidied_run_goes_on_and_is_tidied_again(whole, run, tmp_path, tiny):
    longer = make_run(run.archive.folder, tiny, cycles=19, keep=KEEP)
    other = make_run(copy(whole.archive.folder, tmp_path / "other").folder, tiny, cycles=19, keep=KEEP)
    np.testing.assert_array_equal(longer.frame(longer.times[-1]), other.frame(other.times[-1]))
    assert is_due(longer.archive, longer.experiment)
    tidy(longer.archive)
    assert not is_due(longer.archive, longer.experiment)
    assert longer.archive.branch("run").headline().load().identical(other.headline().load())
    notes = [note["time"] for note in longer.archive.states.notes("run")]
    assert notes == [time.strftime("%Y%m%dT%H") for time in reversed(longer.times[longer.times >= "2024-01-04"])]


@pytest.mark.parametrize("time", ["2024-01-03T00", "2024-01-04T06"])
def test_rewind_and_fork_reach_behind_what_was_forgotten(run, tiny, time):
    run = make_run(run.archive.folder, tiny, cycles=17, keep=KEEP)
    expected = {t: run.frame(t) for t in run.kept("analysis") if t <= pd.Timestamp(time)}
    make_run(
        run.archive.folder, tiny, cycles=16, name="fork", keep=KEEP,
        start=f"{pd.Timestamp(time) + pd.Timedelta(hours=6):%Y-%m-%dT%H}", cold_start={"from": f"run@{time}"},
    )  # fmt: skip
    notes, newest = list(run.archive.states.notes("run")), run.times[-1]
    run.archive.rewind("run", pd.Timestamp(time))
    for name in ("run", "fork"):
        branch = run.archive.branch(name)
        assert branch.damaged() == []
        for t, frame in expected.items():
            np.testing.assert_array_equal(branch.frame(t), frame)
    rewound = run.archive.branch("run")
    assert rewound.times[-1] == pd.Timestamp(time)
    assert list(rewound.archive.states.notes("run")) == [
        note for note in notes if note["time"] <= cycle_id(pd.Timestamp(time))
    ]
    with pytest.raises(ArchiveError, match="has no committed cycle"):  # it was dropped
        run.archive.rewind("run", newest)
    again = make_run(run.archive.folder, tiny, cycles=16, keep=KEEP)
    fork = run.archive.branch("fork")
    assert list(again.times) == list(fork.times)
    np.testing.assert_array_equal(again.frame(again.times[-1]), fork.frame(again.times[-1]))


def test_neither_reaches_a_cycle_whose_states_are_gone(run):
    with pytest.raises(ArchiveError, match=r"20240102T12 were removed .* after 20240102T00 or 20240103T00"):
        run.archive.rewind("run", pd.Timestamp("2024-01-02T12"))
    assert run.times[-1] == pd.Timestamp("2024-01-05T18")


def test_a_fork_that_keeps_everything_loses_nothing(whole, tmp_path, tiny):
    archive = copy(whole.archive.folder, tmp_path / "archive")
    make_run(
        archive.folder, tiny, cycles=17, name="fork", start="2024-01-05T06", cold_start={"from": "run@2024-01-05T00"}
    )
    tidy(archive)
    fork = archive.branch("fork")
    assert len(fork.kept("analysis")) == len(fork.times) == 19
    assert fork.damaged() == []
    archive.rewind("fork", pd.Timestamp("2024-01-05T06"))
    np.testing.assert_array_equal(fork.frame(pd.Timestamp("2024-01-02T12")), whole.frame(pd.Timestamp("2024-01-02T12")))


def test_none_is_kept_of_older_cycles_where_the_experiment_says_so(whole, tmp_path, tiny):
    archive = copy(whole.archive.folder, tmp_path / "archive")
    make_run(archive.folder, tiny, cycles=16, keep={"cycles": "2d", "then": "none"})
    tidy(archive)
    kept = archive.branch("run").kept("analysis")
    assert kept[2] == pd.Timestamp("2024-01-03")


def test_an_experiment_that_cannot_be_tidied_does_not_keep_others_from_it(whole, tmp_path, tiny, caplog):
    archive = copy(whole.archive.folder, tmp_path / "archive")
    other = {"name": "a-fork", "start": "2024-01-05T18", "cold_start": {"from": "run@2024-01-05T12"}}
    make_run(archive.folder, tiny, cycles=16, keep=KEEP, **other)
    frozen = archive.folder / "branches/a-fork/experiment.yaml"
    frozen.write_text(frozen.read_text().replace("start:", "begin:"))
    Service(whole.experiment, archive)._tidy()
    assert "the states of a-fork that are not kept stay" in caplog.text
    assert len(archive.branch("run").kept("analysis")) < len(whole.times)


def test_plan_changes_nothing(whole, tmp_path):
    archive = copy(whole.archive.folder, tmp_path / "archive")
    (archive.folder / "states.icechunk/refs/branch.unbegun").mkdir()
    with archive.adding():
        files = sorted(archive.folder.rglob("*"))
        planned = tidy(archive, plan=True)
        assert len(planned.states["run"]["analysis"]) == 2
        assert sorted(archive.folder.rglob("*")) == files
    tidy(archive)
    assert not (archive.folder / "states.icechunk/refs/branch.unbegun").exists()


def test_it_waits_for_no_writer_and_says_who_writes(run):
    with (
        write(run.archive, run.experiment),
        pytest.raises(ArchiveError, match=f"is in use, last taken by process .*{Path(sys.argv[0]).name}"),
    ):
        tidy(run.archive)


def test_a_clock_that_was_set_back_stops_it(whole, tmp_path):
    archive = copy(whole.archive.folder, tmp_path / "archive")
    faketime = shutil.which("faketime")
    if faketime is None:
        pytest.skip("needs faketime")
    command = [faketime, "-f", "-2d", sys.executable, "-c", DACYCLE, "archive", "tidy", str(archive.folder)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "set the clock right" in ended.stderr
    assert archive.branch("run").damaged() == []
    assert tidy(archive).bytes > 0


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"cycles": "1d"}, "give at least 2d"),
        ({"cycles": 60}, "is not a duration"),
        ({"cycles": "9d", "then": "weekly"}, "then"),
    ],
)
def test_a_keep_that_makes_no_sense_is_refused(tiny, keep, message):
    content = experiment(tiny).as_dict() | {"keep": keep}
    with pytest.raises(ExperimentError, match=message):
        parse_experiment(write_experiment(content), "run.yaml")


def test_keep_changes_no_digest_and_may_change(tiny, whole):
    assert experiment(tiny, keep=KEEP).digest == experiment(tiny).digest
    assert open_experiment(whole.archive.folder, "run").experiment.keep is not None
