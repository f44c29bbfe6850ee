"""Run the trial; see the package's docstring."""

import argparse
import os
import random
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import pandas as pd

from dacycle.common.clock import read_clock
from dacycle.cycler.archive.branches import Archive, ArchiveError
from dacycle.cycler.experiment import STEP, cycle_id, load_experiment
from dacycle.cycler.verification.drift import read_scores
from tests.compressed.comparison import NAMES, differences, gaps
from tests.compressed.machine import ARCHIVE, DACYCLE, EXPERIMENT, Machine, until

VICTIMS = ("flow run", "worker", "server", "database", "up", "everything")
UNDISTURBED = "undisturbed"
LIMIT = 900.0
"""Seconds after which a trial that does not get on has failed."""


@dataclass(frozen=True)
class Kill:
    """Hold a kill, and the seconds of the recovery.

    Attributes:
        after: the newest cycle.
        what: was killed.
        running: until everything ran again, and no killed flow run held its deployment.
        caught_up: until the next cycle and all others that had become due meanwhile were there.
    """

    after: str
    what: str
    running: float
    caught_up: float


class Trial:
    """Hold the run that is disturbed."""

    def __init__(self, folder: Path, cycles: int, seconds: float, workers: int) -> None:
        self.experiment = load_experiment(folder / EXPERIMENT)
        self.archive, self.last = folder / ARCHIVE, self.experiment.start + (cycles - 1) * STEP
        began = (pd.Timestamp.now("UTC").tz_localize(None) + pd.Timedelta(seconds=60)).floor("1s")
        speed = STEP.total_seconds() / seconds
        clock = (
            f"{self.experiment.start + pd.Timedelta(hours=2):%Y-%m-%dT%H} since {began:%Y-%m-%dT%H:%M:%S} x{speed:g}"
        )
        self.machine = Machine(folder, workers, clock)
        self.clock = clock

    def next(self) -> pd.Timestamp:
        """Return the next cycle of the run and its free run."""
        try:
            times = [Archive(self.archive).branch(name).next_time for name in NAMES]
        except ArchiveError:  # nothing is there yet
            return self.experiment.start
        return min(self.experiment.start if time is None else time for time in times)

    def is_caught_up(self) -> bool:
        """Return whether no cycle is overdue that was due a moment ago, when the schedule woke the flow."""
        due = min(read_clock().now() - self.experiment.wait, self.last + STEP)
        return self.next() > due - STEP

    def kill(self, *parts: str, pause: float = 0) -> Kill | None:
        """Kill one or several parts, with a pause between them, and wait until the cycles have caught up.

        A part that is not there at its moment is left out; None where none is.
        """
        after, killed = self.next() - STEP, []
        self.machine.killed.clear()
        for number, part in enumerate(parts):
            time.sleep(pause if number else 0)
            if self.machine.kill(part):
                killed.append(part)
        if not killed:
            return None
        what = " and ".join(killed)
        running = until(self.machine.is_well, f"recovery from the kill of {what}", LIMIT)

        def goes_on() -> bool:
            return self.next() > min(after + STEP, self.last) and self.is_caught_up()

        return Kill(
            cycle_id(after), what, running, running + until(goes_on, f"a cycle after the kill of {what}", LIMIT)
        )

    def has_forecasts(self) -> bool:
        """Return whether all forecasts are scored."""
        return not self.absent_forecasts()

    def absent_forecasts(self) -> list[str]:
        """Return the forecasts up to the last cycle that have no scores yet."""
        absent = []
        times = pd.date_range(self.experiment.start, self.last, freq=STEP)
        wanted = [time for time in times if time.hour in self.experiment.drift.starts]
        for name in NAMES:
            made = set(read_scores(Archive(self.archive).branch(name))["start"])
            absent += [f"{name} {cycle_id(time)}" for time in wanted if time not in made]
        return absent


def prepare(folder: Path) -> None:
    """Write the demonstration's experiment without an end, and draw its observations."""
    packaged = files("dacycle.deploy").joinpath("experiments/demo.yaml").read_text()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "drawn.yaml").write_text(packaged)
    (folder / EXPERIMENT).write_text(re.sub(r"(?m)^end:.*\n", "", packaged))
    if not (folder / "observations").exists():
        subprocess.run([*DACYCLE, "simulate", "drawn.yaml"], cwd=folder, check=True)


def undisturbed(folder: Path, last: pd.Timestamp) -> None:
    """Replay the same cycles, with their forecasts, by one command."""
    command = [*DACYCLE, "hindcast", EXPERIMENT, "--archive", UNDISTURBED, "--until", cycle_id(last), "--forecasts"]
    subprocess.run(command, cwd=folder, check=True)


def disturb(trial: Trial, draw: random.Random, seconds: float) -> list[Kill]:
    """Kill one thing after another until the last cycle is there."""
    kills: list[Kill] = []
    until(trial.machine.is_well, "the first start", LIMIT)
    until(lambda: trial.next() > trial.experiment.start, "the first cycle", LIMIT)
    bag: list[str] = []
    while trial.next() <= trial.last:
        time.sleep(draw.uniform(0.2, 1.2) * seconds)
        bag = bag or draw.sample(VICTIMS, len(VICTIMS))
        what = bag.pop()
        if what == "flow run":
            until(lambda: trial.machine.has("flow run"), "a flow run", LIMIT)
            time.sleep(draw.uniform(0, 15))
        second = [draw.choice(VICTIMS)] if draw.random() < 0.3 else []  # before the first has been recovered from
        kill = trial.kill(what, *second, pause=draw.uniform(0, 20))
        if kill is not None:
            kills.append(kill)
            print(f"| {kill.after} | {kill.what} | {kill.running:.0f} | {kill.caught_up:.0f} |", flush=True)
    return kills


def main() -> int:
    """Run the trial; return 1 if the archives differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cycles", type=int, default=48)
    parser.add_argument("--seconds", type=float, default=45, help="of the machine for six hours of the run")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    prepare(given.folder)
    trial = Trial(given.folder, given.cycles, given.seconds, given.workers)
    os.environ["DACYCLE_CLOCK"] = trial.clock
    print(f"{given.cycles} cycles, one in {given.seconds:g} s; {given.workers} workers; seed {given.seed}")
    print("| after cycle | killed | all runs again, s | cycles caught up, s |\n|---|---|---|---|", flush=True)
    begun = time.monotonic()
    trial.machine.start()
    kills = disturb(trial, random.Random(given.seed), given.seconds)
    until(trial.has_forecasts, "the last forecasts", LIMIT)
    status = trial.machine.stop()
    minutes = (time.monotonic() - begun) / 60
    print(f"{len(kills)} kills in {minutes:.0f} min; `dacycle up` ended by itself {trial.machine.given_up} times")
    print(f"told to end, it ended with status {status}")
    undisturbed(given.folder, trial.last)
    wrong = gaps(trial.archive) + differences(trial.archive, given.folder / UNDISTURBED, trial.last)
    print("the archive is as undisturbed" if not wrong else "differs from the undisturbed: " + ", ".join(wrong))
    return int(bool(wrong) or status != 0)


if __name__ == "__main__":
    sys.exit(main())
