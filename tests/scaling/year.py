"""Run a year of 1464 cycles with a trivial model and assimilator; see the package's docstring."""

import argparse
import os
import sys
import time as clock
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd

from dacycle.common.configuration import write_yaml
from dacycle.cycler.archive.branches import Archive
from dacycle.cycler.cycle import replay
from dacycle.cycler.experiment import STEP, load_experiment
from dacycle.obs_ingest.sources.base import Inventory
from dacycle.obs_ingest.sources.ingested import window_file, write_table
from dacycle.obs_ingest.table import VARIABLES, make_table
from tests.cycler.experiments import base
from tests.worlds import make_model, make_world, profile, register_doubles

START = pd.Timestamp("2024-01-02T00")
CYCLES, STATIONS, STRETCH = 1464, 400, 100
MEASURED = ("t2m", "msl", "u10")


def write_observations(folder: Path, times: pd.DatetimeIndex) -> None:
    """Write the table of each window: stations at fixed places whose values scatter about the climate."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    latitude, longitude = np.degrees(np.arcsin(rng.uniform(-0.98, 0.98, STATIONS))), rng.uniform(0, 360, STATIONS)
    names = pd.Categorical.from_codes(np.tile(np.arange(STATIONS), 3), [f"S{n:03d}" for n in range(STATIONS)])
    means = dict(zip(("u10", "v10", "t2m", "msl"), zip(*(array[:4] for array in profile()), strict=True), strict=True))
    for time in times:
        values = [means[name][0] + 0.5 * means[name][1] * rng.standard_normal(STATIONS) for name in MEASURED]
        count = len(MEASURED) * STATIONS
        table = make_table(
            time=np.full(count, np.datetime64(time)), period=0.0, received=np.full(count, np.datetime64(time)),
            site=names, station=names, latitude=np.tile(latitude, 3), longitude=np.tile(longitude, 3), elevation=0.0,
            pressure=np.nan, variable=np.repeat([VARIABLES_AT[name] for name in MEASURED], STATIONS),
            value=np.concatenate(values), error=np.repeat([1.0, 100.0, 1.5], STATIONS), source="stations",
        )  # fmt: skip
        notes = {"inventory": Inventory("stations", STATIONS, STATIONS).as_dict(), "made_of": "random numbers"}
        write_table(window_file(folder, np.datetime64(time)), table, notes)


VARIABLES_AT = {name: number for number, name in enumerate(VARIABLES)}


def write_experiment(folder: Path, cycles: int) -> Path:
    """Write world, model, observations and the experiment's file; return the file."""
    end = START + (cycles - 1) * STEP
    make_world(folder / "tiny", days=1)
    make_model(folder / "double.onnx")
    write_observations(folder / "observations", pd.date_range(START, end, freq=STEP))
    content = base(
        "year", folder / "tiny", folder / "double.onnx", START, end, assimilator="nudge",
        cold_start={"climatology": True}, drift={"starts": [], "free_run": False},
        observations=[{"source": "table", "name": "stations", "path": str(folder / "observations"), "cutoff": "none"}],
        guards={"minimum_observations": 100},
    )  # fmt: skip
    path = folder / "year.yaml"
    path.write_text(write_yaml(content))
    return path


def resident() -> float:
    """Return the memory of this process, MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def size(folder: Path) -> float:
    """Return the size of a folder, MB."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def main() -> None:
    """Run the year and print a row for each hundred cycles, or each quarter of a shorter run, at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cycles", type=int, default=CYCLES)
    parser.add_argument("--prefect", action="store_true")
    asked = parser.parse_args()
    register_doubles()
    folder = asked.folder.resolve()
    experiment, archive = write_experiment(folder, asked.cycles), folder / "archive"
    database = folder / "prefect" / "prefect.db"
    marks: list[tuple[float, float, float]] = []
    stretch = min(STRETCH, asked.cycles // 4)
    rows = [
        "| cycles | processor ms a cycle | memory, MB | archive, MB | Prefect's database, MB |",
        "|---|---|---|---|---|",
    ]

    def show(cycle: object) -> None:
        marks.append((clock.process_time(), clock.perf_counter(), resident()))
        if len(marks) % stretch == 0 and len(marks) > stretch:
            begin, end = marks[-stretch - 1], marks[-1]
            processor, wall = (1000 * (end[i] - begin[i]) / stretch for i in (0, 1))
            kept = database.stat().st_size / 1e6 if database.exists() else 0.0
            numbers = f"{processor:.0f} | {end[2]:.0f} | {size(archive):.0f} | {kept:.1f}"
            rows.append(f"| {len(marks) - stretch + 1} to {len(marks)} | {numbers} |")
            said = f"{processor:.0f} ms of the processor a cycle, wall {wall:.0f} ms, load {os.getloadavg()[0]:.1f}"
            print(f"{len(marks)} of {asked.cycles} cycles: {said}", file=sys.stderr, flush=True)

    plain: Callable[..., Any] = replay.run_due_cycles
    if asked.prefect:
        from dacycle.cycler.operations import flows

        # the flow has no place for a progress of its own
        watched = patch.object(replay, "run_due_cycles", lambda *args, **more: plain(*args, progress=show, **more))
        with watched, flows.embedded_server(database.parent):
            flows.hindcast(str(experiment), str(archive))
    else:
        for cycle in replay.each_due_cycle(load_experiment(experiment), Archive(archive, create=True)):
            show(cycle)
    print("\n".join(rows))
    first, last = (marks[at + stretch][0] - marks[at][0] for at in (stretch, len(marks) - 1 - stretch))
    print(f"\ntime a cycle, last {stretch} over second: {last / first:.2f}")
    print(f"memory, end over cycle {2 * stretch}: {marks[-1][2] / marks[2 * stretch][2]:.3f}")
    print(f"archive {size(archive):.0f} MB, {len(list(archive.rglob('*')))} files; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
