"""Run a hindcast in child processes that die by SIGKILL, at aimed moments and at random ones.

Usage: killed.py EXPERIMENT.yaml ARCHIVE SEED. Prints, as JSON, each aim and the exit status of its child. Started as a
script, so that children are forked from a process without threads.
"""

import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import icechunk

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from dacycle.cycler.archive import writer as archive_module
from dacycle.cycler.archive.branches import Archive
from dacycle.cycler.archive.store import Store
from dacycle.cycler.cycle.replay import run_due_cycles
from dacycle.cycler.cycle.run_cycle import Cycle
from dacycle.cycler.experiment import Experiment, load_experiment
from tests.worlds import register_doubles


def die(*_: object, **__: object) -> None:
    """End this process as a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)


def _before_append(kind: str) -> None:
    original = Store.append

    def append(self, branch, groups, message, *rest):
        if message.startswith(kind):
            die()
        return original(self, branch, groups, message, *rest)

    Store.append = append


def _after_append() -> None:
    original = Store.append

    def append(*args, **kwargs):
        original(*args, **kwargs)
        die()

    Store.append = append


def _inside_commit() -> None:
    original = icechunk.Session.flush

    def flush(*args, **kwargs):
        threading.Timer(0.003, die).start()
        return original(*args, **kwargs)

    icechunk.Session.flush = flush


AIMS: dict[str, Callable[[], None]] = {
    "before the experiment is frozen": lambda: setattr(archive_module, "write_whole", die),
    "before the cold start": lambda: _before_append("cold start"),
    "after the cold start": _after_append,
    "with half a file": lambda: setattr(os, "fsync", die),
    "before the rename": lambda: setattr(os, "replace", die),
    "between files and commit": lambda: _before_append("cycle"),
    "inside a commit": _inside_commit,
    "after a commit": _after_append,
}


def killed(aim: str, experiment: Experiment, archive: Path, rng: random.Random) -> int:
    """Run a hindcast in a child that dies at `aim`, or some time after its first cycle; return its exit status.

    A child without an aim runs two cycles and then waits to be killed, so that cycles are left for the next one.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        AIMS.get(aim, lambda: None)()
        told = count(1)

        def progress(_: Cycle) -> None:
            os.write(writing, b".")
            if aim not in AIMS and next(told) == 2:
                signal.pause()

        limit = None if experiment.late is None else 1  # by turns with the late chain
        opened = Archive(archive, create=True)
        while run_due_cycles(experiment, opened, progress=progress, limit=limit):
            pass
        os._exit(0)
    os.close(writing)  # so that reading ends with the child
    if aim not in AIMS:
        os.read(reading, 1)
        time.sleep(rng.uniform(0, 0.3))
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(reading)
    return os.waitstatus_to_exitcode(status)


def main(experiment: Path, archive: Path, seed: int) -> None:
    """Kill one child per aim, then three at random."""
    rng, described = random.Random(seed), load_experiment(experiment)
    register_doubles()
    print(json.dumps([(aim, killed(aim, described, archive, rng)) for aim in [*AIMS, *["at random"] * 3]]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
