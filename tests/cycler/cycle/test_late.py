"""A late chain, and cycles that start from it."""

import json
import shutil
import threading
import time as clock
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from dacycle.cycler.archive.branches import Archive, ArchiveError, Branch
from dacycle.cycler.archive.frames import StoredFrames
from dacycle.cycler.blocks import KeepSettings
from dacycle.cycler.cli import app
from dacycle.cycler.cycle import replay
from dacycle.cycler.cycle.late import digest_of, runs_again, start_of
from dacycle.cycler.cycle.replay import run_due_cycles
from dacycle.cycler.experiment import STEP, Experiment, ExperimentError, cycle_id
from dacycle.cycler.keeping.tidy import removable
from dacycle.cycler.operations.audit import audit
from dacycle.forecast_adapter.worlds.world import load_world
from tests.cycler import replays

END = pd.Timestamp("2024-01-04T12")
LATE = "demo-late"


def late_content(world: Any, folder: Path, cutoff: str, **changes: Any) -> dict[str, Any]:
    """Return an experiment whose stations report after 3 h in the median: about half of them after its cutoff."""
    content = replays.content(world.folder, world.model, folder, end=f"{END:%Y-%m-%dT%H}")
    (stations,) = content["observations"]
    slow = {**stations, "latency": "180min", "latency_spread": 0.9}
    return content | {"observations": [slow], "late": {"cutoff": cutoff}} | changes


def run(content: dict[str, Any], folder: Path) -> Experiment:
    """Run everything that an experiment asks for."""
    experiment = replays.experiment(content)
    for each in experiment.runs():
        run_due_cycles(each, Archive(folder, create=True))
    return experiment


def again(content: dict[str, Any], origin: str, time: pd.Timestamp, cutoff: pd.Timedelta, name: str) -> dict[str, Any]:
    """Return an experiment that runs one cycle after `origin`, with another cutoff."""
    hours = f"{cutoff // pd.Timedelta('1h')}h"
    observations = [{**source, "cutoff": hours} for source in content["observations"]]
    only = {"name": name, "start": cycle_id(time), "end": cycle_id(time), "cold_start": {"from": origin}}
    return {key: value for key, value in content.items() if key != "late"} | {"observations": observations} | only


def states(branch: Branch, at: pd.Timestamp) -> list[bytes]:
    """Return background and analysis of a cycle, and the frames that a forecast from it starts from."""
    pair = StoredFrames(branch).pair(at)
    return [branch.state(group, at).values.tobytes() for group in ("background", "analysis")] + [
        frame.tobytes() for frame in pair
    ]


@pytest.fixture(scope="module")
def ran(world, tmp_path_factory) -> tuple[dict[str, Any], Experiment, Path]:
    """Run an experiment whose cycles start from the late analysis of 18 h before; return it and its archive."""
    folder = tmp_path_factory.mktemp("ran")
    content = late_content(world, folder, "20h", bias={"n0": 2.0, "radius_km": 4000.0})
    return content, run(content, folder / "archive"), folder / "archive"


# --- the rule ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cutoff", "hours", "cycles"), [("4h", 6, 0), ("9h", 6, 0), ("9h30", 12, 1), ("15h", 12, 1), ("51h", 48, 7)]
)
def test_a_cycle_starts_from_the_newest_late_analysis_that_is_due_by_its_cutoff(world, tmp_path, cutoff, hours, cycles):
    cutoff = "570min" if cutoff == "9h30" else cutoff
    experiment = replays.experiment(late_content(world, tmp_path, cutoff))
    time = replays.START + 10 * STEP
    assert time - start_of(experiment, time) == pd.Timedelta(hours=hours)
    assert runs_again(experiment) == cycles
    assert start_of(experiment, replays.START) == replays.START - STEP, "before it there is only the cold start"


def test_the_late_chain_differs_in_its_cutoffs_alone(world, tmp_path):
    content = late_content(world, tmp_path, "9h", drift={"starts": [0], "lead": "24h", "free_run": True})
    content["observations"].append({"source": "sondes", "cutoff": "none"})
    late, experiment, free = replays.experiment(content).runs()
    assert [late.name, experiment.name, free.name] == [LATE, "demo", "demo-free"]
    assert [source.cutoff for source in late.observations] == [pd.Timedelta("9h"), None]
    assert (late.late, late.drift.starts, free.late) == (None, (), None)
    assert replays.experiment(late.as_dict()) == late, "it can be frozen and read again"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"late": {"cutoff": "3h"}}, "source stations is waited for 3h already"),
        ({"late": {"cutoff": "none"}}, "not a duration"),
        ({"late": {}}, "late.cutoff"),
        ({"assimilator": "none"}, "without assimilation"),
        ({"observations": [{"source": "sondes", "cutoff": "none"}]}, "no source has a cutoff"),
        ({"late": {"cutoff": "9h", "from": "other-late@20240104T00"}}, "not before the start"),
    ],
)
def test_a_late_chain_that_cannot_be_is_refused(world, tmp_path, changes, said):
    with pytest.raises(ExperimentError, match=said):
        replays.experiment(late_content(world, tmp_path, "9h") | changes)


