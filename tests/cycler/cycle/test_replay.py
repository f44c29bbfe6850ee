"""What a cycle starts from, what it does with its observations, and when a run stops or goes on."""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dacycle.cycler.archive.branches import Archive, open_experiment
from dacycle.cycler.archive.store import Store
from dacycle.cycler.cycle.replay import due, open_run, run_due_cycles
from dacycle.cycler.cycle.run_cycle import RunStoppedError, run_cycle
from dacycle.cycler.experiment import STEP, ExperimentError
from dacycle.forecast_adapter.channels import GROUPS, index
from dacycle.forecast_adapter.models.model import ForecastError, load_model
from dacycle.forecast_adapter.worlds.world import load_world
from dacycle.obs_ingest.quality.background_error import BackgroundError
from dacycle.obs_ingest.table import ObservationError
from tests.cycler import replays
from tests.worlds import Nudge, forecast_by_hand


@pytest.fixture(scope="module")
def content(world, tmp_path_factory):
    return replays.content(world.folder, world.model, tmp_path_factory.mktemp("experiment"))


@pytest.fixture(scope="module")
def run(content, tmp_path_factory) -> Path:
    """Return the archive of a finished run of four cycles."""
    folder = tmp_path_factory.mktemp("run") / "archive"
    run_due_cycles(replays.experiment(content), Archive(folder, create=True))
    return folder


def test_the_analysis_is_what_is_cycled(run, world):
    branch, model = open_experiment(run, "demo"), load_model(world.model)
    for time in branch.times[3:]:
        frames = [branch.state("analysis", time - lag).values[None] for lag in (2 * STEP, STEP)]
        np.testing.assert_array_equal(branch.state("background", time), next(iter(model.forecast(*frames, 1)))[0])
        fed_back = branch.state("background", time - STEP).values[None]
        assert (
            np.abs(next(iter(model.forecast(frames[0], fed_back, 1)))[0] - branch.state("background", time)).max() > 0.1
        )


@pytest.mark.parametrize(("frames", "share"), [("both", 1.0), ({"both": 0.4}, 0.4)])
def test_the_older_frame_gets_its_share_of_the_increment_where_the_experiment_says_so(
    content, tmp_path, world, frames, share
):
    experiment = replays.experiment(content | {"frames": frames})
    run_due_cycles(experiment, Archive(tmp_path / "archive", create=True), limit=2)
    run_due_cycles(experiment, Archive(tmp_path / "archive"))  # restarted, it goes on from the same two frames
    branch, model = open_experiment(tmp_path / "archive", "demo"), load_model(world.model)
    for time in branch.times[2:]:
        older, newer = (branch.state("analysis", time - lag).values for lag in (2 * STEP, STEP))
        if time > branch.times[2]:  # the cold start has no increment
            older = older + np.float32(share) * (newer - branch.state("background", time - STEP).values)
            older[GROUPS["q"]] = np.maximum(older[GROUPS["q"]], 0)
        expected = next(iter(model.forecast(older[None], newer[None], 1)))[0]
        np.testing.assert_array_equal(branch.state("background", time), expected)


def test_the_analysis_is_nearer_to_the_truth_and_to_the_observations(run, world):
    branch = open_experiment(run, "demo")
    departures = branch.departures()
    used = departures[(departures.use == "assimilated") & departures.o_b.notna()]
    by_variable = used.groupby("variable", observed=True)[["o_b", "o_a"]].std()
    assert (by_variable.o_a < 0.9 * by_variable.o_b).all()


def test_departures_are_observation_minus_state(run):
    departures = open_experiment(run, "demo").departures([replays.LAST])
    np.testing.assert_allclose(departures.o_b, departures.value - departures.background, atol=0.02)
    np.testing.assert_allclose(departures.o_a, departures.value - departures.analysis, atol=0.02)


def test_every_observation_has_its_row_whatever_became_of_it(run):
    branch = open_experiment(run, "demo")
    departures, records = branch.departures(), branch.records[2:]
    for use in ("assimilated", "withheld", "rejected", "late"):
        counted = sum(record.uses[use] for record in records)
        assert counted == (departures.use == use).sum() > 0, use
    assert departures.groupby("cycle").size().tolist() == [sum(record.uses.values()) for record in records]
    assert (departures.reason[departures.use != "assimilated"] != "").all()


