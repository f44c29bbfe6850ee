"""`dacycle up` as a process, what belongs to it, and how it is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx

from dacycle.cycler.up.supervisor import lives

DACYCLE = [sys.executable, "-c", "from dacycle.cycler.cli import main; main()"]
EXPERIMENT, ARCHIVE = "demo.yaml", "archive"


class Machine:
    """Run `dacycle up` in a folder with `demo.yaml`."""

    def __init__(self, folder: Path, workers: int, clock: str) -> None:
        self.folder, self.workers = folder, workers
        self.state = folder / f"{ARCHIVE}.up"
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")} | {"DACYCLE_CLOCK": clock}
        self.process: subprocess.Popen[bytes] | None = None
        self.given_up = 0
        self.killed: set[int] = set()

    def start(self) -> None:
        """Start it, as a supervisor does after it has died."""
        command = [*DACYCLE, "up", EXPERIMENT, "--archive", ARCHIVE, "--workers", str(self.workers)]
        with (self.folder / "up.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.folder, env=self.env, start_new_session=True
            )

    def stop(self) -> int:
        """Tell it to end; return its exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(300)

    def is_well(self) -> bool:
        """Return whether everything runs, and the server answers and shows no killed flow run as active."""
        if self.process is None:
            return False
        if self.process.poll() is not None:
            self.given_up += 1
            self.start()
        kept = self._kept()
        processes = kept.get("processes", {})
        if len(processes) != 2 + self.workers or not all(lives(pid) for pid in processes.values()):
            return False
        try:
            return not self._active(kept["ports"]["server"]) & {str(pid) for pid in self.killed}
        except httpx.HTTPError:
            return False

    def _active(self, port: int) -> set[str | None]:
        """Return the processes of the flow runs that the server shows as active."""
        states = {"flow_runs": {"state": {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}}}
        url = f"http://127.0.0.1:{port}/api/flow_runs/filter"
        answer = httpx.post(url, json=states, timeout=5, trust_env=False).raise_for_status()
        return {run["infrastructure_pid"] for run in answer.json()}

    def kill(self, what: str) -> bool:
        """Kill a part by SIGKILL; return False where there is none at this moment."""
        pids = [pid for pid in self._of(what) if lives(pid)]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.killed.update(pids)
        if self.process is not None and self.process.pid in pids:
            self.process.wait()
            self.start()
        return bool(pids)

    def has(self, what: str) -> bool:
        """Return whether there is such a part now."""
        return bool(self._of(what))

    def _of(self, what: str) -> list[int]:
        assert self.process is not None
        processes = self._kept().get("processes", {})
        flow_runs = [pid for pid, env in self._ours().items() if b"PREFECT__FLOW_RUN_ID=" in env]
        workers = [pid for name, pid in processes.items() if name not in ("database", "server")]
        return {
            "flow run": flow_runs[:1],
            "worker": workers[:1],
            "server": [processes["server"]] if "server" in processes else [],
            "database": [processes["database"]] if "database" in processes else [],
            "up": [self.process.pid],
            "everything": [self.process.pid, *self._ours()],
        }[what]

    def _ours(self) -> dict[int, bytes]:
        """Return the environments of all processes that know the folder of `up`, those of PostgreSQL included."""
        found = {}
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                env = path.read_bytes()
            except OSError:
                continue
            if os.fsencode(self.state / "prefect") in env:
                found[int(path.parent.name)] = env
        return found

    def _kept(self) -> dict[str, object]:
        path = self.state / "state.json"
        return json.loads(path.read_text()) if path.exists() else {}


def until(done: Callable[[], bool], what: str, limit: float) -> float:
    """Poll for something to come true; return the seconds that it took.

    Raises:
        TimeoutError: it has not come in time.
    """
    begun = time.monotonic()
    while not done():
        if time.monotonic() - begun > limit:
            raise TimeoutError(f"{what} has not come in {limit:.0f} s")
        time.sleep(0.5)
    return time.monotonic() - begun
