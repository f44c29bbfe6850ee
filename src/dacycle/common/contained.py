"""C libraries on foreign bytes, in a process of their own: damaged bytes can crash a library or keep it busy for ever.

`Contained` is a script that runs as such a process. It is started when it is first needed and again when a request has
brought it down. It ends with the process that started it, however that ends, because its input then closes. The script
writes a line when it is ready. Then it reads requests as pickles, and answers with pickles. It limits its own time by
`signal.alarm`, whose default is to end the process: a library that hangs does not come back to Python.
"""

import atexit
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import weakref
from pathlib import Path
from typing import Any

__all__ = ["Contained"]


class Contained:
    """Run a script in a process; threads use it one after the other, and forked processes start their own.

    Args:
        script: the file. It imports nothing of dacycle, so that it starts fast and in whatever environment.
    """

    def __init__(self, script: Path) -> None:
        self._script = script.resolve()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        _all.add(self)

    def ask(self, request: Any, answers: int = 1) -> list[Any]:
        """Send a request and return its answers; there are fewer where the process has ended before.

        Raises:
            RuntimeError: the process does not start; says why.
        """
        with self._lock:
            if self._process is not None and self._process.poll() is not None:
                self._forget()  # something else has ended it since
            if self._process is None:
                self._process = self._start()
            stdin, stdout = self._process.stdin, self._process.stdout
            assert stdin is not None
            assert stdout is not None
            received: list[Any] = []
            try:
                pickle.dump(request, stdin)
                stdin.flush()
                received.extend(pickle.load(stdout) for _ in range(answers))
            except (BrokenPipeError, EOFError, pickle.UnpicklingError):
                self._forget()
            except BaseException:
                self._forget()  # an answer may be half read
                raise
            return received

    def _start(self) -> "subprocess.Popen[bytes]":
        with tempfile.TemporaryFile() as log:
            command = [sys.executable, "-P", str(self._script)]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
            assert process.stdout is not None
            if not process.stdout.readline():
                process.communicate()
                log.seek(0)
                raise RuntimeError(f"{self._script} does not start: {log.read().decode(errors='replace').strip()}")
        return process

    def _forget(self) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
            process.communicate()

    def stop(self) -> None:
        """End the process; it starts again when it is needed."""
        with self._lock:
            self._forget()

    def leave(self) -> None:
        """Leave the process to the parent of a process that was forked, and close the pipes that it inherited."""
        process, self._process, self._lock = self._process, None, threading.Lock()
        if process is not None:
            process.returncode = 0  # not to be waited for here
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                os.close(pipe.fileno())
            _inherited.append(process)  # closing its files would write what the parent has yet to write


_all: "weakref.WeakSet[Contained]" = weakref.WeakSet()
_inherited: list["subprocess.Popen[bytes]"] = []


def _stop_all() -> None:
    for contained in list(_all):
        contained.stop()


def _leave_all() -> None:
    for contained in list(_all):
        contained.leave()


atexit.register(_stop_all)
os.register_at_fork(after_in_child=_leave_all)
