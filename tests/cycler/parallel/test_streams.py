"""Hindcasts in streams: their parts are joined to one run, and their seams are what the states say."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from time import sleep

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from dacycle.common.configuration import write_yaml
from dacycle.common.pieces import in_processes, in_turn
from dacycle.cycler.archive.branches import Archive, open_experiment
from dacycle.cycler.archive.progress import read_holding
from dacycle.cycler.blocks import KeepSettings
from dacycle.cycler.cli import app
from dacycle.cycler.cycle.replay import run_due_cycles
from dacycle.cycler.experiment import STEP, ExperimentError, load_experiment
from dacycle.cycler.operations.metrics import registry_of
from dacycle.cycler.parallel.forecasts import make_forecasts
from dacycle.cycler.parallel.streams import cut, find_streams, join, run_stream
from dacycle.cycler.report.seams import REMOVED, compare_streams, verdict
from dacycle.cycler.verification import drift
from dacycle.forecast_adapter.channels import index
from dacycle.forecast_adapter.models.model import load_model
from tests.cycler import replays
from tests.cycler.experiments import base
from tests.worlds import make_model

START, END = pd.Timestamp("2024-01-02T12"), pd.Timestamp("2024-01-05T06")
OVERLAP = pd.Timedelta(hours=18)
DACYCLE = [sys.executable, "-c", "from tests.worlds import register_doubles; register_doubles()\n"
           "from dacycle.cycler.cli import main; main()"]  # fmt: skip


def write_experiment(folder: Path, world, name: str = "whole", **changes: object) -> Path:
    """Write an experiment of twelve cycles whose analyses depend on where it began."""
    content = replays.content(world.folder, world.model, folder)
    usual = {"name": name, "start": f"{START:%Y-%m-%dT%H}", "end": f"{END:%Y-%m-%dT%H}"}
    drift_keys = {"starts": [0], "lead": "24h", "free_run": False}
    path = folder / f"{name}.yaml"
    path.write_text(write_yaml(content | usual | {"drift": drift_keys} | changes))
    return path


def run(experiment: Path, archive: Path, *options: str) -> str:
    command = ["hindcast", str(experiment), "--archive", str(archive), "--streams", "2", "--overlap", "18h"]
    ran = CliRunner().invoke(app, [*command, "--workers", "1", *options])
    assert ran.exit_code == 0, ran.output
    return ran.output


@pytest.fixture(scope="module")
def done(world, tmp_path_factory) -> Path:
    """Return the folder of a run in two streams: `whole.yaml` and its archive."""
    folder = tmp_path_factory.mktemp("streams")
    run(write_experiment(folder, world), folder / "archive", "--forecasts")
    return folder


def test_streams_share_the_cycles_and_meet_at_the_seam(world, tmp_path):
    experiment = load_experiment(write_experiment(tmp_path, world))
    for number in (2, 3):
        streams = cut(experiment, number, OVERLAP)
        runs = [stream.experiment for stream in streams]
        assert [one.name for one in runs] == [f"whole-{k + 1}" for k in range(number)]
        lengths = [len(one.times()) for one in runs]
        assert max(lengths) - min(lengths) <= 1
        assert runs[0].start == streams[0].first == START
        assert runs[-1].end == END
        assert all(one.drift.starts == () and one.drift.members is None for one in runs), "forecasts are of the whole"
        for before, after in pairwise(streams):
            assert after.first == before.experiment.end + STEP
            assert after.experiment.start == after.first - OVERLAP
    with pytest.raises(ExperimentError, match="12 cycles are too few for 9 streams"):
        cut(experiment, 9, OVERLAP)


def test_the_joined_run_has_the_parts_of_its_streams(done):
    whole, first, second = (open_experiment(done / "archive", name) for name in ("whole", "whole-1", "whole-2"))
    seam = find_streams(whole.archive, "whole")[1].first
    assert list(whole.times) == [*first.times, *second.times[second.times >= seam]]
    for time in whole.times[2:]:
        part = first if time < seam else second
        for group in ("background", "analysis"):
            np.testing.assert_array_equal(whole.state(group, time), part.state(group, time))
        pd.testing.assert_frame_equal(whole.departures([time]), part.departures([time]))
        assert whole.records[list(whole.times).index(time)] == part.records[list(part.times).index(time)]
    assert whole.experiment == load_experiment(done / "whole.yaml")
    assert not whole.damaged()


def test_streams_keep_all_their_states(done):
    keep = KeepSettings(cycles="2d", then="none")
    described = load_experiment(done / "whole.yaml").model_copy(update={"keep": keep})
    assert [part.experiment.keep for part in cut(described, 2, OVERLAP)] == [None, None]


def test_up_to_the_seam_it_is_the_run_without_streams(done, tmp_path):
    serial = load_experiment(done / "whole.yaml").model_copy(update={"name": "serial"})
    run_due_cycles(serial, Archive(tmp_path / "serial", create=True))
    branch, whole = open_experiment(tmp_path / "serial", "serial"), open_experiment(done / "archive", "whole")
    seam = find_streams(whole.archive, "whole")[1].first
    same = [np.array_equal(branch.state("analysis", time), whole.state("analysis", time)) for time in branch.times]
    assert same == list(branch.times < seam)


def test_commands_read_the_joined_run_as_one(done):
    archive = ["--archive", str(done / "archive")]
    status = json.loads(CliRunner().invoke(app, ["status", *archive, "--json"]).output)
    assert {row["experiment"]: row["cycles"] for row in status["experiments"]} == {
        "whole": 12,
        "whole-1": 8,
        "whole-2": 7,
    }
    scores = CliRunner().invoke(app, ["scores", "whole", *archive, "--json"])
    assert json.loads(scores.output)["until"] == f"{END:%Y-%m-%dT%H:%M:%SZ}"
    assert CliRunner().invoke(app, ["report", "whole", *archive]).exit_code == 0
    (seam,) = json.loads(CliRunner().invoke(app, ["seams", "whole", *archive, "--json"]).output)
    (page,) = (done / "archive/branches/whole/report").glob("index.html")
    (row,) = re.findall(r"<tr>.*whole-2</td>.*</tr>", page.read_text())
    cells = re.findall(r"<td[^>]*>(.*?)</td>", row)
    assert cells[:3] == ["20240104T12", "whole-2", "whole-1"]
    assert float(cells[3]) == pytest.approx(seam["share"], rel=0.01)
    assert cells[4] == seam["verdict"]
    starts = drift.read_scores(open_experiment(done / "archive", "whole"))["start"].unique()
    assert len(starts) == 3, "--forecasts makes those of the joined run"
    metrics = registry_of(done / "archive")
    for name in ("whole", "whole-1", "whole-2"):
        queue = metrics.get_sample_value("dacycle_queue", {"experiment": name, "kind": "forecasts"})
        assert queue == 0, "no forecasts are made of a stream"


def test_the_seam_error_is_the_difference_of_both_analyses(done, tiny):
    archive = Archive(done / "archive")
    seam = compare_streams(archive, "whole-1", "whole-2", find_streams(archive, "whole")[1].first, tiny)
    first, second = archive.branch("whole-1"), archive.branch("whole-2")
    times = [seam.time - k * STEP for k in (3, 2, 1)]
    latitude = np.radians(tiny.grid.latitude)
    weights = np.sin(latitude + np.pi / 64) - np.sin(latitude - np.pi / 64)
    weights = (weights / weights.mean())[:, None]
    for channel in ("t2m", "z500"):
        at = index(channel)
        pairs = [
            [branch.state("analysis", time).values[at].astype(float) for branch in (first, second)] for time in times
        ]
        truth = [tiny.reference.array(np.datetime64(time, "h"))[at] for time in times]
        expected = np.sqrt(np.mean([(weights * (b - a) ** 2).mean() for a, b in pairs]))
        error = np.sqrt(np.mean([(weights * (a - t) ** 2).mean() for (a, _), t in zip(pairs, truth, strict=True)]))
        row = seam.table.loc[channel]
        np.testing.assert_allclose([row["seam_error"], row["analysis_error"]], [expected, error], rtol=1e-4)
        assert row["share"] == pytest.approx(expected / error, rel=1e-4)
    assert seam.cycles == 3
    assert "too short to tell" in seam.verdict
    shown = CliRunner().invoke(app, ["seams", "whole", "--archive", str(done / "archive"), "--json"])
    assert json.loads(shown.output)[0]["share"] == pytest.approx(seam.share)
    same = compare_streams(archive, "whole-1", "whole-1", seam.time, tiny)
    assert (same.share, same.verdict[:9]) == (0, "converged")


def test_a_seam_whose_states_were_removed_is_not_known(done, tmp_path):
    shutil.copytree(done / "archive", tmp_path / "archive")
    archive = Archive(tmp_path / "archive")
    times = archive.branch("whole-2").times[2:4].values.astype("datetime64[h]")
    holding = read_holding(archive.states.folder, "whole-2").to_json()
    archive.states.remove("whole-2", {"analysis": times}, (), "as retention does", {}, holding)
    shown = CliRunner().invoke(app, ["seams", "whole", "--archive", str(archive.folder), "--json"])
    (seam,) = json.loads(shown.output)
    assert (seam["share"], seam["verdict"]) == (None, REMOVED)


@pytest.mark.parametrize(
    ("share", "falls", "said"),
    [
        (0.09, 0.5, "converged: below 10% of the analysis error"),
        (0.5, 0.96, "converged: no longer falling"),
        (0.4, 0.5, "not converged: falling by 50% a day; about 2 more days"),
        (0.4, np.nan, "not converged: the overlap is too short"),
        (np.nan, 0.5, "not converged: falling by 50% a day"),
        (np.inf, 0.5, "not converged: falling by 50% a day"),
    ],
)
def test_the_verdict_says_whether_a_longer_overlap_would_help(share, falls, said):
    assert verdict(share, falls).startswith(said)


def test_killed_in_either_stream_it_ends_as_undisturbed(done, tmp_path):
    experiment, archive = shutil.copy(done / "whole.yaml", tmp_path), tmp_path / "archive"
    command = [*DACYCLE, "hindcast", str(experiment), "--archive", str(archive), "--streams", "2", "--overlap", "18h"]
    for seen in ("whole-1/departures", "whole-2/departures"):
        process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
        while not list((archive / "branches" / seen).glob("*.parquet")) and process.poll() is None:
            sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    run(Path(experiment), archive)
    for name in ("whole", "whole-1", "whole-2"):
        assert replays.everything(archive, name) == replays.everything(done / "archive", name)


def test_the_joining_goes_on_where_it_was_cut_short(done, tmp_path):
    experiment, archive = load_experiment(done / "whole.yaml"), Archive(tmp_path / "archive", create=True)
    streams = cut(experiment, 2, OVERLAP)
    list(in_turn(run_stream, [(archive.folder, stream.experiment, 1) for stream in streams]))
    joining = join(archive, experiment, streams)
    next(joining)
    next(joining)
    joining.close()
    assert len(list(join(archive, experiment, streams))) == len(archive.branch("whole").times) - 2 - 8 - 2
    assert replays.everything(archive.folder, "whole") == replays.everything(done / "archive", "whole")


def test_members_and_smoothed_frames_are_joined_too(world, tiny, tmp_path):
    changes = replays.with_members(tmp_path, tiny) | {"frames": "smoothed"}
    model = Path(shutil.copy(world.model, tmp_path / "model.onnx"))
    experiment = replays.experiment(replays.content(world.folder, model, tmp_path, **changes))
    archive = Archive(tmp_path / "archive", create=True)
    streams = cut(experiment, 2, STEP)
    list(in_turn(run_stream, [(archive.folder, stream.experiment, 1) for stream in streams]))
    list(join(archive, experiment, streams))
    whole, last = archive.branch("demo"), archive.branch("demo-2")
    for read in ("members", "smoothed", "smoothed_members"):
        np.testing.assert_array_equal(getattr(whole, read)(replays.LAST), getattr(last, read)(replays.LAST))
    assert not whole.damaged()
    make_model(model, scale=0.5)
    with pytest.raises(ExperimentError, match=r"model double is another file than at cycle"):
        run_due_cycles(experiment, archive)


def test_other_cuts_and_runs_without_streams_are_refused(done, world, tmp_path):
    command = ["hindcast", str(done / "whole.yaml"), "--archive", str(done / "archive"), "--workers", "1"]
    other = CliRunner().invoke(app, [*command, "--streams", "3", "--overlap", "18h"])
    assert other.exit_code == 2
    serial = write_experiment(tmp_path, world, "serial")
    archive = ["--archive", str(tmp_path / "archive")]
    assert CliRunner().invoke(app, ["hindcast", str(serial), *archive, "--limit", "1"]).exit_code == 0
    refused = CliRunner().invoke(app, ["hindcast", str(serial), *archive, "--streams", "2", "--overlap", "18h"])
    assert refused.exit_code == 2
    alone = CliRunner().invoke(app, ["hindcast", str(serial), *archive, "--overlap", "18h"], env={"COLUMNS": "1000"})
    assert "--overlap go with --streams" in alone.output
    content = base("late", world.folder, world.model, START, END, cold_start={"from": "demo@20240102T06"})
    with pytest.raises(ExperimentError, match=r"cold_start\.from begins at one time only"):
        cut(replays.experiment(content), 2, OVERLAP)


def test_forecasts_made_in_two_processes_are_the_same(done, world, tiny, tmp_path):
    for name in ("alone", "shared"):
        without = shutil.ignore_patterns("forecasts.icechunk", "drift")
        shutil.copytree(done / "archive", tmp_path / name, ignore=without)
    alone, shared = (open_experiment(tmp_path / name, "whole") for name in ("alone", "shared"))
    starts = list(drift.make_forecasts(alone, tiny, load_model(world.model)))
    assert len(starts) == 3
    with in_processes(2) as each:
        assert list(make_forecasts(shared, each)) == starts
    pd.testing.assert_frame_equal(drift.read_scores(alone), drift.read_scores(shared))
    for name in drift.forecasts(alone).data_vars:
        np.testing.assert_array_equal(drift.forecasts(alone)[name], drift.forecasts(shared)[name])
    assert not list((shared.folder / "drift").glob(".*.npy"))
