"""Sample where a Python process spends its processor time, from its start to its end, with nothing but Python itself.

`profile` puts this file first on the path of imports as `sitecustomize`, so that each process of a command runs it. A
timer interrupts the main thread every few milliseconds of processor time. Each sample has the time since the last one,
also that of other threads, which the main thread waits for, and of calls of libraries that no signal interrupts.
"""

import atexit
import json
import os
import signal
import sys
import time
from types import FrameType

INTERVAL = 0.005
"""Processor seconds between two samples."""
IMPORTING = "importing"
OTHER = "Python"

_seconds: dict[str, float] = {}
_last = time.process_time()


def place(frame: FrameType | None) -> str:
    """Return where a stack stands: `cycler/archive/store.py:append`, `importing:pandas`, or `Python:` in neither.

    It is the innermost function of dacycle, whatever library that calls; an import counts for the package whose module
    is being loaded.
    """
    while frame is not None:
        code = frame.f_code
        _, inside, path = code.co_filename.rpartition("/dacycle/")
        if code.co_filename.startswith("<frozen importlib") and code.co_name == "_find_and_load":
            return f"{IMPORTING}:{str(frame.f_locals['name']).partition('.')[0]}"
        if inside and code.co_name != "<module>":
            return f"{path}:{code.co_name}"
        frame = frame.f_back
    return f"{OTHER}:"


def _sample(number: int, frame: FrameType | None) -> None:
    global _last
    now = time.process_time()
    where = place(frame)
    _seconds[where] = _seconds.get(where, 0.0) + now - _last
    _last = now


def start(folder: str) -> None:
    """Sample this process until it ends; then write the seconds by place to a file in a folder."""
    signal.signal(signal.SIGPROF, _sample)
    signal.setitimer(signal.ITIMER_PROF, INTERVAL, INTERVAL)

    def end() -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        _sample(0, sys._getframe())
        with open(os.path.join(folder, f"{os.getpid()}.json"), "w", encoding="utf-8") as file:
            json.dump(_seconds, file)

    atexit.register(end)


if __name__ == "sitecustomize":
    start(os.path.dirname(__file__))
