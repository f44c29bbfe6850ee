"""Measure what committing and reading cycles at 0.25 degrees cost; see the package's docstring.

Fields are smooth ones, interpolated from 5.625 degrees, with 1 % of their variation as noise from cell to cell, which
compresses worse than weather does.
"""

import argparse
import time as clock
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import zoom

from dacycle.cycler.archive.branches import Archive
from dacycle.cycler.archive.record import CycleRecord
from dacycle.cycler.archive.writer import write
from dacycle.cycler.experiment import STEP, Experiment
from dacycle.forecast_adapter.grid import get_grid
from dacycle.obs_ingest.table import add_departures, empty_table
from tests.cycler.experiments import base
from tests.worlds import profile, smooth

GRID, CYCLES = get_grid("0.25deg"), 3
START = pd.Timestamp("2024-01-02T00")


def state(rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a state (69, H, W)."""
    mean, std = profile()
    fields = np.empty((69, *GRID.shape), np.float32)
    for channel, coarse in enumerate(smooth(rng, 69)):
        factors = [new / old for new, old in zip(GRID.shape, coarse.shape, strict=True)]
        fine = zoom(coarse, factors, order=1) + 0.01 * rng.standard_normal(GRID.shape)
        fields[channel] = mean[channel] + std[channel] * np.clip(fine, -4, 4)
    return fields


def taken(begin: tuple[float, float]) -> str:
    """Return processor and wall seconds since `begin`."""
    return f"{clock.process_time() - begin[0]:.2f} | {clock.perf_counter() - begin[1]:.2f}"


def main() -> None:
    """Print a row for each commit and reading."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    rng = np.random.default_rng(1)
    frames = np.stack([state(rng), state(rng)])
    content = base("fine", Path("fine"), "double-0.25deg", START, START + 9 * STEP, grid="0.25deg")
    experiment, archive = Experiment.model_validate(content), Archive(folder, create=True)
    departures = add_departures(empty_table(), np.empty(0), np.empty(0))
    print("| | processor s | wall s |\n|---|---|---|")
    with write(archive, experiment) as writer:
        writer.commit_start(frames, {"experiment": experiment.digest})
        before = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        for number in range(CYCLES):
            record = CycleRecord(START + number * STEP, "ok", {"experiment": experiment.digest})
            begin = clock.process_time(), clock.perf_counter()
            writer.commit_cycle(frames[0], frames[1], departures, record, {})
            print(f"| commit of background and analysis | {taken(begin)} |", flush=True)
    copied = experiment.model_copy(update={"name": "copied"})
    donor = archive.branch("fine")
    with write(archive, copied) as writer:
        writer.begin_from(donor, donor.times[2])
        for record in donor.records[3:]:
            begin = clock.process_time(), clock.perf_counter()
            writer.commit_copy(donor, record, {})
            print(f"| copying a cycle to another branch | {taken(begin)} |", flush=True)
    after = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    branch = Archive(folder).branch("fine")
    for time in branch.times[-2:]:
        begin = clock.process_time(), clock.perf_counter()
        branch.frame(time)
        print(f"| reading an analysis | {taken(begin)} |", flush=True)
    size = (after - before) / (2 * CYCLES - 1)
    print(f"\n{size / 1e6:.0f} MB a cycle, {2 * frames[0].nbytes / 1e6:.0f} MB before compression")


if __name__ == "__main__":
    main()