# --- what a cycle is made from ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "cutoff"),
    [
        ("chain", "9h"),
        ("both", "20h"),
        *(pytest.param(kind, "20h", marks=pytest.mark.trial) for kind in ("filter", "window")),
    ],
)
def test_a_cycle_is_what_forks_of_the_late_chain_with_the_cutoffs_of_the_hour_give(world, tmp_path, kind, cutoff):
    """The cycles that are run again take what had come by the cutoff of the last one, each a step more."""
    changes: dict[str, Any] = {"bias": {"n0": 2.0, "radius_km": 4000.0}}
    if kind == "both":
        changes |= {"frames": {"both": 0.5}}
    elif kind == "filter":
        changes |= replays.with_members(tmp_path, load_world(str(world.folder))) | {"frames": "smoothed"}
    elif kind == "window":
        pytest.importorskip("torch")
        changes |= replays.with_window(tmp_path, load_world(str(world.folder)), world.model)
    content = late_content(world, tmp_path, cutoff, **changes)
    experiment = run(content, tmp_path / "archive")
    archive = Archive(tmp_path / "archive")
    start = start_of(experiment, END)
    origin, times = f"{LATE}@{cycle_id(start)}", pd.date_range(start + STEP, END, freq=STEP)
    for number, time in enumerate(times):
        fork = again(content, origin, time, experiment.wait + (END - time), f"fork{number}")
        run_due_cycles(replays.experiment(fork), archive)
        origin = f"fork{number}@{cycle_id(time)}"
    branch, fork = archive.branch("demo"), archive.branch(f"fork{len(times) - 1}")
    assert states(branch, END) == states(fork, END)
    own, forked = branch.records[-1], fork.records[-1]
    assert (own.uses, own.increment_rms, own.background_error) == (
        forked.uses, forked.increment_rms, forked.background_error,
    )  # fmt: skip
    assert own.uses["late"] > 50, "else the cutoff changes nothing"
    if kind == "filter":
        pairs = [StoredFrames(each).perturbations(END) for each in (branch, fork)]
        assert [x.tobytes() for x in pairs[0]] == [x.tobytes() for x in pairs[1]]


def test_retention_leaves_the_late_analyses_that_cycles_have_still_to_start_from(ran, tmp_path, monkeypatch):
    """The late chain is at its end; by itself it would keep what is not older than the day of 6 h before that."""
    shutil.copytree(ran[2], tmp_path / "archive")
    archive = Archive(tmp_path / "archive")

    def gone() -> list[pd.Timestamp]:
        late = archive.branch(LATE)
        keep = KeepSettings.model_construct(cycles=STEP, then="none")
        late.experiment = late.experiment.model_copy(update={"keep": keep})
        return list(removable(late).get("analysis", ()))

    assert gone() == []
    with monkeypatch.context() as patch:
        patch.setattr(Branch, "next_time", END + pd.Timedelta("1D"))
        assert gone() == [replays.START, replays.START + STEP]
    shutil.rmtree(archive.folder / "states.icechunk/refs/branch.demo")
    assert gone() == []


def test_the_record_says_from_which_late_cycle_and_what_was_run_again(ran):
    _, experiment, folder = ran
    archive = Archive(folder)
    branch, late = archive.branch("demo"), archive.branch(LATE)
    record, start = branch.records[-1], start_of(experiment, END)
    source = next(each for each in late.records if each.time == start)
    assert record.start["from"] == LATE
    assert record.start["cycle"] == cycle_id(start)
    assert record.start["digest"] == digest_of(source, late.frame(start))
    assert list(record.start["again"]) == [cycle_id(start + STEP), cycle_id(start + 2 * STEP)]
    for said in record.start["again"].values():
        assert said["status"] == "ok"
        assert pd.Timestamp(said["received"]["stations"]) <= END + experiment.wait
    assert branch.records[2].start["cycle"] == cycle_id(replays.START - STEP)
    assert json.loads(record.to_json())["start"] == record.start


def test_no_value_is_used_after_its_cutoff_in_either_chain(ran):
    _, experiment, folder = ran
    for name, hours in (("demo", 3), (LATE, 20)):
        table = Archive(folder).branch(name).departures()
        used = table[table["use"] == "assimilated"]
        latest = (used["received"] - used["cycle"]).max()
        assert pd.Timedelta(hours=hours) * 0.7 < latest <= pd.Timedelta(hours=hours)
        found = audit(Archive(folder), name, END)
        assert found.well
        assert (found.start is None) == (name == LATE)
    assert (found := audit(Archive(folder), "demo", END)).start is not None
    assert (found.start.now, found.start.again, found.start.cycle) == ("same", 2, END - 3 * STEP)
    assert found.start.due <= END + experiment.wait


