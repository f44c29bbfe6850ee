"""Measure how much sooner two workers end independent work than one; see the package's docstring.

One and two workers run in turns, because other work on the machine slows both; the load stands beside the walls.
"""

import argparse
import os
import sys
import time as clock
from pathlib import Path

import pandas as pd

from dacycle.common.pieces import Each
from dacycle.cycler.archive.branches import Archive
from dacycle.cycler.experiment import Experiment, load_experiment
from dacycle.cycler.parallel.clusters import spread
from dacycle.cycler.parallel.streams import cut, run_stream

EXPERIMENT = Path(__file__).parents[2] / "deploy/experiments/three-months.yaml"
END = pd.Timestamp("2024-01-28T12")


def busy(seconds: float) -> None:
    """Use the processor for so many seconds of its time."""
    end = clock.process_time() + seconds
    while clock.process_time() < end:
        pass


def numbers(each: Each, folder: Path) -> None:
    """Run eight pieces that only compute."""
    list(each(busy, [(2.0,)] * 8))


def streams(each: Each, folder: Path) -> None:
    """Run the packaged weeks of the demonstration, 99 cycles of `fnp`, in four streams."""
    archive = Archive(folder, create=True)
    parts = cut(demonstration(), 4, pd.Timedelta(days=3))
    list(each(run_stream, [(archive.folder, part.experiment, 1) for part in parts]))


def demonstration() -> Experiment:
    """Return the experiment of three months, as far as the packaged reference reaches and without forecasts."""
    described = load_experiment(EXPERIMENT)
    drift = described.drift.model_copy(update={"starts": ()})
    return described.model_copy(update={"end": END, "drift": drift})


def main() -> None:
    """Print the walls of each pair once all have run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", type=int, default=3)
    asked = parser.parse_args()
    folder = asked.folder.resolve()
    rows = ["| work | where | one worker, s | two workers, s | speed-up | load |", "|---|---|---|---|---|---|"]
    for name, work in {"eight sums": numbers, "four streams": streams}.items():
        for place in ("processes", "dask"):
            for pair in range(asked.pairs):
                walls = {}
                for workers in (1, 2) if pair % 2 else (2, 1):
                    with spread(workers, Path("local") if place == "dask" else None, folder / "prefect") as each:
                        list(each(busy, [(0.2,)] * 4))  # processes have started
                        begin = clock.perf_counter()
                        work(each, folder / f"{name}-{place}-{pair}-{workers}")
                        walls[workers] = clock.perf_counter() - begin
                        said = f"{name}, {place}, pair {pair + 1} of {asked.pairs}, {workers} of 2 workers"
                        print(f"{said}: {walls[workers]:.1f} s", file=sys.stderr, flush=True)
                row = (f"{walls[1]:.1f}", f"{walls[2]:.1f}", f"{walls[1] / walls[2]:.2f}", f"{os.getloadavg()[0]:.1f}")
                rows.append(f"| {name} | {place} | {' | '.join(row)} |")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