def test_a_second_run_of_the_same_experiment_is_the_same_bit_for_bit(run, content, tmp_path):
    first, rest = tmp_path / "twice", replays.experiment(content)
    run_due_cycles(rest, Archive(first, create=True), limit=1)
    run_due_cycles(rest, Archive(first), until=replays.START + STEP)
    run_due_cycles(rest, Archive(first))
    again, whole = replays.everything(first), replays.everything(run)
    assert again.keys() == whole.keys()
    assert [key for key in whole if again[key] != whole[key]] == []


def test_each_cycle_is_in_the_archive_when_its_progress_is_told(content, tmp_path):
    archive, told = tmp_path / "archive", []

    def tell(cycle):
        told.append(cycle.time)
        assert cycle.time in open_experiment(archive, "demo").times

    run_due_cycles(replays.experiment(content), Archive(archive, create=True), progress=tell)
    assert told == list(open_experiment(archive, "demo").times[2:])


def test_a_commit_that_fails_while_the_next_cycle_is_computed_ends_the_run(content, run, tmp_path, monkeypatch):
    """The run tells of no cycle that is not in the archive, and goes on from there."""
    append, told, failing = Store.append, [], replays.START + STEP

    def full(store, branch, groups, message, *more):
        if message == f"cycle {failing:%Y%m%dT%H}":
            raise OSError(28, "No space left on device")
        return append(store, branch, groups, message, *more)

    experiment, archive = replays.experiment(content), Archive(tmp_path / "archive", create=True)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "append", full)
        with pytest.raises(OSError, match="No space left"):
            run_due_cycles(experiment, archive, progress=lambda cycle: told.append(cycle.time))
    assert told == [replays.START]
    assert open_experiment(tmp_path / "archive", "demo").times[-1] == replays.START
    run_due_cycles(experiment, Archive(tmp_path / "archive"))
    assert replays.everything(tmp_path / "archive") == replays.everything(run)


def test_a_finished_run_has_nothing_more_to_do_and_may_be_made_longer(content, tmp_path):
    archive = Archive(tmp_path / "a", create=True)
    assert len(run_due_cycles(replays.experiment(content | {"end": "2024-01-03T18"}), archive)) == 2
    assert run_due_cycles(replays.experiment(content | {"end": "2024-01-03T18"}), archive) == []
    assert len(run_due_cycles(replays.experiment(content), archive)) == 2
    assert archive.branch("demo").experiment.end == replays.LAST


def test_the_free_run_assimilates_nothing_and_is_compared_with_everything(content, run, tmp_path):
    free = replays.experiment(content).free_run()
    archive = Archive(tmp_path / "free", create=True)
    run_due_cycles(free, archive, limit=2)
    branch = archive.branch("demo-free")
    np.testing.assert_array_equal(branch.state("analysis", replays.START), branch.state("background", replays.START))
    free_values = branch.departures([replays.START]).value
    np.testing.assert_array_equal(free_values, open_experiment(run, "demo").departures([replays.START]).value)


def test_a_cycle_without_observations_keeps_its_background(content, tmp_path):
    archive = Archive(tmp_path / "a", create=True)
    cycles = run_due_cycles(replays.experiment(content | {"observations": []}), archive, limit=1)
    branch = archive.branch("demo")
    assert (cycles[0].record.status, cycles[0].record.reason) == ("degraded", "no observations")
    np.testing.assert_array_equal(branch.state("analysis", replays.START), branch.state("background", replays.START))
    assert len(branch.departures([replays.START])) == 0


def test_a_source_that_cannot_be_read_costs_the_cycle_only_that_source(content, tmp_path):
    class Broken:
        name, cutoff = "broken", None

        def read(self, window):
            raise ObservationError("feed/20240103.bufr: the file ends in the middle of a message")

    with open_run(replays.experiment(content), Archive(tmp_path / "a", create=True)) as run:
        whole = run.inputs
        run.inputs = replace(whole, sources=(*whole.sources, Broken()))
        first = run_cycle(run, replays.START).record
        run.inputs = whole
        second = run_cycle(run, replays.START + STEP).record
    assert first.status == "degraded"
    assert "source broken could not be read: feed/20240103.bufr" in first.reason
    assert first.uses["assimilated"] > 100
    assert second.status == "ok"


def test_fallbacks_in_a_row_stop_the_run_and_say_what_to_do(content, tmp_path):
    archive = Archive(tmp_path / "a", create=True)
    wild = replays.experiment(content | {"assimilator": "wild"})
    for _ in range(2):  # a second attempt does not slip past
        with pytest.raises(RunStoppedError, match=r"3 cycles in a row .* not finite .*dacycle rewind demo 20240103T06"):
            run_due_cycles(wild, archive)
    branch = archive.branch("demo")
    assert list(branch.cycles.status) == ["cold_start"] * 2 + ["fallback"] * 3
    np.testing.assert_array_equal(branch.state("analysis", replays.START), branch.state("background", replays.START))