def test_an_audit_finds_a_start_that_was_not_due_and_a_late_value_in_between(ran, monkeypatch):
    """No cycle has them, so that the record of this one is read with others."""
    _, _, folder = ran
    read = Branch.record
    again = {cycle_id(END - 2 * STEP): {"status": "ok", "received": {"stations": "2024-01-04T15:00:01"}}}
    wrong = {"from": LATE, "cycle": cycle_id(END - STEP), "digest": "0" * 64, "again": again}

    def tampered(branch, time):
        record = read(branch, time)
        return replace(record, start=wrong) if (branch.name, time) == ("demo", END) else record

    monkeypatch.setattr(Branch, "record", tampered)
    start = audit(Archive(folder), "demo", END).start
    assert start.too_early
    assert list(start.too_late) == [f"stations in {cycle_id(END - 2 * STEP)}"]
    ended = CliRunner().invoke(app, ["audit", f"demo@{cycle_id(END)}", "--archive", str(folder)])
    assert ended.exit_code == 1
    assert "TOO LATE" in ended.output


# --- order ------------------------------------------------------------------------------------------------------------


def test_a_live_run_and_a_replay_are_the_same_however_it_is_woken(ran, tmp_path):
    """Woken for each cycle, with the late chain by itself or as it is needed."""
    _, experiment, folder = ran
    late, _ = experiment.runs()
    live = Archive(tmp_path / "live", create=True)
    for time in pd.date_range(replays.START, END, freq=STEP):
        now = time + experiment.wait
        if time.day == 3:
            run_due_cycles(late, live, now=now)
        assert [cycle.time for cycle in run_due_cycles(experiment, live, now=now)] == [time]
        stands = live.branch(LATE).times[-1]
        assert stands == start_of(experiment, time), "no more than is due"
    whole, other = replays.everything(folder), replays.everything(tmp_path / "live")
    assert [key for key in whole if other[key] != whole[key]] == []


def test_without_its_late_chain_running_a_cycle_is_degraded_and_goes_on(world, tmp_path, monkeypatch):
    """The guards stop the late chain; once it has been mended the cycles start from it again."""
    content = late_content(world, tmp_path, "9h", end="2024-01-05T00")
    experiment, archive = replays.experiment(content), Archive(tmp_path / "archive", create=True)
    bad = pd.Timestamp("2024-01-04T00")
    with monkeypatch.context() as patch:
        replays.break_observations(patch, LATE, bad)
        run_due_cycles(experiment, archive)
    stopped = archive.branch(LATE)
    assert [record.status for record in stopped.records[-3:]] == ["fallback"] * 3
    last = stopped.times[-1]
    assert last == bad + 2 * STEP, "the third fallback in a row stops it"
    records = {record.time: record for record in archive.branch("demo").records[2:]}
    assert {record.status for time, record in records.items() if time <= last + STEP} == {"ok"}
    alone = [record for time, record in records.items() if time > last + STEP]
    assert len(alone) == 1
    for record in alone:
        assert record.status == "degraded"
        assert f"{LATE} has stopped at {cycle_id(last)}" in record.reason
        assert (record.start["from"], record.start["cycle"]) == ("demo", cycle_id(record.time - STEP))

    archive.rewind(LATE, bad - STEP)
    (cycle,) = run_due_cycles(replays.experiment(content | {"end": "2024-01-05T06"}), archive)
    assert (cycle.record.status, cycle.record.start["from"]) == ("ok", LATE)
    assert archive.branch(LATE).times[-1] == pd.Timestamp("2024-01-05T00")


def test_a_cycle_waits_for_another_process_that_runs_its_late_chain(world, tmp_path, monkeypatch):
    content = late_content(world, tmp_path, "9h", end="2024-01-03T12")
    experiment, archive = replays.experiment(content), Archive(tmp_path / "archive", create=True)
    monkeypatch.setattr(replay, "PATIENCE_WITH_LATE", 0.5)
    with archive.lock(LATE), pytest.raises(ArchiveError, match=f"experiment {LATE} is being written by process"):
        run_due_cycles(experiment, archive)
    assert archive.branch("demo").records[-1].status == "cold_start", "nothing was run without it"

    monkeypatch.setattr(replay, "PATIENCE_WITH_LATE", 60.0)
    held = threading.Event()

    def hold() -> None:
        with archive.lock(LATE):
            held.set()
            clock.sleep(1)

    other = threading.Thread(target=hold)
    other.start()
    assert held.wait(10)
    (cycle,) = run_due_cycles(experiment, archive)
    other.join()
    assert cycle.record.start["from"] == LATE
