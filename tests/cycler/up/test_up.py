"""`dacycle up` with real processes: what it brings up, keeps up, and ends."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest

from dacycle.cycler.archive.branches import ArchiveError
from tests.cycler.commands import until
from tests.cycler.tiny import records, write_experiment

pytestmark = [pytest.mark.prefect, pytest.mark.trial]
DACYCLE = [sys.executable, "-c", "from dacycle.cycler.cli import main; main()"]


def answers(path: Path) -> bool:
    try:
        port = json.loads(path.read_text())["ports"]["server"]
        return httpx.get(f"http://127.0.0.1:{port}/api/ready", timeout=5, trust_env=False).is_success
    except (httpx.HTTPError, FileNotFoundError, KeyError):
        return False


class Deployment:
    """A deployment that only this starts, through the server's interface."""

    def __init__(self, port: int, name: str, folder: Path) -> None:
        self.api = httpx.Client(base_url=f"http://127.0.0.1:{port}/api", timeout=30, trust_env=False)
        self.id = self.api.get(f"/deployments/name/{name}").json()["id"]
        self.folder = folder
        self.api.patch(f"/deployments/{self.id}", json={"paused": True}).raise_for_status()
        until("the end of what was begun before", lambda: not self.active(), folder)

    def active(self) -> list[dict[str, Any]]:
        states = {"state": {"type": {"any_": ["SCHEDULED", "PENDING", "RUNNING", "CANCELLING"]}}}
        ours = {"deployments": {"id": {"any_": [self.id]}}, "flow_runs": states}
        return self.api.post("/flow_runs/filter", json=ours).raise_for_status().json()

    def begin(self) -> str:
        scheduled = {"state": {"type": "SCHEDULED"}}
        return self.api.post(f"/deployments/{self.id}/create_flow_run", json=scheduled).raise_for_status().json()["id"]

    def look(self, run: str) -> dict[str, Any]:
        return self.api.get(f"/flow_runs/{run}").raise_for_status().json()

    def stop_one(self) -> tuple[str, int] | None:
        """Begin a run and stop its process; return both, or None where it had ended before."""
        run = self.begin()
        pid = until("the process of a run", lambda: self.look(run)["infrastructure_pid"], self.folder)
        assert pid.isdecimal(), "up takes it for the number of a process"
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGSTOP)
        return (run, int(pid)) if self.active() else None

    def end(self, run: str) -> tuple[str, str]:
        """Return how a run ends, and what is said of it."""
        until("the end of a run", lambda: self.look(run)["end_time"], self.folder)
        found = self.look(run)["state"]
        return found["type"], found["message"]


def kill_worker_and_run(state: Path, worker: str, folder: Path) -> None:
    """Kill a worker and its flow run, of which nobody then tells the server, and let the next run begin."""
    report = Deployment(json.loads(state.read_text())["ports"]["server"], "report/tiny", folder)
    run, pid = until("a run that is stopped", report.stop_one, folder)
    try:
        kill_and_wait(state, worker, folder)
    finally:
        os.kill(pid, signal.SIGKILL)
    assert report.end(run) == ("CRASHED", "its process has been killed")
    how, text = report.end(report.begin())
    assert how == "COMPLETED", f"{text}: where the killed run holds its slot, the next one is cancelled"


def kill_and_wait(state: Path, name: str, folder: Path) -> None:
    """Kill a process, and wait until there is another in its place."""
    before = processes(state)[name]
    os.kill(before, signal.SIGKILL)
    until(f"another {name}", lambda: processes(state).get(name) not in (None, before), folder)


def has_cycles(archive: Path) -> bool:
    try:
        return len(records(archive)) > 2
    except ArchiveError:  # nothing is there yet
        return False


def processes(path: Path) -> dict[str, int]:
    return json.loads(path.read_text())["processes"] if path.exists() else {}


@pytest.fixture
def folder() -> Iterator[Path]:
    """Yield a folder that the user of the database can reach, too, unlike those of pytest."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.skipif(not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")), reason="PostgreSQL is not installed")
def test_everything_comes_up_stays_up_and_ends_when_told(world, folder: Path) -> None:
    model = Path(shutil.copy(world.model, folder / "double.onnx"))
    write_experiment(folder, world, end=None, model=model.name)
    began = pd.Timestamp.now("UTC") + pd.Timedelta(seconds=30)
    env = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")} | {
        "DACYCLE_CLOCK": f"2024-01-02T15 since {began:%Y-%m-%dT%H:%M:%S} x1800",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
    }
    command = [*DACYCLE, "up", "tiny.yaml", "--archive", "archive"]
    log, state = folder / "up.log", folder / "archive.up/state.json"
    with log.open("w") as output:
        up = subprocess.Popen(command, cwd=folder, env=env, stdout=output, stderr=output, start_new_session=True)
    try:
        until("the page", lambda: "ready: http://127.0.0.1:" in log.read_text(), folder)
        assert "cycle/tiny, at 5 3,9,15,21 * * * UTC: every cycle" in log.read_text()
        worker = next(name for name in processes(state) if name not in ("database", "server"))
        assert list(processes(state)) == ["database", "server", worker]

        again = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=400)
        assert again.returncode == 2
        assert f"process {up.pid} on" in again.stderr

        kill_and_wait(state, "database", folder)
        until("the server", lambda: answers(state), folder)
        until("a cycle", lambda: has_cycles(folder / "archive"), folder)
        kill_worker_and_run(state, worker, folder)
        up.send_signal(signal.SIGTERM)
        until("the end", lambda: up.poll() is not None, folder)
        assert up.returncode == 0, log.read_text()
    finally:
        if up.poll() is None:
            up.kill()
            up.wait()
    assert processes(state) == {}
    assert not answers(state)
    ids = [record.id for record in records(folder / "archive")]
    assert ids == sorted(set(ids))
    assert (folder / "archive.up/postgres/data/PG_VERSION").exists(), "what was made is kept for the next time"
