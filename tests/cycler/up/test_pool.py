"""The work pool: what a killed flow run holds is given back, and what a beginning one holds is not."""

import json
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from dacycle.cycler.up import pool
from dacycle.cycler.up.pool import Pool
from tests.cycler.commands import until


class Server:
    """Answer as a Prefect server with one deployment, `cycle`, whose limit is `slot`."""

    def __init__(self) -> None:
        self.workers, self.held = ["here-1"], True
        self.runs: list[dict[str, Any]] = []
        self.crashed: list[str] = []
        self.away = self.paused = False

    def answer(self, request: httpx.Request) -> httpx.Response:
        if self.away:
            raise httpx.ConnectError("refused")
        match request.method, request.url.path:
            case "POST", "/api/work_pools/dacycle/workers/filter":
                return httpx.Response(200, json=[{"name": name} for name in self.workers])
            case "POST", "/api/flow_runs/filter":
                return httpx.Response(200, json=self.runs)
            case "POST", "/api/deployments/filter":
                limit = {"id": "slot", "active_slots": int(self.held)}
                return httpx.Response(200, json=[{"id": "cycle", "global_concurrency_limit": limit}])
            case "PATCH", "/api/v2/concurrency_limits/slot":
                self.held = json.loads(request.content)["active_slots"] > 0
            case "PATCH", "/api/work_pools/dacycle":
                self.paused = json.loads(request.content)["is_paused"]
            case "POST", path if path.endswith("/set_state"):
                self.crashed.append(path.split("/")[-2])
                self.runs = []
            case unknown:
                pytest.fail(f"{unknown} is not asked for")
        return httpx.Response(200, json={})

    def begin(self, pid: int | None = None) -> None:
        """Let a flow run of the deployment be active."""
        number = None if pid is None else str(pid)
        self.runs = [{"id": "1", "name": "run", "deployment_id": "cycle", "infrastructure_pid": number}]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    there = Server()
    monkeypatch.setattr(pool.httpx, "Client", partial(httpx.Client, transport=httpx.MockTransport(there.answer)))
    return there


@pytest.fixture
def looked_after(server: Server) -> Pool:
    return Pool("http://127.0.0.1:4200/api", "dacycle", ["here-1"])


def test_a_slot_without_a_run_is_free_at_the_second_look(server: Server, looked_after: Pool) -> None:
    assert (looked_after.free(), server.held) == (0, True), "a run may be about to begin"
    assert (looked_after.free(), server.held) == (1, False)
    server.held = True
    assert (looked_after.free(), server.held) == (0, True), "looks count anew"


def test_a_slot_that_a_run_has_held_meanwhile_is_looked_at_twice_again(server: Server, looked_after: Pool) -> None:
    looked_after.free()
    for _ in range(2):
        server.begin()
        assert looked_after.free() == 0
        server.runs = []
        assert (looked_after.free(), server.held) == (0, True)


def test_a_look_that_fails_or_sees_a_stranger_counts_for_nothing(server: Server, looked_after: Pool) -> None:
    looked_after.free()
    server.away = True
    assert looked_after.free() == 0
    server.away = False
    assert (looked_after.free(), server.held) == (0, True)
    server.workers = ["here-1", "there-1"]
    assert (looked_after.free(), server.held) == (0, True)


def test_a_run_whose_process_has_ended_has_crashed(server: Server, looked_after: Pool, tmp_path: Path) -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        server.begin(process.pid)
        assert (looked_after.free(), server.crashed) == (0, [])
        process.kill()  # and nobody waits for it yet, as where `up` is the first process of a container
        until("its end", lambda: looked_after.free() == 1, tmp_path)
    assert server.crashed == ["1"]


def test_a_pool_is_paused_and_resumed_when_the_server_is_there(server: Server, looked_after: Pool) -> None:
    assert looked_after.pause()
    assert server.paused
    server.away = True
    assert not looked_after.resume()
    server.away = False
    assert looked_after.resume()
    assert not server.paused
