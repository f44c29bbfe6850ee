"""Processes that are started again, told to end, and never left behind."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from dacycle.cycler.up import supervisor
from dacycle.cycler.up.supervisor import Supervised, end_leftovers, flow_runs, lives


def until(done: Callable[[], object]) -> None:
    for _ in range(300):
        if done():
            return
        time.sleep(0.1)
    pytest.fail("it did not come")


def sleeping(tmp_path: Path, code: str = "import time; time.sleep(60)", **settings: object) -> Supervised:
    return Supervised("it", [sys.executable, "-c", code], dict(os.environ), tmp_path, tmp_path / "it.log", **settings)


def test_what_is_killed_is_started_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    process = sleeping(tmp_path)
    process.start()
    first = process.pid
    os.kill(first, signal.SIGKILL)
    until(lambda: process.tend() or (process.pid not in (None, first)))
    assert lives(process.pid)
    assert "it: ended (killed by SIGKILL); see" in caplog.text
    process.end()
    assert process.pid is None


def test_what_dies_at_once_is_started_more_and_more_seldom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(supervisor.time, "monotonic", lambda: clock[0])
    process = sleeping(tmp_path, "raise SystemExit(3)")
    process.start()
    starts = []
    for second in range(200):
        clock[0] = float(second)
        while process.pid is not None and lives(process.pid):
            time.sleep(0.01)
        before = process.starts
        process.tend()
        if process.starts > before:
            starts.append(second)
    pauses = [b - a for a, b in pairwise(starts)]
    assert pauses == sorted(pauses)
    assert pauses[-1] >= 60
    assert len(starts) < 9


def test_what_falls_silent_is_ended_and_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "ASKING", 0.1)
    monkeypatch.setattr(supervisor, "SILENT", 0.5)
    answers = iter([True])
    process = sleeping(tmp_path, answers=lambda: next(answers, False))
    process.start()
    first = process.pid
    until(lambda: process.tend() or (process.pid not in (None, first)))
    assert not lives(first)
    process.end()


def test_the_first_answer_may_take_longer_than_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "ASKING", 0.0)
    monkeypatch.setattr(supervisor, "SILENT", 0.1)
    monkeypatch.setattr(supervisor, "STARTING", 1.0)
    process = sleeping(tmp_path, answers=lambda: False)
    begun = time.monotonic()
    process.start()
    first = process.pid
    until(lambda: process.tend() or process.pid != first)
    assert time.monotonic() - begun >= 1
    assert not lives(first)
    process.end()


def test_what_cannot_be_started_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "PROVEN", 0.0)
    process = sleeping(tmp_path)
    process.start()
    first = process.pid
    (tmp_path / "it.log").unlink()
    (tmp_path / "it.log").mkdir()  # as a full disk does, it lets no log be written
    os.kill(first, signal.SIGKILL)
    until(lambda: process.tend() or "it: cannot be started" in caplog.text)
    (tmp_path / "it.log").rmdir()
    until(lambda: process.tend() or process.pid is not None)
    assert lives(process.pid)
    process.end()


def test_what_does_not_end_when_told_is_killed(tmp_path: Path) -> None:
    process = sleeping(
        tmp_path, "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    )
    process.start()
    first = process.pid
    until(lambda: "up" in (tmp_path / "it.log").read_text())
    process.end(0.3)
    assert not lives(first)


PARENT = """
import os, sys, time
from pathlib import Path
from dacycle.cycler.up.supervisor import Supervised
folder = Path(sys.argv[1])
command = [sys.executable, "-c", "import time; time.sleep(60)"]
process = Supervised("it", command, dict(os.environ), folder, folder / "log")
process.start()
print(process.pid, flush=True)
time.sleep(float(sys.argv[2]))
print(process._process.poll(), flush=True)
process.end()
"""


def test_the_processes_of_a_killed_supervisor_end_with_it(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path), "60"], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert lives(child)
    parent.kill()
    parent.communicate()
    until(lambda: not lives(child))


needs_namespaces = pytest.mark.skipif(
    shutil.which("unshare") is None or subprocess.run(["unshare", "--pid", "--fork", "true"]).returncode != 0,
    reason="no process may be the first of its own here",
)


@needs_namespaces
def test_as_the_first_process_of_a_container_it_keeps_what_it_starts(tmp_path: Path) -> None:
    first = ["unshare", "--pid", "--fork", sys.executable, "-c", PARENT, str(tmp_path), "1"]
    said = subprocess.run(first, capture_output=True, text=True, timeout=60, check=True).stdout.split()
    assert said[1] == "None", "it still ran after a second"


def test_leftovers_are_ended_and_strangers_are_not(tmp_path: Path) -> None:
    code = "import time; time.sleep(60)"
    ours = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], start_new_session=True)
    stranger = subprocess.Popen([sys.executable, "-c", code])
    flow_run = subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT__FLOW_RUN_ID": "1"},
        start_new_session=True,
    )
    try:
        until(lambda: flow_runs(tmp_path) == [flow_run.pid])
        end_leftovers({"ours": ours.pid, "stranger": stranger.pid}, tmp_path, patience=0.5)
        until(lambda: ours.poll() is not None)
        assert stranger.poll() is None
        assert flow_run.poll() is None, "a cycle that runs on finishes"
    finally:
        for process in (ours, stranger, flow_run):
            process.kill()
            process.wait()


def test_a_log_is_kept_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "LARGEST_LOG", 1000)
    process = sleeping(
        tmp_path, "import time\nfor i in range(10 ** 6): print('x' * 50, i, flush=True); time.sleep(0.01)"
    )
    process.start()
    log = tmp_path / "it.log"
    until(lambda: log.exists() and log.stat().st_size > 1000)
    process.tend()
    assert log.stat().st_size < 1000
    assert (tmp_path / "it.log.1").stat().st_size > 1000
    process.end()
