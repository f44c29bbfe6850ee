"""Replays read the files of the next cycle while one is computed; what is read stays the same."""

import threading

import pandas as pd
import pytest

from dacycle.cycler.archive.branches import Archive, open_experiment
from dacycle.cycler.cycle.replay import run_due_cycles
from dacycle.cycler.experiment import STEP, load_experiment
from dacycle.obs_ingest.sources.text.isd import Isd
from tests.cycler import replays
from tests.cycler.cycle.test_late_files import reports
from tests.cycler.tiny import write_experiment

FIRST, CYCLES = pd.Timestamp("2024-01-02T00"), 4
TIMES = [FIRST + number * STEP for number in range(CYCLES)]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    for number, time in enumerate(TIMES):
        reports(tmp_path / "in", f"{time:%Y%m%dT%H}.csv", time, range(1, 21), "1h" if number != 2 else "5h")
    return tmp_path / "in"


@pytest.fixture
def experiment(world, folder, tmp_path):
    source = {"source": "isd", "path": str(folder), "cutoff": "3h", "received": "mtime"}
    path = write_experiment(
        tmp_path,
        world,
        start=FIRST.isoformat(),
        end=TIMES[-1].isoformat(),
        observations=[source],
        guards={"minimum_observations": 10},
    )
    return load_experiment(path)


@pytest.fixture
def read(monkeypatch):
    """Return the windows that are read from now on, each with whether it is read ahead."""
    windows, plain = [], Isd.read

    def noted(self, window):
        windows.append((pd.Timestamp(window.time), threading.current_thread() is not threading.main_thread()))
        return plain(self, window)

    monkeypatch.setattr(Isd, "read", noted)
    return windows


def one_by_one(experiment, folder):
    """Run the cycles in a new archive, each in a call of its own, which therefore reads nothing ahead."""
    for _ in TIMES:
        run_due_cycles(experiment, Archive(folder, create=True), limit=1)
    return replays.everything(folder, experiment.name)


def test_a_replay_reads_every_window_once_and_all_but_the_first_ahead(experiment, tmp_path, read):
    run_due_cycles(experiment, Archive(tmp_path / "archive", create=True))
    assert read == [(time, time > FIRST) for time in TIMES]
    alone, ahead = one_by_one(experiment, tmp_path / "alone"), replays.everything(tmp_path / "archive", experiment.name)
    assert read[CYCLES:] == [(time, False) for time in TIMES]
    assert ahead == alone
    late = [record.uses["late"] > 0 for record in open_experiment(tmp_path / "archive", experiment.name).records[2:]]
    assert late == [False, False, True, False]


def test_a_live_run_reads_nothing_ahead(experiment, tmp_path, read):
    run_due_cycles(experiment, Archive(tmp_path / "archive", create=True), now=TIMES[-1] + 2 * STEP)
    assert read == [(time, False) for time in TIMES]


def test_a_file_that_cannot_be_read_is_missing_in_its_own_cycle_only(experiment, folder, tmp_path, read):
    (folder / f"{TIMES[1]:%Y%m%dT%H}.csv").write_text("<html>")
    run_due_cycles(experiment, Archive(tmp_path / "archive", create=True))
    assert replays.everything(tmp_path / "archive", experiment.name) == one_by_one(experiment, tmp_path / "alone")


def test_an_interrupted_replay_goes_on_as_if_nothing_had_been_read(experiment, folder, tmp_path, read):
    def interrupt(cycle):  # the next one has been computed by then, and is committed
        if cycle.time == TIMES[0]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_due_cycles(experiment, Archive(tmp_path / "archive", create=True), progress=interrupt)
    assert open_experiment(tmp_path / "archive", experiment.name).times[-1] == TIMES[1]
    # A file that changes in between is read as it then is.
    reports(folder, f"{TIMES[2]:%Y%m%dT%H}.csv", TIMES[2], range(1, 15))
    run_due_cycles(experiment, Archive(tmp_path / "archive"))
    records = open_experiment(tmp_path / "archive", experiment.name).records
    assert records[4].uses["late"] == 0
    assert len(records) == CYCLES + 2


def test_a_cycle_that_is_run_again_within_a_run_has_the_same_reading(experiment, tmp_path, read):
    run_due_cycles(experiment, Archive(tmp_path / "archive", create=True))
    Archive(tmp_path / "archive").rewind(experiment.name, TIMES[1])
    before = replays.everything(tmp_path / "archive", experiment.name)
    run_due_cycles(experiment, Archive(tmp_path / "archive"), until=TIMES[2])
    assert read[CYCLES:] == [(TIMES[2], False)]
    assert before["records"] == replays.everything(tmp_path / "archive", experiment.name)["records"][:-1]
