"""Measure whole commands as a user runs them: each in a process of its own, several times, with its processor time.

Two programs are compared in turns, first one and then the other, so that what else the machine does meets both.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from dacycle.common.errors import DacycleError
from dacycle.cycler.experiment import STEP, Experiment, write_experiment
from dacycle.cycler.timing.measure import machine

__all__ = [
    "BenchError",
    "CommandTimes",
    "CommandsBench",
    "bench_commands",
    "find_program",
    "read_bench",
    "run_command",
    "this_program",
    "usual_commands",
]


class BenchError(DacycleError, RuntimeError):
    """A measured command failed, or a file holds no measurement; the message says which and shows its output."""


@dataclass(frozen=True)
class CommandTimes:
    """Hold the medians of several runs of a command.

    Attributes:
        wall, processor: seconds, of the process and its children.
        memory: MB, of the largest process.
    """

    wall: float
    processor: float
    memory: float


@dataclass(frozen=True)
class CommandsBench:
    """Hold the times of all commands, by name, and what they were measured on.

    Attributes:
        machine: processor, cores, Python.
        runs: of each command; its times are their medians.
        cycles: of the experiment that was run.
        commands: by name.
    """

    machine: str
    runs: int
    cycles: int
    commands: dict[str, CommandTimes]


def bench_commands(
    experiment: Experiment, cycles: int, runs: int, programs: Sequence[Sequence[str]]
) -> list[CommandsBench]:
    """Run the usual commands `runs` times with each program, in turns.

    Args:
        experiment: its first `cycles` cycles are run, from files that its simulated sources' observations are written
            to. Its paths are relative to the working folder of the commands, which is temporary.
        cycles: number of cycles.
        runs: number of times.
        programs: the command lines that stand for `dacycle`.

    Returns:
        the times of each program.

    Raises:
        BenchError: a command fails.
    """
    end = experiment.start + (cycles - 1) * STEP
    content = experiment.model_copy(update={"end": end}).as_dict()
    times: list[dict[str, list[CommandTimes]]] = [{} for _ in programs]
    for run in range(runs):
        # who is first takes turns as well
        order = range(len(programs)) if run % 2 == 0 else reversed(range(len(programs)))
        for number in order:
            with tempfile.TemporaryDirectory(prefix="dacycle-bench-") as folder:
                for name, command in usual_commands(content, experiment.name, Path(folder)).items():
                    measured = run_command([*programs[number], *command], Path(folder))
                    times[number].setdefault(name, []).append(measured)
    return [
        CommandsBench(machine(), runs, cycles, {name: _median(some) for name, some in of_program.items()})
        for of_program in times
    ]


def usual_commands(content: dict[str, object], name: str, folder: Path) -> dict[str, list[str]]:
    """Write an experiment to a folder, and return the commands on it; later ones need what earlier ones made."""
    (folder / "experiment.yaml").write_text(write_experiment(content))
    at = ["--archive", "archive"]
    return {
        "help": ["--help"],
        "simulate": ["simulate", "experiment.yaml"],
        "hindcast": ["hindcast", "experiment.yaml", *at],
        "hindcast again": ["hindcast", "experiment.yaml", "--archive", "again"],
        "status": ["status", *at],
        "log": ["log", name, *at],
        "scores": ["scores", name, *at],
        "drift": ["drift", name, *at],
        "report": ["report", name, *at],
    }


def run_command(command: list[str], folder: Path, variables: Mapping[str, str] | None = None) -> CommandTimes:
    """Run a command in a folder that also holds its cache, so that nothing older helps it.

    Args:
        command: the command line.
        folder: the working folder.
        variables: of the environment, beside those of this process.

    Raises:
        BenchError: it fails.
    """
    environment = os.environ | {"DACYCLE_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"} | dict(variables or {})
    with (folder / "output").open("w+") as output:
        begin = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - begin
        if process.returncode:
            output.seek(0)
            raise BenchError(f"{' '.join(command)} ended with {process.returncode}:\n{output.read()[-2000:]}")
    return CommandTimes(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def _median(times: list[CommandTimes]) -> CommandTimes:
    return CommandTimes(*np.median([list(asdict(each).values()) for each in times], axis=0).tolist())


def read_bench(path: Path) -> CommandsBench:
    """Return what `dacycle bench commands --json` wrote.

    Raises:
        BenchError: it is no such file.
    """
    try:
        content = json.loads(path.read_text())
        commands = {name: CommandTimes(**times) for name, times in content.pop("commands").items()}
        return CommandsBench(**content, commands=commands)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BenchError(f"{path}: not a file of `dacycle bench commands --json`: {error}") from error


def this_program() -> list[str]:
    """Return the command line of this dacycle."""
    return [sys.executable, "-c", "from dacycle.cycler.cli import main; main()"]


def find_program(name: str) -> list[str]:
    """Return the command line of a program, or BenchError where there is none."""
    found = shutil.which(name)
    if found is None:
        raise BenchError(f"there is no program {name}; give the path of another `dacycle`")
    return [str(Path(found).absolute())]
