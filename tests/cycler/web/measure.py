"""Measure what the operator's page costs on an archive of a year, which is written straight from made-up cycles.

    python -m tests.cycler.web.measure FOLDER

prints the processor seconds of each page of docs/operator-page.md. The archive of a gigabyte or so stays in FOLDER.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from dacycle.cycler.archive.branches import Archive
from dacycle.cycler.archive.record import CycleRecord
from dacycle.cycler.archive.writer import write
from dacycle.cycler.experiment import STEP
from dacycle.cycler.web.pages import Pages
from dacycle.cycler.web.runs import Runs
from dacycle.forecast_adapter.channels import NAMES
from dacycle.forecast_adapter.worlds.world import load_world
from tests.cycler.runs import START, departures, experiment
from tests.worlds import make_world

CYCLES = 1460


def make_year(folder: Path) -> Path:
    """Write the archive, or as many cycles as it lacks; return its folder."""
    if not (folder / "tiny").exists():
        make_world(folder / "tiny", days=7)
    world = load_world(folder / "tiny")
    archive, asked = Archive(folder / "archive", create=True), experiment(world, "year", end="2024-12-31T18")
    state = world.reference.array(np.datetime64(START, "h"))
    digests = {"experiment": asked.digest, "model": "m" * 64, "assimilator": "a" * 64}
    with write(archive, asked) as writer:
        if writer.next_time is None:
            writer.commit_start(np.stack([state, state]), digests)
        while (after := writer.next_time) < START + CYCLES * STEP:
            table = departures(world, START, state, state, np.random.default_rng(after.dayofyear))
            table = table.assign(time=after.to_datetime64(), received=after.to_datetime64())
            sizes = dict.fromkeys(NAMES, 0.1)
            record = CycleRecord(after, "ok", digests, experiment="year", increment_rms=sizes, increment_max=sizes)
            writer.commit_cycle(state, state, table, record, {"seconds": {"analysis": 0.2}})
    return archive.folder


def measure(archive: Path) -> None:
    """Print the processor seconds of each page, asked for the first and the second time."""
    runs = Runs(archive)
    pages = Pages(runs)
    last = runs.run("year").branch.times[-1]
    asked: dict[str, Callable[[], object]] = {
        "all experiments": pages.overview,
        "counting the newest cycles": lambda: runs.run("year").fits(),
        "an experiment": lambda: pages.run("year", None),
        "a cycle": lambda: pages.cycle("year", pd.Timestamp(last), False),
        "stations": lambda: pages.stations("year", ""),
        "a station over 30 days": lambda: pages.station("year", "s5", 30),
    }
    for name, ask in asked.items():
        seconds = []
        for _ in range(2):
            begun = time.process_time()
            ask()
            seconds.append(time.process_time() - begun)
        print(f"{name}: {seconds[0]:.2f}, again {seconds[1]:.3f}")


if __name__ == "__main__":
    measure(make_year(Path(sys.argv[1])))
