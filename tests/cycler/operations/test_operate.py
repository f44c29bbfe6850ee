"""`dacycle doctor`, `bench` and `serve`: what an operator sees."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from dacycle.cycler.archive.branches import Archive
from dacycle.cycler.cli import app
from dacycle.cycler.cycle import replay
from dacycle.cycler.cycle.run_cycle import Cycle, RunStoppedError
from dacycle.cycler.experiment import STEP, Experiment, load_experiment
from dacycle.cycler.operations import service
from dacycle.cycler.operations.alerts import alerts_of
from dacycle.cycler.operations.doctor import Finding, check_experiment, check_installation
from dacycle.cycler.operations.service import Service
from dacycle.cycler.verification.drift import read_scores
from dacycle.forecast_adapter.models.onnxfile import read_metadata, write_metadata
from dacycle.forecast_adapter.state import StateError
from dacycle.forecast_adapter.worlds.reference import ReferenceDataError
from tests.cycler import replays
from tests.cycler.tiny import CYCLES, END, START, cutoff_passed_until, records, write_experiment
from tests.worlds import make_model, register_doubles

DEMO = Path(__file__).parents[3] / "deploy/experiments/demo.yaml"


def one(findings: list[Finding], what: str) -> Finding:
    (found,) = [finding for finding in findings if finding.subject == what]
    return found


# --- doctor -----------------------------------------------------------------------------------------------------------


def test_doctor_finds_this_installation_well() -> None:
    findings = list(check_installation())
    assert [f for f in findings if f.level == "wrong"] == []
    assert "Provider" in one(findings, "provider").text
    assert one(findings, "prefect").text[0].isdigit()


@pytest.mark.parametrize(
    ("name", "version", "what", "remedy"),
    [
        ("fastapi", "0.165.0", "fastapi", "Prefect 3.8.8 cannot be imported"),
        ("SQLAlchemy", "2.1.9", "sqlalchemy", "creates no runs"),
        ("eccodes", "2.48.0", "eccodes", "pyproj"),
        ("onnxruntime", "1.31.1", "ONNX Runtime", "pip uninstall -y onnxruntime onnxruntime-gpu"),
    ],
)
def test_doctor_names_a_known_trap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, version: str, what: str, remedy: str
) -> None:
    folder = tmp_path / f"{name}-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = one(list(check_installation()), what)
    assert found.level == "wrong"
    assert remedy in found.remedy


def test_doctor_follows_an_experiment_and_its_archive(world, tmp_path: Path) -> None:
    model = make_model(tmp_path / "own.onnx")
    path, archive = write_experiment(tmp_path, world, model=str(model)), tmp_path / "archive"
    before = list(check_experiment(path, archive))
    assert {f.level for f in before} == {"ok"}
    assert "not there yet" in one(before, "archive").text
    replay.run_due_cycles(load_experiment(path), Archive(archive, create=True), limit=1)
    assert "stands at 20240102T12" in one(list(check_experiment(path, archive)), "archive").text
    make_model(model, scale=0.5)
    after = one(list(check_experiment(path, archive)), "archive")
    assert after.level == "wrong"
    assert "model" in after.text
    assert "20240102T12" in after.text


def test_doctor_compares_frames_with_what_the_model_needs(world, tmp_path: Path) -> None:
    model = make_model(tmp_path / "own.onnx")
    write_metadata(model, {**read_metadata(model), "increments": {"frames": "both"}})
    levels = {}
    for frames in ("newest", "both"):
        path = write_experiment(tmp_path, world, model=str(model), frames=frames)
        levels[frames] = one(list(check_experiment(path, tmp_path / "archive")), "frames").level
    assert levels == {"newest": "warning", "both": "ok"}


def test_doctor_compares_frames_with_those_that_the_method_was_trained_in(tmp_path: Path) -> None:
    """The packaged methods were trained in cycles whose increments are in the newer frame alone."""
    texts = {}
    for frames in ("newest", "both"):
        path = tmp_path / f"{frames}.yaml"
        path.write_text(DEMO.read_text() + f"\nframes: {frames}\n")
        found = [f for f in check_experiment(path, tmp_path / "archive") if f.subject == "frames"]
        texts[frames] = [f.text for f in found if f.level == "warning"]
    assert texts["newest"] == []
    assert any("trained in cycles with `frames: newest`, the experiment has `both`" in text for text in texts["both"])


def test_doctor_compares_model_and_relaxation_with_those_that_the_method_was_trained_in(tmp_path: Path) -> None:
    found = {}
    for name, model in {"own": "model: mini", "other": "relaxation: {tropics: 8d}\nmodel: mini-2"}.items():
        (tmp_path / f"{name}.yaml").write_text(DEMO.read_text().replace("model: mini", model))
        findings = check_experiment(tmp_path / f"{name}.yaml", tmp_path / "archive")
        found[name] = {f.subject: f for f in findings if f.level == "warning" and f.subject in ("model", "relaxation")}
    assert found["own"] == {}
    assert "trained in cycles with `model: mini`, the experiment has `mini-2`" in found["other"]["model"].text
    assert "`relaxation: none`, the experiment has `{tropics: 192h}`" in found["other"]["relaxation"].text
    assert found["other"]["relaxation"].remedy.startswith("leave out `relaxation`")


def test_doctor_says_what_is_wrong_with_an_experiment_and_exits_1(world, tmp_path: Path) -> None:
    path = write_experiment(tmp_path, world, model="no-such-model")
    found = CliRunner().invoke(app, ["doctor", str(path), "--archive", str(tmp_path / "archive")])
    assert found.exit_code == 1
    assert "no-such-model" in found.output
    assert not (tmp_path / "archive").exists(), "looking must not make an archive"


def test_doctor_warns_of_a_reference_that_ends_before_the_experiment(world, tmp_path: Path) -> None:
    path = write_experiment(tmp_path, world, end="2024-02-01T00")
    found = one(list(check_experiment(path, tmp_path / "archive")), "world")
    assert found.level == "warning"
    assert "20240108T00" in found.text


# --- bench ------------------------------------------------------------------------------------------------------------


def test_bench_accounts_for_the_time_of_real_cycles(world, tmp_path: Path) -> None:
    path = write_experiment(tmp_path, world)
    found = CliRunner().invoke(app, ["bench", "cycles", str(path), "--cycles", "4", "--json"])
    assert found.exit_code == 0, found.output
    numbers = json.loads(found.stdout)
    assert (numbers["cycles"], numbers["first"], numbers["last"]) == (4, "20240102T12", "20240103T06")
    assert {"background", "observations", "quality", "analysis", "commit", "other"} <= numbers["stages"].keys()
    assert (numbers["forecasts"], numbers["forecast_steps"]) == (1, 4)
    assert numbers["rate"] > 0
    assert numbers["rate_with_forecasts"] > 0
    assert numbers["peak_megabytes"] > 50
    assert not list(tmp_path.glob("**/states.icechunk")), "the archive of a bench is a temporary one"


def test_bench_shows_a_table(world, tmp_path: Path) -> None:
    path = write_experiment(tmp_path, world)
    found = CliRunner().invoke(app, ["bench", "cycles", str(path), "--cycles", "2", "--no-forecasts"])
    assert found.exit_code == 0, found.output
    for text in ("observations", "commit", "cycles a second", "peak memory"):
        assert text in found.output


# --- serve ------------------------------------------------------------------------------------------------------------


def served(path: Path, archive: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from dacycle.cycler.cli import main; main()", "serve", str(path)]
    command += ["--archive", str(archive)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env)


def test_serve_catches_up_in_order_makes_forecasts_and_ends_with_its_experiment(world, tmp_path: Path) -> None:
    process = served(write_experiment(tmp_path, world), tmp_path / "archive")
    _, log = process.communicate(timeout=120)
    assert process.returncode == 0, log
    times = [record.id for record in records(tmp_path / "archive")]
    assert times == [f"{t:%Y%m%dT%H}" for t in pd.date_range(START - pd.Timedelta("12h"), END, freq="6h")]
    assert "tiny: forecast from 20240103T00" in log
    assert "complete" in log


def test_serve_stops_cleanly_after_the_current_cycle(world, tmp_path: Path) -> None:
    """SIGTERM after the first cycle: the archive is whole, and going on gives what a straight run gives."""
    path = write_experiment(tmp_path, world, end="2024-01-06T00")
    process = served(path, tmp_path / "archive")
    assert process.stderr is not None
    for line in process.stderr:
        if "20240102T12: ok" in line:
            break
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=60)
    assert process.returncode == 0, log
    stopped = records(tmp_path / "archive")
    assert 3 <= len(stopped) < 17
    experiment = load_experiment(path)
    last = START + pd.Timedelta("30h")
    for name in ("archive", "straight"):
        replay.run_due_cycles(experiment, Archive(tmp_path / name, create=True), until=last)
    assert records(tmp_path / "archive")[:8] == records(tmp_path / "straight")[:8]


def test_an_idle_service_stops_at_once_when_told(world, tmp_path: Path) -> None:
    path = write_experiment(tmp_path, world, end=None, observations=cutoff_passed_until(START))
    process = served(path, tmp_path / "archive")
    assert process.stderr is not None
    for line in process.stderr:
        if "the next cycle is 20240102T18" in line:
            break
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=30)
    assert process.returncode == 0, log
    assert len(records(tmp_path / "archive")) == 3


def test_serve_waits_for_another_writer_and_tries_again(
    world, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    experiment = load_experiment(write_experiment(tmp_path, world))
    archive = Archive(tmp_path / "archive", create=True)
    service = Service(experiment, archive, forecasts=False, retry=pd.Timedelta(seconds=0.5))
    with caplog.at_level("INFO"):
        thread = threading.Thread(target=service.serve)
        with archive.lock("tiny"):
            thread.start()
            while "trying again" not in caplog.text:
                thread.join(0.1)
                assert thread.is_alive()
        thread.join(60)
    assert not thread.is_alive()
    assert len(records(tmp_path / "archive")) == 2 + CYCLES


@pytest.mark.parametrize("error", [StateError, ReferenceDataError, OSError])
def test_serve_tries_again_after_what_may_pass(
    world, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: type[Exception]
) -> None:
    experiment = load_experiment(write_experiment(tmp_path, world))
    archive, run, calls = Archive(tmp_path / "archive", create=True), replay.run_due_cycles, []

    def failing_once(*arguments: Any, **options: Any) -> list[Cycle]:
        calls.append(arguments)
        if len(calls) == 1:
            raise error("06.grib2, 2024-01-02T06: truncated")
        return run(*arguments, **options)

    monkeypatch.setattr(replay, "run_due_cycles", failing_once)
    with caplog.at_level("INFO"):
        Service(experiment, archive, forecasts=False, retry=pd.Timedelta(seconds=0.1)).serve()
    assert "06.grib2, 2024-01-02T06: truncated; trying again" in caplog.text
    assert len(records(archive.folder)) == 2 + CYCLES


def test_a_service_keeps_the_free_run_up_and_goes_on_without_it(
    world, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    register_doubles()
    drift = {"starts": [0], "lead": "24h", "free_run": True}
    experiment = load_experiment(write_experiment(tmp_path, world, assimilator="nudge", drift=drift))
    archive = Archive(tmp_path / "archive", create=True)
    live = Service(experiment, archive)
    live.run_due(now=START + pd.Timedelta("15h"))
    for name in ("tiny", "tiny-free"):
        assert [r.id for r in records(archive.folder, name)][2:] == ["20240102T12", "20240102T18", "20240103T00"]
        assert set(read_scores(archive.branch(name))["start"]) == {pd.Timestamp("2024-01-03T00")}

    run = replay.run_due_cycles

    def stopping(experiment: Experiment, *arguments: Any, **options: Any) -> list[Cycle]:
        if experiment.name == "tiny-free":
            raise RunStoppedError("the model has left its range")
        return run(experiment, *arguments, **options)

    monkeypatch.setattr(replay, "run_due_cycles", stopping)
    live.run_due(now=START + pd.Timedelta("21h"))
    assert "the model has left its range" in caplog.text
    assert len(records(archive.folder)) == 6
    assert len(records(archive.folder, "tiny-free")) == 5


def test_a_service_runs_the_late_chain_and_goes_on_without_it(
    world, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    register_doubles()
    asked = {"assimilator": "nudge", "end": None, "late": {"cutoff": "10h"}}
    guards = {"minimum_observations": 10, "fallbacks_in_a_row": 0}
    experiment = load_experiment(write_experiment(tmp_path, world, guards=guards, **asked))
    archive = Archive(tmp_path / "archive", create=True)
    live = Service(experiment, archive)
    live.run_due(now=START + pd.Timedelta("9h"))
    assert [r.start["cycle"] for r in records(archive.folder)[2:]] == ["20240102T06", "20240102T06"]
    assert len(records(archive.folder, "tiny-late")) == 2, "its first cutoff has not passed"
    live.run_due(now=START + pd.Timedelta("10h"))
    assert (len(records(archive.folder)), len(records(archive.folder, "tiny-late"))) == (4, 3)

    replays.break_observations(monkeypatch, "tiny-late", START + STEP)
    live.run_due(now=START + pd.Timedelta("27h"))
    assert "tiny-late: 1 cycles in a row fell back" in caplog.text
    last = records(archive.folder)[-1]
    assert (last.id, last.status, last.start["from"]) == ("20240103T12", "degraded", "tiny")
    told = {alert.key: alert.severity for alert in alerts_of(archive.branch("tiny-late"))}
    assert told["fallback"] == "critical"
    assert {alert.key for alert in alerts_of(archive.branch("tiny"))} >= {"degraded"}


@pytest.mark.parametrize(("late", "hours"), [("9h", [3]), ("10h", [3, 10])])
def test_a_service_wakes_after_the_early_and_the_late_cutoff(
    world, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: str, hours: list[int]
) -> None:
    register_doubles()
    asked = {"assimilator": "nudge", "end": None, "late": {"cutoff": late}}
    stopped = Service(load_experiment(write_experiment(tmp_path, world, **asked)), Archive(tmp_path, create=True))
    wakes, real = [], service.IntervalTrigger

    def trigger(seconds: int, start_date: pd.Timestamp) -> object:
        wakes.append((seconds // 3600, (start_date.tz_localize(None) - START) // pd.Timedelta("1h")))
        return real(seconds=seconds, start_date=start_date)

    monkeypatch.setattr(service, "IntervalTrigger", trigger)
    monkeypatch.setattr(Service, "run_due", lambda self: None)
    stopped.stop()
    stopped.serve()
    assert wakes == [(6, hour) for hour in hours]


def test_serve_ends_with_an_error_that_nobody_but_the_operator_can_mend(world, tmp_path: Path) -> None:
    path = write_experiment(tmp_path, world, grid="1.5deg")
    process = served(path, tmp_path / "archive")
    _, log = process.communicate(timeout=60)
    assert process.returncode == 2, log
    assert "grid" in log


# --- systemd ----------------------------------------------------------------------------------------------------------


def messages(listening: socket.socket) -> list[str]:
    """Return the messages that came until now."""
    found = []
    with suppress(BlockingIOError):
        while True:
            found.append(listening.recv(100).decode())
    return found


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Listen as systemd does, and ask for a message every 0.3 s."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "300000")
        yield listening


def test_systemd_hears_that_the_service_is_there_and_gets_on(
    world, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, systemd: socket.socket
) -> None:
    """And no longer when a wake-up hangs, so that it starts the service again."""
    hanging, goes_on = threading.Event(), threading.Event()

    def hang(*_: object, **__: object) -> None:
        hanging.set()
        goes_on.wait(60)

    monkeypatch.setattr(replay, "run_due_cycles", hang)
    experiment = load_experiment(write_experiment(tmp_path, world, end=None))
    archive = Archive(tmp_path / "archive", create=True)
    service = Service(experiment, archive, forecasts=False, hangs=pd.Timedelta(seconds=1))
    thread = threading.Thread(target=service.serve)
    thread.start()
    assert hanging.wait(60)
    time.sleep(3)
    first = messages(systemd)
    assert first[0] == "READY=1"
    assert "WATCHDOG=1" in first
    time.sleep(1.5)
    assert messages(systemd) == []
    goes_on.set()
    service.stop()
    thread.join(60)
    assert messages(systemd)[-1] == "STOPPING=1"
