"""One machine's Prefect: a database, a server, workers and the deployments of experiments, until told to stop.

What it makes stays in one folder from run to run: the database, its password, the ports, Prefect's own files, logs. No
cycle is in it: the archive is the ledger, and the folder may be deleted while nothing runs.
"""

import json
import logging
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import httpx

from dacycle.common.locks import locked
from dacycle.cycler.experiment import load_experiment
from dacycle.cycler.operations.watchdog import notify
from dacycle.cycler.up.kept import Kept, UpError
from dacycle.cycler.up.pool import Pool
from dacycle.cycler.up.postgres import Cluster, as_user, find_cluster, url_for_prefect
from dacycle.cycler.up.supervisor import STARTING, Supervised, end_leftovers, flow_runs, kill, tail

__all__ = ["Plan", "UpError", "bring_up"]

logger = logging.getLogger(__name__)

PAGE_PORTS = range(4200, 4300)
DATABASE_PORTS = range(54320, 54420)

TRIES = 5
"""Times that a process is started, or an experiment deployed, before that counts as failed."""

MAIN = "from dacycle.cycler.cli import main; main()"

LOOKING = 10.0
"""Seconds between two looks at what killed flow runs hold."""

DATABASE_SETTINGS = ("PREFECT_API_DATABASE_CONNECTION_URL", "PREFECT_SERVER_DATABASE_CONNECTION_URL")


