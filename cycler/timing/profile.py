"""Profile whole commands: where each second of their processor time goes, by stage."""

import json
import os
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from dacycle.cycler.experiment import STEP, Experiment
from dacycle.cycler.timing import sampling
from dacycle.cycler.timing.commands import run_command, this_program, usual_commands
from dacycle.cycler.timing.measure import machine

__all__ = ["CommandProfile", "Profile", "profile_commands"]

REST = "rest"
"""Start and end of Python, and processes that are no Python or were ended by another one."""


@dataclass(frozen=True)
class CommandProfile:
    """Hold where the processor time of a command went, with that of the processes that it starts.

    Attributes:
        processor: seconds.
        stages: seconds by stage, most first: a part of dacycle, with the libraries that it calls; `importing`; `rest`.
        most: the function of each stage, or the imported package, that took most of it.
    """

    processor: float
    stages: dict[str, float]
    most: dict[str, str]


@dataclass(frozen=True)
class Profile:
    """Hold the profiles of commands, by name, and what they were made on."""

    machine: str
    cycles: int
    commands: dict[str, CommandProfile]


def profile_commands(experiment: Experiment, cycles: int, demonstration_days: int = 0) -> Profile:
    """Profile the commands that `bench_commands` measures, once each.

    Args:
        experiment: its first `cycles` cycles are run, from files that its simulated observations are written to.
        cycles: number of cycles.
        demonstration_days: profile `dacycle demo` of so many days as well.

    Raises:
        BenchError: a command fails.
    """
    content = experiment.model_copy(update={"end": experiment.start + (cycles - 1) * STEP}).as_dict()
    profiles = {}
    with tempfile.TemporaryDirectory(prefix="dacycle-profile-") as name:
        folder = Path(name)
        commands = usual_commands(content, experiment.name, folder)
        if demonstration_days:
            commands["demo"] = ["demo", "demo", "--days", str(demonstration_days)]
        for label, arguments in commands.items():
            profiles[label] = _profile([*this_program(), *arguments], folder)
    return Profile(machine(), cycles, profiles)


def _profile(command: list[str], folder: Path) -> CommandProfile:
    with tempfile.TemporaryDirectory(prefix="dacycle-samples-") as samples:
        shutil.copy(sampling.__file__, Path(samples) / "sitecustomize.py")
        path = os.pathsep.join([samples, *filter(None, [os.environ.get("PYTHONPATH")])])
        times = run_command(command, folder, {"PYTHONPATH": path})
        seconds: Counter[str] = Counter()
        for file in Path(samples).glob("*.json"):
            seconds.update(json.loads(file.read_text()))
    stages: Counter[str] = Counter({REST: max(times.processor - seconds.total(), 0.0)})
    most = {REST: ""}
    for where, spent in seconds.most_common():
        stage, detail = _stage(where)
        stages[stage] += spent
        most.setdefault(stage, detail)
    return CommandProfile(times.processor, dict(stages.most_common()), most)


def _stage(where: str) -> tuple[str, str]:
    """Return the part of dacycle that a place belongs to, such as `cycler.archive`, and what of it the place is."""
    path, _, name = where.rpartition(":")
    if path in (sampling.IMPORTING, sampling.OTHER):
        return path, name
    *folders, module = path.removesuffix(".py").split("/")
    return ".".join(folders[:2]), f"{module}.{name}"