class _Touchy:
    """A double: the packaged model, which fails from a state that differs from `allowed`."""

    def __init__(self, model, allowed):
        self._model, self._allowed = model, allowed

    def __getattr__(self, name):
        return getattr(self._model, name)

    def forecast(self, previous, current, steps):
        if self._allowed is None or not np.array_equal(current[0], self._allowed):
            raise ForecastError("t850 at step 1 is not finite")
        return self._model.forecast(previous, current, steps)


def test_a_forecast_that_leaves_the_range_begins_again_from_the_background(content, tmp_path, world):
    archive = Archive(tmp_path / "a", create=True)
    with open_run(replays.experiment(content), archive) as run:
        run_cycle(run, replays.START)
        branch, whole = archive.branch("demo"), run.inputs
        background = branch.state("background", replays.START).values
        run.inputs = replace(whole, model=_Touchy(whole.model, background))
        second = run_cycle(run, replays.START + STEP).record
        run.inputs = whole
        third = run_cycle(run, replays.START + 2 * STEP).record
    assert second.status == "fallback"
    assert second.reason.startswith("from the last analysis: t850 at step 1 is not finite")
    assert second.uses["assimilated"] > 100
    assert third.status == "ok"
    frames = (branch.state("analysis", replays.START - STEP).values[None], background[None])
    expected = next(iter(load_model(world.model).forecast(*frames, 1)))[0]
    np.testing.assert_array_equal(archive.branch("demo").state("background", replays.START + STEP), expected)


def test_an_analysis_that_is_not_plausible_is_replaced_by_its_background(content, tmp_path, world):
    """Guards that let it pass, an observation that pulls it out of the range: the cycle keeps its background."""
    archive, guards = (
        Archive(tmp_path / "a", create=True),
        {"increment_limit": 1e6, "rms_limit": 1e6, "water_limit": 1e6},
    )
    with open_run(replays.experiment(content | {"guards": guards}), archive) as run:
        run.inputs = replace(run.inputs, assimilator=Nudge("tiny", weight=300.0))
        record = run_cycle(run, replays.START).record
    branch = archive.branch("demo")
    assert (record.status, record.increment_max["t2m"]) == ("fallback", 0)
    assert "plausible" in record.reason
    np.testing.assert_array_equal(branch.state("analysis", replays.START), branch.state("background", replays.START))


def test_a_model_that_leaves_its_range_from_the_background_too_stops_the_run(content, tmp_path):
    archive = Archive(tmp_path / "a", create=True)
    with open_run(replays.experiment(content), archive) as run:
        run_cycle(run, replays.START)
        run.inputs = replace(run.inputs, model=_Touchy(run.inputs.model, None))
        with pytest.raises(RunStoppedError, match=r"from the last background: t850 .*left its range.*rewind"):
            run_cycle(run, replays.START + STEP)
    assert len(archive.branch("demo").times) == 3


def test_a_live_cycle_waits_for_its_cutoff(content, tmp_path):
    live = replays.experiment({key: value for key, value in content.items() if key != "end"})
    archive = Archive(tmp_path / "a", create=True)
    cutoff = replays.START + pd.Timedelta("3h")
    assert run_due_cycles(live, archive, now=cutoff - pd.Timedelta("1min")) == []
    done = run_due_cycles(live, archive, now=cutoff + STEP)
    assert [cycle.time for cycle in done] == [replays.START, replays.START + STEP]
    with open_run(live, archive) as run, pytest.raises(ExperimentError, match="no end"):
        next(due(run))


def test_a_live_cycle_waits_for_the_longest_cutoff_of_its_sources(content, tmp_path):
    sources = [content["observations"][0], {"source": "olr", "cutoff": "1h"}, {"source": "sondes", "cutoff": "none"}]
    live = replays.experiment({k: v for k, v in content.items() if k != "end"} | {"observations": sources})
    archive = Archive(tmp_path / "a", create=True)
    assert run_due_cycles(live, archive, now=replays.START + pd.Timedelta("2h")) == []
    assert len(run_due_cycles(live, archive, now=replays.START + pd.Timedelta("3h"))) == 1