@dataclass(frozen=True)
class Plan:
    """Hold what is to run.

    Attributes:
        experiments: files of the experiments.
        archive: their archive.
        state: folder of what is made here.
        workers: number of worker processes.
        pool: name of the work pool.
        host: address at which the server listens.
        port: its port; None: that of the last time, or a free one.
        database: `postgresql://...`; `sqlite`; None: a private PostgreSQL.
        user: that a private PostgreSQL runs as, for root.
        patience: seconds that running flow runs have to end.
        recipes: files of trainings, each of which gets a deployment.
    """

    experiments: Sequence[Path]
    archive: Path
    state: Path
    workers: int = 1
    pool: str = "dacycle"
    host: str = "127.0.0.1"
    port: int | None = None
    database: str | None = None
    user: str | None = None
    patience: float = 900.0
    recipes: Sequence[Path] = ()
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set to stop."""


def bring_up(plan: Plan, say: Callable[[str], None] = print) -> None:
    """Start everything, look after it, and return when SIGTERM or SIGINT has come and all has ended.

    Args:
        plan: what is to run.
        say: takes sentences for the operator.

    Raises:
        UpError: another process does this for the folder, a port is taken, or something does not start.
        DatabaseError: as `find_cluster` and `url_for_prefect`.
        ExperimentError: the file of an experiment cannot be read.
    """
    for path in plan.experiments:
        load_experiment(path)
    with locked(plan.state / "up.lock", f"{plan.state}", UpError):
        _Machine(plan, say).run()


class _Machine:
    """The processes of a plan."""

    def __init__(self, plan: Plan, say: Callable[[str], None]) -> None:
        self.plan, self.say = plan, say
        self.state = plan.state.resolve()
        self.kept = Kept.read(self.state / "state.json")
        self.services: list[Supervised] = []
        self.workers: list[Supervised] = []
        self.signals = 0

    def run(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._told)
        end_leftovers(self.kept.processes, self.state)
        try:
            for begin in (self._database, self._server, self._deployments, self._workers):
                if not self.plan.stopping.is_set():
                    begin()
            if not self.plan.stopping.is_set():
                self.say(f"ready: {self.page}; Ctrl-C or SIGTERM ends it; logs in {self.state / 'logs'}")
                notify("READY=1")
                self._look_after()
        finally:
            notify("STOPPING=1")
            self._end()

    # --- one after another ---

    def _database(self) -> None:
        settings = (os.environ[name] for name in DATABASE_SETTINGS if os.environ.get(name))
        given = self.plan.database or next(settings, None)
        if given == "sqlite":
            self.url = f"sqlite+aiosqlite:///{self.state / 'prefect.db'}"
        elif given is not None:
            self.url = url_for_prefect(given)
        else:
            self._private_database(find_cluster(self.state / "postgres", self.plan.user))

    def _private_database(self, cluster: Cluster) -> None:
        cluster.make()
        port = self.kept.port("database", "127.0.0.1", DATABASE_PORTS)
        database = self._supervised(
            "database", cluster.command(port), {}, signal.SIGINT, lambda: cluster.answers(port), as_user(cluster.user)
        )
        self._start(database)
        self.url = cluster.url(port)

    def _server(self) -> None:
        port = self.kept.port("server", self.plan.host, PAGE_PORTS, self.plan.port)
        self.page = f"http://{_asked_at(self.plan.host)}:{port}"
        command = [sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"]
        command += [f"--host={self.plan.host}", f"--port={port}", "--timeout-keep-alive=5", "--log-level=warning"]
        # Leases in files outlive a killed server; in memory, what they hold would stay held.
        leases = "prefect.server.concurrency.lease_storage.filesystem"
        env = {
            "PREFECT_API_DATABASE_CONNECTION_URL": self.url,
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": leases,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_UI_API_URL": "/api",
        }
        self._start(self._supervised("server", command, env, answers=lambda: _answers(f"{self.page}/api/ready")))

    def _deployments(self) -> None:
        for path in self.plan.experiments:
            made = self._deploy(path)
            if self.plan.stopping.is_set():
                return
            self.say(f"{path}: deployed to the pool {self.plan.pool}")
            for each in made:
                when = f"at {each['cron']} UTC" if each["cron"] else "when a person starts it"
                self.say(f"  {each['name']}, {when}: {each['text']}")

    def _deploy(self, path: Path) -> list[dict[str, str]]:
        """Return what `dacycle deploy` makes of an experiment, as often as the server is killed meanwhile."""
        log = self.state / "logs" / "deploy.log"
        command = [sys.executable, "-c", MAIN, "deploy", str(path), "--archive", str(self.plan.archive), "--json"]
        command += ["--pool", self.plan.pool]
        command += [word for recipe in self.plan.recipes for word in ("--recipe", str(recipe))]
        for _ in range(TRIES):
            if (output := self._output(command, log)) is not None:
                return list(json.loads(output)["deployments"])
            if self.plan.stopping.is_set():
                return []
        raise UpError(f"{path}: its deployments could not be made; the end of {log}:\n{tail(log)}")

    def _output(self, command: list[str], log: Path) -> bytes | None:
        """Return the output of a command, or None where it fails, and look after the processes meanwhile."""
        with log.open("wb") as errors:
            process = subprocess.Popen(command, env=self._env(), stdout=subprocess.PIPE, stderr=errors)
        if not self._wait(lambda: process.poll() is not None):
            process.kill()
        output, _ = process.communicate()
        return output if process.returncode == 0 else None

    def _workers(self) -> None:
        self.pool = Pool(f"{self.page}/api", self.plan.pool, self._names())
        if not self._wait(self.pool.resume):  # a killed `up` may have paused it
            if self.plan.stopping.is_set():
                return
            raise UpError(f"the work pool {self.plan.pool} cannot be resumed: see {self.state / 'logs/server.log'}")
        for name in self._names():
            command = [sys.executable, "-m", "prefect", "--no-prompt", "worker", "start", "--type", "process"]
            command += ["--pool", self.plan.pool, "--name", name]
            worker = self._supervised(name, command, {})
            worker.tied = signal.SIGKILL  # told to end, it would kill the cycles that run
            worker.start()
            self.workers.append(worker)
        self._keep()

    # --- together ---

    def _look_after(self) -> None:
        looked = time.monotonic()
        while not self.plan.stopping.wait(1.0):
            self._tend()
            if time.monotonic() - looked > LOOKING:
                self.pool.free()
                looked = time.monotonic()

    def _end(self) -> None:
        """Let running cycles finish, then end the workers, the server and the database."""
        try:
            if self.workers:
                self._finish_flow_runs()
        finally:
            for worker in self.workers:
                worker.end()
            if self.workers:
                self.pool.resume()
            for service in reversed(self.services):
                service.end()
            self.services, self.workers = [], []
            self._keep()

    def _finish_flow_runs(self) -> None:
        """Let no further flow run start, and wait for those that run; a second signal ends the wait, and kills them."""
        paused = self.pool.pause()
        if flow_runs(self.state):
            logger.info("stopping: what runs finishes first; a second Ctrl-C or SIGTERM kills it")
        until = time.monotonic() + self.plan.patience
        while flow_runs(self.state) and self.signals < 2 and time.monotonic() < until:
            time.sleep(0.3)
            self._tend()
            paused = paused or self.pool.pause()
        for pid in flow_runs(self.state):
            logger.error("flow run of process %d did not end and is killed", pid)
            kill(pid)

    def _told(self, _number: int, _frame: FrameType | None) -> None:
        self.signals += 1
        self.plan.stopping.set()

    # --- pieces ---

    def _names(self) -> list[str]:
        return [f"{platform.node()}-{number}" for number in range(1, self.plan.workers + 1)]

    def _env(self) -> dict[str, str]:
        """Return the environment of all processes: that of this one, with this Prefect in place of any other."""
        others = ("PREFECT_API_URL", *DATABASE_SETTINGS)
        kept = {name: value for name, value in os.environ.items() if name not in others}
        ours = {"PREFECT_HOME": str(self.state / "prefect"), "DO_NOT_TRACK": "1"}
        return kept | ours | ({"PREFECT_API_URL": f"{self.page}/api"} if hasattr(self, "page") else {})

    def _supervised(
        self,
        name: str,
        command: list[str],
        env: dict[str, str],
        told: signal.Signals = signal.SIGTERM,
        answers: Callable[[], bool] | None = None,
        options: dict[str, Any] | None = None,
    ) -> Supervised:
        folder = Path("/") if name == "database" else Path.cwd()
        log = self.state / "logs" / f"{name}.log"
        return Supervised(name, command, self._env() | env, folder, log, answers, told, options=options or {})

    def _start(self, process: Supervised) -> None:
        """Start a process and wait until it answers; what runs already is looked after meanwhile."""
        process.start()
        self.services.append(process)
        self._keep()
        if not self._wait(process.is_ready, lambda: process.starts > TRIES) and not self.plan.stopping.is_set():
            raise UpError(f"the {process.name} does not start; the end of {process.log}:\n{tail(process.log)}")

    def _wait(self, done: Callable[[], bool], failed: Callable[[], bool] = lambda: False) -> bool:
        """Return whether something has come true before it failed, its time was over, or this is to stop."""
        until = time.monotonic() + STARTING
        while not done():
            if failed() or time.monotonic() > until or self.plan.stopping.wait(0.3):
                return False
            self._tend()
        return True

    def _tend(self) -> None:
        """Start again what has died."""
        for each in self.services + self.workers:
            each.tend()
        self._keep()
        notify("WATCHDOG=1")

    def _keep(self) -> None:
        """Keep the processes that run now, if the disk takes it."""
        try:
            self.kept.set_processes(
                {each.name: each.pid for each in self.services + self.workers if each.pid is not None}
            )
        except OSError as error:
            logger.error("%s cannot be written: %s", self.kept.file, error)


def _asked_at(host: str) -> str:
    """Return where, in a URL, a server is asked that listens at an address."""
    asked = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{asked}]" if ":" in asked else asked


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5, trust_env=False).is_success
    except (httpx.HTTPError, httpx.InvalidURL, OSError):
        return False
