"""Measure time and memory of a call on this machine: the one way for everything that `dacycle bench` shows."""

import gc
import multiprocessing
import os
import platform
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

__all__ = [
    "Clock",
    "children_seconds",
    "in_new_process",
    "machine",
    "median_seconds",
    "peak_memory",
    "processor_seconds",
    "timed",
]

T = TypeVar("T")
Clock = Callable[[], float]


def machine() -> str:
    """Return processor, number of cores and version of Python."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.processor() or platform.machine()
    return f"{processor}, {os.cpu_count()} cores, Python {platform.python_version()}"


def processor_seconds() -> float:
    """Return the processor time of this process and of its ended children; other work on the machine adds nothing."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def children_seconds() -> dict[int, float]:
    """Return the processor time of each child of this process that is running; none where Linux does not tell."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            values = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(values[1]) == os.getpid():
            found[int(path.parent.name)] = (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")
    return found


def timed(call: Callable[[], T], clock: Clock = time.perf_counter) -> tuple[T, float]:
    """Return what a call returns, and the seconds that it took by a clock."""
    begin = clock()
    result = call()
    return result, clock() - begin


def median_seconds(call: Callable[[], object], calls: int) -> float:
    """Return the median wall time of several calls."""
    return float(np.median([timed(call)[1] for _ in range(calls)]))


def peak_memory(call: Callable[[], object]) -> int | None:
    """Return the bytes that a call took at most beyond those held before it; None where Linux does not tell."""
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # reset the high-water mark
    except OSError:
        call()
        return None
    before = _status("VmRSS")
    call()
    return _status("VmHWM") - before


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def in_new_process(function: Callable[..., T], *arguments: object) -> T:
    """Call a function of a module in a new process, where no memory is left over from earlier work."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()
