"""`dacycle up` without a server: in which order it begins and ends, and what it does where something fails."""

import errno
import json
import os
import subprocess
from pathlib import Path

import pytest

from dacycle.cycler.up import bring_up, supervisor
from dacycle.cycler.up.bring_up import Plan, UpError, _asked_at, _Machine
from dacycle.cycler.up.supervisor import Supervised, lives
from tests.cycler.commands import until


class Pool:
    """Take the place of a work pool, whose server is away at first."""

    def __init__(self, machine: _Machine, away: float) -> None:
        self.machine, self.away = machine, away
        self.happened: list[str] = []

    def pause(self) -> bool:
        return self._happens("paused")

    def resume(self) -> bool:
        return self._happens("resumed")

    def _happens(self, what: str) -> bool:
        self.away -= 1
        if self.away < 0:
            running = [each.name for each in self.machine.services + self.machine.workers if each.pid is not None]
            self.happened.append(f"{what} with {' and '.join(running)}")
        return self.away < 0


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def machine(tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch) -> _Machine:
    """Make one that has a database; what it starts writes a line to `starts` and sleeps."""
    monkeypatch.setattr(supervisor, "PROVEN", 0.0)
    made = _Machine(Plan([Path("tiny.yaml")], tmp_path / "archive", tmp_path / "up"), said.append)
    made.page = "http://127.0.0.1:4200"

    def supervised(name: str, *_: object) -> Supervised:
        command = ["sh", "-c", f"echo {name} >> starts; exec sleep 60"]
        return Supervised(name, command, dict(os.environ), tmp_path, tmp_path / "log")

    monkeypatch.setattr(made, "_supervised", supervised)
    monkeypatch.setattr(made, "_names", lambda: ["worker"])
    made._start(supervised("database"))
    return made


def wait_with(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bring_up, "Pool", lambda *_: pool)
    pool.machine._workers()


def test_workers_start_when_the_pool_is_resumed(machine: _Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(machine, away=2)
    wait_with(pool, monkeypatch)
    assert pool.happened == ["resumed with database"]
    assert [worker.name for worker in machine.workers] == ["worker"]
    machine._end()


def test_without_a_pool_that_is_resumed_it_does_not_begin(machine: _Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bring_up, "STARTING", 0.2)
    with pytest.raises(UpError, match=r"work pool dacycle cannot be resumed: see .*server\.log"):
        wait_with(Pool(machine, away=float("inf")), monkeypatch)
    assert not machine.workers
    machine._end()


def test_while_cycles_finish_all_is_looked_after_and_then_ends_in_turn(
    machine: _Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = Pool(machine, away=0)
    wait_with(pool, monkeypatch)
    pool.away = 1

    def full(_content: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(machine.kept, "set_processes", full)
    flow_run = subprocess.Popen(  # it ends when the database has been started again
        ["sh", "-c", "until [ $(grep -c database starts) = 2 ]; do sleep 0.1; done"],
        cwd=tmp_path,
        env=os.environ | {"PREFECT_HOME": str(tmp_path / "up/prefect"), "PREFECT__FLOW_RUN_ID": "1"},
        start_new_session=True,
    )
    (database,), (worker,) = machine.services, machine.workers
    pids = [database.pid, worker.pid]
    supervisor.kill(database.pid)
    until("its end", lambda: not lives(database.pid), tmp_path)
    machine._end()
    assert flow_run.wait() == 0, "it was not killed"
    assert pool.happened[1:] == ["paused with worker", "resumed with database"]
    assert database.starts == 2
    assert (database.pid, worker.pid) == (None, None)
    assert not any(map(lives, pids))


def test_it_says_what_is_deployed_and_when_it_wakes(
    machine: _Machine, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [
        {"name": "cycle/tiny", "text": "every cycle", "cron": "5 3,9,15,21 * * *"},
        {"name": "training/net", "text": "the training", "cron": ""},
    ]
    outputs = iter([None, json.dumps({"pool": "dacycle", "deployments": made}).encode()])
    monkeypatch.setattr(machine, "_output", lambda *_: next(outputs))
    machine._deployments()
    assert said == [
        "tiny.yaml: deployed to the pool dacycle",
        "  cycle/tiny, at 5 3,9,15,21 * * * UTC: every cycle",
        "  training/net, when a person starts it: the training",
    ]
    machine._end()


@pytest.mark.parametrize(
    ("host", "asked"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("::", "[::1]"),
        ("fd00::2", "[fd00::2]"),
        ("machine", "machine"),
    ],
)
def test_a_server_is_asked_where_it_listens(host: str, asked: str) -> None:
    assert _asked_at(host) == asked
