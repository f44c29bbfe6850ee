"""Processes that are started again when they die, told in turn to end, and never left behind."""

import ctypes
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

__all__ = ["Supervised", "end_leftovers", "flow_runs", "kill", "lives", "tail"]

logger = logging.getLogger(__name__)

LONGEST_PAUSE = 60.0
"""Seconds between two starts of a process that dies at once each time; the first pause is one second."""

PROVEN = 60.0
"""Seconds after which a process that dies has run long enough for the pauses to begin anew."""

STARTING = 300.0
"""Seconds in which a process has to answer for the first time after a start: it may have to recover or to migrate."""

ASKING = 10.0
"""Seconds between two questions whether a process answers."""

SILENT = 120.0
"""Seconds without an answer after which a process that has answered since its start is ended, to be started again."""

PATIENCE = 60.0
"""Seconds that a process has to end after it was told to."""

LARGEST_LOG = 16 * 2**20
"""Bytes of a log, beside those of the one before it."""

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass
class Supervised:
    """Hold one process that is to run always.

    Attributes:
        name: for messages and the log's file name.
        command: what it runs.
        env: its whole environment.
        folder: the working folder.
        log: the file that takes its output.
        answers: whether it does what it is there for; None: it is enough that it runs.
        told: the signal that lets it end in order.
        tied: the signal that the kernel sends it when this process dies; None: the same.
        options: further arguments of `subprocess.Popen`.
    """

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    folder: Path
    log: Path
    answers: Callable[[], bool] | None = None
    told: signal.Signals = signal.SIGTERM
    tied: signal.Signals | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._started = self._asked = self._due = 0.0
        self._answered: float | None = None
        self._pause = 1.0
        self.starts = 0

    @property
    def pid(self) -> int | None:
        """Return its process, or None while there is none."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start it, in a session of its own; the kernel tells it to end if this process dies.

        Raises:
            OSError: the system lets no process start, or its log cannot be written.
        """
        self._started, self._answered = time.monotonic(), None
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(self.env),
                cwd=self.folder,
                start_new_session=True,
                preexec_fn=partial(self._tie, os.getpid()),
                **self.options,
            )
        self.starts += 1

    def _tie(self, parent: int) -> None:
        """Ask the kernel, in the child, for a signal when the parent dies."""
        number = self.tied or self.told
        _libc.prctl(_PR_SET_PDEATHSIG, int(number))
        if os.getppid() != parent:  # it has died already
            os.kill(os.getpid(), number)

    def is_ready(self) -> bool:
        """Return whether it runs and answers now."""
        self._asked = time.monotonic()
        ready = self._process is not None and (self.answers is None or self.answers())
        if ready:
            self._answered = self._asked
        return ready

    def tend(self) -> None:
        """Start it again where it has died, after a pause; end it where it has not answered for long."""
        _keep_short(self.log)
        if self._process is None:
            if time.monotonic() >= self._due:
                self._start_again()
        elif (status := self._process.poll()) is not None:
            logger.error("%s: ended (%s); see %s", self.name, _of(status), self.log)
            self._process = None
            self._lie_down()
        elif time.monotonic() - self._asked >= ASKING and not self.is_ready():
            self._end_if_silent()

    def _start_again(self) -> None:
        try:
            self.start()
            logger.info("%s: started again (process %s)", self.name, self.pid)
        except OSError as error:
            logger.error("%s: cannot be started: %s", self.name, error)
            self._lie_down()

    def _end_if_silent(self) -> None:
        since, limit = (self._started, STARTING) if self._answered is None else (self._answered, SILENT)
        if time.monotonic() - since > limit:
            logger.error("%s: has not answered for %.0f s and is ended; see %s", self.name, limit, self.log)
            self.end(10)
            self._lie_down()

    def _lie_down(self) -> None:
        """Set when it is started again: sooner where it has run for a while."""
        now = time.monotonic()
        self._pause = 1.0 if now - self._started > PROVEN else min(2 * self._pause, LONGEST_PAUSE)
        self._due = now + self._pause

    def end(self, patience: float = PATIENCE) -> None:
        """Tell it to end, wait, and kill what it leaves."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(self.told)
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            logger.error("%s: did not end and is killed", self.name)
        kill(process.pid)
        process.wait()


def end_leftovers(pids: Mapping[str, int], folder: Path, patience: float = PATIENCE) -> None:
    """End processes that an earlier run left behind; `folder` stands in their environment or command.

    A process of that number that belongs to somebody else is left alone.
    """
    ours = {name: pid for name, pid in pids.items() if _mentions(pid, folder)}
    for name, pid in ours.items():
        logger.warning("%s: process %d of an earlier run is still there, and is ended", name, pid)
    until = time.monotonic() + patience  # the kernel has told them to end
    while (ours := {name: pid for name, pid in ours.items() if _mentions(pid, folder)}) and time.monotonic() < until:
        time.sleep(0.3)
    for pid in ours.values():
        kill(pid)


def _mentions(pid: int, folder: Path) -> bool:
    try:
        text = b"".join(Path(f"/proc/{pid}/{name}").read_bytes() for name in ("environ", "cmdline"))
    except OSError:
        return False
    return os.fsencode(folder) in text


def flow_runs(folder: Path) -> list[int]:
    """Return the processes of flow runs whose Prefect has its files in `folder`."""
    wanted = b"PREFECT_HOME=" + os.fsencode(folder / "prefect")
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            environment = path.read_bytes().split(b"\0")
        except OSError:  # it has ended, or belongs to somebody else
            continue
        if wanted in environment and any(each.startswith(b"PREFECT__FLOW_RUN_ID=") for each in environment):
            found.append(int(path.parent.name))
    return sorted(found)


def lives(pid: int) -> bool:
    """Return whether a process runs; one that has ended does not, although nobody has waited for it yet."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def kill(pid: int) -> None:
    """Kill a process that leads a group, and its group."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _of(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def _keep_short(log: Path) -> None:
    """Begin a log anew that has grown large, on a full disk without a copy; the process writes on at the file's end."""
    with suppress(OSError):
        if log.stat().st_size > LARGEST_LOG:
            with suppress(OSError):
                log.with_suffix(".log.1").write_bytes(log.read_bytes())
            os.truncate(log, 0)


def tail(log: Path, lines: int = 15) -> str:
    """Return the last lines of a log."""
    text = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "\n".join(text[-lines:])
