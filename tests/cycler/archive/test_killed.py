"""A run that is killed, wherever, and run again publishes what an undisturbed one does, bit for bit."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from dacycle.cycler.archive.branches import Archive
from dacycle.cycler.cycle.replay import run_due_cycles
from dacycle.cycler.experiment import write_experiment
from dacycle.forecast_adapter.worlds.world import load_world
from tests.cycler import replays

SCRIPT = Path(__file__).with_name("killed.py")


@pytest.mark.parametrize("kind", ["chain", "filter", "ensemble of analyses", "window", "late"])
def test_a_killed_run_goes_on_to_the_same_archive(world, tmp_path, kind):
    """The frames of the filter are smoothed, too: all that an archive can hold of members."""
    bias = {"n0": 2.0, "radius_km": 4000.0}  # learnt from past cycles: nothing may be lost with a process
    changes, home, end = {}, load_world(str(world.folder)), "2024-01-06T00"
    if kind == "filter":
        changes = replays.with_members(tmp_path, home) | {"frames": "smoothed"}
    elif kind == "ensemble of analyses":
        changes = replays.with_members(tmp_path, home, "nudge")
    elif kind == "window":
        pytest.importorskip("torch")
        changes = replays.with_window(tmp_path, home, world.model)
    elif kind == "late":
        changes, end = {"late": {"cutoff": "15h"}, "frames": "both"}, "2024-01-04T18"  # two commits for each cycle
    content = replays.content(world.folder, world.model, tmp_path, end=end, bias=bias, **changes)
    (tmp_path / "demo.yaml").write_text(write_experiment(content))
    command = [sys.executable, SCRIPT, tmp_path / "demo.yaml", tmp_path / "killed", "1"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert {code for _, code in json.loads(ended.stdout)} == {-signal.SIGKILL}, ended.stdout

    experiment = replays.experiment(content)
    for run in experiment.runs():
        run_due_cycles(run, Archive(tmp_path / "killed"))
        run_due_cycles(run, Archive(tmp_path / "whole", create=True))

        killed, whole = (replays.everything(tmp_path / folder, run.name) for folder in ("killed", "whole"))
        assert killed.keys() == whole.keys()
        assert [key for key in whole if killed[key] != whole[key]] == []
    further = {
        "filter": ["members", "smoothed", "smoothed_members"],
        "ensemble of analyses": ["members"],
        "late": ["smoothed"],
    }
    groups = {key.removesuffix("/geopotential") for key in whole if key.endswith("/geopotential")}
    assert groups == {"analysis", "background", *further.get(kind, [])}
    assert Archive(tmp_path / "whole").branch("demo").departures()["bias"].any()
    times = Archive(tmp_path / "killed").branch("demo").times
    assert list(times) == list(pd.date_range("2024-01-03T00", end, freq="6h"))
