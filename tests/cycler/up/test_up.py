"""`dacycle up` with real processes: what it brings up, keeps up, and ends."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

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


def check_that_a_killed_run_gives_back_its_slot(state: Path, folder: Path) -> None:
    """Let a run of the report be taken by a process that is then killed."""
    port = json.loads(state.read_text())["ports"]["server"]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}/api", timeout=30, trust_env=False) as api:
        deployment = api.get("/deployments/name/report/tiny").json()["id"]
        api.patch(f"/deployments/{deployment}", json={"paused": True}).raise_for_status()
        later = {"type": "SCHEDULED", "state_details": {"scheduled_time": "2100-01-01T00:00:00Z"}}

        def becomes(run: str, state_type: str) -> bool:
            answer = api.post(f"/flow_runs/{run}/set_state", json={"state": {"type": state_type}})
            return answer.json()["status"] == "ACCEPT"

        def pending() -> str | None:  # while another run of the deployment is active, a new one is cancelled
            run = api.post(f"/deployments/{deployment}/create_flow_run", json={"state": later}).json()["id"]
            return run if becomes(run, "PENDING") else None

        run = until("a free slot", pending, folder)
        with subprocess.Popen(["sleep", "600"]) as process:
            api.patch(f"/flow_runs/{run}", json={"infrastructure_pid": str(process.pid)}).raise_for_status()
            assert becomes(run, "RUNNING")
            process.kill()
        until(
            "the end of the run",
            lambda: api.get(f"/flow_runs/{run}").json()["state_type"] == "CRASHED",
            folder,
            100,
        )
        found = api.get("/deployments/name/report/tiny").json()
        assert found["global_concurrency_limit"]["active_slots"] == 0


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
        worker = next(name for name in processes(state) if name not in ("database", "server"))
        assert list(processes(state)) == ["database", "server", worker]

        again = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60)
        assert again.returncode == 2
        assert f"process {up.pid} on" in again.stderr

        for name in (worker, "database"):
            before = processes(state)[name]
            os.kill(before, signal.SIGKILL)
            until(f"another {name}", lambda b=before, n=name: processes(state).get(n) not in (None, b), folder)
        until("the server", lambda: answers(state), folder)
        until("a cycle", lambda: has_cycles(folder / "archive"), folder)
        check_that_a_killed_run_gives_back_its_slot(state, folder)
        up.send_signal(signal.SIGTERM)
        assert up.wait(120) == 0, log.read_text()
    finally:
        if up.poll() is None:
            up.kill()
            up.wait()
    assert processes(state) == {}
    assert not answers(state)
    ids = [record.id for record in records(folder / "archive")]
    assert ids == sorted(set(ids))
    assert (folder / "archive.up/postgres/data/PG_VERSION").exists(), "what was made is kept for the next time"
