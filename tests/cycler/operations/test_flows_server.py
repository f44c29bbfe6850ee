"""`dacycle deploy` with a real Prefect server and worker: a schedule wakes the flow, and the archive fills."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest

from dacycle.cycler.archive.branches import Archive
from dacycle.cycler.experiment import load_experiment
from tests.cycler.commands import until
from tests.cycler.tiny import CYCLES, END, cutoff_passed_until, records, write_experiment

pytestmark = pytest.mark.prefect
DACYCLE = [sys.executable, "-c", "from dacycle.cycler.cli import main; main()"]
PREFECT = [sys.executable, "-m", "prefect", "--no-prompt"]


@contextmanager
def process(command: list[str], log: Path, env: dict[str, str]) -> Iterator[None]:
    """Start a process, and end its whole group afterwards."""
    with log.open("w") as output:
        started = subprocess.Popen(
            command, stdout=output, stderr=output, env=env, cwd=log.parent, start_new_session=True
        )
    try:
        yield
    finally:
        os.killpg(started.pid, signal.SIGTERM)
        try:
            started.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)
            started.wait()


class Api:
    """The server's REST interface."""

    def __init__(self, url: str) -> None:
        self.client = httpx.Client(base_url=url, timeout=30, trust_env=False)

    def healthy(self) -> bool:
        try:
            return self.client.get("/health").status_code == 200
        except httpx.TransportError:
            return False

    def post(self, path: str, content: Any) -> Any:
        answer = self.client.post(path, json=content)
        for _ in range(30):
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            time.sleep(1)  # the server's database is locked: nothing was done, ask again, as Prefect's own client does
            answer = self.client.post(path, json=content)
        answer.raise_for_status()
        return answer.json()

    def get(self, path: str) -> Any:
        answer = self.client.get(path)
        return answer.json() if answer.is_success else None


def test_a_schedule_starts_the_flow_and_it_runs_what_is_due(world, tmp_path: Path) -> None:
    model = Path(shutil.copy(world.model, tmp_path / "double.onnx"))
    changes = {"end": None, "model": model.name, "observations": cutoff_passed_until(END)}
    experiment, archive = write_experiment(tmp_path, world, **changes), tmp_path / "archive"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")} | {
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        # only so that the test need not wait a minute for each
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "DACYCLE_METRICS": str(tmp_path),
    }
    api = Api(env["PREFECT_API_URL"])
    start = [*PREFECT, "server", "start", "--no-ui", "--host", "127.0.0.1", "--port", str(port)]
    work = [*PREFECT, "worker", "start", "--pool", "dacycle", "--type", "process"]
    with process(start, tmp_path / "server.log", env):
        until("the server", api.healthy, tmp_path)
        with process(work, tmp_path / "worker.log", env):
            deploy = [*DACYCLE, "deploy", experiment.name, "--archive", "archive"]
            for _ in range(2):  # the second time renews them
                deployed = subprocess.run(deploy, env=env, cwd=tmp_path, capture_output=True, text=True)
                assert deployed.returncode == 0, deployed.stdout + deployed.stderr
            assert "prefect worker start --pool dacycle" in deployed.stdout
            check_deployments(api, experiment, archive)

            live = api.get("/deployments/name/cycle/tiny")
            soon = {"interval": 20, "anchor_date": datetime.now(UTC).isoformat()}
            api.post(f"/deployments/{live['id']}/schedules", [{"schedule": soon, "active": True}])
            ours = {"flows": {"name": {"any_": ["cycle"]}}, "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
            runs = until("a completed flow run", lambda: api.post("/flow_runs/filter", ours), tmp_path)
    assert runs[0]["auto_scheduled"], "nobody but the schedule started it"
    assert runs[0]["name"].startswith("tiny ")
    assert runs[0]["infrastructure_pid"].isdecimal(), "so `dacycle up` knows its process"
    assert len(records(archive)) == 2 + CYCLES
    with Archive(archive).lock("tiny"):
        pass  # nobody holds it any more


def check_deployments(api: Api, experiment: Path, archive: Path) -> None:
    """Check what the server has: the schedules, limits and paths that the experiment says."""
    live = api.get("/deployments/name/cycle/tiny")
    wait = load_experiment(experiment).wait + pd.Timedelta(minutes=5)
    (cron,) = [s["schedule"]["cron"] for s in live["schedules"]]
    assert [s["schedule"]["timezone"] for s in live["schedules"]] == ["UTC"]
    minute, hours, *rest = cron.split()
    assert rest == ["*", "*", "*"]
    assert int(minute) == int(wait / pd.Timedelta(minutes=1)) % 60
    assert sorted((int(h) - wait // pd.Timedelta(hours=1)) % 24 for h in hours.split(",")) == [0, 6, 12, 18]
    assert live["global_concurrency_limit"]["limit"] == 1
    assert live["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
    assert not live["pull_steps"], "the package is installed; no code is fetched"
    assert live["parameters"] == {"experiment": str(experiment), "archive": str(archive)}
    for name in ("forecasts", "report"):
        assert api.get(f"/deployments/name/{name}/tiny"), f"{name} was not deployed"
    assert api.get("/deployments/name/hindcast/tiny") is None, "it has no end"