def test_denied_observations_are_compared_not_assimilated(content, run, tmp_path):
    archive = Archive(tmp_path / "a", create=True)
    record = run_due_cycles(replays.experiment(content | {"deny": ["t2m"]}), archive, limit=1)[0].record
    control = open_experiment(run, "demo").records[2]
    assert record.variables["t2m"]["assimilated"] == 0 < control.variables["t2m"]["assimilated"]
    assert record.variables["msl"] == control.variables["msl"]
    assert sum(record.uses.values()) == sum(control.uses.values())


def test_a_blacklist_and_a_stricter_check_reject_and_the_record_says_which_list(content, run, tmp_path):
    control = open_experiment(run, "demo").departures([replays.START])
    station = str(control["station"][control["use"] == "assimilated"].iloc[0])
    (tmp_path / "bad.csv").write_text(f"station,variable\n{station},t2m\n{station},msl\n")
    asked = {"blacklist": str(tmp_path / "bad.csv"), "background_check": 1.5}
    archive = Archive(tmp_path / "a", create=True)
    record = run_due_cycles(replays.experiment(content | {"quality": asked}), archive, limit=1)[0].record
    departures = archive.branch("demo").departures()
    rejected = departures[departures["reason"] == "blacklisted"]
    assert set(rejected["variable"]) == {"t2m", "msl"}
    assert set(rejected["station"]) == {station}
    assert record.reasons["background_check"] > (control["reason"] == "background_check").sum()
    assert record.digests["blacklist"] == hashlib.sha256((tmp_path / "bad.csv").read_bytes()).hexdigest()
    assert len(departures) == len(control)
    moved = departures[departures["height_difference"].notna()]
    assert set(moved["variable"]) == {"t2m", "td2m"}

    (tmp_path / "bad.csv").write_text("stations\nEDDM\n")
    with pytest.raises(ExperimentError, match=r"experiment demo: .*bad\.csv, line 1: unknown column 'stations'"):
        run_due_cycles(replays.experiment(content | {"quality": asked}), archive)


@pytest.mark.parametrize("start", [{"climatology": True}, {"lagged": "24h"}])
def test_a_cold_start_publishes_the_two_frames_before_the_first_cycle(content, tmp_path, start, world):
    archive = Archive(tmp_path / "a", create=True)
    with open_run(replays.experiment(content | {"cold_start": start}), archive):
        branch = archive.branch("demo")
    assert list(branch.times) == [replays.START - 2 * STEP, replays.START - STEP]
    assert list(branch.cycles.status) == ["cold_start", "cold_start"]
    second = branch.state("analysis", replays.START - STEP).values
    if "lagged" in start:  # four steps make a 24-h forecast
        reference = load_world(world.folder).reference
        frames = [reference.array(np.datetime64(time, "h")) for time in ("2024-01-02T00", "2024-01-02T06")]
        np.testing.assert_allclose(second, forecast_by_hand(*frames, 4), rtol=1e-4, atol=1e-4)


def test_the_guards_are_looser_in_the_cold_cycles_and_in_no_others(content, tmp_path):
    """Everything exceeds these limits, and the factor lets everything pass, so each cycle shows which of them holds."""
    guards = {"increment_limit": 1e-3, "rms_limit": 1e-3, "cold_factor": 1e6, "cold_cycles": 2}
    archive = Archive(tmp_path / "a", create=True)
    asked = content | {"guards": guards | {"fallbacks_in_a_row": 9, "minimum_observations": 1}}
    records = [cycle.record for cycle in run_due_cycles(replays.experiment(asked), archive)]
    assert [record.status for record in records] == ["ok", "ok", "fallback", "fallback"]


def test_each_cycle_assumes_the_error_of_the_background_that_the_record_before_it_holds(run):
    """The estimate is in the archive, so that a run that goes on in another process assumes the same."""
    records = Archive(run).branch("demo").records[2:]
    errors = [BackgroundError.from_dict(record.background_error).std for record in records]
    assert all((error > 0).all() for error in errors)
    assert not (errors[0] == errors[-1]).all()
    assert 0.2 < np.median(errors[-1][index("t2m")]) < 10


def test_a_forked_run_has_no_cold_cycles(content, run, tmp_path):
    asked = content | {"name": "fork", "cold_start": {"from": f"demo@{replays.START:%Y%m%dT%H}"}}
    guards = {"increment_limit": 1e-3, "cold_factor": 1e6, "cold_cycles": 2, "fallbacks_in_a_row": 9}
    start = {"start": f"{replays.START + STEP:%Y-%m-%dT%H}", "guards": guards}
    shutil.copytree(run, tmp_path / "archive")
    (cycle,) = run_due_cycles(replays.experiment(asked | start), Archive(tmp_path / "archive"), limit=1)
    assert cycle.record.status == "fallback"
